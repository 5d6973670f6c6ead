"""Asks llama.cpp which type its quantizer gives each tensor, for models of several depths and widths.

    pip install llama-cpp-python==0.3.36 gguf==0.19.0 && python llama_types.py > llama_types.json

Per model: its facts, and per file type the type of each matrix; a list where it differs from block to block. Projectors
make some recipes of llama.cpp abort; those are left out.
"""
import ctypes
import json
import os
import sys
import tempfile

import gguf
import llama_cpp
import numpy as np

FILE_TYPES = {
    "F16": 1, "BF16": 32, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12,
    "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30,
}

MODELS = {
    "tied": dict(arch="qwen2vl", n_layer=17, n_embd=256, n_ff=512, n_head=2, n_head_kv=1, tied=True, pure=False),
    "untied": dict(arch="qwen2vl", n_layer=16, n_embd=256, n_ff=512, n_head=8, n_head_kv=2, tied=False, pure=False),
    "narrow": dict(arch="qwen2vl", n_layer=8, n_embd=192, n_ff=416, n_head=3, n_head_kv=1, tied=False, pure=False),
    "narrow tied": dict(arch="qwen2vl", n_layer=3, n_embd=192, n_ff=416, n_head=3, n_head_kv=1, tied=True, pure=False),
    "very narrow": dict(arch="qwen2vl", n_layer=2, n_embd=80, n_ff=48, n_head=1, n_head_kv=1, tied=False, pure=False),
    "pure": dict(arch="qwen2vl", n_layer=3, n_embd=192, n_ff=512, n_head=3, n_head_kv=1, tied=True, pure=True),
    "80 layers": dict(arch="qwen2vl", n_layer=80, n_embd=256, n_ff=256, n_head=8, n_head_kv=1, tied=False, pure=False),
    "80 layers of qwen2": dict(arch="qwen2", n_layer=80, n_embd=256, n_ff=256, n_head=8, n_head_kv=1, tied=False, pure=False),
    "projector": dict(arch="clip", n_layer=8, n_embd=128, n_ff=512, n_head=4, n_head_kv=0, tied=False, pure=False),
}


def matrices(m):
    """Names and widths of the matrices; `{}` stands for the block."""
    n, f = m["n_embd"], m["n_ff"]
    if m["arch"] == "clip":
        block = {"attn_q": n, "attn_k": n, "attn_v": n, "attn_out": n, "ffn_up": n, "ffn_down": f}
        out = {f"v.blk.{{}}.{name}.weight": width for name, width in block.items()}
        return out | {"v.patch_embd.weight": None, "mm.0.weight": 4 * n, "mm.2.weight": 4 * n}
    block = {"attn_q": n, "attn_k": n, "attn_v": n, "attn_output": n, "ffn_gate": n, "ffn_up": n, "ffn_down": f}
    out = {f"blk.{{}}.{name}.weight": width for name, width in block.items()} | {"token_embd.weight": n}
    return out if m["tied"] else out | {"output.weight": n}


def write(path, m):
    w = gguf.GGUFWriter(path, m["arch"])
    if m["arch"] != "clip":
        w.add_block_count(m["n_layer"])
        w.add_context_length(64)
        w.add_embedding_length(m["n_embd"])
        w.add_feed_forward_length(m["n_ff"])
        w.add_head_count(m["n_head"])
        w.add_head_count_kv(m["n_head_kv"])
        w.add_rope_freq_base(1e6)
        w.add_layer_norm_rms_eps(1e-6)
        pairs = m["n_embd"] // m["n_head"] // 2
        w.add_rope_dimension_sections([pairs // 2, pairs // 4, pairs - pairs // 2 - pairs // 4, 0])
    w.add_file_type(0)
    for name, width in matrices(m).items():
        for i in range(m["n_layer"] if "{}" in name else 1):
            shape = (2, 3, 14, 14) if width is None else (2, width)
            w.add_tensor(name.format(i), np.ones(shape, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def quantized(src, dst, file_type, pure):
    """The types after quantization, or None when the library aborts (in a child process, for that reason)."""
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.nthread, params.pure = file_type, 1, pure
        os._exit(llama_cpp.llama_model_quantize(src.encode(), dst.encode(), ctypes.byref(params)))
    if os.waitpid(pid, 0)[1]:
        return None
    return {t.name: t.tensor_type.name for t in gguf.GGUFReader(dst).tensors}


def main():
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        src, dst = f"{folder}/in.gguf", f"{folder}/out.gguf"
        for title, m in MODELS.items():
            write(src, m)
            rows = {}
            for name, number in FILE_TYPES.items():
                types = quantized(src, dst, number, m["pure"])
                if types is None:
                    continue
                rows[name] = {}
                for pattern in matrices(m):
                    many = [types[pattern.format(i)] for i in range(m["n_layer"] if "{}" in pattern else 1)]
                    rows[name][pattern] = many[0] if len(set(many)) == 1 else " ".join(many)
            out[title] = m | {"matrices": matrices(m), "types": rows}
    json.dump(out, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
