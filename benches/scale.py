#!/usr/bin/env python3
"""What reading very many hours of video takes on very many machines: arithmetic on what docs/performance.md says of one hour.

    benches/scale.py [--machines 1000] [--cores 8] [--hours 1000000] [--core-hour 0.04] [--stored 0.02] [--check docs/scale.md]

Prices are in dollars: of a core for an hour, and of a GB in an object store for a month. `--check` compares the table with the one
that stands in a page.
"""
import argparse
import sys
from pathlib import Path

MEASURED = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
# Of its measurement; a context holds the video and what is kept free behind it for questions.
CORES = 2
CONTEXTS = {"16k": 16384, "64k": 65536}
# A token of Qwen2-VL-2B in Q8_0: keys and values of 28 layers, 2 heads, 128 elements; 34 bytes hold 32 of them.
TOKEN_BYTES = 28 * 2 * 2 * 128 * 34 // 32


def measured(row):
    """What the table of an hour of video has in its columns `16k measured` and `64k measured`."""
    section = MEASURED.read_text().split("## An hour of video")[1].split("\n## ")[0]
    cells = next(line for line in section.splitlines() if line.startswith(f"| {row} |")).split("|")
    return [float(cells[i].split("(")[0].replace(",", "")) for i in (3, 5)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=1000)
    parser.add_argument("--cores", type=int, default=8, help="of a machine")
    parser.add_argument("--hours", type=float, default=1e6, help="of video")
    parser.add_argument("--core-hour", type=float, default=0.04)
    parser.add_argument("--stored", type=float, default=0.02)
    parser.add_argument("--check", type=Path)
    args = parser.parse_args()
    core_minutes = [minutes * CORES for minutes in measured("minutes")]
    costs = [minutes / 60 * args.core_hour for minutes in core_minutes]
    takes = [n_ctx * TOKEN_BYTES for n_ctx in CONTEXTS.values()]
    elapsed = [args.hours * minutes / 60 / args.cores / args.machines for minutes in core_minutes]
    kept = [take / 1e9 * args.stored for take in takes]
    rows = {
        "tokens of an hour of video": [f"{n:,.0f}" for n in measured("tokens of video")],
        "core minutes to read it": [f"{n:.0f}" for n in core_minutes],
        "cost of reading it": [f"${cost:.4f}" for cost in costs],
        "bytes of its take": [f"{take / 1e6:.0f} MB" for take in takes],
        "months in an object store that cost as much as reading": [f"{cost / store:.1f}" for cost, store in zip(costs, kept)],
        "all hours, time": [f"{hours:.1f} h" for hours in elapsed],
        "all hours, cost": [f"${args.hours * cost:,.0f}" for cost in costs],
        "all takes": [f"{args.hours * take / 1e12:.0f} TB" for take in takes],
        "takes of a machine": [f"{args.hours / args.machines * take / 1e9:.0f} GB" for take in takes],
        "takes written by a machine": [f"{args.hours / args.machines * take / 3600 / h / 1e6:.1f} MB/s" for take, h in zip(takes, elapsed)],
        "takes written by all": [f"{args.hours * take / 3600 / h / 1e9:.1f} GB/s" for take, h in zip(takes, elapsed)],
        "tasks that end in a second": [f"{args.hours / 3600 / h:.1f}" for h in elapsed],
    }
    head = f"{args.hours:,.0f} hours, {args.machines:,} machines of {args.cores} cores"
    table = f"| {head} | {' | '.join(CONTEXTS)} |\n|---|" + " ---: |" * len(CONTEXTS) + "\n"
    table += "".join(f"| {name} | {' | '.join(cells)} |\n" for name, cells in rows.items())
    print(table, end="")
    if args.check and table not in args.check.read_text():
        sys.exit(f"{args.check} has another table")


if __name__ == "__main__":
    main()
