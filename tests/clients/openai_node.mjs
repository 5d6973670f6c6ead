// The official node client against `longtake serve --demo`: BASE_URL VIDEO QUESTION ANSWER.
import assert from "node:assert";
import fs from "node:fs";
import OpenAI from "openai";

const [base, path, question, answer] = process.argv.slice(2);
const client = new OpenAI({ baseURL: base, apiKey: "none", timeout: 20_000 });

const upload = await client.files.create({ file: fs.createReadStream(path), purpose: "vision" });
const messages = [{ role: "user", content: [
  { type: "text", text: question }, { type: "file", file: { file_id: upload.id } },
] }];
const whole = await client.chat.completions.create({ model: "", messages });
assert.equal(whole.choices[0].message.content, answer);
let text = "";
for await (const chunk of await client.chat.completions.create({ model: "", messages, stream: true })) {
  text += chunk.choices[0]?.delta?.content ?? "";
}
assert.equal(text, answer);
await assert.rejects(client.chat.completions.create({ model: "", messages, n: 2 }), { status: 400, code: "unsupported_parameter", param: "n" });
assert.equal((await client.files.delete(upload.id)).deleted, true);
console.log("openai (node): good");
