#!/usr/bin/env python3
"""One long video into one context: what was planned, what it took, memory and speed on the way.

    benches/long_video.py --longtake target/release/longtake --model MODEL.gguf --mmproj MMPROJ.gguf --ctx 65536 --out DIR

Makes an hour of synthetic 640x360 H.264 video (once, with ffmpeg), asks `longtake plan` what it will cost, runs `longtake watch`
on it, and asks one question afterwards. `--stop-after SECONDS` interrupts every run after that time and starts the next, which
goes on from the take. In DIR: the events of all runs (`events.jsonl`), `report.md` and `plot.svg`. Python's standard library is
all that is needed.
"""
import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def make_video(path, seconds):
    if not path.exists():
        part = path.with_suffix(".part.mp4")
        subprocess.run(
            ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", f"testsrc2=size=640x360:rate=10:duration={seconds}",
             "-c:v", "libx264", "-preset", "ultrafast", "-crf", "28", "-g", "50", "-pix_fmt", "yuv420p", str(part)],
            check=True)
        part.rename(path)


def watch(command, run, events, stop_after):
    """One run; returns whether it ended by itself, its seconds, and its peak resident bytes."""
    started = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    stopped = False
    for line in child.stdout:
        events.append(json.loads(line) | {"run": run})
        if stop_after and not stopped and time.monotonic() - started > stop_after:
            child.send_signal(signal.SIGINT)
            stopped = True
    _, status, usage = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0 and not stopped:
        sys.exit(f"failed: {' '.join(command)}")
    return not stopped, time.monotonic() - started, usage.ru_maxrss * 1024


def points(events):
    """(tokens in the context, tokens/s of the last pairs, bytes) along the way."""
    found, before = [], None
    for event in events:
        if event["event"] == "start":
            before = None
        if event["event"] != "prefilled":
            continue
        if before is None:
            before = event
        elif event["tokens"] - before["tokens"] >= 1024:
            rate = (event["tokens"] - before["tokens"]) / (event["seconds"] - before["seconds"])
            found.append((event["tokens"], rate, event["memory"]))
            before = event
    return found


def tick(least):
    """The next round number."""
    power = 10 ** math.floor(math.log10(least))
    return next(n * power for n in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if n * power >= least)


def plot(path, found, title):
    """Two panels over the same axis: memory, tokens per second."""
    width, height, left, top = 760, 250, 70, 40
    most = max(p[0] for p in found)
    x = lambda n: left + n / most * (width - left - 20)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {2 * height + 20}" font-family="sans-serif" '
           f'font-size="12"><rect width="100%" height="100%" fill="white"/><text x="{left}" y="20" font-size="14">{title}</text>']
    for panel, (name, column, unit, color) in enumerate([("memory in use (GiB)", 2, 2**30, "#1f77b4"),
                                                         ("tokens per second, vision included", 1, 1, "#d62728")]):
        base = top + panel * height
        tall = height - 70
        step = tick(max(p[column] for p in found) / unit / 4)
        top_value = 4 * step
        y = lambda v: base + 20 + tall * (1 - v / unit / top_value)
        out.append(f'<text x="{left}" y="{base + 12}">{name}</text>')
        for i in range(5):
            value = step * i
            out.append(f'<line x1="{left}" x2="{width - 20}" y1="{y(value * unit):.1f}" y2="{y(value * unit):.1f}" stroke="#ddd"/>'
                       f'<text x="{left - 8}" y="{y(value * unit) + 4:.1f}" text-anchor="end">{value:.4g}</text>')
        for i in range(5):
            n = most * i // 4
            out.append(f'<text x="{x(n):.1f}" y="{base + tall + 36}" text-anchor="middle">{n}</text>')
        line = " ".join(f"{x(p[0]):.1f},{y(p[column]):.1f}" for p in found)
        out.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
    out.append(f'<text x="{width / 2}" y="{2 * height + 14}" text-anchor="middle">tokens in the context</text></svg>')
    path.write_text("\n".join(out) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longtake", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--mmproj", required=True)
    parser.add_argument("--ctx", type=int, default=65536)
    parser.add_argument("--cache-type", default="q8_0")
    parser.add_argument("--seconds", type=int, default=3600, help="length of the video")
    parser.add_argument("--stop-after", type=float, help="interrupt every run after so many seconds")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    video, take = args.out / f"{args.seconds}s.mp4", args.out / f"{args.ctx}.take"
    make_video(video, args.seconds)
    flags = ["-m", args.model, "--mmproj", args.mmproj, "-c", str(args.ctx), "-ctk", args.cache_type, "-ctv", args.cache_type]
    plan = json.loads(subprocess.run([args.longtake, "plan", str(video), *flags, "--json"], check=True,
                                     stdout=subprocess.PIPE).stdout)
    take.unlink(missing_ok=True)
    events, seconds, peak, runs, done = [], 0.0, 0, 0, False
    while not done:
        done, took, used = watch([args.longtake, "watch", str(video), "-o", str(take), *flags, "--json"], runs, events,
                                 args.stop_after)
        seconds, peak, runs = seconds + took, max(peak, used), runs + 1
    started = time.monotonic()
    asked = subprocess.Popen([args.longtake, "ask", str(take), "What happens in this video?", "-m", args.model, "-n", "32"],
                             stdout=subprocess.PIPE)
    asked.stdout.read(1)
    first = time.monotonic() - started
    asked.stdout.read()
    _, _, usage = os.wait4(asked.pid, 0)
    with open(args.out / "events.jsonl", "w") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)
    found = points(events)
    title = f"{args.seconds} s of video into {plan['n_ctx']} tokens, {args.cache_type} cache"
    plot(args.out / "plot.svg", found, title)
    gib = lambda n: f"{n / 2**30:.2f} GiB"
    memory = [p[2] for p in found]
    rows = [("tokens of video / context", f"{plan['n_tokens']} / {plan['n_ctx']}", ""),
            ("memory", gib(plan["memory"]["total"]), f"{gib(peak)} at the peak ({peak / plan['memory']['total'] - 1:+.1%})"),
            ("minutes", f"{plan['seconds']['total'] / 60:.1f}",
             f"{seconds / 60:.1f} in {runs} runs ({seconds / plan['seconds']['total'] - 1:+.1%})"),
            ("memory on the way, from a quarter on", "flat", f"{gib(min(memory[len(memory) // 4:]))} to {gib(max(memory))}"),
            ("`ask`: first piece of the answer", "", f"{first:.1f} s, {gib(usage.ru_maxrss * 1024)}")]
    report = [f"# {title}", "", "| | planned | measured |", "|---|---|---|"]
    report += [f"| {name} | {planned} | {measured} |" for name, planned, measured in rows]
    (args.out / "report.md").write_text("\n".join(report) + "\n")
    print("\n".join(report))


main()
