"""What the layouts are tried on: drawn videos with one or two symbols, and questions about what was there, in which order, and when.

Everything is drawn from seeds, so that every layout learns from the same videos and is asked about the same ones.
"""
import os
import sys

import numpy as np
import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "symbols"))
import words  # noqa: E402
from language import Pool, load_tower  # noqa: E402
from network import SHAPE, LanguageModel, place  # noqa: E402
from frames import SHAPES  # noqa: E402

GRID = (2, 2)  # rows and columns of tokens of a frame pair
N_TOKENS = GRID[0] * GRID[1]
N_POOL = 12000  # frame pairs of each kind to learn from
N_POOL_ASKED = 6000  # and to be asked about
SMALL = dict(SHAPE, n_embd=128, n_layer=3, n_head=4, n_head_kv=2, n_ff=256)

DRAWN = [0.5, 0.75, 1.0, 1.25, 1.5]  # HoPE's temporal scales in training; with 0.75 it retrieves
# Name: layout, temporal scales in training (one is drawn for each video), temporal scale of questions.
VARIANTS = {
    "rope": ("rope", [1.0], 1.0),
    "mrope": ("mrope", [1.0], 1.0),
    "videorope": ("videorope", [2.0], 2.0),
    "dts": ("videorope", DRAWN, 0.75),  # dynamic temporal scaling alone
    "hfa": ("hope", [1.0], 1.0),  # hybrid frequency allocation alone
    "hope": ("hope", DRAWN, 0.75),
    "hopex": ("hopex", DRAWN, 0.75),
}

WHEN = ["When is the symbol shown?", "When does the symbol appear?", "When was the shape shown?"]
THIRDS = ["early", "middle", "late"]
ORDER = ["What shape came first?", "Which shape was shown first?", "What was the first shape?"]
CORPUS = "\n".join((ORDER + WHEN) * 12 + [" ".join(THIRDS)] + THIRDS * 60) + "\n" + words.CORPUS
KINDS = ["what", "order", "when"]
# Frame pairs, stretch of temporal distances, questions of each kind, videos at a time. Lengths are 1, 4, 32 and 128 times the longest
# of training; the stretched ones have its tokens, and the distances of videos 10, 100 and 1000 times as long.
LONGEST = 8
CELLS = [(8, 1, 200, 50), (32, 1, 200, 25), (256, 1, 100, 10), (1024, 1, 50, 2), (8, 10, 200, 50), (8, 100, 200, 50), (8, 1000, 200, 50)]
N_SYMBOL = 3  # of which the first is asked about


def stretched(n_pair, stretch):
    """Frame pairs left out before each, for distances so many times as long."""
    gaps = np.full(n_pair, stretch - 1)
    gaps[0] = 0
    return gaps


class Words:
    """The tokenizer, and one turn of a conversation about a video."""

    def __init__(self, folder):
        from tokenizers import Tokenizer

        special = words.tokenizer_folder(folder, CORPUS)
        tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        self.ids = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
        for word in SHAPES + THIRDS:
            assert len(self.ids(word)) == 1, f"`{word}` must be one token"
        self.end = special["<|im_end|>"]
        self.before = self.ids("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>")
        self.kept = {}

    def turn(self, rng, kind, chosen, at, n_pair, first=True):
        """Token ids of a question with its answer and the end of the turn. `chosen` are (shape, color) in order of `at`, which are
        the places of the symbols among `n_pair` frame pairs."""
        if kind == "what":
            questions, answer = words.SHAPE_ALONE, SHAPES[chosen[0][0]]
        elif kind == "order":
            questions, answer = ORDER, SHAPES[chosen[0][0]]
        else:
            questions, answer = WHEN, THIRDS[3 * at[0] // n_pair]
        question = questions[rng.integers(len(questions))]
        head = "<|vision_end|>" if first else "\n<|im_start|>user\n"
        text = f"{head}{question}<|im_end|>\n<|im_start|>assistant\n"
        if text not in self.kept:
            self.kept[text] = self.ids(text)
        return self.kept[text], [self.ids(answer)[0], self.end]


class Videos:
    """Batches of videos with questions, as tokens seen by the tower (features), words and places."""

    def __init__(self, words, pool, seed):
        self.words, self.pool, self.rng = words, pool, np.random.default_rng(seed)

    def video(self, n_pair, n_symbol):
        """Frame pairs as (background of each, symbols, their places in order): symbols differ in shape and in colour."""
        rng, labels = self.rng, self.pool.labels
        at = np.sort(rng.choice(n_pair, n_symbol, replace=False))
        symbols = []
        while len(symbols) < n_symbol:
            i = int(rng.integers(len(labels)))
            if all((labels[i] != labels[j]).all() for j in symbols):
                symbols.append(i)
        return rng.integers(0, len(self.pool.backgrounds), n_pair), symbols, at

    def batch(self, n, n_pair, kind, turns, symbols=(N_SYMBOL, N_SYMBOL)):
        """`n` conversations of so many turns about videos of `n_pair` frame pairs: about order, among the least to the most `symbols`, or
        about one symbol, where each turn of several may ask when."""
        videos, texts = [], []
        for _ in range(n):
            n_symbol = min(n_pair, int(self.rng.integers(symbols[0], symbols[1] + 1))) if kind == "order" else 1
            video = self.video(n_pair, n_symbol)
            videos.append(video)
            _, shown, at = video
            chosen = [tuple(self.pool.labels[i]) for i in shown]
            ids, wanted = [], []
            for turn in range(turns):
                if kind != "order" and turns > 1 and n_pair >= 3:
                    kind = ["what", "when"][self.rng.integers(2)]
                question, answer = self.words.turn(self.rng, kind, chosen, at, n_pair, turn == 0)
                ids += question + answer
                wanted += [False] * (len(question) - 1) + [True] * len(answer) + [False]
            texts.append((ids, wanted))
        return videos, texts

    def tensors(self, model, layout, scale, gaps, batch):
        """Embeddings (n, tokens, n_embd), positions (n, tokens, 3), places of the predictions (flat), and what they should be.
        `scale` gives one temporal scale a video, `gaps` what `place` takes."""
        videos, texts = batch
        before = torch.tensor(self.words.before)
        longest = max(len(ids) for ids, _ in texts)
        n_pair = len(videos[0][0])
        at, n = len(before) + n_pair * N_TOKENS, len(before) + n_pair * N_TOKENS + longest
        seen, positions, ids, places, wanted = [], [], torch.zeros(len(texts), longest, dtype=torch.long), [], []
        for i, ((backgrounds, symbols, where), (text, want)) in enumerate(zip(videos, texts)):
            frames = self.pool.backgrounds[torch.from_numpy(backgrounds)]
            frames[torch.from_numpy(where)] = self.pool.symbols[symbols]
            seen.append(frames.reshape(n_pair * N_TOKENS, -1))
            ids[i, : len(text)] = torch.tensor(text)
            positions.append(place(layout, len(before), (n_pair, *GRID), longest, scale(), gaps))
            places.append(np.flatnonzero(want) + i * n + at)
            wanted.append(np.array(text)[np.flatnonzero(want) + 1])
        head = model.embed_tokens(before).expand(len(texts), -1, -1)
        x = torch.cat([head, model.see(torch.stack(seen)), model.embed_tokens(ids)], 1)
        places, wanted = (torch.from_numpy(np.concatenate(a)) for a in (places, wanted))
        return x, torch.stack(positions), places, wanted


class Model(LanguageModel):
    """A small language model. `see` brings the tower's tokens to its width; it is linear, so that it is part of the projector."""

    def __init__(self, layout, base):
        super().__init__(layout, words.N_VOCAB, SMALL, base)
        self.see = torch.nn.Linear(SHAPE["n_embd"], SMALL["n_embd"], bias=False)


def pools(tower_path, kept):
    """(to learn from, to be asked about), kept in the file `kept`."""
    if not os.path.exists(kept):
        tower = load_tower(tower_path)
        with torch.no_grad():
            made = [Pool(tower, GRID, n, seed) for n, seed in ((N_POOL, 1), (N_POOL_ASKED, 4000))]
        torch.save(made, kept)
    return torch.load(kept, weights_only=False)
