"""How well ggml's own searches quantize to the K and IQ4 formats.  Usage: k_quant_reference.py OUT_FOLDER

Needs numpy, safetensors, gguf==0.19.0 and llama-cpp-python==0.3.36 (for the ggml library inside it). It writes

* `inputs.safetensors`: `x` f32 `[rows, 768]`, `importance` f32 `[768]`;
* `reference.json`: per type and row the root mean square error of ggml's packing, decoded by the `gguf` package: `plain` is
  packed without importance; `weighted` is packed with it, and its squared errors are weighted by it.
"""
import ctypes
import glob
import os
import sys
import importlib.util

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf import quants

from common import rng_of, write_arrays, write_json
from quant_goldens import value_rows

COLS = 768
TYPES = [T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K, T.IQ4_NL, T.IQ4_XS]


def ggml():
    """The ggml library of llama-cpp-python, found without importing (and so without starting) the package."""
    package = os.path.dirname(importlib.util.find_spec("llama_cpp").origin)
    lib = ctypes.CDLL(sorted(glob.glob(f"{package}/lib/libggml-base.so*"))[0])
    lib.ggml_quantize_init.argtypes = [ctypes.c_int]
    floats = np.ctypeslib.ndpointer(np.float32, flags="C")
    lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, floats, np.ctypeslib.ndpointer(np.uint8, flags="C"),
                                        ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    return lib


def more_rows(rng, cols):
    """What weights of trained models look like beside the plain distributions of `value_rows`."""
    index = np.arange(cols)
    rows = [rng.normal(0, 0.03, cols) * np.exp(rng.normal(0, 0.7, cols // 16)).repeat(16)]  # uneven neighbours
    rows.append(rng.normal(0, 0.02, cols) * (rng.uniform(size=cols) < 0.3))                 # mostly zero
    rows.append(rng.normal(0, 0.02, cols) + np.where(index % 97 == 3, 0.4, 0))              # a few large channels
    rows.append(rng.normal(0.01, 0.02, cols))                                               # off centre
    rows.append(-rng.gamma(2.0, 0.02, cols))                                                # all negative
    rows.append(rng.choice([-0.03, 0.0, 0.03], cols))                                       # ternary
    rows.append(0.05 * np.sin(index * 0.37))                                                # smooth
    return np.stack(rows).astype(np.float32)


def main(out):
    lib = ggml()
    rng = rng_of("k_quant_reference")
    x = np.concatenate([value_rows(rng, COLS), more_rows(rng, COLS)])
    importance = (rng.chisquare(2, COLS) * np.exp(rng.normal(0, 1, COLS))).astype(np.float32)
    table = {}
    for qtype in TYPES:
        block, size = GGML_QUANT_SIZES[qtype]
        lib.ggml_quantize_init(int(qtype))
        entry = {}
        for name, imatrix in (("plain", None), ("weighted", importance)):
            packed = np.zeros((len(x), COLS // block * size), np.uint8)
            used = lib.ggml_quantize_chunk(int(qtype), x, packed, 0, len(x), COLS,
                                           None if imatrix is None else imatrix.ctypes.data)
            assert used == packed.size, (qtype.name, used, packed.size)
            square = (quants.dequantize(packed, qtype).astype(np.float64) - x) ** 2
            weight = np.ones(COLS) if imatrix is None else imatrix.astype(np.float64)
            entry[name] = np.sqrt((square * weight).sum(1) / weight.sum()).tolist()
        table[qtype.name] = entry
    write_arrays(f"{out}/inputs.safetensors", {"x": x, "importance": importance})
    write_json(f"{out}/reference.json", table, indent=None)


if __name__ == "__main__":
    main(sys.argv[1])
