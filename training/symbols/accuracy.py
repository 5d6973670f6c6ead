"""Prints how many answers of a model are right, over frames of a seed that no training used, as a table.

    accuracy.py TOWER.pt MODEL.pt
"""
import sys
import tempfile

import torch

from language import Batches, LanguageModel, Pool, accuracy, load_tower
from words import N_VOCAB, Words

SEED = 1000
# (rows, columns) of tokens, frame pairs, videos in all, and at a time.
SIZES = [((2, 2), 8, 128, 32), ((2, 2), 32, 128, 32), ((2, 2), 128, 64, 8), ((3, 4), 16, 64, 16), ((9, 16), 8, 64, 4)]
POOL = {(2, 2): 2000, (3, 4): 500, (9, 16): 100}


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    torch.set_num_threads(1)
    state = torch.load(sys.argv[2])
    model = LanguageModel(state["layout"], N_VOCAB)
    model.load_state_dict(state["model"])
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        tower = load_tower(sys.argv[1])
        pools = {grid: Pool(tower, grid, n, SEED) for grid, n in POOL.items()}
        batches = Batches(Words(folder), pools, state["layout"], [1.0], SEED)
        print("| frame pairs x tokens of each | one symbol | up to two | up to three |\n|---|---|---|---|")
        for grid, pairs, videos, batch in SIZES:
            cells = []
            for needles in (1, 2, 3):
                right = 0.0
                for _ in range(videos // batch):
                    x, pos, _, places, wanted = batches.draw(model, grid, pairs, needles, batch, turns=2)
                    right += accuracy(model(x, pos, places), wanted) * batch / videos
                cells.append(f"{right:.2f}")
            print(f"| {pairs} x {grid[0] * grid[1]} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
