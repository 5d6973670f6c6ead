#!/usr/bin/env python3
"""Runs deploy/ray/batch.py as a user does and kills one of two workers midway: FOLDER PROGRAM, with a Python that has Ray."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

N_VIDEOS, N_TALKS = 6, 5
MODEL = Path("assets/symbols/symbols.gguf").resolve()

folder, program = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
shutil.rmtree(folder, ignore_errors=True)
videos, out, path = folder / "videos", folder / "out", folder / "bin"
for made in (videos / "deep", path):
    made.mkdir(parents=True)
(path / "longtake").symlink_to(program)
symbols, questions, wanted = {}, [], Counter()
for i in range(N_VIDEOS):
    name = f"deep/{i}.mp4" if i % 2 else f"{i}.mp4"
    draw = [program, "demo", "--tokens", "2880", "--seed", str(i), "-o", videos / name, "--json"]
    drawn = json.loads(subprocess.run(draw, check=True, capture_output=True).stdout)
    symbols[name] = drawn["expected"]
    # One of its own, which is about nothing else.
    questions.append({"id": f"symbol {i}", "question": drawn["question"], "video": name})
    wanted[f"{name}#symbol {i}"] += 1
    wanted.update(f"{name}#{N_VIDEOS + 1 + n}" for n in range(N_TALKS))
questions += [{"question": f"Say {i}", "body": {"max_tokens": 60, "ignore_eos": True}} for i in range(N_TALKS)]
(folder / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))

env = dict(os.environ, PATH=f"{path}:{os.environ['PATH']}", RAY_OVERRIDE_RESOURCES='{"CPU": 2}')
env.pop("RAY_ADDRESS", None)
command = [sys.executable, "deploy/ray/batch.py", videos, folder / "questions.jsonl", out, "-m", MODEL, "--", "--temp", "0"]


def batches():
    """{process of a running `longtake batch` of ours: (its parent, its output)}"""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            args = (process / "cmdline").read_bytes().split(b"\0")
            if args[:2] == [b"longtake", b"batch"]:
                output = Path(os.fsdecode(args[args.index(b"-o") + 1]))
                if out in output.parents:
                    found[int(process.name)] = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1]), output
        except (OSError, ValueError):
            pass  # it has just ended
    return found


def n_lines(output):
    return output.read_bytes().count(b"\n") if output.exists() else 0


job = subprocess.Popen(command, env=env)
try:
    killed, together = None, 0
    while killed is None:
        assert job.poll() is None, "the job was over before a worker could be killed midway"
        running = batches()
        together = max(together, len({parent for parent, _ in running.values()}))
        for child, (worker, output) in running.items():
            n = n_lines(output)
            if together >= 2 and 1 <= n <= N_TALKS:
                os.kill(worker, signal.SIGKILL)
                killed, n_then = (worker, child, output), n
                break
        time.sleep(0.01)
    for _ in range(500):
        if killed[1] not in batches():
            break
        time.sleep(0.01)
    else:
        raise AssertionError("what the killed worker had started went on")
    assert job.wait(600) == 0, "the job failed"
finally:
    job.kill()

lines = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
assert Counter(line["custom_id"] for line in lines) == wanted, "not every question was answered once"
assert all(line["response"]["status_code"] == 200 for line in lines), lines
for line in lines:
    name, id = line["custom_id"].split("#")
    body = line["response"]["body"]
    if id.startswith("symbol"):
        assert body["choices"][0]["message"]["content"] == symbols[name], line
    else:
        assert body["usage"]["completion_tokens"] == 60, line
# Every video was read once; the killed worker's a second time.
read = Counter(line["custom_id"].split("#")[0] for line in lines
               if line["response"]["body"]["usage"]["prompt_tokens_details"]["cached_tokens"] < 2000)
again = [name for name, n in read.items() if n > 1]
assert set(read) == set(symbols) and len(again) <= 1 and sum(read.values()) <= N_VIDEOS + 1, read

# The same command has nothing left to do, and does nothing.
before = (out / "answers.jsonl").read_bytes()
subprocess.run(command, env=dict(env, PATH="/usr/bin:/bin"), check=True)
assert (out / "answers.jsonl").read_bytes() == before
print(f"ray: {len(lines)} questions about {N_VIDEOS} videos by {together} workers, one killed after {n_then} answers about its video: "
      "each answered once")
