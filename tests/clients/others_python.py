"""Clients that wrap OpenAI's API, unchanged, against `longtake serve --demo`: BASE_URL VIDEO QUESTION ANSWER."""
import base64
import json
import sys
import urllib.request

import litellm
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI

base, path, question, answer = sys.argv[1:]
with urllib.request.urlopen(f"{base}/models") as reply:
    model = json.load(reply)["data"][0]["id"]
with open(path, "rb") as file:
    data = "data:video/mp4;base64," + base64.b64encode(file.read()).decode()
# A raw part, as users of these clients write it by hand.
content = [{"type": "text", "text": question}, {"type": "video_url", "video_url": {"url": data}}]

chat = ChatOpenAI(base_url=base, api_key="none", model=model, timeout=30)
assert chat.invoke([HumanMessage(content=content)]).content == answer
pieces = [piece.content for piece in chat.stream([HumanMessage(content=content)])]
assert "".join(pieces) == answer, pieces
print("langchain-openai: good")

settings = {"model": f"openai/{model}", "api_base": base, "api_key": "none", "timeout": 30}
message = [{"role": "user", "content": content}]
whole = litellm.completion(messages=message, **settings)
assert whole.choices[0].message.content == answer, whole
chunks = litellm.completion(messages=message, stream=True, **settings)
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer
file_part = {"type": "file", "file": {"file_data": data, "filename": "v.mp4"}}
message = [{"role": "user", "content": [file_part, {"type": "text", "text": question}]}]
assert litellm.completion(messages=message, **settings).choices[0].message.content == answer
print("litellm: good")
