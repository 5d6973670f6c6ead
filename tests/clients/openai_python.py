"""The official Python client against `longtake serve --demo`: BASE_URL VIDEO QUESTION ANSWER."""
import base64
import json
import sys
import time

from openai import BadRequestError, NotFoundError, OpenAI

base, path, question, answer = sys.argv[1:]
client = OpenAI(base_url=base, api_key="none", timeout=20)

assert [model.id for model in client.models.list()], "no model"
with open(path, "rb") as file:
    upload = client.files.create(file=file, purpose="vision")
assert upload.status == "processed" and client.files.retrieve(upload.id).bytes == upload.bytes
assert upload.id in [file.id for file in client.files.list()]


def messages(part):
    return [{"role": "user", "content": [{"type": "text", "text": question}, part]}]


with open(path, "rb") as file:
    data = "data:video/mp4;base64," + base64.b64encode(file.read()).decode()
parts = [
    {"type": "file", "file": {"file_id": upload.id}},
    {"type": "video_url", "video_url": {"url": data}},
    {"type": "file", "file": {"file_data": data, "filename": "v.mp4"}},
]
for part in parts:
    whole = client.chat.completions.create(model="", messages=messages(part), logprobs=True, top_logprobs=2)
    assert whole.choices[0].message.content == answer, whole
    assert whole.choices[0].finish_reason == "stop" and whole.usage.total_tokens > 100
    assert len(whole.choices[0].logprobs.content[0].top_logprobs) == 2
    chunks = list(client.chat.completions.create(
        model="", messages=messages(part), stream=True, stream_options={"include_usage": True},
        extra_body={"return_progress": True},
    ))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer and chunks[-1].usage.prompt_tokens_details.cached_tokens > 100, chunks[-1]

# A form is kept to, and what says otherwise is an error of the client's own type.
schema = {"type": "object", "properties": {"color": {"enum": ["red", "blue"]}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
          "required": ["color", "n"], "additionalProperties": False}
form = {"type": "json_schema", "json_schema": {"name": "found", "strict": True, "schema": schema}}
for temperature in [0, 3]:
    formed = client.chat.completions.create(
        model="", messages=messages(parts[0]), response_format=form, temperature=temperature, seed=1)
    found = json.loads(formed.choices[0].message.content)
    assert found["color"] in ["red", "blue"] and 0 <= found["n"] <= 9, found
try:
    broken = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wizard"}}}
    client.chat.completions.create(model="", messages=messages(parts[0]), response_format=broken)
    raise AssertionError("it was accepted")
except BadRequestError as refused:
    assert refused.code == "invalid_schema", refused.body

text = client.completions.create(model="", prompt="Hello", max_tokens=4, logprobs=1)
assert text.object == "text_completion" and text.usage.prompt_tokens > 0, text
pieces = list(client.completions.create(model="", prompt="Hello", max_tokens=4, stream=True))
assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == text.choices[0].text

content = [{"type": "input_file", "file_id": upload.id}, {"type": "input_text", "text": question}]
response = client.responses.create(model="", input=[{"role": "user", "content": content}])
assert response.output_text == answer and response.status == "completed", response
with client.responses.stream(model="", input=[{"role": "user", "content": content}]) as stream:
    deltas = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert deltas == answer == stream.get_final_response().output_text, deltas
cut = client.responses.create(model="", input="Hello", max_output_tokens=2, top_logprobs=2)
assert cut.usage.output_tokens <= 2, cut

lines = [{"custom_id": f"r{i}", "method": "POST", "url": "/v1/chat/completions",
          "body": {"messages": messages({"type": "file", "file": {"file_id": upload.id}})}} for i in range(3)]
requests = client.files.create(
    file=("in.jsonl", "\n".join(json.dumps(line) for line in lines).encode()), purpose="batch")
batch = client.batches.create(input_file_id=requests.id, endpoint="/v1/chat/completions", completion_window="24h")
until = time.time() + 60
while batch.status not in ["completed", "failed", "cancelled"]:
    assert time.time() < until, batch
    time.sleep(0.1)
    batch = client.batches.retrieve(batch.id)
assert batch.status == "completed" and batch.request_counts.completed == 3, batch
answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
assert sorted(line["custom_id"] for line in answers) == ["r0", "r1", "r2"]
assert all(line["response"]["body"]["choices"][0]["message"]["content"] == answer for line in answers), answers
assert batch.id in [other.id for other in client.batches.list()]

for wrong, error in [({"messages": []}, BadRequestError), ({"messages": messages(parts[0]), "n": 3}, BadRequestError)]:
    try:
        client.chat.completions.create(model="", **wrong)
        raise AssertionError("it was accepted")
    except error as refused:
        assert refused.body["code"] and refused.body["param"], refused.body
try:
    client.chat.completions.create(model="gpt-5", messages=messages(parts[0]))
    raise AssertionError("it was accepted")
except NotFoundError as refused:
    assert refused.body["code"] == "model_not_found"
assert client.files.delete(upload.id).deleted
print("openai (python): good")
