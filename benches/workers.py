#!/usr/bin/env python3
"""Requests per second by workers: `longtake serve` processes that answer questions from one take, each with threads of its own.

    longtake watch film.mp4 -o film.take -m MODEL.gguf
    benches/workers.py --longtake target/release/longtake MODEL.gguf film.take [--workers 1,2] [--threads 1] [--clients 2]

Every worker maps the same take and has clients that each ask the next question once the one before is answered. A setting is
measured for `--seconds` in each of `--rounds`, all settings in turn; the table has medians. A question has some fifteen tokens, its
answer exactly `--tokens`. CPU time of the workers by answers hardly depends on what else the machine does; requests per second do.
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


def call(port, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    said = reply.read()
    connection.close()
    if reply.status != 200:
        raise RuntimeError(f"{path}: {reply.status}: {said[:500]}")
    return json.loads(said or b"null")


class Worker:
    def __init__(self, args, folder, takes):
        self.port_file, self.log = folder / "port", open(folder / "log", "w+")
        self.process = subprocess.Popen(
            [args.longtake, "serve", "-m", args.model, "--takes", takes, "--data", folder / "data", "--port", "0", "--port-file",
             self.port_file, "-t", str(args.threads), "--parallel", str(args.clients)], stdout=self.log, stderr=self.log)

    def wait(self):
        for _ in range(3000):
            if self.process.poll() is not None:
                self.log.seek(0)
                raise RuntimeError(self.log.read()[-2000:])
            try:
                self.port = int(self.port_file.read_text())
                call(self.port, "GET", "/ready")
                (take,) = call(self.port, "GET", "/v1/takes")["data"]
                if take["status"] == "failed":
                    raise RuntimeError(take)
                if take["status"] == "ready":
                    self.take = take["id"]
                    return
            except (OSError, ValueError, RuntimeError):
                pass
            time.sleep(0.1)
        raise RuntimeError("a worker is not ready")

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self):
        """Bytes that it holds for itself, and its share of what others map, too."""
        kinds = dict(line.split(":") for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()[1:])
        kib = lambda *names: sum(int(kinds[name].split()[0]) for name in names)
        return 1024 * kib("Private_Clean", "Private_Dirty"), 1024 * kib("Pss")


def rate(args, workers, seconds):
    """Answers per second of all workers together, after one answer of each client; CPU seconds of each answer."""
    answers, faults, warm = [], [], threading.Barrier(len(workers) * args.clients)
    until, cpu, late = [], [], []
    spent = lambda: sum(worker.cpu_seconds() for worker in workers)

    def client(worker, number):
        try:
            for n in range(1 << 30):
                text = f"What happens when number {number} of the crowd comes in for the {n}. time?"
                part = {"type": "file", "file": {"file_id": worker.take}}
                body = {"messages": [{"role": "user", "content": [part, {"type": "text", "text": text}]}], "max_tokens": args.tokens,
                        "ignore_eos": True}
                reply = call(worker.port, "POST", "/v1/chat/completions", body)
                if reply["usage"]["completion_tokens"] != args.tokens:
                    raise RuntimeError(f"{reply['usage']}")
                if n == 0:
                    if warm.wait() == 0:
                        cpu.append(spent())
                        until.append(time.monotonic() + seconds)
                    warm.wait()
                elif time.monotonic() < until[0]:
                    answers.append(time.monotonic())
                else:
                    late.append(number)
                    return
        except Exception as err:
            faults.append(err)
            warm.abort()

    threads = [threading.Thread(target=client, args=(worker, n)) for worker in workers for n in range(args.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    # All that was begun was also ended, and paid for.
    return len(answers) / seconds, (spent() - cpu[0]) / (len(answers) + len(late))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("take", type=Path)
    parser.add_argument("--longtake", type=Path, required=True)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    parser.add_argument("--clients", type=int, default=2, help="of each worker")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    counts = [int(n) for n in args.workers.split(",")]
    rates, workers = {n: [] for n in counts}, []
    with tempfile.TemporaryDirectory() as folder:
        takes = Path(folder) / "takes"
        takes.mkdir()
        os.symlink(args.take.resolve(), takes / args.take.name)
        try:
            for i in range(max(counts)):
                (Path(folder) / str(i)).mkdir()
                workers.append(Worker(args, Path(folder) / str(i), takes))
            for worker in workers:
                worker.wait()
            for round_ in range(args.rounds):
                for n in counts:
                    rates[n].append(rate(args, workers[:n], args.seconds))
                    print(f"round {round_}, {n} workers: {rates[n][-1][0]:.2f} requests/s, {rates[n][-1][1]:.3f} CPU s each", file=sys.stderr)
            memory = [worker.memory() for worker in workers]
        finally:
            for worker in workers:
                worker.process.terminate()
                worker.process.wait()
    medians = {n: [statistics.median(of) for of in zip(*rates[n])] for n in counts}
    one = medians[counts[0]][0] / counts[0]
    print(f"{args.model.name}, {args.take.stat().st_size / 1e6:.0f} MB of take, {args.threads} threads and {args.clients} clients a worker, "
          f"answers of {args.tokens} tokens\n\n| workers | requests/s | times one worker | CPU seconds of an answer |\n|" + " ---: |" * 4)
    for n in counts:
        now, cpu = medians[n]
        print(f"| {n} | {now:.2f} | {now / one:.2f} | {cpu:.3f} |")
    print("\nmemory of the workers, their own and with their share of what all map: "
          + ", ".join(f"{own / 1e6:.0f} and {share / 1e6:.0f} MB" for own, share in memory))


if __name__ == "__main__":
    main()
