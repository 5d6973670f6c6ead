"""Makes the golden data of the models with experts: tiny random checkpoints, and what transformers makes of a prompt with them.

Usage: make.py OUT_FOLDER, with transformers 4.57.6 for Qwen3-VL-MoE, again with 5.24.0 for Qwen3.5-MoE (torch 2.8.0, numpy,
safetensors, tokenizers; one CPU thread, seconds). Formats and names of arrays are those of tests/golden_families.
"""
import json
import os
import subprocess
import sys

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from tokenizers import Tokenizer

OLD = transformers.__version__.startswith("4.")
STEPS = 16
SMALL = dict(n_embd=64, n_layer=3, n_head=2, n_head_kv=1, n_ff=96, n_vocab=320, n_bpe=300, n_expert=8, n_expert_used=3,
             n_ff_expert=32, v_n_embd=32, v_n_layer=3, v_n_head=2, v_n_ff=48, v_pos_side=8)
if OLD:
    from transformers import Qwen3VLMoeForConditionalGeneration as Model
    from transformers.models.qwen3_vl_moe import modeling_qwen3_vl_moe as module
    NAME, SHAPE, FLAGS = "q3moe-a", "qwen3-vl-moe-tiny", dict(SMALL, d_head=32, n_taps=2, tied=0)
else:
    from transformers import Qwen3_5MoeForConditionalGeneration as Model
    from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as module
    NAME, SHAPE, FLAGS = "q35moe-a", "qwen3.5-moe-tiny", dict(
        SMALL, d_head=64, n_ff_shared=40, full_every=3, n_key=1, n_value=2, d_state=32)
# Grids in patches of 16 pixels: pairs of the video, and a picture.
VIDEO, IMAGE = (2, 4, 6), (1, 4, 4)


def rgb_and_rows(rng, grid, still=False):
    """Frames without need of resizing, and their rows of patches as the processors give them."""
    t, h, w = grid
    rgb = rng.integers(0, 256, (2 * t, 16 * h, 16 * w, 3), dtype=np.uint8)
    if still:  # a picture is a pair with itself
        rgb[1] = rgb[0]
    x = (rgb.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    # Pairs, blocks of 2 x 2 patches, patches in them; then channel, frame, row, column.
    x = x.reshape(t, 2, h // 2, 2, 16, w // 2, 2, 16, 3).transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return rgb, np.ascontiguousarray(x.reshape(t * h * w, -1))


def positions(kinds, grids):
    """Ids (3, n) and the next one. Every pair and picture is a block: t stands, the cursor goes on by the larger side."""
    out, cursor, at = [], 0, 0
    grids = iter(grids)
    while at < len(kinds):
        if kinds[at] == 0:
            out.append([cursor] * 3)
            cursor, at = cursor + 1, at + 1
            continue
        h, w = next(grids)
        out += [[cursor, cursor + y, cursor + x] for y in range(h) for x in range(w)]
        cursor, at = cursor + max(h, w), at + h * w
    return np.array(out, np.int64).T, cursor


def main(out):
    folder = f"{out}/checkpoints/{NAME}"
    flags = [word for key, value in FLAGS.items() for word in ("--" + key.replace("_", "-"), str(value))]
    maker = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../training/random_checkpoint.py")
    subprocess.run([sys.executable, maker, folder, "--shape", SHAPE, "--seed", "7", *flags], check=True)
    config = json.load(open(f"{folder}/config.json"))
    model = Model.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                  **({} if OLD else {"experts_implementation": "eager"})).eval()
    core, lm = model.model, model.model.language_model
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    rng = np.random.default_rng(11)
    (video, video_rows), (image, image_rows) = rgb_and_rows(rng, VIDEO), rgb_and_rows(rng, IMAGE, still=True)
    block = lambda pad, grid: f"<|vision_start|>{pad * (grid[1] * grid[2] // 4)}<|vision_end|>"
    stamps = ["<0.2 seconds>", "<1.2 seconds>"]
    text = "<|im_start|>user\n" + "".join(stamp + block("<|video_pad|>", VIDEO) for stamp in stamps)
    text += "Then " + block("<|image_pad|>", IMAGE) + "What symbol is shown, and where?<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    kinds = [1 if i == config["image_token_id"] else 2 if i == config["video_token_id"] else 0 for i in ids]
    pos, following = positions(kinds, [(g[1] // 2, g[2] // 2) for g in [VIDEO, VIDEO, IMAGE]])
    x = torch.tensor([ids])
    media = dict(image_grid_thw=torch.tensor([IMAGE]), video_grid_thw=torch.tensor([VIDEO]))
    extra = {} if OLD else dict(mm_token_type_ids=torch.tensor([kinds]))
    reference, _ = core.get_rope_index(input_ids=x, attention_mask=torch.ones_like(x), **media, **extra)
    assert np.array_equal(reference[:, 0].numpy(), pos), "ids differ from the written rule"

    inputs = {"input_ids": np.array(ids, np.int64), "rgb_0_video": video, "rgb_1_image": image[0]}
    for kind, rows, grid in (("video", video_rows, VIDEO), ("image", image_rows, IMAGE)):
        with torch.no_grad():
            made = core.visual(torch.from_numpy(rows), grid_thw=torch.tensor([grid]))
        merged, deep = made if OLD else (made.pooler_output, [])
        inputs[f"{kind}_grid_thw"] = np.array([grid], np.int64)
        inputs[f"{kind}_vit_output"] = merged.numpy()
        if len(deep):
            inputs[f"{kind}_deepstack"] = torch.stack(list(deep)).numpy()

    turned, chosen, hidden, visual = [], [], [], []
    rotate = module.apply_rotary_pos_emb

    def watched(*args, **kwargs):
        q, k = rotate(*args, **kwargs)
        turned.append(q)
        return q, k

    def note(x):
        hidden.append(x[0, -1].clone())
        visual.append(x[0, max(i for i, kind in enumerate(kinds) if kind)].clone())

    module.apply_rotary_pos_emb = watched
    hooks = [layer.register_forward_pre_hook(lambda _m, a, k: note(a[0] if a else k["hidden_states"]), with_kwargs=True)
             for layer in lm.layers]
    hooks += [lm.norm.register_forward_pre_hook(lambda _m, a: note(a[0])), lm.norm.register_forward_hook(lambda _m, _a, o: note(o))]
    hooks += [layer.mlp.gate.register_forward_hook(lambda _m, _a, o: chosen.append(o)) for layer in lm.layers]
    from transformers.cache_utils import DynamicCache
    cache = DynamicCache(config=model.config.text_config)
    pixels = dict(pixel_values=torch.from_numpy(image_rows), pixel_values_videos=torch.from_numpy(video_rows), **media)

    @torch.no_grad()
    def forward(ids, pos, seen, **kw):
        args = dict(input_ids=torch.tensor([ids]), position_ids=torch.from_numpy(pos)[:, None], use_cache=cache is not None,
                    attention_mask=torch.ones(1, seen + len(ids), dtype=torch.long), **({"past_key_values": cache} if OLD else {"cache": cache}), **kw)
        return model(**args).logits[0]

    logits = forward(ids, pos, 0, **pixels)
    for hook in hooks:
        hook.remove()
    # Every expert has tokens, or the data would say little.
    logits_of = [o[0] if isinstance(o, tuple) else o for o in chosen]
    used = {int(i) for o in logits_of for i in torch.topk(o, FLAGS["n_expert_used"], -1).indices.flatten()}
    assert used == set(range(FLAGS["n_expert"])), used
    arrays = {"position_ids": pos.astype(np.float32), "logits_last4": logits[-4:].numpy().copy(),
              "hidden_last": torch.stack(hidden).numpy(), "hidden_visual": torch.stack(visual).numpy(),
              "attn_q_last": turned[0][0, :, -1].numpy().copy()}
    step, tokens, margins = logits[-1], [], []
    for i in range(STEPS):
        top = torch.topk(step, 2)
        tokens.append(int(top.indices[0]))
        margins.append(float(top.values[0] - top.values[1]))
        step = forward(tokens[-1:], np.full((3, 1), following + i), len(ids) + i)[-1]
    safe = next((i for i, margin in enumerate(margins) if margin < 2e-3), STEPS)
    arrays.update(generated=np.array(tokens, np.int64), logits_after_generated=step.numpy().copy(),
                  generated_positions=np.arange(following, following + STEPS).astype(np.float32))
    target = f"{out}/model/{NAME}"
    os.makedirs(target, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in inputs.items()}, f"{target}/mixed.inputs.safetensors")
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, f"{target}/mixed.published.safetensors")
    types = config["text_config"].get("layer_types") or ["full_attention"] * FLAGS["n_layer"]
    run = {"variant": "published", "scale": 1.0, "form": "a", "generated": tokens, "next_position": following, "safe_steps": safe}
    case = {"prompt": text, "image_grid_thw": [IMAGE], "video_grid_thw": [VIDEO], "variants": {"published": run}}
    index = {"checkpoint": NAME, "family": config["model_type"], "transformers": transformers.__version__,
             "attn_layer": types.index("full_attention"), "cases": {"mixed": case}}
    with open(f"{target}/index.json", "w", encoding="utf-8") as file:
        json.dump(index, file, indent=1)
        file.write("\n")
    print(NAME, len(ids), "tokens, safe steps", safe, "least margin", min(margins))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
