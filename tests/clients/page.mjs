// The page in headless Chromium: drop, plan, read, reload, ask, pause. Usage: BASE_URL VIDEO QUESTION ANSWER FOLDER CHROMIUM.
// Screenshots go to FOLDER; a request to any other host is a failure.
import assert from "node:assert";
import { chromium } from "playwright-core";

const [base, video, question, answer, folder, executablePath] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
const foreign = [], errors = [];
page.on("request", (request) => {
  const url = new URL(request.url());
  if (!["blob:", "data:"].includes(url.protocol) && url.origin !== base) foreign.push(url.href);
});
page.on("console", (message) => { if (message.type() === "error") errors.push(message.text()); });
page.on("pageerror", (error) => errors.push(String(error)));

await page.goto(base + "/");
await page.waitForFunction(() => document.querySelector("#model").textContent.includes("tokens"));
await page.screenshot({ path: `${folder}/page-empty.png` });

// A file is chosen, and there is a plan; the sliders make another.
await page.setInputFiles("#file", video);
await page.waitForSelector("#figures dd");
const tokens = () => page.locator("#figures div", { hasText: "Tokens" }).locator("dd").textContent();
const before = await tokens();
await page.locator("#fps").fill("-1");
await page.waitForFunction((before) => ![...document.querySelectorAll("#figures dd")].some((dd) => dd.textContent === before), before);
await page.locator("#fps").fill("1");
await page.waitForFunction((before) => [...document.querySelectorAll("#figures dd")].some((dd) => dd.textContent === before), before);
await page.screenshot({ path: `${folder}/page-plan.png` });

// Reading is the server's: a pause, a reload, and it goes on.
await page.click("#read");
await page.waitForSelector("#reading:not([hidden])");
await page.waitForFunction(() => document.querySelector("#reading-bar").value > 0.05 || document.querySelector("#state").textContent === "ready");
await page.screenshot({ path: `${folder}/page-reading.png` });
if (await page.isVisible("#reading-cancel")) {
  await page.click("#reading-cancel");
  await page.waitForFunction(() => ["paused", "ready"].includes(document.querySelector("#state").textContent));
}
await page.reload();
await page.waitForFunction(() => ["paused", "ready"].includes(document.querySelector("#state").textContent));
if (await page.isVisible("#reading-go")) await page.click("#reading-go");
await page.waitForFunction(() => document.querySelector("#state").textContent === "ready", null, { timeout: 120_000 });

// The question.
await page.fill("#question", question);
await page.keyboard.press("Enter");
await page.waitForFunction(() => document.querySelector("#talk-note").textContent.includes("answered"), null, { timeout: 60_000 });
assert.equal(await page.locator("#messages li.assistant").last().textContent(), answer);
await page.click("summary");
await page.screenshot({ path: `${folder}/page-answer.png`, fullPage: true });
await page.emulateMedia({ colorScheme: "dark" });
await page.screenshot({ path: `${folder}/page-dark.png` });
await page.setViewportSize({ width: 390, height: 844 });
await page.screenshot({ path: `${folder}/page-phone-dark.png`, fullPage: true });
await page.emulateMedia({ colorScheme: "light" });
await page.screenshot({ path: `${folder}/page-phone.png`, fullPage: true });
assert.equal(await page.evaluate(() => document.documentElement.scrollWidth > innerWidth), false, "it scrolls sideways");

assert.deepEqual(foreign, []);
assert.deepEqual(errors, []);
await browser.close();
console.log("page: good");
