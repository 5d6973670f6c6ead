"""The tables of the trial: what each layout answered, and what was predicted of two of them beside what came.

    tables.py RESULT.json ...

"=": no difference was predicted and none is shown; open: one was predicted, and the interval holds zero. "x 10" are 8 pairs at ten times
their distances. Means and intervals are over trainings (Student's t, 95 %), which differ in the seed alone; differences are taken within a seed, so that
both sides learnt from the same videos and were asked the same questions. Flips are questions that only one of them answered rightly.
"""
import json
import math
import sys
from collections import defaultdict

import numpy as np

from predict import CELLS, name, sums
from task import KINDS, VARIANTS

T_95 = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}  # by degrees of freedom
TITLES = {"what": "What is shown", "order": "What came first", "when": "When"}
LEAST = 1.5  # so much more of S predicts more right answers
PAIRS = [("hope", "videorope"), ("hope", "mrope"), ("hope", "rope"), ("hope", "dts"), ("hope", "hfa"), ("hopex", "hope"),
         ("videorope", "mrope"), ("dts", "videorope")]


def interval(values):
    """(mean, half of the interval's width)"""
    values = np.array(values, float)
    return values.mean(), T_95[len(values) - 1] * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("inf")


def short(base):
    return f"{base:.0e}".replace("e+0", "e")


def percent(answers):
    return 100 * answers.count("1") / len(answers)


def spearman(x, y):
    """Of values with ties, which share the mean of their ranks."""
    rank = lambda a: (np.array(a)[:, None] > np.array(a)).sum(1) + 0.5 * (np.array(a)[:, None] == np.array(a)).sum(1)
    return np.corrcoef(rank(x), rank(y))[0, 1]


def mcnemar(won, lost):
    """The exact two-sided probability of flips as uneven as these by chance."""
    n = won + lost
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(min(won, lost) + 1)) / 2**n)


def verdict(predicted, mean, half, won, lost):
    """Shown is what both the trainings' interval and the flips show: three trainings can agree by chance, and flips be one training's."""
    shown = int(np.sign(mean)) if abs(mean) > half and mcnemar(won, lost) < 0.05 else 0
    expected = 0 if abs(predicted) < LEAST else int(np.sign(predicted))
    if shown == 0:
        return "=" if expected == 0 else "open"
    if expected == 0:
        return "**unforeseen**"
    return "**came**" if shown == expected else "**opposite**"


def main():
    said = defaultdict(dict)  # (variant, base) -> seed -> {cell: {kind: answers}}
    for path in sys.argv[1:]:
        result = json.load(open(path))
        said[result["variant"], result["base"]][result["seed"]] = result["said"]
    of = lambda variant, base, seed, cell, kind: said[variant, base][seed][f"{cell[0]}x{cell[1]}"][kind]
    bases = sorted({base for _, base in said})
    for base in bases:
        for kind in KINDS:
            print(f"\n#### {TITLES[kind]}, base {short(base)}\n\n| | {' | '.join(name(*c) for c in CELLS)} |\n|---|{'--:|' * len(CELLS)}")
            for variant in VARIANTS:
                seeds = sorted(said[variant, base])
                if seeds:
                    cells = [interval([percent(of(variant, base, s, c, kind)) for s in seeds]) for c in CELLS]
                    print(f"| {variant} ({len(seeds)}) | {' | '.join(f'{m:.0f} ± {h:.0f}' for m, h in cells)} |")
    counts = defaultdict(int)
    for base in bases:
        print(f"\n#### Predicted difference of S, and what came, base {short(base)}: what is shown\n\n"
              f"| | {' | '.join(name(*c) for c in CELLS)} |\n|---|{'---|' * len(CELLS)}")
        for a, b in PAIRS:
            seeds = sorted(set(said[a, base]) & set(said[b, base]))
            if not seeds:
                continue
            row = []
            for cell in CELLS:
                predicted = float(sums(a, base, *cell)[0].mean() - sums(b, base, *cell)[0].mean())
                both = [(of(a, base, s, cell, "what"), of(b, base, s, cell, "what")) for s in seeds]
                mean, half = interval([percent(x) - percent(y) for x, y in both])
                won = sum(x == "1" and y == "0" for p, q in both for x, y in zip(p, q))
                lost = sum(x == "0" and y == "1" for p, q in both for x, y in zip(p, q))
                word = verdict(predicted, mean, half, won, lost)
                counts[word] += 1
                row.append(f"{predicted:+.1f}: {mean:+.0f} ± {half:.0f} ({won}:{lost}) {word}")
            print(f"| {a} - {b} | {' | '.join(row)} |")
    print("\n" + ", ".join(f"{word.strip('*')} {n}" for word, n in sorted(counts.items())))
    print(f"\n#### S and right answers: Spearman's rank correlation over all trainings of a base\n\n| | {' | '.join(name(*c) for c in CELLS)} |\n"
          f"|---|{'--:|' * len(CELLS)}")
    for base in bases:
        row = []
        for cell in CELLS:
            both = [(sums(v, base, *cell)[0].mean().item(), percent(of(v, base, s, cell, "what"))) for v in VARIANTS for s in said[v, base]]
            row.append(f"{spearman(*zip(*both)):+.2f}")
        print(f"| base {short(base)} | {' | '.join(row)} |")
    for kind in KINDS[1:]:
        for base in bases:
            print(f"\n#### Differences: {TITLES[kind]}, base {short(base)}\n\n| | {' | '.join(name(*c) for c in CELLS)} |\n|---|{'---|' * len(CELLS)}")
            for a, b in PAIRS:
                seeds = sorted(set(said[a, base]) & set(said[b, base]))
                if seeds:
                    cells = [interval([percent(of(a, base, s, c, kind)) - percent(of(b, base, s, c, kind)) for s in seeds]) for c in CELLS]
                    print(f"| {a} - {b} | {' | '.join(f'{m:+.0f} ± {h:.0f}' for m, h in cells)} |")


if __name__ == "__main__":
    main()
