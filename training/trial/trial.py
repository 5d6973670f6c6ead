"""Trains one small language model with one layout and asks it: one cell of the trial.

    trial.py TOWER.pt OUT.pt --variant hope --base 1e6 --seed 1

OUT.pt has the weights, OUT.json which questions were answered rightly: for each cell of (frame pairs, stretch) and each kind of
question a string of 0 and 1, the same questions for every layout.
"""
import argparse
import json
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from task import CELLS, KINDS, LONGEST, VARIANTS, Model, Videos, Words, pools, stretched
from language import optimizer, right_answers

ORDER_ALONE = 200  # steps at first: learnt soon alone, hardly beside easier questions


def train(args, model, videos, layout, scales):
    rng, draws = np.random.default_rng([args.seed, 5]), np.random.default_rng([args.seed, 6])
    opt, schedule = optimizer(model, args.rate, args.steps)
    started, curve = time.time(), []
    mean = dict.fromkeys(KINDS, 0.0)
    for step in range(args.steps):
        # The same lengths and kinds at the same step for every layout.
        limit = 3 + (LONGEST - 3) * min(1.0, step / ORDER_ALONE)
        n_pair = int(rng.integers(2, round(limit) + 1))
        kind = "order" if step < ORDER_ALONE or rng.random() < 0.4 else "what"
        batch = videos.batch(args.batch, n_pair, kind, turns=2, symbols=(2, 4))
        x, pos, places, wanted = videos.tensors(model, layout, lambda: draws.choice(scales), None, batch)
        logits = model(x, pos, places)
        loss = F.cross_entropy(logits, wanted)
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        schedule.step()
        mean[kind] += 0.04 * (right_answers(logits, wanted).float().mean().item() - mean[kind])
        if (step + 1) % 50 == 0:
            curve.append((step + 1, mean["what"], mean["order"]))
            print(f"step {step + 1} loss {loss.item():.4f} one symbol {mean['what']:.3f} order {mean['order']:.3f} "
                  f"up to {round(limit)} pairs, {time.time() - started:.0f} s", flush=True)
    return curve


@torch.no_grad()
def ask(model, words, pool, layout, scale):
    """{"pairs x stretch": {kind: "1101…"}}"""
    said = {}
    for n_pair, stretch, n, at_once in CELLS:
        cell = said[f"{n_pair}x{stretch}"] = {}
        for kind in KINDS:
            # Stretched videos are those of stretch 1.
            videos = Videos(words, pool, [4000, n_pair, KINDS.index(kind)])
            answers = []
            for _ in range(n // at_once):
                batch = videos.batch(at_once, n_pair, kind, turns=1)
                x, pos, places, wanted = videos.tensors(model, layout, lambda: scale, stretched(n_pair, stretch), batch)
                answers.append(right_answers(model(x, pos, places), wanted))
            cell[kind] = "".join(str(int(a)) for a in torch.cat(answers))
        print(f"{n_pair} pairs, stretch {stretch}: " + ", ".join(f"{k} {100 * a.count('1') / len(a):.1f}" for k, a in cell.items()), flush=True)
    return said


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tower")
    parser.add_argument("out", help="beside it stands what all trainings of a folder share: pools.pt")
    parser.add_argument("--variant", choices=VARIANTS, required=True)
    parser.add_argument("--base", type=float, required=True, help="base of the frequencies")
    parser.add_argument("--seed", type=int, required=True, help="of weights and videos: the same for every layout")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    layout, scales, asked = VARIANTS[args.variant]
    words = Words(args.out + ".tokenizer")
    learnt, judged = pools(args.tower, os.path.join(os.path.dirname(args.out), "pools.pt"))
    model = Model(layout, args.base)
    curve = train(args, model, Videos(words, learnt, [args.seed, 77]), layout, scales)
    torch.save(dict(model=model.state_dict(), layout=layout, base=args.base), args.out)
    said = ask(model, words, judged, layout, asked)
    result = dict(variant=args.variant, base=args.base, seed=args.seed, steps=args.steps, curve=curve, said=said)
    with open(args.out.removesuffix(".pt") + ".json", "w") as out:
        json.dump(result, out)


if __name__ == "__main__":
    main()
