"""Trains a language model over the frozen vision tower: symbols are found among frame pairs that mean nothing.

    language.py TOWER.pt OUT.pt --layout hope [--scales 0.5,0.75,1,1.25,1.5] [--steps 1600] [--seed 1]

Videos grow with the model's ability: from 4 frame pairs to `--pairs` of four tokens each, first with one symbol, then
with up to three. Other frame sizes come in between with as many tokens. Only answers are learnt.

A second training makes a model that finds symbols in long videos from one that finds them in short ones:

    language.py TOWER.pt OUT.pt --layout hope --start SHORT.pt --pairs 384 --least 8
        --gaps 1024 --counts 16 --pool 12 --hard 0.25 --single 0.4 --alone 0.75
"""
import argparse
import math
import multiprocessing
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import frames
from network import LAYOUTS, LanguageModel, VisionTower, place
from words import N_VOCAB, Words

# (rows, columns) of tokens, pairs of each kind in the pool, share of the steps.
SIZES = [((2, 2), 12000, 0.7), ((3, 4), 3000, 0.2), ((9, 16), 300, 0.1)]


# Backgrounds of wrong videos that are kept, of each size, and of each such video.
N_HARD, N_HARD_OF_VIDEO = 2048, 8


class Pool:
    """Frame pairs seen through the tower once: tokens of symbols with their (shape, colour), and of backgrounds, `times` as many."""

    def __init__(self, tower, grid, n, seed, times=1):
        rng = np.random.default_rng([seed, grid[0], grid[1]])
        h, w = grid[0] * 28, grid[1] * 28
        self.labels = rng.integers(0, 8, (n, 2))
        draw = lambda s, c: frames.symbol(rng, h, w, frames.SHAPES[s], frames.COLOR_NAMES[c])[0]
        self.symbols = self.seen(tower, grid, (draw(s, c) for s, c in self.labels))
        self.backgrounds = self.seen(tower, grid, (frames.background(rng, h, w) for _ in range(n)))
        if times > 1:
            with multiprocessing.get_context("spawn").Pool(2) as workers:
                more = workers.starmap(self.more, [(tower, grid, n, (seed, *grid, k)) for k in range(1, times)])
            self.backgrounds = torch.cat([self.backgrounds, *(torch.from_numpy(m) for m in more)])

    @classmethod
    def more(cls, tower, grid, n, seed):
        torch.set_num_threads(1)
        rng = np.random.default_rng(seed)
        with torch.no_grad():
            return cls.seen(tower, grid, (frames.background(rng, grid[0] * 28, grid[1] * 28) for _ in range(n))).numpy()

    @staticmethod
    def seen(tower, grid, pairs):
        out, batch = [], []
        step = max(1, 512 // (grid[0] * grid[1]))
        for pair in pairs:
            batch.append(pair)
            if len(batch) == step:
                out.append(tower(torch.from_numpy(frames.patches(np.stack(batch))), *grid))
                batch = []
        if batch:
            out.append(tower(torch.from_numpy(frames.patches(np.stack(batch))), *grid))
        return torch.cat(out)


class Batches:
    """Draws batches: embeddings, positions, counts (none if every token counts once), places and values of the tokens to predict.

    A share of the videos (`single`) has one symbol in any case. Half have up to `gaps` frame pairs left out in all, and half backgrounds that count up to `counts`
    times. So many of the backgrounds (`hard`, a share) are drawn from those that videos were answered wrongly for (`wrong`).
    """

    def __init__(self, words, pools, layout, scales, seed, gaps=0, counts=1, hard=0.0, single=0.0):
        self.words, self.pools, self.layout, self.scales = words, pools, layout, scales
        self.gaps, self.counts, self.hard, self.single = gaps, counts, hard, single
        self.rng = np.random.default_rng([seed, 77])
        self.kept = {grid: np.zeros(0, np.int64) for grid in pools}
        self.drawn = []

    def wrong(self, grid, videos, gradient):
        """These videos of the last batch were answered wrongly: the backgrounds that the loss hangs on most, by its `gradient`
        (batch, n, n_embd), come again, until those of later videos take their place."""
        if not self.hard:
            return
        for video in videos:
            first, index, at = self.drawn[video]
            weight = gradient[video].norm(dim=-1)[first : first + len(index) * grid[0] * grid[1]].view(len(index), -1).sum(1).numpy()
            weight[at] = -1.0
            most = np.argsort(weight)[-N_HARD_OF_VIDEO:]
            self.kept[grid] = np.concatenate([self.kept[grid], index[most[weight[most] >= 0]]])
        self.kept[grid] = self.kept[grid][-N_HARD:]

    def haystack(self, grid, pairs):
        index = self.rng.integers(0, len(self.pools[grid].backgrounds), pairs)
        if len(self.kept[grid]):
            again = self.rng.random(pairs) < self.hard
            index[again] = self.rng.choice(self.kept[grid], again.sum())
        return index

    def draw(self, model, grid, pairs, needles, batch, turns, bare=None, scale=None, where=None):
        rng, pool = self.rng, self.pools[grid]
        per_pair = grid[0] * grid[1]
        rows, positions, many, lengths, places, wanted = [], [], [], [], [], []
        self.drawn = []
        for _ in range(batch):
            # Where there may be several, there mostly are: one alone teaches little then.
            n = needles if needles > 1 and rng.random() < 0.5 else int(rng.integers(1, needles + 1))
            if self.single and rng.random() < self.single:
                n = 1
            n = min(pairs, n)
            found = set()
            chosen = []
            # Every shape and every colour once at most, so that each question has one answer.
            while len(chosen) < n:
                i = int(rng.integers(len(pool.labels)))
                s, c = pool.labels[i]
                if ("s", s) not in found and ("c", c) not in found:
                    found |= {("s", s), ("c", c)}
                    chosen.append(i)
            index = self.haystack(grid, pairs)
            video = pool.backgrounds[torch.from_numpy(index)]
            at = rng.choice(pairs, n, replace=False) if where is None else [where]
            for i, f in zip(chosen, at):
                video[f] = pool.symbols[i]
            plain = rng.random() < 0.25 if bare is None else bare
            before = self.words.before(plain)
            self.drawn.append((len(before), index, at))
            after, want = self.words.after(rng, [tuple(pool.labels[i]) for i in chosen], plain, turns)
            ids = np.concatenate([before, after])
            text = model.embed_tokens(torch.from_numpy(ids))
            rows.append(torch.cat([text[: len(before)], video.reshape(pairs * per_pair, -1), text[len(before) :]]))
            gamma = scale if scale is not None else 2.0 if self.layout == "videorope" else rng.choice(self.scales)
            left_out = None
            if self.gaps and rng.random() < 0.5:
                left_out = rng.multinomial(round(math.exp(rng.uniform(0, math.log(self.gaps)))), np.full(pairs, 1 / pairs))
            positions.append(place(self.layout, len(before), (pairs, *grid), len(after), gamma, left_out))
            count = torch.ones(len(rows[-1]))
            if self.counts > 1 and rng.random() < 0.5:
                held = count[len(before) : len(before) + pairs * per_pair].view(pairs, per_pair)
                held[:] = math.exp(rng.uniform(0, math.log(self.counts)))
                held[at] = 1.0
            many.append(count)
            places.append(np.flatnonzero(want) + len(before) + pairs * per_pair - 1)
            wanted.append(after[want])
            lengths.append(len(rows[-1]))
        longest = max(lengths)
        x = torch.stack([F.pad(r, (0, 0, 0, longest - len(r))) for r in rows])
        pos = torch.stack([F.pad(p, (0, 0, 0, longest - len(p))) for p in positions])
        counts = torch.stack([F.pad(c, (0, longest - len(c)), value=1.0) for c in many]) if self.counts > 1 else None
        places = np.concatenate([p + b * longest for b, p in enumerate(places)])
        return x, pos, counts, torch.from_numpy(places), torch.from_numpy(np.concatenate(wanted))


def right_answers(logits, wanted):
    """Which answers are right; ends of turns do not count."""
    return (logits.argmax(-1) == wanted).view(-1, 2)[:, 0]


def accuracy(logits, wanted):
    return right_answers(logits, wanted).float().mean().item()


def load_tower(path):
    tower = VisionTower()
    tower.load_state_dict(torch.load(path)["tower"])
    return tower.eval().requires_grad_(False)


def pools_of(tower_path, seed, times=1):
    """The pools, kept beside the tower's file: every layout learns from the same frames."""
    kept = f"{tower_path}.pool{seed}" + (f"x{times}" if times > 1 else "")
    try:
        return torch.load(kept, weights_only=False)
    except FileNotFoundError:
        tower = load_tower(tower_path)
        with torch.no_grad():
            pools = {grid: Pool(tower, grid, n, seed, times) for grid, n, _ in SIZES}
        torch.save(pools, kept)
        return pools


def optimizer(model, rate, steps):
    """(AdamW with weight decay on matrices, its schedule: a hundred steps up, then down to a fiftieth)."""
    groups = [{"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.05},
              {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0}]
    opt = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
    share = lambda i: min(1, (i + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * i / steps)))
    return opt, torch.optim.lr_scheduler.LambdaLR(opt, share)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tower")
    parser.add_argument("out")
    parser.add_argument("--layout", choices=LAYOUTS, required=True)
    parser.add_argument("--scales", default="0.5,0.75,1,1.25,1.5", help="temporal scales, one drawn for each video")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--pairs", type=int, default=32, help="longest videos, in frame pairs of four tokens")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--start", help="go on from this file")
    parser.add_argument("--needles", type=int, default=1, help="symbols in a video at first")
    parser.add_argument("--most-needles", type=int, default=3, help="symbols in a video in the end")
    parser.add_argument("--least", type=int, default=2, help="shortest videos, in frame pairs of four tokens")
    parser.add_argument("--gaps", type=int, default=0, help="frame pairs left out of a video in all, at most")
    parser.add_argument("--counts", type=float, default=1.0, help="how often a background may count")
    parser.add_argument("--pool", type=int, default=1, help="so many times as many backgrounds")
    parser.add_argument("--hard", type=float, default=0.0, help="share of backgrounds that videos were answered wrongly for")
    parser.add_argument("--single", type=float, default=0.0, help="share of videos that have one symbol in any case")
    parser.add_argument("--alone", type=float, default=0.5, help="share of questions about the only symbol that do not name it")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    words = Words(args.out + ".tokenizer", args.alone)
    scales = [float(s) for s in args.scales.split(",")]
    pools = pools_of(args.tower, args.seed, args.pool)
    batches = Batches(words, pools, args.layout, scales, args.seed, gaps=args.gaps, counts=args.counts, hard=args.hard,
                      single=args.single)
    rng = np.random.default_rng([args.seed, 5])
    model = LanguageModel(args.layout, N_VOCAB)
    limit, needles = 4.0, args.needles
    if args.start:
        state = torch.load(args.start)
        model.load_state_dict(state["model"])
        limit, needles = max(limit, state["limit"]), max(needles, state["needles"])
    opt, schedule = optimizer(model, args.rate, args.steps)
    started, mean, curve = time.time(), 0.0, []
    for step in range(args.steps):
        grid, _, _ = SIZES[rng.choice(len(SIZES), p=[s[2] for s in SIZES])]
        tokens = 4 * math.exp(rng.uniform(math.log(args.least), math.log(limit)))
        pairs = max(1, round(tokens / (grid[0] * grid[1])))
        # Choosing among several takes many more examples: more videos where they are short, and more questions about each.
        turns, most = (2, args.batch) if needles == 1 else (4, 2 * args.batch)
        batch = max(4, min(most, 6000 // (pairs * grid[0] * grid[1] + 30 * turns)))
        x, pos, counts, places, wanted = batches.draw(model, grid, pairs, needles, batch, turns)
        logits = model(x, pos, places, counts)
        loss = F.cross_entropy(logits, wanted)
        x.retain_grad()
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        schedule.step()
        answers = right_answers(logits, wanted)
        batches.wrong(grid, np.flatnonzero(~answers.view(batch, turns).all(1).numpy()), x.grad)
        right = answers.float().mean().item()
        mean += (0.04 if step > 25 else 0.2) * (right - mean)
        if needles == 1:
            limit = min(args.pairs, limit * (1.02 if mean > 0.85 else 1.0))
            if limit == args.pairs and mean > 0.95 and args.most_needles > 1:
                # Several symbols are another task: short videos again at first.
                needles, limit, mean = args.most_needles, 6.0, 0.6
        else:
            limit = min(args.pairs, limit * (1.01 if mean > 0.78 else 1.0))
        if (step + 1) % 50 == 0:
            curve.append((step + 1, loss.item(), mean, limit, needles))
            print(f"step {step + 1} loss {loss.item():.4f} answers {mean:.3f} up to {limit:.0f} pairs, {needles} symbols, "
                  f"{time.time() - started:.0f} s", flush=True)
            state = dict(model=model.state_dict(), layout=args.layout, limit=limit, needles=needles, curve=curve,
                         args=vars(args))
            torch.save(state, args.out)


if __name__ == "__main__":
    main()
