"""Makes the files that training goes on from of published GGUF files: the opposite of `export.py` and `longtake convert`.

    from_gguf.py MODEL.gguf MMPROJ.gguf MODEL.pt TOWER.pt
"""
import sys

import gguf
import numpy as np
import torch

from network import SHAPE

TEXT = {"token_embd": "embed_tokens", "output_norm": "norm", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
VISION = {"ln1": "norm1", "ln2": "norm2", "attn_out": "attn.proj", "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2",
          "post_ln": "merger.ln_q", "mm.0": "merger.mlp.0", "mm.2": "merger.mlp.2"}


def tensors(path):
    return {t.name: torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type), np.float32))
            for t in gguf.GGUFReader(path).tensors}


def renamed(name, names, layers):
    stem, kind = name.rsplit(".", 1)
    prefix = ""
    if "blk." in stem:
        _, number, stem = stem.removeprefix("v.").split(".", 2)
        prefix = f"{layers}.{number}."
    return f"{prefix}{names[stem.removeprefix('v.')]}.{kind}"


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    text, vision = tensors(sys.argv[1]), tensors(sys.argv[2])
    model = {renamed(name, TEXT, "layers"): t for name, t in text.items()}
    tower, width = {}, SHAPE["v_n_embd"]
    halves = [vision.pop(f"v.patch_embd.weight{k}").view(width, 3, 1, 14, 14) for k in ("", ".1")]
    tower["patch_embed.proj.weight"] = torch.cat(halves, 2).reshape(width, 1176)
    for n in range(SHAPE["v_n_layer"]):
        for kind in ("weight", "bias"):
            parts = [vision.pop(f"v.blk.{n}.attn_{which}.{kind}") for which in "qkv"]
            tower[f"blocks.{n}.attn.qkv.{kind}"] = torch.cat(parts)
    tower |= {renamed(name, VISION, "blocks"): t for name, t in vision.items()}
    # Longest videos in training, and symbols in each.
    torch.save(dict(model=model, layout="hope", limit=32.0, needles=3), sys.argv[3])
    torch.save({"tower": tower}, sys.argv[4])


if __name__ == "__main__":
    main()
