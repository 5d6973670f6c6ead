//! Keys of every family: what is read, what stands for an absent one, and that wrong or missing ones are refused by name.

use longtake::gguf::{GgmlType, Gguf, GgufWriter, Metadata};
use longtake::model::{HParams, LayerKind, VisionHParams};
use longtake::position::Layout;

/// A file with these keys and tensors of zeros.
fn file(meta: Metadata, tensors: &[(&str, &[usize])]) -> Gguf {
    let mut writer = GgufWriter::new(meta);
    for (name, ne) in tensors {
        writer.tensor(*name, GgmlType::F32, ne).unwrap();
    }
    let bytes = writer.to_bytes(|i, out| {
        out.resize(4 * tensors[i].1.iter().product::<usize>(), 0);
        Ok(())
    });
    Gguf::from_vec("keys", bytes.unwrap()).unwrap()
}

/// Keys of a text model of `architecture` with two layers of attention, or the published kinds.
fn text(architecture: &str) -> Metadata {
    let mut meta = Metadata::default();
    let key = |name: &str| format!("{architecture}.{name}");
    meta.set("general.architecture", architecture);
    for (name, n) in [
        ("block_count", 8u32),
        ("context_length", 128),
        ("embedding_length", 24),
        ("feed_forward_length", 32),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("attention.key_length", 32),
        ("attention.value_length", 32),
    ] {
        meta.set(key(name), n);
    }
    if architecture.contains("moe") {
        meta.remove(&key("feed_forward_length"));
        for (name, n) in [("expert_count", 6u32), ("expert_used_count", 2), ("expert_feed_forward_length", 20)] {
            meta.set(key(name), n);
        }
    }
    if architecture.starts_with("qwen35moe") {
        meta.set(key("expert_shared_feed_forward_length"), 28u32);
    }
    meta.set(key("attention.layer_norm_rms_epsilon"), 1e-6f32);
    meta.set(key("rope.freq_base"), 1e6f32);
    let is_partial = architecture.starts_with("qwen35");
    meta.set(key("rope.dimension_sections"), if is_partial { vec![2i32, 1, 1, 0] } else { vec![6i32, 5, 5, 0] });
    if is_partial {
        meta.set(key("rope.dimension_count"), 8u32);
        for (name, n) in
            [("conv_kernel", 4u32), ("state_size", 16), ("group_count", 2), ("time_step_rank", 4), ("inner_size", 64)]
        {
            meta.set(key(&format!("ssm.{name}")), n);
        }
    }
    meta
}

fn hparams(meta: Metadata) -> longtake::Result<HParams> {
    HParams::from_gguf(&file(meta, &[("token_embd.weight", &[24, 7])]))
}

#[test]
fn text_models_get_what_their_family_was_published_with() {
    let hp = hparams(text("qwen3vl")).unwrap();
    assert_eq!((hp.family.name, hp.layout, hp.n_rot, hp.n_deepstack), ("Qwen3-VL", Layout::MropeI, 32, 3));
    assert!(hp.kinds.iter().all(|kind| *kind == LayerKind::Attention) && hp.recurrent.is_none());
    assert_eq!(hparams(text("qwen3vl-hope")).unwrap().layout, Layout::HopeI);
    let hp = hparams(text("qwen35")).unwrap();
    assert_eq!((hp.n_rot, hp.n_embd_head, hp.n_deepstack, hp.first_attention()), (8, 32, 0, Some(3)));
    let full: Vec<usize> = (0..8).filter(|il| hp.kinds[*il] == LayerKind::Attention).collect();
    assert_eq!(full, [3, 7]);
    let sizes = hp.recurrent.unwrap();
    assert_eq!((sizes.key_dim(), sizes.value_dim(), sizes.conv_dim()), (32, 64, 128));
    // A list wins over any interval, and blocks for further tokens do not count.
    let mut meta = text("qwen35");
    meta.set("qwen35.full_attention_interval", 2u32);
    meta.set("qwen35.nextn_predict_layers", 1u32);
    assert_eq!(hparams(meta.clone()).unwrap().first_attention(), Some(1));
    meta.set("qwen35.attention.recurrent_layers", vec![true, true, false, true, true, true, true, false]);
    let hp = hparams(meta).unwrap();
    assert_eq!((hp.first_attention(), hp.n_layer, hp.kinds.len()), (Some(2), 7, 7));
    // Experts: the MLP that every token goes through is the shared one, or none.
    let hp = hparams(text("qwen3vlmoe")).unwrap();
    let experts = hp.experts.unwrap();
    assert_eq!((hp.family.name, hp.n_ff, hp.n_deepstack), ("Qwen3-VL-MoE", 0, 3));
    assert_eq!((experts.n, experts.n_used, experts.n_ff), (6, 2, 20));
    let hp = hparams(text("qwen35moe-hope")).unwrap();
    assert_eq!((hp.family.name, hp.n_ff, hp.layout), ("Qwen3.5-MoE", 28, Layout::HopeI));
    assert!(hparams(text("qwen3vl")).unwrap().experts.is_none());
    // Qwen2-VL's files may leave more to the reader.
    let mut meta = text("qwen2vl");
    meta.remove("qwen2vl.rope.dimension_sections");
    meta.remove("qwen2vl.attention.key_length");
    meta.remove("qwen2vl.attention.value_length");
    let hp = hparams(meta).unwrap();
    assert_eq!((hp.n_embd_head, hp.n_rot, hp.rope_sections.iter().sum::<usize>()), (6, 6, 3));
}

#[test]
fn keys_of_text_models_are_refused_by_name() {
    for (architecture, name) in [
        ("qwen3vl", "attention.key_length"),
        ("qwen3vl", "rope.dimension_sections"),
        ("qwen3vl", "rope.freq_base"),
        ("qwen35", "attention.key_length"),
        ("qwen35", "rope.dimension_count"),
        ("qwen35", "rope.dimension_sections"),
        ("qwen35", "ssm.conv_kernel"),
        ("qwen35", "ssm.state_size"),
        ("qwen35", "ssm.group_count"),
        ("qwen35", "ssm.time_step_rank"),
        ("qwen35", "ssm.inner_size"),
        ("qwen3vlmoe", "expert_count"),
        ("qwen3vlmoe", "expert_used_count"),
        ("qwen3vlmoe", "expert_feed_forward_length"),
        ("qwen35moe", "expert_count"),
        ("qwen35moe", "expert_used_count"),
        ("qwen35moe", "expert_feed_forward_length"),
        ("qwen35moe", "expert_shared_feed_forward_length"),
    ] {
        let mut meta = text(architecture);
        meta.remove(&format!("{architecture}.{name}")).unwrap();
        let error = hparams(meta).unwrap_err().to_string();
        assert!(error.contains(&format!("`{architecture}.{name}` is missing")), "{error}");
    }
    for (architecture, name, value) in [
        ("qwen3vl", "rope.dimension_count", 16u32),
        ("qwen3vl", "attention.value_length", 16),
        ("qwen3vl", "n_deepstack_layers", 9),
        ("qwen35", "rope.dimension_count", 7),
        ("qwen35", "rope.dimension_count", 34),
        ("qwen35", "full_attention_interval", 0),
        ("qwen35", "nextn_predict_layers", 8),
        ("qwen35", "ssm.conv_kernel", 0),
        ("qwen35", "ssm.conv_kernel", 400),
        ("qwen35", "ssm.state_size", 4096),
        ("qwen35", "ssm.time_step_rank", 3),
        ("qwen35", "ssm.inner_size", 63),
        ("qwen3vlmoe", "expert_count", 0),
        ("qwen3vlmoe", "expert_count", 1 << 20),
        ("qwen3vlmoe", "expert_used_count", 0),
        ("qwen3vlmoe", "expert_used_count", 7),
        ("qwen3vlmoe", "expert_gating_func", 2),
        ("qwen3vlmoe", "expert_weights_scale", 2),
        ("qwen35moe", "expert_group_count", 4),
        ("qwen35moe", "leading_dense_block_count", 1),
        ("qwen35moe", "expert_shared_feed_forward_length", 0),
    ] {
        let mut meta = text(architecture);
        meta.set(format!("{architecture}.{name}"), value);
        let error = hparams(meta).unwrap_err().to_string();
        assert!(error.contains(&format!("`{architecture}.{name}` is `{value}`")), "{name}: {error}");
    }
    let mut meta = text("qwen35");
    meta.set("qwen35.attention.recurrent_layers", vec![true; 3]);
    let error = hparams(meta).unwrap_err().to_string();
    assert!(error.contains("`qwen35.attention.recurrent_layers` has 3 values, expected 8"), "{error}");
    let error = hparams(text("qwen4exp")).unwrap_err().to_string();
    assert!(error.contains("`qwen4exp` is not one of") && error.contains("qwen35-hope"), "{error}");
}

fn projector(kind: &str) -> Metadata {
    let mut meta = Metadata::default();
    meta.set("general.architecture", "clip");
    meta.set("clip.projector_type", kind);
    for (key, n) in [
        ("block_count", 4u32),
        ("embedding_length", 16),
        ("attention.head_count", 2),
        ("projection_dim", 8),
        ("patch_size", 14),
    ] {
        meta.set(format!("clip.vision.{key}"), n);
    }
    meta.set("clip.vision.attention.layer_norm_epsilon", 1e-6f32);
    meta.set("clip.vision.image_mean", vec![0.5f32; 3]);
    meta.set("clip.vision.image_std", vec![0.5f32; 3]);
    meta
}

fn vision(meta: Metadata) -> longtake::Result<VisionHParams> {
    let tensors: [(&str, &[usize]); 2] = [("v.blk.0.ffn_up.weight", &[16, 32]), ("v.position_embd.weight", &[16, 36])];
    VisionHParams::from_gguf(&file(meta, &tensors))
}

#[test]
fn projectors_get_what_their_family_was_published_with() {
    let hp = vision(projector("qwen2.5vl_merger")).unwrap();
    let windows = hp.windows.as_ref().unwrap();
    assert_eq!((windows.side, windows.full.clone(), hp.tokens_per_second), (4, vec![false; 4], Some(2.0)));
    assert_eq!((hp.n_full_blocks(), vision(projector("qwen3vl_merger")).unwrap().n_full_blocks()), (0, 4));
    let mut meta = projector("qwen2.5vl_merger");
    meta.set("clip.vision.n_wa_pattern", 2u32);
    meta.set("clip.vision.window_size", 56u32);
    meta.set("clip.vision.tokens_per_second", 4f32);
    meta.set("clip.use_silu", true);
    let hp = vision(meta.clone()).unwrap();
    assert_eq!(hp.windows.unwrap().full, [false, true, false, true]);
    assert_eq!(hp.tokens_per_second, Some(4.0));
    meta.set("clip.vision.wa_layer_indexes", vec![0i32, 3]);
    let windows = vision(meta).unwrap().windows.unwrap();
    assert_eq!((windows.side, windows.full), (2, vec![true, false, false, true]));
    let mut meta = projector("qwen3vl_merger");
    let hp = vision(meta.clone()).unwrap();
    assert_eq!((hp.n_pos_side, hp.taps.len(), hp.n_out_values(), hp.windows.is_none()), (6, 0, 8, true));
    meta.set("clip.vision.is_deepstack_layers", vec![true, false, true, false]);
    meta.set("clip.vision.image_size", 84u32);
    let hp = vision(meta).unwrap();
    assert_eq!((hp.taps.clone(), hp.n_out_values()), (vec![0, 2], 24));
    let hp = vision(projector("qwen2vl_merger")).unwrap();
    assert_eq!((hp.n_pos_side, hp.windows.is_none(), hp.n_out_values()), (0, true, 8));
}

#[test]
fn keys_of_projectors_are_refused_by_name() {
    let refused = |kind: &str, change: &dyn Fn(&mut Metadata), words: &str| {
        let mut meta = projector(kind);
        change(&mut meta);
        let error = vision(meta).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused("ldp", &|_| (), "projector type `ldp`");
    refused("qwen2vl_merger", &|m| m.set("clip.use_gelu", true), "`clip.use_gelu` does not belong");
    refused("qwen2vl_merger", &|m| m.set("clip.use_silu", true), "`clip.use_silu` does not belong");
    refused("qwen3vl_merger", &|m| m.set("clip.use_silu", true), "`clip.use_silu` does not belong");
    refused("qwen2.5vl_merger", &|m| m.set("clip.vision.window_size", 27u32), "`clip.vision.window_size` is `27`");
    refused("qwen2.5vl_merger", &|m| m.set("clip.vision.wa_layer_indexes", vec![4i32]), "names block `4`");
    refused("qwen2.5vl_merger", &|m| m.set("clip.vision.wa_layer_indexes", vec![-1i32]), "names block `-1`");
    refused(
        "qwen2.5vl_merger",
        &|m| m.set("clip.vision.tokens_per_second", 0f32),
        "`clip.vision.tokens_per_second` is `0`",
    );
    refused("qwen3vl_merger", &|m| m.set("clip.vision.is_deepstack_layers", vec![true; 3]), "has 3 values, expected 4");
    refused("qwen3vl_merger", &|m| m.set("clip.vision.image_size", 85u32), "`clip.vision.image_size` is `85`");
    let bad = file(
        projector("qwen3vl_merger"),
        &[("v.blk.0.ffn_up.weight", &[16, 32]), ("v.position_embd.weight", &[16, 37])],
    );
    let error = VisionHParams::from_gguf(&bad).unwrap_err().to_string();
    assert!(error.contains("`v.position_embd.weight`"), "{error}");
}

/// What a model of these sizes costs: operations of attention and recurrence for `n` tokens one after another, bytes that a token
/// leaves in an F16 cache, and bytes of states.
fn cost(architecture: &str, sizes: &[(&str, u32)], n: f64) -> (f64, usize, usize) {
    let mut meta = text(architecture);
    sizes.iter().for_each(|(name, size)| meta.set(format!("{architecture}.{name}"), *size));
    let pairs = if architecture == "qwen35" { vec![11i32, 11, 10, 0] } else { vec![16, 24, 24, 0] };
    meta.set(format!("{architecture}.rope.dimension_sections"), pairs);
    let hp = hparams(meta).unwrap();
    let n_attention = hp.kinds.iter().filter(|kind| **kind == LayerKind::Attention).count();
    let pairs_seen = n * (n + 1.0) / 2.0;
    let attention = pairs_seen * (n_attention * hp.n_head * 4 * hp.n_embd_head) as f64;
    let (recurrence, states) = hp.recurrent.map_or((0.0, 0), |shape| {
        let n_layer = hp.n_layer - n_attention;
        let work = n_layer * shape.n_head_v * 8 * shape.d_k * shape.d_v;
        (work as f64 * n, n_layer * shape.n_state() * 4)
    });
    (attention + recurrence, n_attention * hp.n_head_kv * hp.n_embd_head * 2 * 2, states)
}

/// 64k tokens of video cost Qwen3.5-2B less than a third of what they cost Qwen2-VL-2B, as docs/performance.md counts it.
#[test]
fn a_long_video_costs_qwen3_5_less_than_a_third() {
    let n = 65_536.0;
    let heads = |n: u32, kv: u32, d: u32| {
        [
            ("attention.head_count", n),
            ("attention.head_count_kv", kv),
            ("attention.key_length", d),
            ("attention.value_length", d),
        ]
    };
    let (old, old_bytes, _) = cost("qwen2vl", &[&heads(12, 2, 128)[..], &[("block_count", 28)]].concat(), n);
    let states = [("state_size", 128), ("group_count", 16), ("time_step_rank", 16), ("inner_size", 2048)];
    let states = states.map(|(name, size)| (format!("ssm.{name}"), size));
    let mut sizes = [&heads(8, 2, 256)[..], &[("block_count", 24), ("rope.dimension_count", 64)]].concat();
    sizes.extend(states.iter().map(|(name, size)| (name.as_str(), *size)));
    let (new, new_bytes, n_states) = cost("qwen35", &sizes, n);
    assert!(new / old < 1.0 / 3.0, "{}", new / old);
    let step = |bytes: usize, states: usize| (bytes as f64 * n + 2.0 * states as f64) / 1e9;
    let doc = include_str!("../../docs/performance.md");
    let (old_step, new_step) = (step(old_bytes, 0), step(new_bytes, n_states));
    for row in [
        format!("| {:.0} T | 1 | 28,672 | {old_step:.2} GB |", old / 1e12),
        format!(
            "| {:.0} T (2.5 T of them recurrent) | {:.2} | 12,288 | {new_step:.2} GB ({:.2}) |",
            new / 1e12,
            new / old,
            new_step / old_step
        ),
    ] {
        assert!(doc.contains(&row), "{row}");
    }
    assert_eq!((old_bytes, new_bytes), (28_672, 12_288));
}
