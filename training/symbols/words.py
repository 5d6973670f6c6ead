"""The model's few hundred tokens, and the questions it is asked."""
import os
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import random_checkpoint  # noqa: E402

from frames import COLOR_NAMES, SHAPES  # noqa: E402

SHAPE_ALONE = ["What shape is shown?", "Which shape appears?", "What shape is the symbol?", "What symbol is shown in the video?"]
COLOR_ALONE = ["What color is the symbol?", "What colour is the symbol?", "Which color is shown?", "What color is the shape?"]
SHAPE_OF = ["What shape is {}?", "Which shape is {}?", "What is the {} shape?", "What shape is the {} symbol?"]
COLOR_OF = ["What color is the {}?", "What colour is the {}?", "Which color is the {}?", "What color does the {} have?"]

N_BPE, N_VOCAB = 420, 448

# What the vocabulary is learnt from: the questions and answers, then plain words for everything else one may type.
CORPUS = "\n".join(
    [word for word in SHAPES + COLOR_NAMES for _ in range(60)]
    + [q.format(word) for qs, words in ((SHAPE_OF, COLOR_NAMES), (COLOR_OF, SHAPES)) for q in qs for word in words] * 6
    + (SHAPE_ALONE + COLOR_ALONE) * 12
    + ["system\nYou are a helpful assistant.", "user", "assistant"] * 40
) + "\n" + random_checkpoint.CORPUS


def tokenizer_folder(folder, corpus=CORPUS):
    """Writes the tokenizer's files into `folder`, learnt from `corpus`; returns the ids of its special tokens."""
    os.makedirs(folder, exist_ok=True)
    random_checkpoint.CORPUS = corpus
    return random_checkpoint.write_tokenizer(folder, dict(n_bpe=N_BPE, n_vocab=N_VOCAB))


class Words:
    """The tokenizer, and conversations about a video. `alone` is the share of questions that do not name the only symbol."""

    def __init__(self, folder, alone=0.5):
        from tokenizers import Tokenizer

        self.special = tokenizer_folder(folder)
        self.tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        self.end, self.pad = self.special["<|im_end|>"], self.special["<|video_pad|>"]
        for word in SHAPES + COLOR_NAMES:
            assert len(self.ids(word)) == 1, f"`{word}` must be one token"
        self.cache, self.alone = {}, alone

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def before(self, bare):
        """Everything before the video. `bare` is the layout of needle tests: no tokens around the frames."""
        text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        return self.cached(text if bare else text + "<|vision_start|>")

    def cached(self, text):
        if text not in self.cache:
            self.cache[text] = self.ids(text)
        return self.cache[text]

    def after(self, rng, needles, bare, turns):
        """Turns about needles [(shape, color), …]: token ids, and which of them are to be predicted."""
        ids, wanted = [], []
        for turn in range(turns):
            s, c = needles[rng.integers(len(needles))]
            kind = int(rng.random() > 0.5)
            if len(needles) == 1 and rng.random() < self.alone:
                kind += 2
            questions, word, answer = [
                (SHAPE_OF, COLOR_NAMES[c], SHAPES[s]), (COLOR_OF, SHAPES[s], COLOR_NAMES[c]),
                (SHAPE_ALONE, "", SHAPES[s]), (COLOR_ALONE, "", COLOR_NAMES[c]),
            ][kind]
            question = questions[rng.integers(len(questions))].format(word)
            if turn:
                head = "<|im_start|>user\n"
            else:
                head = "\n" if bare else "<|vision_end|>"
            text = self.cached(f"{head}{question}<|im_end|>\n<|im_start|>assistant\n")
            ids += text
            wanted += [False] * len(text)
            ids += self.cached(answer) + [self.end]
            wanted += [True, True]
            newline = self.cached("\n")
            ids += newline
            wanted += [False] * len(newline)
        return np.array(ids), np.array(wanted)
