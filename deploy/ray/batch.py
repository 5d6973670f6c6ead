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
flag is not taken for an answer: the name of a part is a digest of the questions and flags, and of path, size and time of change
of the files. Whoever replaces a file and sets its old time begins with another OUT.
"""
import argparse
import hashlib
import json
import os
import subprocess
import sys
from contextlib import contextmanager
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
    """A video with its questions. There may be a million: what is long is made when it is wanted."""

    def __init__(self, args, video, questions):
        self.video, self.n_bytes = video, video.stat().st_size
        self.name = video.relative_to(args.videos).as_posix()
        self.questions = [question for question in questions if question["video"] is None or fnmatch(self.name, question["video"])]
        made_from = [stamp(video), stamp(args.model), args.flags, self.requests()]
        key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]
        self.input, self.output = (args.out / "parts" / key[:2] / f"{key}.{of}.jsonl" for of in ("requests", "answers"))

    def ids(self):
        return [f"{self.name}#{question['id']}" for question in self.questions]

    def requests(self):
        lines = []
        for id, question in zip(self.ids(), self.questions):
            video = {"type": "video_url", "video_url": {"url": self.video.as_uri()}}
            messages = [{"role": "user", "content": [video, {"type": "text", "text": question["question"]}]}]
            body = {"messages": messages, **question["body"]}
            lines.append(json.dumps({"custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": body}) + "\n")
        return "".join(lines)

    def answers(self):
        """Its answered requests, as lines; the last line of a part that somebody works on may not be whole."""
        lines = self.output.read_text().splitlines(keepends=True) if self.output.exists() else []
        return [line for line in lines if line.endswith("\n") and line.strip()]

    def is_answered(self):
        return len(self.answers()) == len(self.questions)


@contextmanager
def whole(path):
    """A file to write to; under its name stands nothing, or all of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(beside, "w") as file:
        yield file
    os.replace(beside, path)


@ray.remote
def answer(command):
    # A worker that is killed cannot end what it started: the kernel does, and nothing else writes where the next one goes on.
    done = subprocess.run(["setpriv", "--pdeathsig", "KILL", *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, errors="replace")
    if done.returncode:
        raise RuntimeError(f"`longtake batch` ended with {done.returncode}: {done.stderr[-2000:].strip()}")


def ask(args, waiting):
    """Has parts answered; {name: why} of those that were not."""
    # The cluster that RAY_ADDRESS names, else one of this machine alone.
    ray.init(log_to_driver=False)
    task = answer.options(num_cpus=args.cpus, max_retries=args.tries, retry_exceptions=True)
    # Long ones first, so that no machine has one left when all others are done.
    waiting, running, failed = sorted(waiting, key=lambda part: part.n_bytes), {}, {}
    while waiting or running:
        # As many as keep all machines at work; they may come and go.
        ahead = 16 + 2 * int(ray.cluster_resources().get("CPU", 1)) // args.cpus
        while waiting and len(running) < ahead:
            part = waiting.pop()
            with whole(part.input) as file:
                file.write(part.requests())
            # One question at a time: the second one waits for what the first reads.
            running[task.remote(["longtake", "batch", str(part.input), "-o", str(part.output), "-m", str(args.model),
                                 "--media-path", str(args.videos), "-t", str(args.cpus), "--parallel", "1", "--quiet",
                                 *args.flags])] = part
        done, _ = ray.wait(list(running))
        for ref in done:
            part = running.pop(ref)
            try:
                ray.get(ref)
            except ray.exceptions.RayError as err:
                failed[part.name] = str(err).strip().splitlines()[-1]
            print(f"{part.name}: {'failed' if part.name in failed else 'done'}, {len(waiting) + len(running)} to go", file=sys.stderr)
    ray.shutdown()
    return failed


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
    parts = [part for part in (Part(args, video, questions) for video in videos) if part.questions]
    waiting = [part for part in parts if not part.is_answered()]
    print(f"{len(parts)} videos, {sum(len(part.questions) for part in parts)} questions; {len(parts) - len(waiting)} videos are done",
          file=sys.stderr)
    failed = ask(args, waiting) if waiting else {}

    n_good, n_refused, n_missing = 0, 0, 0
    with whole(args.out / "answers.jsonl") as file:
        for part in parts:
            missing = set(part.ids())
            for line in part.answers():
                answer = json.loads(line)
                # Each was asked, and is answered once.
                missing.remove(answer["custom_id"])
                is_good = answer["response"]["status_code"] == 200
                n_good, n_refused = n_good + is_good, n_refused + (not is_good)
                file.write(line)
            n_missing += len(missing)
    print(f"{n_good} answered, {n_refused} refused, {n_missing} missing: {args.out / 'answers.jsonl'}", file=sys.stderr)
    for name, what in failed.items():
        print(f"{name}: {what}", file=sys.stderr)
    return 1 if n_missing else 0


if __name__ == "__main__":
    sys.exit(main())
