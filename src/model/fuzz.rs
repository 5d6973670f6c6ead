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
        let mut row = vec![0.0; hp.n_embd];
        model.embed(&[0], &mut row).expect("the first token has an embedding");
    }
    if let Ok((tower, _)) = VisionTower::load(&gguf) {
        let hp = tower.hparams();
        assert!(hp.n_patch_values() > 0 && hp.factor() > 0);
    }
}

pub(crate) fn load_seeds() -> Vec<Vec<u8>> {
    [text(), tower()].map(|file| Sparse::input(&file.expect("a seed that makes sense"))).into()
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
        TextModel::load(&gguf(text())).unwrap();
        VisionTower::load(&gguf(tower())).unwrap();
    }
}
