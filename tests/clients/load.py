#!/usr/bin/env python3
"""Many clients at once for a long time: `longtake serve --demo` over loopback, every answer compared with what it is alone.

    tests/clients/load.py target/release/longtake --clients 64 --minutes 15 [--json FILE]

Clients ask about a take, about a video they send along, in plain words and with seeds, streamed and not; some leave in the
middle. It ends with 1 when an answer was lost, cut or somebody else's, when a request was refused although the queue has room
for all, or when the server's memory grew. Python's standard library is all that it needs.
"""
import argparse
import asyncio
import base64
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

PARALLEL = 8
# Memory may end so many times as large as it was once every client had asked, and so many bytes larger.
GROWTH, SLACK = 1.05, 16 << 20


class Cut(Exception):
    """A reply that ended before its end."""


async def request(port, method, path, body=b"", kind="application/json", leave_after=None):
    """(status, headers, body) and the time of the first byte of every event; with `leave_after`, nothing after so many bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    try:
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\ncontent-type: {kind}\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        if leave_after is not None:
            left = leave_after
            while left > 0 and (piece := await reader.read(min(left, 4096))):
                left -= len(piece)
            return None
        status = int((await reader.readline()).split()[1])
        headers = {}
        while (line := await reader.readline()) not in (b"\r\n", b""):
            name, value = line.decode().rstrip().split(": ", 1)
            headers[name.lower()] = value
        pieces = []
        if headers.get("transfer-encoding") == "chunked":
            while True:
                size = (await reader.readline()).strip()
                if not size:
                    raise Cut(f"{path}: no last chunk")
                piece = await reader.readexactly(int(size, 16) + 2)
                if len(piece) == 2:
                    break
                pieces.append((time.monotonic(), piece[:-2]))
        else:
            pieces.append((time.monotonic(), await reader.readexactly(int(headers["content-length"]))))
        return status, headers, pieces
    except asyncio.IncompleteReadError as err:
        raise Cut(f"{path}: the connection ended") from err
    finally:
        writer.close()


async def get_json(port, path, body=None):
    status, _, pieces = await request(port, "GET" if body is None else "POST", path, json.dumps(body or {}).encode())
    reply = json.loads(b"".join(piece for _, piece in pieces))
    if status >= 300:
        raise RuntimeError(f"{path}: {status} {reply}")
    return reply


async def ask(port, body):
    """(text, why it ended, seconds to its first piece) of an answer."""
    began = time.monotonic()
    status, _, pieces = await request(port, "POST", "/v1/chat/completions", json.dumps(body).encode())
    whole = b"".join(piece for _, piece in pieces)
    if status != 200:
        raise RuntimeError(f"{status} {whole[:500]}")
    if not body.get("stream"):
        reply = json.loads(whole)
        if "error" in reply:
            raise RuntimeError(str(reply))
        return reply["choices"][0]["message"]["content"], reply["choices"][0]["finish_reason"], None
    text, finish, first, is_done = "", None, None, False
    for when, piece in pieces:
        for line in piece.decode().splitlines():
            if line == "data: [DONE]":
                is_done = True
            elif line.startswith("data: "):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise RuntimeError(str(chunk))
                for choice in chunk["choices"]:
                    said = choice["delta"].get("content")
                    if said:
                        first = first or when - began
                        text += said
                    finish = choice["finish_reason"] or finish
    if not is_done or finish is None:
        raise Cut(f"a stream ended with {whole[-200:]}")
    return text, finish, first


def resident(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the server is gone")


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


class Load:
    def __init__(self, args, port, pid, take, video, question, tokens):
        self.args, self.port, self.pid = args, port, pid
        words = lambda i: [{"role": "user", "content": f"Hello {i}"}]
        part = {"type": "file", "file": {"file_id": take}}
        about = lambda part: [{"role": "user", "content": [part, {"type": "text", "text": question}]}]
        sent = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64," + base64.b64encode(video).decode()}}
        self.bodies = {"take": {"messages": about(part), "max_tokens": 8}}
        # By itself the embedded model says one word: each answer is made of tokens of its own instead.
        told = lambda ids: {"ignore_eos": True, "logit_bias": {str(id): 60 for id in ids}}
        for i in range(6):
            self.bodies[f"words {i}"] = {"messages": words(i), "max_tokens": 8 + 12 * i, **told(tokens[i:i + 1])}
        for i in range(3):
            # Whether a prompt was read in one piece or behind what was there already shows in the last bits, and a draw tells.
            self.bodies[f"seed {i}"] = {"messages": words(9), "max_tokens": 24, "temperature": 1.0, "seed": i,
                                        "cache_prompt": False, **told(tokens)}
        self.bodies["video"] = {"messages": about(sent), "max_tokens": 8}
        self.expected, self.counts, self.faults = {}, Counter(), []
        self.first, self.first_others, self.memory = [], [], []

    async def alone(self):
        for name, body in self.bodies.items():
            text, finish, _ = await ask(self.port, body)
            self.expected[name] = text, finish

    async def client(self, number, until):
        rng = random.Random(number)
        # A film that comes with its question takes as long as a hundred others.
        weights = [8 if name == "take" else 0.02 if name == "video" else 1 for name in self.bodies]
        while time.monotonic() < until:
            name = rng.choices(list(self.bodies), weights)[0]
            body = dict(self.bodies[name], stream=rng.random() < 0.75)
            try:
                if rng.random() < 0.05:
                    body["stream"] = True
                    await request(self.port, "POST", "/v1/chat/completions", json.dumps(body).encode(), leave_after=rng.randrange(3000))
                    self.counts["left"] += 1
                    continue
                text, finish, first = await ask(self.port, body)
                self.counts[name.split()[0]] += 1
                if (text, finish) != self.expected[name]:
                    self.faults.append(f"{name}: {text!r} ({finish}) instead of {self.expected[name]}")
                if first is not None:
                    (self.first if name == "take" else self.first_others).append(first)
            except Exception as err:  # every kind of it is a lost answer
                self.faults.append(f"{name}: {type(err).__name__}: {err}")

    async def watch(self, until):
        began = time.monotonic()
        while time.monotonic() < until:
            self.memory.append((time.monotonic() - began, resident(self.pid)))
            await asyncio.sleep(1)

    async def run(self):
        await self.alone()
        until = time.monotonic() + 60 * self.args.minutes
        clients = (self.client(i, until) for i in range(self.args.clients))
        await asyncio.gather(self.watch(until), *clients)
        # Once all are gone, nothing runs and each is answered as before.
        for _ in range(100):
            metrics = await self.metrics()
            if metrics["longtake_requests_running"] == 0:
                break
            await asyncio.sleep(0.1)
        else:
            self.faults.append("something still runs")
        if metrics["longtake_job_panics_total"]:
            self.faults.append("a job met a fault of the program")
        for name, expected in self.expected.items():
            text, finish, _ = await ask(self.port, self.bodies[name])
            if (text, finish) != expected:
                self.faults.append(f"{name}, alone after all: {text!r}")
        # The first quarter is for caches to fill.
        n = len(self.memory)
        part = lambda a, b: statistics.median(bytes_ for _, bytes_ in self.memory[n * a // 4:max(n * b // 4, n * a // 4 + 1)])
        early, late = part(1, 2), part(3, 4)
        if late > GROWTH * early + SLACK:
            self.faults.append(f"memory grew from {early / 2**20:.1f} to {late / 2**20:.1f} MiB")
        millis = lambda values, share: round(1e3 * quantile(values, share), 1)
        return {
            "clients": self.args.clients, "minutes": self.args.minutes, "answers": dict(self.counts),
            "answers_per_second": round(sum(self.counts.values()) / 60 / self.args.minutes, 1),
            "tokens_per_step": round(metrics["longtake_generated_tokens_total"] / max(1, metrics["longtake_answer_steps_total"]), 2),
            "first_token_from_take_ms": {"p50": millis(self.first, 0.5), "p99": millis(self.first, 0.99)},
            "first_token_others_ms": {"p50": millis(self.first_others, 0.5), "p99": millis(self.first_others, 0.99)},
            "memory_mib": {"early": round(early / 2**20, 1), "late": round(late / 2**20, 1)},
            "faults": self.faults[:20], "n_faults": len(self.faults),
        }

    async def metrics(self):
        _, _, pieces = await request(self.port, "GET", "/metrics")
        lines = b"".join(piece for _, piece in pieces).decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        draw = [args.program, "demo", "--tokens", "2880", "--seed", "3", "-o", folder / "v.mp4", "--json"]
        drawn = json.loads(subprocess.run(draw, check=True, capture_output=True).stdout)
        serve = [args.program, "serve", "--demo", "--port", "0", "--port-file", folder / "port", "--data", folder / "data",
                 "--parallel", str(PARALLEL), "--queue", str(args.clients)]
        with open(folder / "log", "w") as log:
            server = subprocess.Popen(serve, stdout=log, stderr=log)
        try:
            for _ in range(600):
                if (folder / "port").exists() and (folder / "port").read_text().strip():
                    break
                time.sleep(0.1)
            port = int((folder / "port").read_text())
            while (await request(port, "GET", "/ready"))[0] != 200:
                await asyncio.sleep(0.1)
            video = (folder / "v.mp4").read_bytes()
            _, _, pieces = await request(port, "PUT", "/v1/files?filename=v.mp4", video, "application/octet-stream")
            file = json.loads(b"".join(piece for _, piece in pieces))["id"]
            take = (await get_json(port, "/v1/takes", {"file_id": file, "reserve": 256}))["id"]
            while (status := (await get_json(port, f"/v1/takes/{take}"))["status"]) != "ready":
                if status == "failed":
                    raise RuntimeError("the take cannot be read")
                await asyncio.sleep(0.1)
            said = await get_json(port, "/v1/tokenize", {"content": drawn["question"]})
            tokens = list(dict.fromkeys(said["tokens"]))[:8]
            load = Load(args, port, server.pid, take, video, drawn["question"], tokens)
            figures = await load.run()
            if len({text for text, _ in load.expected.values()}) < 9:
                raise RuntimeError("answers cannot be told apart")
            if load.expected["take"][0] != drawn["expected"]:
                figures["faults"].append(f"the symbol is {drawn['expected']!r}, not {load.expected['take'][0]!r}")
                figures["n_faults"] += 1
        except BaseException:
            sys.stderr.write((folder / "log").read_text()[-2000:])
            raise
        finally:
            server.terminate()
            server.wait()
    print(json.dumps(figures, indent=1))
    if args.json:
        args.json.write_text(json.dumps(figures))
    return 1 if figures["n_faults"] else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
