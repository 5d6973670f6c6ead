"""Shapes, configurations and tensors of the newer families for random_checkpoint.py: Qwen2.5-VL, Qwen3-VL, Qwen3.5; the last two
also with experts, in small shapes of our own."""
import math

SHAPES = {
    "qwen2.5-vl-3b": dict(
        family="qwen2_5_vl", n_embd=2048, n_layer=36, n_head=16, n_head_kv=2, n_ff=11008, n_vocab=151936, tied=1,
        v_n_embd=1280, v_n_layer=32, v_n_head=16, v_n_ff=3420, window=112, full_every=8, tokens_per_second=2,
        n_bpe=151643, dtype="bf16", shard_mb=3500,
    ),
    "qwen3-vl-2b": dict(
        family="qwen3_vl", n_embd=2048, n_layer=28, n_head=16, n_head_kv=8, d_head=128, n_ff=6144, n_vocab=151936, tied=1,
        v_n_embd=1024, v_n_layer=24, v_n_head=16, v_n_ff=4096, v_pos_side=48, n_taps=3,
        n_bpe=151643, dtype="bf16", shard_mb=3500,
    ),
    "qwen3.5-2b": dict(
        family="qwen3_5", n_embd=2048, n_layer=24, n_head=8, n_head_kv=2, d_head=256, n_ff=6144, n_vocab=248320, tied=1,
        full_every=4, n_key=16, n_value=16, d_state=128,
        v_n_embd=1024, v_n_layer=24, v_n_head=16, v_n_ff=4096, v_pos_side=48,
        n_bpe=248044, dtype="bf16", shard_mb=3500,
    ),
    # Rows of whole blocks of 256, so that every quantized type has its place.
    "qwen3-vl-moe-tiny": dict(
        family="qwen3_vl_moe", n_embd=256, n_layer=4, n_head=4, n_head_kv=2, d_head=128, n_ff=512, n_vocab=640, tied=1,
        n_expert=16, n_expert_used=4, n_ff_expert=256,
        v_n_embd=128, v_n_layer=4, v_n_head=4, v_n_ff=256, v_pos_side=24, n_taps=3, n_bpe=600, dtype="bf16", shard_mb=1000,
    ),
    "qwen3.5-moe-tiny": dict(
        family="qwen3_5_moe", n_embd=256, n_layer=4, n_head=2, n_head_kv=1, d_head=256, n_ff=512, n_vocab=640, tied=0,
        n_expert=16, n_expert_used=4, n_ff_expert=256, n_ff_shared=512,
        full_every=4, n_key=2, n_value=4, d_state=64,
        v_n_embd=128, v_n_layer=4, v_n_head=4, v_n_ff=256, v_pos_side=24, n_bpe=600, dtype="bf16", shard_mb=1000,
    ),
}


def dense(family):
    """The family without experts."""
    return family.removesuffix("_moe")


def split(family, qwen2):
    """How text is cut: in Qwen3.5 marks belong to the letters before them."""
    if dense(family) != "qwen3_5":
        return qwen2
    return qwen2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]+", r"[^\s\p{L}\p{M}\p{N}]+")


def template(family, qwen2):
    """The plain conversation; from Qwen3-VL on there is no system turn of its own."""
    if family in ("qwen2_vl", "qwen2_5_vl"):
        return qwen2
    begin = qwen2.index('{%- if messages[0].role')
    end = qwen2.index("{%- for message in messages -%}")
    plain = qwen2[:begin] + qwen2[end:]
    if dense(family) == "qwen3_5":
        thought = '{{- ("<think>\\n" if enable_thinking else "<think>\\n\\n</think>\\n\\n") if add_generation_prompt else "" -}}\n'
        plain += thought
    return plain


def taps(shape):
    """The tower blocks with a tap: evenly spread, the last before the end."""
    step = shape["v_n_layer"] // (shape["n_taps"] + 1)
    return [step * (k + 1) - 1 for k in range(shape["n_taps"])]


def is_full(shape, i):
    return dense(shape["family"]) != "qwen3_5" or (i + 1) % shape["full_every"] == 0


def configs(shape, ids):
    """The JSON files of the folder."""
    family, d = shape["family"], shape["n_embd"]
    dtype = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[shape["dtype"]]
    names = {
        "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration", "qwen3_vl": "Qwen3VLForConditionalGeneration",
        "qwen3_5": "Qwen3_5ForConditionalGeneration", "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
        "qwen3_5_moe": "Qwen3_5MoeForConditionalGeneration",
    }
    marks = {
        "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
        "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
    }
    text = {
        "hidden_act": "silu", "hidden_size": d, "initializer_range": 0.02, "intermediate_size": shape["n_ff"],
        "num_attention_heads": shape["n_head"], "num_hidden_layers": shape["n_layer"],
        "num_key_value_heads": shape["n_head_kv"], "rms_norm_eps": 1e-06, "use_cache": True, "vocab_size": shape["n_vocab"],
    }
    vision = {
        "depth": shape["v_n_layer"], "hidden_size": shape["v_n_embd"], "intermediate_size": shape["v_n_ff"],
        "num_heads": shape["v_n_head"], "out_hidden_size": d, "spatial_merge_size": 2, "temporal_patch_size": 2,
    }
    if family == "qwen2_5_vl":
        pairs = d // shape["n_head"] // 2
        t, h = pairs // 4, (pairs - pairs // 4 + 1) // 2
        vision.update(
            hidden_act="silu", in_chans=3, patch_size=14, spatial_patch_size=14, window_size=shape["window"],
            fullatt_block_indexes=list(range(shape["full_every"] - 1, shape["v_n_layer"], shape["full_every"])),
            tokens_per_second=shape["tokens_per_second"],
        )
        config = {
            "architectures": [names[family]], "model_type": family, "attention_dropout": 0.0,
            "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], **marks, **text,
            "max_position_embeddings": 128000, "max_window_layers": shape["n_layer"], "rope_theta": 1000000.0,
            "sliding_window": 32768, "use_sliding_window": False, "tie_word_embeddings": bool(shape["tied"]),
            "torch_dtype": dtype, "vision_config": vision,
            "rope_scaling": {"type": "mrope", "mrope_section": [t, h, pairs - t - h]},
        }
        image = {
            "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor",
        }
        files = {"config.json": config, "preprocessor_config.json": image}
    else:
        vision.update(
            hidden_act="gelu_pytorch_tanh", in_channels=3, patch_size=16, model_type=family,
            num_position_embeddings=shape["v_pos_side"] ** 2,
            deepstack_visual_indexes=taps(shape) if dense(family) == "qwen3_vl" else [],
        )
        text.update(
            attention_bias=False, dtype=dtype, eos_token_id=ids["<|im_end|>"], head_dim=shape["d_head"],
            max_position_embeddings=262144, model_type=family + "_text", tie_word_embeddings=bool(shape["tied"]),
        )
        if family.endswith("_moe"):
            text.update(
                num_experts=shape["n_expert"], num_experts_per_tok=shape["n_expert_used"],
                moe_intermediate_size=shape["n_ff_expert"],
            )
        if dense(family) == "qwen3_vl":
            if family.endswith("_moe"):
                text.update(decoder_sparse_step=1, mlp_only_layers=[], norm_topk_prob=True)
            pairs = shape["d_head"] // 2
            h = pairs * 20 // 64
            text["rope_theta"] = 5000000
            text["rope_scaling"] = {
                "mrope_interleaved": True, "mrope_section": [pairs - 2 * h, h, h], "rope_type": "default"
            }
        else:
            pairs = shape["d_head"] // 8
            t, w = -(-pairs // 3), pairs // 3
            if family.endswith("_moe"):
                del text["intermediate_size"]
                text.update(shared_expert_intermediate_size=shape["n_ff_shared"])
            text.update(
                attn_output_gate=True, full_attention_interval=shape["full_every"], linear_conv_kernel_dim=4,
                layer_types=["full_attention" if is_full(shape, i) else "linear_attention" for i in range(shape["n_layer"])],
                linear_key_head_dim=shape["d_state"], linear_value_head_dim=shape["d_state"],
                linear_num_key_heads=shape["n_key"], linear_num_value_heads=shape["n_value"], mamba_ssm_dtype="float32",
                rope_parameters={
                    "mrope_interleaved": True, "mrope_section": [t, pairs - t - w, w], "rope_type": "default",
                    "rope_theta": 10000000, "partial_rotary_factor": 0.25,
                },
            )
        config = {
            "architectures": [names[family]], "model_type": family, **marks, "text_config": text,
            "tie_word_embeddings": bool(shape["tied"]), "vision_config": vision,
        }

        def processor(shortest, longest):
            return {
                "size": {"longest_edge": longest, "shortest_edge": shortest}, "patch_size": 16, "temporal_patch_size": 2,
                "merge_size": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
                "processor_class": "Qwen3VLProcessor",
            }

        files = {
            "config.json": config, "preprocessor_config.json": processor(65536, 16777216),
            "video_preprocessor_config.json": processor(4096, 25165824),
        }
    files["generation_config.json"] = {
        "bos_token_id": ids["<|endoftext|>"], "pad_token_id": ids["<|endoftext|>"], "do_sample": True,
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]], "temperature": 0.7, "top_k": 20, "top_p": 0.8,
    }
    return files


def tensors(shape):
    """All tensors as (name, shape, mean, deviation), in file order; scales as in random_checkpoint.py."""
    family, out = shape["family"], []
    is_new = family != "qwen2_5_vl"

    def linear(name, rows, cols, gain, bias=None):
        out.append((name + ".weight", (rows, cols), 0.0, gain / math.sqrt(cols)))
        if bias is not None:
            out.append((name + ".bias", (rows,), 0.0, bias))

    def norm(name, n, bias=False, mean=1.0):
        out.append((name + ".weight", (n,), mean, 0.1))
        if bias:
            out.append((name + ".bias", (n,), 0.0, 0.1))

    d, f, v, vf = shape["n_embd"], shape["n_ff"], shape["v_n_embd"], shape["v_n_ff"]
    tower, text = ("model.visual", "model.language_model") if is_new else ("visual", "model")
    p = 16 if is_new else 14
    out.append((f"{tower}.patch_embed.proj.weight", (v, 3, 2, p, p), 0.0, 1.0 / math.sqrt(3 * 2 * p * p)))
    if is_new:
        out.append((f"{tower}.patch_embed.proj.bias", (v,), 0.0, 0.1))
        out.append((f"{tower}.pos_embed.weight", (shape["v_pos_side"] ** 2, v), 0.0, 0.3))
    deep = 1.0 / math.sqrt(shape["v_n_layer"])
    for i in range(shape["v_n_layer"]):
        b = f"{tower}.blocks.{i}"
        norm(b + ".norm1", v, is_new)
        norm(b + ".norm2", v, is_new)
        linear(b + ".attn.qkv", 3 * v, v, 1.2, 0.1)
        linear(b + ".attn.proj", v, v, deep, 0.02)
        if is_new:
            linear(b + ".mlp.linear_fc1", vf, v, 1.0, 0.05)
            linear(b + ".mlp.linear_fc2", v, vf, deep, 0.02)
        else:
            linear(b + ".mlp.gate_proj", vf, v, 1.2, 0.05)
            linear(b + ".mlp.up_proj", vf, v, 1.0, 0.05)
            linear(b + ".mlp.down_proj", v, vf, deep, 0.02)
    if is_new:
        norm(f"{tower}.merger.norm", v, True)
        linear(f"{tower}.merger.linear_fc1", 4 * v, 4 * v, 1.0, 0.05)
        linear(f"{tower}.merger.linear_fc2", d, 4 * v, 0.5, 0.02)
        for k in range(shape.get("n_taps", 0)):
            b = f"{tower}.deepstack_merger_list.{k}"
            norm(b + ".norm", 4 * v, True)
            linear(b + ".linear_fc1", 4 * v, 4 * v, 1.0, 0.05)
            linear(b + ".linear_fc2", d, 4 * v, 0.2, 0.02)
    else:
        norm(f"{tower}.merger.ln_q", v)
        linear(f"{tower}.merger.mlp.0", 4 * v, 4 * v, 1.0, 0.05)
        linear(f"{tower}.merger.mlp.2", d, 4 * v, 0.5, 0.02)

    head = 4.0 / math.sqrt(d)  # logits of deviation 4
    out.append((f"{text}.embed_tokens.weight", (shape["n_vocab"], d), 0.0, head))
    deep = 1.0 / math.sqrt(shape["n_layer"])
    dh = shape.get("d_head", d // shape["n_head"])
    n_q, n_kv = shape["n_head"] * dh, shape["n_head_kv"] * dh
    # Zero-centred norms multiply by one plus the weight.
    mean = 0.0 if dense(family) == "qwen3_5" else 1.0

    def mlp(name, f):
        linear(name + ".gate_proj", f, d, 1.2)
        linear(name + ".up_proj", f, d, 1.0)
        linear(name + ".down_proj", d, f, deep)

    def experts(b):
        """Qwen3-VL's matrices are stored with their inputs as rows."""
        n, fe = shape["n_expert"], shape["n_ff_expert"]
        linear(b + ".gate", n, d, 2.0)
        turned = dense(family) == "qwen3_vl"
        out.append((b + ".experts.gate_up_proj", (n, d, 2 * fe) if turned else (n, 2 * fe, d), 0.0, 1.1 / math.sqrt(d)))
        out.append((b + ".experts.down_proj", (n, fe, d) if turned else (n, d, fe), 0.0, deep / math.sqrt(fe)))
        if not turned:
            linear(b + ".shared_expert_gate", 1, d, 1.0)
            mlp(b + ".shared_expert", shape["n_ff_shared"])

    for i in range(shape["n_layer"]):
        b = f"{text}.layers.{i}"
        norm(b + ".input_layernorm", d, mean=mean)
        norm(b + ".post_attention_layernorm", d, mean=mean)
        if is_full(shape, i):
            bias = None if is_new else 0.2
            linear(b + ".self_attn.q_proj", n_q * (2 if dense(family) == "qwen3_5" else 1), d, 1.3, bias)
            linear(b + ".self_attn.k_proj", n_kv, d, 1.3, bias)
            linear(b + ".self_attn.v_proj", n_kv, d, 1.0, None if is_new else 0.05)
            linear(b + ".self_attn.o_proj", d, n_q, deep)
            if is_new:
                norm(b + ".self_attn.q_norm", dh, mean=mean)
                norm(b + ".self_attn.k_norm", dh, mean=mean)
        else:
            n_key, n_value = shape["n_key"] * shape["d_state"], shape["n_value"] * shape["d_state"]
            b = b + ".linear_attn"
            linear(b + ".in_proj_qkv", 2 * n_key + n_value, d, 1.0)
            linear(b + ".in_proj_z", n_value, d, 1.0)
            linear(b + ".in_proj_b", shape["n_value"], d, 1.0)
            linear(b + ".in_proj_a", shape["n_value"], d, 1.0)
            out.append((b + ".conv1d.weight", (2 * n_key + n_value, 1, 4), 0.0, 0.5))
            out.append((b + ".A_log", (shape["n_value"],), 0.5, 0.5))
            out.append((b + ".dt_bias", (shape["n_value"],), -3.0, 1.0))
            norm(b + ".norm", shape["d_state"])
            linear(b + ".out_proj", d, n_value, deep)
            b = f"{text}.layers.{i}"
        if family.endswith("_moe"):
            experts(b + ".mlp")
        else:
            mlp(b + ".mlp", f)
    norm(f"{text}.norm", d, mean=mean)
    if not shape["tied"]:
        out.append(("lm_head.weight", (shape["n_vocab"], d), 0.0, head))
    return out
