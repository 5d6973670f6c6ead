"""Copies a selection of the golden data of the newer families that is small enough for the repository.

Usage: select.py WHOLE_FOLDER OUT_FOLDER

Every kind of golden stays, with fewer cases: indices are cut down to what is there, so a test that walks one works on the whole
set (LONGTAKE_GOLDEN_FAMILIES) and on the selection.
"""
import json
import os
import shutil
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

CHECKPOINTS = ["q3-a", "q25-a", "q35-a"]
TOKENIZERS = ["q3-a", "q35-a"]
# checkpoint -> case -> variants
MODELS = {
    "q3-a": {"video": ["published", "hope_i"], "mixed": ["published", "published_b"]},
    "q25-a": {"video": ["published", "hope_0.75"], "edge": ["published"]},
    "q35-a": {"mixed": ["published", "published_b"]},
}
# Cases whose tower is looked at block by block.
STAGES = [("q3-a", "mixed"), ("q25-a", "edge"), ("q35-a", "mixed")]
IMAGES = ["image_5_p14_61x75"]
VIDEOS = ["video_1_p16_5x75x50"]


def load(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def dump(path, value):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


def arrays(src, dst, without=()):
    got = {k: np.ascontiguousarray(v) for k, v in load_file(src).items() if k not in without}
    os.makedirs(os.path.dirname(dst), exist_ok=True)
    save_file(got, dst)


def main(src, out):
    for name in CHECKPOINTS:
        shutil.copytree(f"{src}/checkpoints/{name}", f"{out}/checkpoints/{name}", dirs_exist_ok=True, copy_function=shutil.copyfile)
    for name in TOKENIZERS:
        dump(f"{out}/tokenizer/{name}.json", load(f"{src}/tokenizer/{name}.json"))
    for name, cases in MODELS.items():
        index = load(f"{src}/model/{name}/index.json")
        index["cases"] = {case: index["cases"][case] for case in cases}
        for case, variants in cases.items():
            entry = index["cases"][case]
            entry["variants"] = {variant: entry["variants"][variant] for variant in variants}
            # Pixels can be made from `rgb`.
            without = ["image_pixel_values", "video_pixel_values"]
            if name == "q25-a":
                without += ["video_vit_stages"]
            if (name, case) not in STAGES:
                without += ["image_vit_stages", "video_vit_stages"]
            arrays(f"{src}/model/{name}/{case}.inputs.safetensors", f"{out}/model/{name}/{case}.inputs.safetensors", without)
            for i, variant in enumerate(variants):
                large = ["gdn_state", "attn_k"] if i else []
                arrays(f"{src}/model/{name}/{case}.{variant}.safetensors", f"{out}/model/{name}/{case}.{variant}.safetensors", large)
        dump(f"{out}/model/{name}/index.json", index)
    for name in ("smart_resize", "video_size", "frame_sampling", "absolute_time", "expansion_q3-a", "expansion_q35-a"):
        rows = load(f"{src}/preprocess/{name}.json")
        if name == "frame_sampling":
            rows = [row for row in rows if len(row["qwen3_vl"]["indices"]) <= 60]
        if name == "absolute_time":
            rows = [{**row, "t": row["t"][:200]} for row in rows]
        dump(f"{out}/preprocess/{name}.json", rows)
    index = load(f"{src}/preprocess/index.json")
    for kind, names in (("images", IMAGES), ("videos", VIDEOS)):
        index[kind] = [row for row in index[kind] if row["file"].removesuffix(".safetensors") in names]
        for row in index[kind]:
            large = ["pixel_values"] if row["file"].startswith("video_1") else []
            arrays(f"{src}/preprocess/{row['file']}", f"{out}/preprocess/{row['file']}", large)
    dump(f"{out}/preprocess/index.json", index)


if __name__ == "__main__":
    main(*sys.argv[1:3])
