#!/usr/bin/env python3
"""Tokens per second of all clients together: `longtake serve` beside `llama-server`, same text model, same threads, in turn.

    benches/peers/serve.py --longtake target/native/release/longtake MODEL.gguf [--clients 1,2,4,8] [--tokens 64] [--rounds 3]

So many clients ask at once and stream answers of so many tokens to short prompts; a rate is all their tokens by the time from
the first token of all to the last. Both servers run, only one of them is asked at a time. The table has medians over the rounds
and their ratio. llama-server is compiled as `compare.py` compiles the others, or named with --llama-server.
"""
import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import compare


def stream(port, client, n_tokens):
    """Times of the first and the last piece of an answer, and its tokens."""
    body = {"messages": [{"role": "user", "content": f"Client {client} wants to hear a long story about number {client}."}],
            "max_tokens": n_tokens, "ignore_eos": True, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    if reply.status != 200:
        raise RuntimeError(f"{reply.status}: {reply.read()[:500]}")
    first = last = n = None
    for line in reply:
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            continue
        chunk = json.loads(line[6:])
        if any(choice["delta"].get("content") for choice in chunk["choices"]):
            last = time.monotonic()
            first = first or last
        n = (chunk.get("usage") or {}).get("completion_tokens", n)
    connection.close()
    if n != n_tokens:
        raise RuntimeError(f"{n} tokens instead of {n_tokens}")
    return first, last, n


def rate(port, n_clients, n_tokens):
    answers, faults = [], []

    def one(client):
        try:
            answers.append(stream(port, client, n_tokens))
        except Exception as err:
            faults.append(err)

    threads = [threading.Thread(target=one, args=(client,)) for client in range(n_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    # The first token of each is of its prompt.
    return sum(n - 1 for _, _, n in answers) / (max(last for _, last, _ in answers) - min(first for first, _, _ in answers))


def ready(port, path, process):
    for _ in range(1200):
        if process.poll() is not None:
            raise RuntimeError("a server ended")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError("a server is not ready")


def free_port():
    import socket
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--longtake", type=Path, required=True)
    parser.add_argument("--llama-server", type=Path, help="one that is there already")
    parser.add_argument("--clients", default="1,2,4,8")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--work", type=Path, default=Path("target/peers"), help="where llama-server is built")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    peer = args.llama_server or compare.build("llama.cpp", args.work, ["llama-server"]) / "llama-server"
    counts = [int(n) for n in args.clients.split(",")]
    most, n_ctx, ports = max(counts), args.tokens + 192, [free_port(), free_port()]
    with tempfile.TemporaryDirectory() as folder:
        commands = [
            [args.longtake, "serve", "-m", args.model, "--port", ports[0], "-t", args.threads, "-c", n_ctx, "--parallel", most,
             "--no-store"],
            [peer, "-m", args.model, "--host", "127.0.0.1", "--port", ports[1], "-t", args.threads, "-c", n_ctx * most, "-np", most,
             "-ngl", "0"],
        ]
        logs = [open(Path(folder) / name, "w+") for name in ("longtake", "llama-server")]
        servers = [subprocess.Popen([str(c) for c in command], stdout=log, stderr=log) for command, log in zip(commands, logs)]
        try:
            for port, path, server in zip(ports, ("/ready", "/health"), servers):
                ready(port, path, server)
            rates = {n: ([], []) for n in counts}
            for round_ in range(args.rounds + 1):
                for n in counts:
                    for port, of in zip(ports, rates[n]):
                        now = rate(port, n, args.tokens)
                        # The first round brings weights into memory.
                        if round_ > 0:
                            of.append(now)
                    compare.say(f"round {round_}, {n} clients: {', '.join(f'{of[-1]:.2f}' for of in rates[n] if of)}")
        except BaseException:
            for log in logs:
                log.seek(0)
                sys.stderr.write(log.read()[-2000:])
            raise
        finally:
            for server in servers:
                server.terminate()
                server.wait()
    print(f"\n{args.model.name}, {args.threads} threads, tokens per second of all clients, medians\n")
    print("| clients | longtake | times one client | llama-server | times one client | ratio |\n|" + " ---: |" * 6)
    one = [statistics.median(of) for of in rates[counts[0]]]
    for n in counts:
        ours, theirs = (statistics.median(of) for of in rates[n])
        print(f"| {n} | {ours:.2f} | {ours / one[0]:.2f} | {theirs:.2f} | {theirs / one[1]:.2f} | {ours / theirs:.2f} |")


if __name__ == "__main__":
    main()
