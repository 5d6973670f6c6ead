"""Trains the vision tower alone: every token of a symbol tells its shape and colour, every other that it is none.

    vision.py OUT.pt [--steps 900] [--seed 1]
"""
import argparse
import multiprocessing
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import frames
from network import SHAPE, VisionTower

# (rows, columns) of tokens, frame pairs of each kind in a step, and every how many steps.
SIZES = [((2, 2), 64, 1), ((3, 4), 16, 1), ((5, 5), 10, 2), ((9, 16), 4, 8)]
# Root mean square of a token: about that of a word in the residual stream.
LEVEL = 0.5


def draw(rng, grid, n):
    """`n` pairs with a symbol and `n` without: patches, and labels per token (-1: does not count)."""
    h, w = grid[0] * 28, grid[1] * 28
    pairs, labels = [], []
    for _ in range(n):
        s, c = rng.integers(8), rng.integers(8)
        pair, mask = frames.symbol(rng, h, w, frames.SHAPES[s], frames.COLOR_NAMES[c])
        if rng.random() < 0.1:
            # The cut may fall between the two frames of a pair.
            pair[rng.integers(2)] = frames.background(rng, h, w)[0]
        covered = mask.reshape(grid[0], 28, grid[1], 28).sum((1, 3)).reshape(-1)
        is_symbol = np.where(covered >= 80, 1, np.where(covered > 0, -1, 0))
        pairs.append(pair)
        labels.append(np.stack([np.where(is_symbol == 1, s, -1), np.where(is_symbol == 1, c, -1), is_symbol], 1))
    for _ in range(n):
        pairs.append(frames.background(rng, h, w))
        labels.append(np.tile([-1, -1, 0], (grid[0] * grid[1], 1)))
    return frames.patches(np.stack(pairs)), np.stack(labels)


def prefetched(seed, steps):
    """The drawn batches of each step, drawn by a process of their own while the tower learns."""
    queue = multiprocessing.Queue(4)

    def work():
        torch.set_num_threads(1)
        rng = np.random.default_rng(seed)
        for step in range(steps):
            queue.put([(k, *draw(rng, grid, n)) for k, (grid, n, every) in enumerate(SIZES) if (step + 1) % every == 0])

    worker = multiprocessing.Process(target=work, daemon=True)
    worker.start()
    for _ in range(steps):
        yield [(k, torch.from_numpy(rows), torch.from_numpy(labels)) for k, rows, labels in queue.get()]


def losses(heads, tokens, labels):
    """Cross-entropy of the three heads, and how often they are right where it counts."""
    total, right = 0.0, []
    for k, logits in enumerate(heads(tokens).split([8, 8, 2], -1)):
        logits, want = logits.reshape(-1, logits.shape[-1]), labels[..., k].reshape(-1)
        total = total + F.cross_entropy(logits, want, ignore_index=-1)
        seen = want >= 0
        right.append((logits.argmax(-1)[seen] == want[seen]).float().mean().item())
    return total, right


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--start", help="go on from this file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tower, heads = VisionTower(), nn.Linear(SHAPE["n_embd"], 18)
    if args.start:
        state = torch.load(args.start)
        tower.load_state_dict(state["tower"])
        heads.load_state_dict(state["heads"])
    params = list(tower.parameters()) + list(heads.parameters())
    groups = [{"params": [p for p in params if p.dim() > 1], "weight_decay": 0.05},
              {"params": [p for p in params if p.dim() == 1], "weight_decay": 0.0}]
    opt = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.98))
    rate = lambda i: min(1, (i + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * i / args.steps)))
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, rate)
    started, seen = time.time(), [[] for _ in SIZES]
    for step, batches in enumerate(prefetched(args.seed, args.steps)):
        total = 0.0
        for k, rows, labels in batches:
            tokens = tower(rows, *SIZES[k][0])
            loss, right = losses(heads, tokens, labels)
            level = tokens.pow(2).mean(-1).sqrt()
            total = total + loss + 0.1 * (level - LEVEL).pow(2).mean()
            seen[k].append(right)
        opt.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        schedule.step()
        if (step + 1) % 48 == 0:
            by_size = [np.array(rows).mean(0) for rows in seen]
            text = "  ".join("{}x{} {:.3f}/{:.3f}/{:.3f}".format(*s[0], *r) for s, r in zip(SIZES, by_size))
            print(f"step {step + 1} loss {total.item():.4f} shape/colour/symbol {text} "
                  f"{time.time() - started:.0f} s", flush=True)
            seen = [[] for _ in SIZES]
            torch.save({"tower": tower.state_dict(), "heads": heads.state_dict(), "step": step + 1}, args.out)


if __name__ == "__main__":
    main()
