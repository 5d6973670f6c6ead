#!/usr/bin/env python3
"""Questions about a folder of videos over a Ray cluster: a task for every video, each a `longtake batch` of its own.

    python deploy/ray/batch.py VIDEOS QUESTIONS.jsonl OUT -m MODEL.gguf [--cpus 8] [-- FLAGS OF `longtake batch`]

A line of QUESTIONS.jsonl is {"question": "Where does the dog appear?"}; it may also have an `id` (by default the line's number,
from 1), a `video` (a pattern as `--pattern`'s; by default it is asked about all of them) and a `body` (fields of the chat
request, as {"max_tokens": 40}). The answers are OUT/answers.jsonl, as `longtake batch` writes them, with the ids VIDEO#ID.

A video is a task because its questions share what was read of it: the first reads the video, the others find it in the cache.
VIDEOS, OUT and the model lie on a file system that all machines have under the same path; `longtake` is on the PATH of each.
Answers are on that file system one by one, so a task whose worker dies goes on with the next question wherever Ray starts it
again, and so does the whole job when the same command is given again. What was made from another video, model, question or
flag is never taken for an answer: the name of a part is a digest of all of them.
"""
import argparse
import hashlib
import json
import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import ray


def read_questions(path):
    """[{"id", "question", "video", "body"}], checked."""
    questions, ids = [], set()
    for n, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            question = json.loads(line)
            assert isinstance(question, dict) and isinstance(question.get("question"), str), "no `question`"
            unknown = set(question) - {"id", "question", "video", "body"}
            assert not unknown, f"unknown key `{sorted(unknown)[0]}`"
            question = {"id": str(n), "video": None, "body": {}, **question}
            assert isinstance(question["body"], dict), "`body` is no object"
            assert question["id"] not in ids, f"the id `{question['id']}` is there twice"
        except (ValueError, AssertionError) as err:
            raise SystemExit(f"{path}, line {n}: {err}")
        ids.add(question["id"])
        questions.append(question)
    return questions


def stamp(path):
    """What tells that a file is another than before."""
    known = path.stat()
    return [str(path), known.st_size, known.st_mtime_ns]


class Part:
    """A video with its questions."""

    def __init__(self, args, video, questions):
        name = video.relative_to(args.videos).as_posix()
        self.name, self.n_bytes = name, video.stat().st_size
        lines = []
        for question in questions:
            if question["video"] is not None and not fnmatch(name, question["video"]):
                continue
            content = [{"type": "video_url", "video_url": {"url": video.as_uri()}}, {"type": "text", "text": question["question"]}]
            body = {"messages": [{"role": "user", "content": content}], **question["body"]}
            id = f"{name}#{question['id']}"
            lines.append({"custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": body})
        self.ids = {line["custom_id"] for line in lines}
        self.requests = "".join(json.dumps(line) + "\n" for line in lines)
        made_from = [stamp(video), stamp(args.model), args.flags, self.requests]
        key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]
        self.input, self.output = (args.out / "parts" / f"{key}.{of}.jsonl" for of in ("requests", "answers"))

    def answers(self):
        """Its answered requests, as lines; the last line of a part that somebody works on may not be whole."""
        lines = self.output.read_text().splitlines(keepends=True) if self.output.exists() else []
        return [line for line in lines if line.endswith("\n") and line.strip()]

    def is_answered(self):
        return len(self.answers()) == len(self.ids)


def write_whole(path, text):
    """Under the name stands nothing, or all of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    os.replace(beside, path)


@ray.remote
def answer(command):
    # A worker that is killed cannot end what it started: the kernel does, and nothing else writes where the next one goes on.
    done = subprocess.run(["setpriv", "--pdeathsig", "KILL", *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, errors="replace")
    if done.returncode:
        raise RuntimeError(f"`longtake batch` ended with {done.returncode}: {done.stderr[-2000:].strip()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("-m", "--model", type=Path, required=True)
    parser.add_argument("--pattern", default="**/*.mp4", help="which files of the folder are meant (default: %(default)s)")
    parser.add_argument("--cpus", type=int, default=1, help="cores of a task, which are its threads (default: %(default)s)")
    parser.add_argument("--tries", type=int, default=5, help="how often a task is begun anew at most (default: %(default)s)")
    own = sys.argv[1:]
    at = own.index("--") if "--" in own else len(own)
    args = parser.parse_args(own[:at])
    args.flags = own[at + 1:]
    args.videos, args.out, args.model = args.videos.resolve(), args.out.resolve(), args.model.resolve()
    if not args.model.is_file():
        raise SystemExit(f"{args.model}: no such file")
    questions = read_questions(args.questions)
    videos = sorted(path for path in args.videos.glob(args.pattern) if path.is_file())
    if not videos or not questions:
        raise SystemExit(f"{len(videos)} videos match `{args.pattern}` in {args.videos}, {len(questions)} questions: nothing to ask")
    parts = [part for part in (Part(args, video, questions) for video in videos) if part.ids]
    (args.out / "parts").mkdir(parents=True, exist_ok=True)

    open_parts = [part for part in parts if not part.is_answered()]
    print(f"{len(parts)} videos, {sum(len(part.ids) for part in parts)} questions; {len(parts) - len(open_parts)} videos are done",
          file=sys.stderr)
    failed = {}
    if open_parts:
        # The cluster that RAY_ADDRESS names, else one of this machine alone.
        ray.init(log_to_driver=False)
        task = answer.options(num_cpus=args.cpus, max_retries=args.tries, retry_exceptions=True)
        running = {}
        # Long ones first, so that no machine has one left when all others are done.
        for part in sorted(open_parts, key=lambda part: -part.n_bytes):
            write_whole(part.input, part.requests)
            # One question at a time: the second one waits for what the first reads.
            running[task.remote(["longtake", "batch", str(part.input), "-o", str(part.output), "-m", str(args.model),
                                 "--media-path", str(args.videos), "-t", str(args.cpus), "--parallel", "1", "--quiet",
                                 *args.flags])] = part
        while running:
            done, _ = ray.wait(list(running))
            for ref in done:
                part = running.pop(ref)
                try:
                    ray.get(ref)
                except ray.exceptions.RayError as err:
                    failed[part.name] = str(err).strip().splitlines()[-1]
                print(f"{part.name}: {'failed' if part.name in failed else 'done'}, {len(running)} to go", file=sys.stderr)
        ray.shutdown()

    lines = [line for part in parts for line in part.answers()]
    ids = [json.loads(line)["custom_id"] for line in lines]
    missing = set().union(*(part.ids for part in parts)) - set(ids)
    if len(set(ids)) != len(ids):
        raise SystemExit("a question was answered twice")
    write_whole(args.out / "answers.jsonl", "".join(lines))
    refused = sum(json.loads(line)["response"]["status_code"] != 200 for line in lines)
    print(f"{len(ids) - refused} answered, {refused} refused, {len(missing)} missing: {args.out / 'answers.jsonl'}", file=sys.stderr)
    for name, what in failed.items():
        print(f"{name}: {what}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
