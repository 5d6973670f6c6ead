"""Random blocks of the formats that are read and not made, with what gguf-py decodes them to.

    pip install gguf==0.19.0 numpy safetensors
    python tests/formats/make.py tests/formats/blocks.safetensors

Every bit pattern is a block; only the scales are drawn, so that values stay in the range of weights.
"""
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from safetensors.numpy import save_file

# Where `d` (f16) stands in a block; the others have scales of their own.
HALVES = {
    "IQ1_S": 0, "IQ2_XXS": 0, "IQ2_XS": 0, "IQ2_S": 0, "IQ3_XXS": 0, "IQ3_S": 0, "TQ1_0": 52, "TQ2_0": 64, "Q1_0": 0, "Q2_0": 0,
}
# gguf-py has no decoder for these: elements and bytes of a block, the codes of a byte.
OURS = {
    "Q1_0": (128, 18, lambda q: (q[:, :, None] >> np.arange(8) & 1) * 2.0 - 1),
    "Q2_0": (64, 18, lambda q: (q[:, :, None] >> np.arange(0, 8, 2) & 3) - 1.0),
}
N_BLOCKS = 8


def scales(rng, name, blocks):
    d = rng.uniform(-0.02, 0.02, len(blocks)).astype(np.float16)
    if name in HALVES:
        blocks[:, HALVES[name]:][:, :2] = d.view(np.uint8).reshape(-1, 2)
    elif name == "IQ1_M":
        for i in range(4):
            nibble = (d.view(np.uint16) >> (4 * i) & 15).astype(np.uint8)
            blocks[:, 49 + 2 * i] = blocks[:, 49 + 2 * i] & 15 | nibble << 4
    elif name == "MXFP4":
        blocks[:, 0] = rng.integers(110, 130, len(blocks))
        blocks[0, 0] = 1
    else:
        blocks[:, :4] = rng.integers(0, 80, (len(blocks), 4))
    return blocks


def main(out):
    arrays = {}
    for name in [*HALVES, "IQ1_M", "MXFP4", "NVFP4"]:
        rng = np.random.default_rng(sum(name.encode()))
        n, size = OURS[name][:2] if name in OURS else GGML_QUANT_SIZES[GGMLQuantizationType[name]]
        blocks = scales(rng, name, rng.integers(0, 256, (N_BLOCKS, size), dtype=np.uint8))
        if name in OURS:
            d = blocks[:, :2].copy().view(np.float16).astype(np.float32)
            values = d * OURS[name][2](blocks[:, 2:]).reshape(N_BLOCKS, n).astype(np.float32)
        else:
            values = quants.dequantize(blocks, GGMLQuantizationType[name]).astype(np.float32)
        arrays[f"{name}.packed"], arrays[f"{name}.values"] = blocks, np.ascontiguousarray(values.reshape(N_BLOCKS, n))
    save_file(arrays, out)


if __name__ == "__main__":
    main(sys.argv[1])
