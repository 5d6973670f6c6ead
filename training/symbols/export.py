"""Writes a trained model as a checkpoint folder in the published layout, for `longtake convert`.

    export.py TOWER.pt MODEL.pt OUT_FOLDER
"""
import json
import os
import sys

import torch
from safetensors.torch import save_file

from network import ROPE_BASE, SHAPE
from words import N_BPE, N_VOCAB, random_checkpoint, tokenizer_folder


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    tower, model, folder = torch.load(sys.argv[1])["tower"], torch.load(sys.argv[2]), sys.argv[3]
    os.makedirs(folder, exist_ok=True)
    ids = tokenizer_folder(folder)
    shape = dict(SHAPE, n_vocab=N_VOCAB, n_bpe=N_BPE, tied=1, dtype="f32", shard_mb=1000)
    random_checkpoint.write_configs(folder, shape, ids)
    assert json.load(open(f"{folder}/config.json"))["rope_theta"] == ROPE_BASE
    tensors = {"model." + name: t.contiguous() for name, t in model["model"].items()}
    for name, t in tower.items():
        if name == "patch_embed.proj.weight":
            t = t.view(SHAPE["v_n_embd"], 3, 2, 14, 14)
        tensors["visual." + name] = t.contiguous()
    expected = {name: dims for name, dims, _, _ in random_checkpoint.tensors(shape)}
    assert {name: tuple(t.shape) for name, t in tensors.items()} == expected, "tensors differ from the published layout"
    save_file(tensors, f"{folder}/model.safetensors", {"format": "pt"})
    print(f"{folder}: {sum(t.numel() for t in tensors.values()) / 1e6:.2f} M parameters, layout {model['layout']}")


if __name__ == "__main__":
    main()
