"""The official Python client against `longtake serve --demo`: BASE_URL VIDEO QUESTION ANSWER."""
import base64
import sys

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
