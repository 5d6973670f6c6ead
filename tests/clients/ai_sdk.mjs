// The AI SDK's provider for OpenAI's API, unchanged, against `longtake serve --demo`: BASE_URL VIDEO QUESTION ANSWER.
import assert from "node:assert";
import { readFileSync } from "node:fs";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const [base, path, question, answer] = process.argv.slice(2);
const { data: [{ id }] } = await (await fetch(`${base}/models`)).json();
const model = createOpenAICompatible({ name: "longtake", baseURL: base })(id);
const content = [{ type: "text", text: question }, { type: "file", mediaType: "video/mp4", data: readFileSync(path) }];
const messages = [{ role: "user", content }];
const whole = await generateText({ model, messages });
assert.equal(whole.text, answer);
const stream = streamText({ model, messages });
let text = "";
for await (const piece of stream.textStream) text += piece;
assert.equal(text, answer);
console.log("ai sdk: good");
