//! Model and projector files from bytes, for `crate::fuzzing`: hyper-parameters against tensors, before any of them is used.

use std::sync::Arc;

use super::{TextModel, VisionTower};
use crate::fuzzing::Sparse;
use crate::gguf::{GgmlType, Gguf, GgufWriter, Metadata};

/// A file, its weights zeros at the end, loaded as the one and as the other.
pub(crate) fn load(input: &[u8]) {
    let Some(file) = Sparse::new(input) else { return };
    let n_file = file.len();
    let Ok(gguf) = Gguf::from_vec("fuzz", file.to_vec()) else { return };
    let gguf = Arc::new(gguf);
    let all: u64 = gguf.tensors().iter().map(|tensor| gguf.data(tensor).len() as u64).sum();
    assert!(all <= n_file);
    if let Ok((model, _)) = TextModel::load(&gguf) {
        let hp = model.hparams();
        assert!(hp.n_head.is_multiple_of(hp.n_head_kv) && hp.n_embd_head.is_multiple_of(2));
        assert!(hp.rope_sections.iter().sum::<usize>() <= hp.n_embd_head / 2);
        assert!(hp.experts.is_none_or(|experts| (1..=experts.n).contains(&experts.n_used)));
        let mut row = vec![0.0; hp.n_embd];
        model.embed(&[0], &mut row).expect("the first token has an embedding");
    }
    if let Ok((tower, _)) = VisionTower::load(&gguf) {
        let hp = tower.hparams();
        assert!(hp.n_patch_values() > 0 && hp.factor() > 0);
    }
}

pub(crate) fn load_seeds() -> Vec<Vec<u8>> {
    let files = texts().into_iter().chain([tower()]);
    files.map(|file| Sparse::input(&file.expect("a seed that makes sense"))).collect()
}

fn texts() -> [crate::Result<Vec<u8>>; 4] {
    [text(), later("qwen3vl"), later("qwen3vlmoe"), later("qwen35moe")]
}

/// One layer of 32 columns of a newer family, or two, the first of them recurrent; with two experts, where it has some.
fn later(arch: &str) -> crate::Result<Vec<u8>> {
    let (is_hybrid, has_experts) = (arch.starts_with("qwen35"), arch.ends_with("moe"));
    let mut meta = Metadata::default();
    let key = |name: &str| format!("{arch}.{name}");
    meta.set("general.architecture", arch);
    for (name, n) in [
        ("block_count", if is_hybrid { 2u32 } else { 1 }),
        ("context_length", 128),
        ("embedding_length", 32),
        ("feed_forward_length", 32),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("attention.key_length", 16),
        ("n_deepstack_layers", 0),
    ] {
        meta.set(key(name), n);
    }
    meta.set(key("attention.layer_norm_rms_epsilon"), 1e-6f32);
    meta.set(key("rope.freq_base"), 5e6f32);
    meta.set(key("rope.dimension_sections"), vec![if is_hybrid { 0i32 } else { 4 }, 2, 2, 0]);
    if is_hybrid {
        meta.set(key("rope.dimension_count"), 8u32);
        meta.set(key("full_attention_interval"), 2u32);
        for (name, n) in
            [("conv_kernel", 4u32), ("state_size", 16), ("group_count", 1), ("time_step_rank", 2), ("inner_size", 32)]
        {
            meta.set(key(&format!("ssm.{name}")), n);
        }
    }
    let sizes =
        ["expert_count", "expert_used_count", "expert_feed_forward_length", "expert_shared_feed_forward_length"];
    for (name, n) in sizes.iter().zip([2u32, 1, 32, 32]).filter(|_| has_experts) {
        meta.set(key(name), n);
    }
    let (w, v) = (GgmlType::Q8_0, GgmlType::F32);
    let mut tensors: Vec<(String, GgmlType, Vec<usize>)> = Vec::new();
    let mut add = |name: String, ty, ne: &[usize]| tensors.push((name, ty, ne.to_vec()));
    add("token_embd.weight".into(), w, &[32, 8]);
    add("output_norm.weight".into(), v, &[32]);
    for il in 0..if is_hybrid { 2 } else { 1 } {
        let mut add = |name: &str, ty, ne: &[usize]| add(format!("blk.{il}.{name}"), ty, ne);
        add("attn_norm.weight", v, &[32]);
        if is_hybrid && il == 0 {
            add("attn_qkv.weight", w, &[32, 64]);
            add("attn_gate.weight", w, &[32, 32]);
            add("ssm_conv1d.weight", v, &[4, 64]);
            add("ssm_a", v, &[2]);
            add("ssm_dt.bias", v, &[2]);
            add("ssm_beta.weight", v, &[32, 2]);
            add("ssm_alpha.weight", v, &[32, 2]);
            add("ssm_norm.weight", v, &[16]);
            add("ssm_out.weight", w, &[32, 32]);
        } else {
            add("attn_q.weight", w, &[32, if is_hybrid { 64 } else { 32 }]);
            add("attn_k.weight", w, &[32, 16]);
            add("attn_v.weight", w, &[32, 16]);
            add("attn_q_norm.weight", v, &[16]);
            add("attn_k_norm.weight", v, &[16]);
            add("attn_output.weight", w, &[32, 32]);
        }
        add(if is_hybrid { "post_attention_norm.weight" } else { "ffn_norm.weight" }, v, &[32]);
        let dense = if has_experts { "_shexp" } else { "" };
        if is_hybrid || !has_experts {
            for part in ["ffn_gate", "ffn_up", "ffn_down"] {
                add(&format!("{part}{dense}.weight"), w, &[32, 32]);
            }
        }
        if has_experts {
            add("ffn_gate_inp.weight", v, &[32, 2]);
            for part in ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"] {
                add(&format!("{part}.weight"), w, &[32, 32, 2]);
            }
        }
        if has_experts && is_hybrid {
            add("ffn_gate_inp_shexp.weight", v, &[32]);
        }
    }
    let tensors: Vec<(&str, GgmlType, &[usize])> =
        tensors.iter().map(|(name, ty, ne)| (&name[..], *ty, &ne[..])).collect();
    zeros(meta, &tensors)
}

fn zeros(meta: Metadata, tensors: &[(&str, GgmlType, &[usize])]) -> crate::Result<Vec<u8>> {
    let mut writer = GgufWriter::new(meta);
    for (name, ty, ne) in tensors {
        writer.tensor(*name, *ty, ne)?;
    }
    let bytes = |i: usize| {
        let (_, ty, ne) = tensors[i];
        ty.row_bytes(ne[0]).unwrap_or_default() * ne[1..].iter().product::<usize>()
    };
    writer.to_bytes(|i, out| {
        out.resize(bytes(i), 0);
        Ok(())
    })
}

/// One layer of 32 columns.
fn text() -> crate::Result<Vec<u8>> {
    let mut meta = Metadata::default();
    meta.set("general.architecture", "qwen2vl");
    for (key, n) in [
        ("block_count", 1u32),
        ("context_length", 128),
        ("embedding_length", 32),
        ("feed_forward_length", 32),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ] {
        meta.set(format!("qwen2vl.{key}"), n);
    }
    meta.set("qwen2vl.attention.layer_norm_rms_epsilon", 1e-6f32);
    meta.set("qwen2vl.rope.freq_base", 1e6f32);
    meta.set("qwen2vl.rope.dimension_sections", vec![2i32, 3, 3, 0]);
    let (w, v) = (GgmlType::Q8_0, GgmlType::F32);
    zeros(
        meta,
        &[
            ("token_embd.weight", w, &[32, 8]),
            ("output_norm.weight", v, &[32]),
            ("blk.0.attn_norm.weight", v, &[32]),
            ("blk.0.attn_q.weight", w, &[32, 32]),
            ("blk.0.attn_q.bias", v, &[32]),
            ("blk.0.attn_k.weight", w, &[32, 16]),
            ("blk.0.attn_k.bias", v, &[16]),
            ("blk.0.attn_v.weight", w, &[32, 16]),
            ("blk.0.attn_v.bias", v, &[16]),
            ("blk.0.attn_output.weight", w, &[32, 32]),
            ("blk.0.ffn_norm.weight", v, &[32]),
            ("blk.0.ffn_gate.weight", w, &[32, 32]),
            ("blk.0.ffn_up.weight", w, &[32, 32]),
            ("blk.0.ffn_down.weight", w, &[32, 32]),
        ],
    )
}

/// One block of 16 columns, patches of 4 by 4.
fn tower() -> crate::Result<Vec<u8>> {
    let mut meta = Metadata::default();
    meta.set("general.architecture", "clip");
    meta.set("general.type", "mmproj");
    meta.set("clip.has_vision_encoder", true);
    meta.set("clip.projector_type", "qwen2vl_merger");
    for (key, n) in [
        ("block_count", 1u32),
        ("embedding_length", 16),
        ("feed_forward_length", 32),
        ("attention.head_count", 2),
        ("projection_dim", 32),
        ("patch_size", 4),
        ("image_size", 56),
    ] {
        meta.set(format!("clip.vision.{key}"), n);
    }
    meta.set("clip.vision.attention.layer_norm_epsilon", 1e-6f32);
    meta.set("clip.vision.image_mean", vec![0.5f32; 3]);
    meta.set("clip.vision.image_std", vec![0.5f32; 3]);
    let v = GgmlType::F32;
    zeros(
        meta,
        &[
            ("v.patch_embd.weight", v, &[4, 4, 3, 16]),
            ("v.patch_embd.weight.1", v, &[4, 4, 3, 16]),
            ("v.blk.0.ln1.weight", v, &[16]),
            ("v.blk.0.ln1.bias", v, &[16]),
            ("v.blk.0.ln2.weight", v, &[16]),
            ("v.blk.0.ln2.bias", v, &[16]),
            ("v.blk.0.attn_q.weight", v, &[16, 16]),
            ("v.blk.0.attn_q.bias", v, &[16]),
            ("v.blk.0.attn_k.weight", v, &[16, 16]),
            ("v.blk.0.attn_k.bias", v, &[16]),
            ("v.blk.0.attn_v.weight", v, &[16, 16]),
            ("v.blk.0.attn_v.bias", v, &[16]),
            ("v.blk.0.attn_out.weight", v, &[16, 16]),
            ("v.blk.0.attn_out.bias", v, &[16]),
            ("v.blk.0.ffn_up.weight", v, &[16, 64]),
            ("v.blk.0.ffn_up.bias", v, &[64]),
            ("v.blk.0.ffn_down.weight", v, &[64, 16]),
            ("v.blk.0.ffn_down.bias", v, &[16]),
            ("v.post_ln.weight", v, &[16]),
            ("v.post_ln.bias", v, &[16]),
            ("mm.0.weight", v, &[64, 64]),
            ("mm.0.bias", v, &[64]),
            ("mm.2.weight", v, &[64, 32]),
            ("mm.2.bias", v, &[32]),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_load() {
        let gguf = |bytes: crate::Result<Vec<u8>>| Arc::new(Gguf::from_vec("seed", bytes.unwrap()).unwrap());
        for seed in texts() {
            let (_, unused) = TextModel::load(&gguf(seed)).unwrap();
            assert!(unused.is_empty(), "{unused:?}");
        }
        VisionTower::load(&gguf(tower())).unwrap();
    }
}
