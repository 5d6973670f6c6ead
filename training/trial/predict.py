"""What Theorems 3.1 and 4.1 of the HoPE paper predict for each cell of the trial, before anything is trained.

    predict.py [BASE]        the tables of docs/reproduction.md

Of a query that looks for a key like itself, the score exceeds that of an unrelated key by 2 sigma^2 S on average, where S is the sum
of cos(displacement x frequency) over all pairs (Lemma 4.1). Here displacements are those between the last token of a question and the
symbol's tokens, with the ids of the layout; S is averaged over the frame pairs that the symbol may stand in.
"""
import sys

import torch

import task
from network import axes, place
from task import GRID, N_TOKENS, SMALL, VARIANTS

CELLS = [cell[:2] for cell in task.CELLS]
BEFORE, AFTER = 15, 13  # tokens before the video, and from its end to the answer
PAIRS = SMALL["n_embd"] // SMALL["n_head"] // 2


def sums(variant, base, n_pair, stretch):
    """(S, its temporal part) for each of the frame pairs, means over the tokens of one."""
    layout, _, scale = VARIANTS[variant]
    pos = place(layout, BEFORE, (n_pair, *GRID), AFTER, scale, task.stretched(n_pair, stretch))
    away = torch.cat([pos[-1] - pos[BEFORE : BEFORE + n_pair * N_TOKENS], torch.zeros(n_pair * N_TOKENS, 1)], 1).double()
    drivers = axes(layout, 2 * PAIRS)
    theta = base ** (-torch.arange(PAIRS).double() / PAIRS)
    cos = (away[:, drivers] * theta).cos()
    temporal = torch.tensor([d in (0, 3) for d in drivers])
    of = lambda c: c.sum(1).view(n_pair, N_TOKENS).mean(1)
    return of(cos), of(cos[:, temporal])


def critical(variant, base):
    """The first whole distance in time at which the temporal part is negative (Theorem 3.1); None: never below 10 million."""
    layout = VARIANTS[variant][0]
    theta = base ** (-torch.arange(PAIRS).double() / PAIRS)
    theta = theta[torch.tensor([d == 0 for d in axes(layout, 2 * PAIRS)])]
    if not len(theta):
        return None
    for first in range(0, 10_000_000, 100_000):
        below = ((torch.arange(first, first + 100_000).double()[:, None] * theta).cos().sum(1) < 0).nonzero()
        if len(below):
            return first + below[0].item()


def name(n_pair, stretch):
    return f"{n_pair} pairs" if stretch == 1 else f"x {stretch}"


def main():
    for base in [float(b) for b in sys.argv[1:]] or [1e4, 1e6]:
        print(f"\nbase {base:g}\n\n| | {' | '.join(VARIANTS)} |\n|---|{'--:|' * len(VARIANTS)}")
        print("| temporal part first negative at | " + " | ".join(str(critical(v, base) or "never") for v in VARIANTS) + " |")
        for n_pair, stretch in CELLS:
            cells = []
            for variant in VARIANTS:
                whole, temporal = sums(variant, base, n_pair, stretch)
                cells.append(f"{whole.mean():.1f} ({100 * (temporal < 0).double().mean():.0f})")
            print(f"| {name(n_pair, stretch)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
