"""Copies a selection of a whole golden folder that is small enough for the repository.

Usage: selection.py WHOLE_FOLDER OUT_FOLDER

Every kind of golden stays, with fewer cases: index files are cut down to what is there, so a test that walks an index
works on the whole set and on the selection. `pixel_values` and raw arrays that another golden already judges are left out
of the model inputs (`rgb` and `grid_thw` stay), and the quantization files keep three random rows of twelve.
"""
import json
import os
import shutil
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

IMAGES = ["image_2_30x40", "image_5_150x150", "image_7_29x180"]
VIDEOS = ["video_1_5x60x70", "video_2_1x56x56", "video_4_6x40x33"]
MODELS = {  # checkpoint -> case -> variants (None: all)
    "tiny-b": {"image": None, "text": ["m_rope", "hope_0.75"], "mixed": ["m_rope", "videorope_2", "hope_0.75"]},
    "tiny-c": {"video": None, "text": ["m_rope"]},
}


def load(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def dump(path, value):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False)
        f.write("\n")


def arrays(src, dst, change):
    got = {k: np.ascontiguousarray(v) for k, v in load_file(src).items()}
    os.makedirs(os.path.dirname(dst), exist_ok=True)
    save_file(change(got), dst)


def quant(arr):
    rows = ("random_packed", "random_dequant")
    out = {k: v[:3] if k in rows else v for k, v in arr.items()}
    for k in ("act_out", "act_abs"):
        if k in out:
            out[k] = np.ascontiguousarray(out[k][:, :3])
    return {k: np.ascontiguousarray(v) for k, v in out.items()}


def main(src, out):
    for name in ("positions.json", "rotation.json"):
        whole = load(f"{src}/{name}")
        if name == "rotation.json":
            whole["cases"] = whole["cases"][::2]
            whole["count"] = len(whole["cases"])
        dump(f"{out}/{name}", whole)
    shutil.copytree(f"{src}/gguf", f"{out}/gguf", dirs_exist_ok=True)
    shutil.copytree(f"{src}/gguf_models", f"{out}/gguf_models", dirs_exist_ok=True)
    shutil.copytree(f"{src}/checkpoints/tiny-b", f"{out}/checkpoints/tiny-b", dirs_exist_ok=True)
    for name in sorted(os.listdir(f"{src}/tokenizer")):
        dump(f"{out}/tokenizer/{name}", load(f"{src}/tokenizer/{name}"))

    listing = load(f"{src}/quant/index.json")
    for name in listing:
        arrays(f"{src}/quant/{name}.safetensors", f"{out}/quant/{name}.safetensors", quant)
    dump(f"{out}/quant/index.json", listing)

    index = load(f"{src}/preprocess/index.json")
    for kind, keep in (("images", IMAGES), ("videos", VIDEOS)):
        index[kind] = [row for row in index[kind] if row["file"].split(".")[0] in keep]
        for row in index[kind]:
            arrays(f"{src}/preprocess/{row['file']}", f"{out}/preprocess/{row['file']}", lambda a: a)
    dump(f"{out}/preprocess/index.json", index)
    for name in ("smart_resize.json", "frame_sampling.json", "video_budget.json"):
        dump(f"{out}/preprocess/{name}", load(f"{src}/preprocess/{name}"))

    for model, cases in MODELS.items():
        index = load(f"{src}/model/{model}/index.json")
        kept = {}
        for case, variants in cases.items():
            entry = index["cases"][case]
            variants = variants or list(entry["variants"])
            entry["variants"] = {v: entry["variants"][v] for v in variants}
            kept[case] = entry
            arrays(f"{src}/model/{model}/{case}.inputs.safetensors", f"{out}/model/{model}/{case}.inputs.safetensors",
                   lambda a: {k: v for k, v in a.items() if not k.endswith("pixel_values")})
            for v in variants:
                shutil.copy(f"{src}/model/{model}/{case}.{v}.safetensors", f"{out}/model/{model}/")
        index["cases"] = kept
        dump(f"{out}/model/{model}/index.json", index)
    size = sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(out) for f in files)
    print(f"{size / 1e6:.1f} MB in {out}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
