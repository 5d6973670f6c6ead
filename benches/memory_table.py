#!/usr/bin/env python3
"""Which published file fits into which memory, by `longtake plan`: the table of docs/edge.md.

    benches/memory_table.py --longtake target/release/longtake --work DIR [--check docs/edge.md]

Files of the exact shapes of published models are made in DIR: header, keys and tensor table are whole, as `converters/` says, and
the weights are a hole that takes no room on the disk, because a plan reads none of them. Then an hour of 1280x720 video is planned
into each amount of memory with each file. `--check` compares the table with the one that stands in a page. Needs Python 3.11 and
ffmpeg; half a minute on two cores.
"""
import argparse
import json
import re
import struct
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# The numbers of the published configurations; what is left out is the converter's default.
QWEN2 = dict(f_norm_rms_eps=1e-6, rope_sections=[16, 24, 24])
MODELS = {
    "Qwen2-VL-2B": ("qwen2_vl", dict(QWEN2, n_layer=28, n_embd=1536, n_ff=8960, n_head=12, n_head_kv=2, n_vocab=151936, tied=True)),
    "Qwen3-VL-4B": ("qwen3_vl", dict(
        n_layer=36, n_embd=2560, n_ff=9728, n_head=32, n_head_kv=8, n_vocab=151936, tied=True, n_ctx_train=262144,
        v_n_layer=24, v_n_embd=1024, v_n_ff=4096, v_deepstack=[5, 11, 17])),
    "Qwen2.5-VL-7B": ("qwen2_5_vl", dict(
        QWEN2, n_layer=28, n_embd=3584, n_ff=18944, n_head=28, n_head_kv=4, n_vocab=152064, n_ctx_train=128000, tokens_per_second=2.0)),
    "Qwen3-VL-8B": ("qwen3_vl", dict(
        n_layer=36, n_embd=4096, n_ff=12288, n_head=32, n_head_kv=8, n_vocab=151936, n_ctx_train=262144)),
    "Qwen3.5-9B": ("qwen3_5", dict(
        n_layer=32, n_embd=4096, n_ff=12288, n_head=16, n_head_kv=4, n_vocab=248320, n_ctx_train=262144)),
}
# Memory of the machine, and what of it Longtake is given: the system and its page cache want the rest.
MACHINES = {"4 GB": "3G", "8 GB": "6500M", "16 GB": "14G", "32 GB": "29G"}
CACHE = "q8_0"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{% if p.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% elif p.type == 'image' %}<|vision_start|><|image_pad|>"
    "<|vision_end|>{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: GGUF's number of a tensor type, elements of a block, bytes of it.
TYPES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144), "Q6_K": (14, 256, 210)}


def values(family, given):
    """Every hyper-parameter by name, derived as `docs/converters.md` tells."""
    known = {}
    functions = {
        "length": lambda xs: len(xs or []),
        "flags": lambda xs, n: [i in xs for i in range(n)],
        "all_but_every": lambda k, n: [(i + 1) % k != 0 for i in range(n)],
        "period": lambda xs, n: xs[0] + 1 if [i for i in range(n) if (i + 1) % (xs[0] + 1) == 0] == xs else None,
        "first": lambda a, b: b if a is None else a,
        "without": lambda a, b: a if b is None else None,
        "scaled": lambda n, x: int(n * x),
        "side": lambda n: round(n**0.5),
    }
    for value in family["value"]:
        name = value["name"]
        if name in given:
            known[name] = given[name]
        elif "derive" in value:
            known[name] = eval(value["derive"].replace(" / ", " // "), {"__builtins__": {}}, {**functions, **known})  # ours
        else:
            known[name] = value.get("default")
    return known


def pack(value):
    """A key's type and bytes."""
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return 4, struct.pack("<I", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        text = value.encode()
        return 8, struct.pack("<Q", len(text)) + text
    items = [pack(item) for item in value]
    kind, items = (5, [struct.pack("<i", item) for item in value]) if items[0][0] == 4 else (items[0][0], [i[1] for i in items])
    return 9, struct.pack("<IQ", kind, len(items)) + b"".join(items)


def typed(value, declared):
    if value is not None and declared in ("f32", "f32[]"):
        return [float(v) for v in value] if isinstance(value, list) else float(value)
    return value


def tokenizer(n_vocab):
    """A vocabulary without any text: bytes, then pairs and triples of them, then the control tokens."""
    plain = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    others = iter(range(256, 512))
    symbols = [chr(b) if b in plain else chr(next(others)) for b in range(256)]
    n_merges = n_vocab - 256 - len(SPECIAL)
    pairs = [(a, b) for a in symbols for b in symbols]
    triples = ((a + b, c) for a, b in pairs for c in symbols)
    merges = pairs[:n_merges] + [next(triples) for _ in range(max(0, n_merges - len(pairs)))]
    tokens = symbols + [a + b for a, b in merges] + SPECIAL
    end = tokens.index("<|im_end|>", n_vocab - len(SPECIAL))
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * (n_vocab - len(SPECIAL)) + [3] * len(SPECIAL),
        "tokenizer.ggml.merges": [f"{a} {b}" for a, b in merges],
        "tokenizer.ggml.eos_token_id": end, "tokenizer.chat_template": TEMPLATE,
    }  # fmt: skip


def q4_k_m(name, rows, known):
    """The type of a tensor in a Q4_K_M file."""
    if len(rows) == 1 or "conv1d" in name or "ssm_alpha" in name or "ssm_beta" in name:
        return "F32"
    block = re.match(r"blk\.(\d+)\.", name)
    i, n = int(block[1]) if block else 0, known["n_layer"]
    more = i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2
    if name == "output.weight" or (name == "token_embd.weight" and known["tied"]):
        return "Q6_K"
    return "Q6_K" if more and ("attn_v." in name or "ffn_down" in name) else "Q4_K"


def f16(name, rows, known):
    """Of a projector as it is published."""
    return "F32" if len(rows) == 1 or "position_embd" in name or "patch_embd" in name else "F16"


def write(path, part, keys, known, type_of):
    tensors = []
    for rule in part["tensor"]:
        if rule.get("unless") and known[rule["unless"]]:
            continue
        shape = [eval(size.replace(" / ", " // "), {"__builtins__": {}}, known) for size in rule["shape"]]  # ours
        names = [rule["gguf"]] if isinstance(rule["gguf"], str) else rule["gguf"]
        match rule.get("reshape"):
            case "split_temporal":
                shape = [shape[0], 3, *shape[3:]]
            case "split_qkv":
                shape = [shape[0] // 3, *shape[1:]]
            case "squeeze":
                shape = [size for size in shape if size != 1]
        blocks = range(known[part["blocks"]]) if "{}" in names[0] else [None]
        if "numbers" in rule:
            blocks = known[rule["numbers"]]
        for i in blocks:
            if "only" in rule and not known[rule["only"]][i] or "except" in rule and known[rule["except"]][i]:
                continue
            tensors += [(name.replace("{}", str(i)), shape) for name in names]
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))
    for key, value in keys.items():
        kind, data = pack(value)
        head += struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + data
    at, table = 0, []
    for name, shape in tensors:
        number, length, n_bytes = TYPES[type_of(name, shape, known)]
        n = 1
        for size in shape:
            n *= size
        assert shape[-1] % length == 0, (name, shape)
        table.append(struct.pack("<Q", len(name)) + name.encode() + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), number, at))
        at = (at + n // length * n_bytes + 31) // 32 * 32
    head += b"".join(table)
    head += b"\0" * (-len(head) % 32)
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(len(head) + at)


def make(name, folder):
    """The two files of a model."""
    family, given = MODELS[name]
    family = tomllib.loads((ROOT / "converters" / f"{family}.toml").read_text())
    known = values(family, given)
    paths = []
    for part, type_of in (("text", q4_k_m), ("mmproj", f16)):
        arch = family[part]["architecture"]
        keys = {"general.architecture": arch, "general.name": name}
        for constant in family[part].get("constant", []):
            keys[constant["key"]] = typed(constant["value"], constant["type"])
        for value in family["value"]:
            if part in value and known[value["name"]] is not None:
                found = typed(known[value["name"]], value.get("type"))
                if isinstance(found, list):
                    found = found + [0] * (value.get("pad", 0) - len(found))
                if found != []:
                    keys[value[part].replace("{arch}", arch)] = found
        if part == "text":
            keys |= tokenizer(known["n_vocab"])
        paths.append(folder / (f"{name}-Q4_K_M.gguf" if part == "text" else f"mmproj-{name}-F16.gguf"))
        write(paths[-1], family[part], keys, known, type_of)
    return paths


def plan(longtake, model, mmproj, video, memory):
    """What the plan says, or nothing where it does not fit."""
    command = [longtake, "plan", video, "-m", model, "--mmproj", mmproj, "--max-memory", memory, "-ctk", CACHE, "-ctv", CACHE,
               "--reserve", "1024", "--no-time", "--json"]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        assert "bytes into" in done.stderr, done.stderr
        return None
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longtake", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--check", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    video = args.work / "hour.mp4"
    if not video.exists():
        part = args.work / "part.mp4"
        subprocess.run(["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=1:duration=3600", "-r", "2",
                        "-c:v", "libx264", "-preset", "ultrafast", "-crf", "40", "-pix_fmt", "yuv420p", part], check=True)  # fmt: skip
        part.rename(video)
    lines = [
        "| file (Q4_K_M, projector in F16) | on disk | " + " | ".join(f"{name} ({given})" for name, given in MACHINES.items()) + " |",
        "|---|---|" + "---|" * len(MACHINES),
    ]
    for name in MODELS:
        model, mmproj = make(name, args.work)
        size = (model.stat().st_size + mmproj.stat().st_size) / 2**30
        cells = []
        for memory in MACHINES.values():
            said = plan(args.longtake, model, mmproj, video, memory)
            if said is None:
                cells.append("–")
                continue
            [medium] = said["media"]
            used = said["memory"]["total"] / 2**30
            cells.append(f"{medium['frames']} frames of {medium['width']}x{medium['height']}, {said['n_tokens'] / 1000:.1f}k tokens, {used:.1f} GiB")
        lines.append(f"| {name} | {size:.1f} GiB | " + " | ".join(cells) + " |")
        print(lines[-1], file=sys.stderr)
        model.unlink()
        mmproj.unlink()
    table = "\n".join(lines) + "\n"
    print(table, end="")
    if args.check and table not in args.check.read_text():
        sys.exit(f"{args.check} has another table")


main()
