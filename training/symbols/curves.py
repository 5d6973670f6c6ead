"""Draws how the models learnt: accuracy and length by step, one line for each layout.

    curves.py OUT.svg MODEL.pt...
"""
import os
import sys

import matplotlib
import torch

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "longtake"
import matplotlib.pyplot as plt  # noqa: E402


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    figure, (top, bottom) = plt.subplots(2, 1, sharex=True, figsize=(8, 6))
    for path in sys.argv[2:]:
        curve = torch.load(path)["curve"]
        steps, _, right, limit, needles = zip(*curve)
        name = os.path.basename(path).removesuffix(".pt")
        (line,) = top.plot(steps, right, label=name)
        bottom.plot(steps, limit, color=line.get_color())
        several = next((s for s, n in zip(steps, needles) if n > 1), None)
        if several is not None:
            top.axvline(several, color=line.get_color(), linestyle=":", linewidth=0.8)
    top.set_ylabel("answers right (running mean)")
    top.legend()
    bottom.set_ylabel("longest video, frame pairs")
    bottom.set_xlabel("step (dotted: up to three symbols from here on)")
    figure.tight_layout()
    figure.savefig(sys.argv[1], metadata={"Date": None})


if __name__ == "__main__":
    main()
