"""Writes a checkpoint folder with random weights, in the layout that published checkpoints of the family have.

    random_checkpoint.py OUT_FOLDER --shape tiny            2.3 M parameters, own 600-entry tokenizer
    random_checkpoint.py OUT_FOLDER --shape qwen2-vl-2b     the exact shapes of the 2B model, 4.4 GB in bf16
    random_checkpoint.py OUT_FOLDER --shape qwen2.5-vl-3b   likewise, 7.5 GB
    random_checkpoint.py OUT_FOLDER --shape qwen3-vl-2b     likewise, 4.3 GB
    random_checkpoint.py OUT_FOLDER --shape qwen3.5-2b      likewise, 4.5 GB
    random_checkpoint.py OUT_FOLDER --shape qwen3-vl-moe-tiny, qwen3.5-moe-tiny      small ones with 16 experts

What is particular to the newer families is in random_families.py. Any number of a shape can be changed by a flag of its name. Weights are drawn per tensor from (seed, name), row block by
row block, so memory stays near 100 MB and the same arguments give the same bytes. Scales are chosen so that activations
and logits stay in the range of a trained model. Needs requirements.txt.
"""
import argparse
import hashlib
import json
import math
import os
import struct

import numpy as np
from safetensors import safe_open

import random_families

SHAPES = {
    "tiny": dict(
        family="qwen2_vl", n_embd=256, n_layer=2, n_head=2, n_head_kv=1, n_ff=512, n_vocab=640, tied=1,
        v_n_embd=128, v_n_layer=2, v_n_head=4, n_bpe=600, dtype="bf16", shard_mb=1000,
    ),
    "qwen2-vl-2b": dict(
        family="qwen2_vl", n_embd=1536, n_layer=28, n_head=12, n_head_kv=2, n_ff=8960, n_vocab=151936, tied=1,
        v_n_embd=1280, v_n_layer=32, v_n_head=16, n_bpe=151643, dtype="bf16", shard_mb=3500,
    ),
    **random_families.SHAPES,
}

# The names and the order of the published checkpoints; the first follows the last BPE entry.
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]

# How text is cut before merging (the Qwen2 pattern).
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Turns as `<|im_start|>role\ncontent<|im_end|>\n`; a default system turn; one pad token per picture or video.
CHAT_TEMPLATE = """\
{%- set seen = namespace(pictures=0, videos=0) -%}
{%- macro picture() -%}
{%- set seen.pictures = seen.pictures + 1 -%}
{{- ("Picture " ~ seen.pictures ~ ": ") if add_vision_id else "" -}}<|vision_start|><|image_pad|><|vision_end|>
{%- endmacro -%}
{%- macro video() -%}
{%- set seen.videos = seen.videos + 1 -%}
{{- ("Video " ~ seen.videos ~ ": ") if add_vision_id else "" -}}<|vision_start|><|video_pad|><|vision_end|>
{%- endmacro -%}
{%- if messages[0].role != "system" -%}
{{- "<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n" -}}
{%- endif -%}
{%- for message in messages -%}
{{- "<|im_start|>" ~ message.role ~ "\\n" -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == "image" or part.type == "image_url" -%}
{{- picture() -}}
{%- elif part.type == "video" or part.type == "video_url" -%}
{{- video() -}}
{%- else -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- "<|im_end|>\\n" -}}
{%- endfor -%}
{{- "<|im_start|>assistant\\n" if add_generation_prompt else "" -}}
"""

# What the small tokenizer is trained on: plain words about what one sees in videos.
CORPUS = """
A long take is a shot in a film that goes on without a cut. The camera follows the actors through rooms and streets,
and the viewer sees the whole scene as it happens. What happens in the video? Who enters the room first? How many people
are standing at the table, and what is the colour of the car behind them? The answer is in the picture: a red circle, a
blue square, a green triangle, a yellow star, a white cross, a black heart, an orange ring, a purple diamond.
At the beginning of the recording the street is empty. After two minutes a woman with a brown dog walks from the left to
the right; she stops, looks at the shop window, and then goes on. The traffic light changes from red to green. Three cars
pass: one small white car, one silver van, and one old lorry that carries wood. It starts to rain, and people open their
umbrellas. Describe the scene in one sentence. When does the man in the dark coat appear? Which of the following is
correct? (A) He opens the door. (B) He closes the window. (C) He reads a newspaper. (D) None of the above.
What shape is shown? What color is the symbol? Where was the key? Before the meeting, during the lecture, at the end of
the game, between the second and the third question. The teacher writes 12 + 30 = 42 on the board; the students laugh.
You are a helpful assistant. system user assistant Please answer with a single letter. Yes. No. I do not know.
""" * 3


def family_of(shape):
    return shape.get("family", "qwen2_vl")


def byte_symbols():
    """The printable character that stands for each byte in a byte-level vocabulary."""
    plain = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    table = {b: chr(b) for b in plain}
    for i, b in enumerate(b for b in range(256) if b not in table):
        table[b] = chr(256 + i)
    return [table[b] for b in range(256)]


def trained_bpe(n, split):
    """A vocabulary and merges learnt from CORPUS."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(split), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    trainer = trainers.BpeTrainer(
        vocab_size=n, min_frequency=2, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tok.train_from_iterator(CORPUS.strip().split("\n"), trainer)
    model = json.loads(tok.to_str())["model"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    return [t for t, _ in sorted(model["vocab"].items(), key=lambda item: item[1])], merges


def systematic_bpe(n):
    """`n` entries without any text: the bytes, then pairs, then triples of them, frequent bytes first.

    A pair joins two bytes and a triple joins a pair with a byte, so both halves of every merge exist before it.
    """
    symbols = byte_symbols()
    first = [ord(c) for c in " etaoinshrdlucmfwypvbgkjqxz.,\n0123456789ETAOINSHRDLUCMFWYPVBGKJQXZ'-?!:;()\""]
    order = [symbols[b] for b in first + [b for b in range(256) if b not in first]]
    vocab, merges = list(symbols), []

    def add(left, right):
        if len(vocab) < n:
            vocab.append(left + right)
            merges.append((left, right))

    # Every pair is there before the first triple.
    for last in range(256):
        for i in range(last + 1):
            add(order[i], order[last])
            if i < last:
                add(order[last], order[i])
    for last in range(256):
        if len(vocab) == n:
            break
        for i in range(last + 1):
            for j in range(last + 1):
                for k in range(last + 1) if last in (i, j) else (last,):
                    add(order[i] + order[j], order[k])
    assert len(vocab) == n == len(set(vocab)), "entries must be distinct"
    return vocab, merges


def write_json(path, value, indent=2):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, indent=indent)
        f.write("\n")


def write_tokenizer(folder, shape):
    """Writes all tokenizer files; returns the ids of the special tokens."""
    small = shape["n_bpe"] < 10000
    split = random_families.split(family_of(shape), SPLIT)
    vocab, merges = trained_bpe(shape["n_bpe"], split) if small else systematic_bpe(shape["n_bpe"])
    ids = {token: len(vocab) + i for i, token in enumerate(SPECIAL)}
    assert len(vocab) + len(SPECIAL) <= shape["n_vocab"], "n_vocab is too small for the tokenizer"
    template = random_families.template(family_of(shape), CHAT_TEMPLATE)
    vocab_ids = {token: i for i, token in enumerate(vocab)}
    added = [
        {"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for t, i in ids.items()
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    write_json(f"{folder}/tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}, byte_level,
        ]},
        "post_processor": byte_level, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": False, "byte_fallback": False, "vocab": vocab_ids, "merges": [f"{a} {b}" for a, b in merges],
        },
    }, indent=None)
    write_json(f"{folder}/vocab.json", vocab_ids, indent=None)
    with open(f"{folder}/merges.txt", "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n")
        f.writelines(f"{a} {b}\n" for a, b in merges)
    write_json(f"{folder}/tokenizer_config.json", {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(a["id"]): {k: v for k, v in a.items() if k != "id"} for a in added},
        "additional_special_tokens": SPECIAL[1:],
        "bos_token": None, "chat_template": template, "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 32768, "pad_token": "<|endoftext|>",
        "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    })
    write_json(f"{folder}/chat_template.json", {"chat_template": template})
    return ids


def write_configs(folder, shape, ids):
    if family_of(shape) != "qwen2_vl":
        for name, config in random_families.configs(shape, ids).items():
            write_json(f"{folder}/{name}", config)
        return
    dtype = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[shape["dtype"]]
    pairs = shape["n_embd"] // shape["n_head"] // 2
    t = pairs // 4
    h = (pairs - t + 1) // 2
    write_json(f"{folder}/config.json", {
        "architectures": ["Qwen2VLForConditionalGeneration"], "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"], "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "hidden_act": "silu", "hidden_size": shape["n_embd"], "initializer_range": 0.02,
        "intermediate_size": shape["n_ff"], "max_position_embeddings": 32768, "max_window_layers": shape["n_layer"],
        "model_type": "qwen2_vl", "num_attention_heads": shape["n_head"], "num_hidden_layers": shape["n_layer"],
        "num_key_value_heads": shape["n_head_kv"], "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
        "sliding_window": 32768, "tie_word_embeddings": bool(shape["tied"]), "torch_dtype": dtype, "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": shape["v_n_layer"], "embed_dim": shape["v_n_embd"], "mlp_ratio": 4, "num_heads": shape["v_n_head"],
            "in_chans": 3, "hidden_size": shape["n_embd"], "patch_size": 14, "spatial_merge_size": 2,
            "spatial_patch_size": 14, "temporal_patch_size": 2,
        },
        "rope_scaling": {"type": "mrope", "mrope_section": [t, h, pairs - t - h]}, "vocab_size": shape["n_vocab"],
    })
    write_json(f"{folder}/generation_config.json", {
        "bos_token_id": ids["<|endoftext|>"], "pad_token_id": ids["<|endoftext|>"], "do_sample": True,
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]], "repetition_penalty": 1.0, "temperature": 0.01,
        "top_p": 0.001, "top_k": 1,
    })
    write_json(f"{folder}/preprocessor_config.json", {
        "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor",
    })


def tensors(shape):
    """All tensors as (name, shape, mean, deviation), in file order.

    A matrix gets deviation gain / sqrt(columns); what a block adds to the residual stream shrinks with the depth.
    """
    if family_of(shape) != "qwen2_vl":
        return random_families.tensors(shape)
    out = []

    def linear(name, rows, cols, gain, bias=None):
        out.append((name + ".weight", (rows, cols), 0.0, gain / math.sqrt(cols)))
        if bias is not None:
            out.append((name + ".bias", (rows,), 0.0, bias))

    def norm(name, n, bias):
        out.append((name + ".weight", (n,), 1.0, 0.1))
        if bias:
            out.append((name + ".bias", (n,), 0.0, 0.1))

    d, f, v = shape["n_embd"], shape["n_ff"], shape["v_n_embd"]
    n_kv = d // shape["n_head"] * shape["n_head_kv"]
    out.append(("visual.patch_embed.proj.weight", (v, 3, 2, 14, 14), 0.0, 1.0 / math.sqrt(3 * 2 * 14 * 14)))
    deep = 1.0 / math.sqrt(shape["v_n_layer"])
    for i in range(shape["v_n_layer"]):
        b = f"visual.blocks.{i}"
        norm(b + ".norm1", v, True)
        norm(b + ".norm2", v, True)
        linear(b + ".attn.qkv", 3 * v, v, 1.2, 0.1)
        linear(b + ".attn.proj", v, v, deep, 0.02)
        linear(b + ".mlp.fc1", 4 * v, v, 1.0, 0.05)
        linear(b + ".mlp.fc2", v, 4 * v, deep, 0.02)
    norm("visual.merger.ln_q", v, True)
    linear("visual.merger.mlp.0", 4 * v, 4 * v, 1.0, 0.05)
    linear("visual.merger.mlp.2", d, 4 * v, 0.5, 0.02)

    head = 4.0 / math.sqrt(d)  # logits of deviation 4
    out.append(("model.embed_tokens.weight", (shape["n_vocab"], d), 0.0, head))
    deep = 1.0 / math.sqrt(shape["n_layer"])
    for i in range(shape["n_layer"]):
        b = f"model.layers.{i}"
        norm(b + ".input_layernorm", d, False)
        norm(b + ".post_attention_layernorm", d, False)
        linear(b + ".self_attn.q_proj", d, d, 1.3, 0.2)
        linear(b + ".self_attn.k_proj", n_kv, d, 1.3, 0.2)
        linear(b + ".self_attn.v_proj", n_kv, d, 1.0, 0.05)
        linear(b + ".self_attn.o_proj", d, d, deep)
        linear(b + ".mlp.gate_proj", f, d, 1.2)
        linear(b + ".mlp.up_proj", f, d, 1.0)
        linear(b + ".mlp.down_proj", d, f, deep)
    norm("model.norm", d, False)
    if not shape["tied"]:
        out.append(("lm_head.weight", (shape["n_vocab"], d), 0.0, head))
    return out


def encode(x, dtype):
    """f32 values as little-endian bytes of `dtype`."""
    if dtype == "bf16":
        bits = x.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return x.astype({"f32": "<f4", "f16": "<f2"}[dtype]).tobytes()


def write_values(out, name, dims, mean, deviation, dtype, seed, quiet_from):
    """Draws and writes one tensor. Vocabulary rows from `quiet_from` on are small, so that no text ends in them."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "little")))
    row = math.prod(dims[1:])
    step = max(1, (1 << 22) // row)
    for at in range(0, dims[0], step):
        n = min(step, dims[0] - at)
        x = rng.standard_normal((n, row), dtype=np.float32) * np.float32(deviation) + np.float32(mean)
        if name.endswith(("embed_tokens.weight", "lm_head.weight")) and at + n > quiet_from:
            x[max(0, quiet_from - at):] *= np.float32(0.3)
        out.write(encode(x, dtype))


def write_weights(folder, shape, seed):
    """Writes the shards, each as header and data in one pass, and the index."""
    size = {"f32": 4, "f16": 2, "bf16": 2}[shape["dtype"]]
    groups, room = [[]], 0
    for tensor in tensors(shape):
        n = math.prod(tensor[1]) * size
        if groups[-1] and room + n > shape["shard_mb"] << 20:
            groups.append([])
            room = 0
        groups[-1].append(tensor)
        room += n
    single = len(groups) == 1
    where, total = {}, 0
    for i, group in enumerate(groups, 1):
        file = "model.safetensors" if single else f"model-{i:05}-of-{len(groups):05}.safetensors"
        header, at = {"__metadata__": {"format": "pt"}}, 0
        for name, dims, _, _ in group:
            n = math.prod(dims) * size
            header[name] = {"dtype": shape["dtype"].upper(), "shape": list(dims), "data_offsets": [at, at + n]}
            where[name] = file
            at += n
        total += at
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(f"{folder}/{file}", "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            for name, dims, mean, deviation in group:
                write_values(out, name, dims, mean, deviation, shape["dtype"], seed, shape["n_bpe"])
        # The reference reader has the last word on the header.
        with safe_open(f"{folder}/{file}", "np") as check:
            assert set(check.keys()) == {name for name, *_ in group}
            assert all(check.get_slice(name).get_shape() == list(dims) for name, dims, *_ in group)
        print(f"{file}: {len(group)} tensors, {at / 1e9:.2f} GB", flush=True)
    if not single:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        write_json(f"{folder}/model.safetensors.index.json", index)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--seed", type=int, default=1)
    flags = {key: type(value) for shape in SHAPES.values() for key, value in shape.items() if key != "family"}
    for key, kind in flags.items():
        choices = ["f32", "f16", "bf16"] if key == "dtype" else None
        parser.add_argument("--" + key.replace("_", "-"), type=kind, choices=choices, default=None)
    args = parser.parse_args()
    shape = dict(SHAPES[args.shape])
    shape.update({key: getattr(args, key) for key in shape if getattr(args, key, None) is not None})
    if "d_head" not in shape and shape["n_embd"] % (2 * shape["n_head"]) or shape["n_head"] % shape["n_head_kv"]:
        parser.error("heads must divide n_embd into even widths, and n-head-kv must divide n-head")
    if shape["v_n_embd"] % (4 * shape["v_n_head"]):
        parser.error("v-n-head must divide v-n-embd into multiples of 4")
    os.makedirs(args.folder, exist_ok=True)
    ids = write_tokenizer(args.folder, shape)
    write_configs(args.folder, shape, ids)
    write_weights(args.folder, shape, args.seed)


if __name__ == "__main__":
    main()
