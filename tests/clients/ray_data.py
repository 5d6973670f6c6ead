"""Ray Data's requests over HTTP, unchanged, against `longtake serve --demo`: BASE_URL VIDEO QUESTION ANSWER."""
import base64
import json
import sys
import urllib.request

import ray
from ray.data.llm import HttpRequestProcessorConfig, build_processor

N_ROWS = 20

base, path, question, answer = sys.argv[1:]
with urllib.request.urlopen(f"{base}/models") as reply:
    model = json.load(reply)["data"][0]["id"]
with open(path, "rb") as file:
    data = "data:video/mp4;base64," + base64.b64encode(file.read()).decode()


def request(row):
    # Every other one is in words alone.
    content = [{"type": "text", "text": question if row["id"] % 2 else f"Say {row['id']}"}]
    if row["id"] % 2:
        content.append({"type": "video_url", "video_url": {"url": data}})
    return {"payload": {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 4}}


ray.init(num_cpus=2, log_to_driver=False)
config = HttpRequestProcessorConfig(url=f"{base}/chat/completions", headers={"Authorization": "Bearer none"}, qps=20, batch_size=4, concurrency=1)
# An answer that says nothing is whole, too: it has a reason for its end.
# Rows are tables to it: parts of one kind come with nulls for the fields of the others.
said = lambda row: {"id": row["id"], "text": row["http_response"]["choices"][0]["message"]["content"] or "",
                    "end": row["http_response"]["choices"][0]["finish_reason"]}
rows = build_processor(config, preprocess=request, postprocess=said)(ray.data.range(N_ROWS)).take_all()
assert sorted(row["id"] for row in rows) == list(range(N_ROWS)), rows
assert all(row["text"] == answer for row in rows if row["id"] % 2) and all(row["end"] in ["stop", "length"] for row in rows), rows
print("ray data: good")
