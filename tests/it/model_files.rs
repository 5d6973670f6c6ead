//! Files of text models as they are met: types that cannot be computed with, keys for a longer context.

use std::path::Path;
use std::sync::Arc;

use longtake::ErrorKind;
use longtake::cache::KvCache;
use longtake::convert::{FileType, QuantizeOptions, quantize};
use longtake::gguf::{GgmlType, Gguf, GgufWriter, Metadata, TensorInfo, Value};
use longtake::model::{Batch, Scratch, TextModel, architecture_of};
use longtake::position::{Layout, Placer, Stretch, Yarn};

use crate::common::golden;

fn tiny_c() -> Gguf {
    Gguf::open(&golden().join("gguf_models/tiny-c.gguf")).expect("the golden model opens")
}

/// A copy at `path` with other keys, and other types for some tensors, which are then all zero.
fn copy(from: &Gguf, meta: Metadata, ty: impl Fn(&TensorInfo) -> GgmlType, path: &Path) {
    let mut writer = GgufWriter::new(meta);
    from.tensors().iter().for_each(|t| writer.tensor(t.name.clone(), ty(t), &t.ne).unwrap());
    let fill = |i: usize, out: &mut Vec<u8>| {
        let t = &from.tensors()[i];
        match ty(t) == t.ty {
            true => out.extend_from_slice(from.data(t)),
            false => out.resize(ty(t).row_bytes(t.n_cols()).unwrap() * t.n_rows(), 0),
        }
        Ok(())
    };
    writer.write(path, fill).unwrap();
}

fn load(path: &Path) -> longtake::Result<TextModel> {
    crate::common::text_model(&Arc::new(Gguf::open(path)?)).map(|(model, _)| model)
}

#[test]
fn types_without_a_kernel_are_named_with_a_way_out() {
    use GgmlType::*;
    let (from, dir) = (tiny_c(), tempfile::tempdir().unwrap());
    let path = dir.path().join("in.gguf");
    for ty in [Q8_1, Q8_K] {
        copy(&from, from.meta().clone(), |t| if t.name.contains("ffn_down") { ty } else { t.ty }, &path);
        let err = load(&path).err().unwrap();
        assert_eq!(err.kind(), ErrorKind::Unsupported, "{err}");
        let err = err.to_string();
        let of_type = format!("`blk.0.ffn_down.weight` has type {ty}");
        for want in ["in.gguf", "2 tensors", &of_type, "not supported yet", "longtake quantize", "Q4_K_M"] {
            assert!(err.contains(want), "no `{want}` in: {err}");
        }
        // Neither can such a file be made smaller, and that is said before anything is written.
        let out = dir.path().join("out.gguf");
        let mut options = QuantizeOptions::new(&path, &out, FileType::from_name("q8_0").unwrap());
        options.allow_requantize = true;
        let err = quantize(&options, &mut ()).unwrap_err().to_string();
        for want in [&format!("`blk.0.ffn_down.weight` is {ty}"), "F16 or BF16"] {
            assert!(err.contains(want), "no `{want}` in: {err}");
        }
        assert!(!out.exists());
    }
    // A vector in a type that matrices may have is another matter.
    copy(&from, from.meta().clone(), |t| if t.name == "output_norm.weight" { Q8_0 } else { t.ty }, &path);
    let err = load(&path).err().unwrap().to_string();
    assert!(err.contains("`output_norm.weight` has type Q8_0, expected F32, F16 or BF16"), "{err}");
}

#[test]
fn formats_that_are_not_made_here_load_and_become_others() {
    use GgmlType::*;
    let (from, dir) = (tiny_c(), tempfile::tempdir().unwrap());
    let path = dir.path().join("in.gguf");
    for ty in [IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, TQ1_0, TQ2_0, MXFP4, NVFP4, Q1_0, Q2_0] {
        copy(&from, from.meta().clone(), |t| if t.name.contains("ffn_down") { ty } else { t.ty }, &path);
        load(&path).unwrap_or_else(|err| panic!("{ty}: {err}"));
        let out = dir.path().join("out.gguf");
        let mut options = QuantizeOptions::new(&path, &out, FileType::from_name("q8_0").unwrap());
        options.allow_requantize = true;
        quantize(&options, &mut ()).unwrap_or_else(|err| panic!("{ty}: {err}"));
        assert_eq!(Gguf::open(&out).unwrap().tensor("blk.0.ffn_down.weight").unwrap().ty, Q8_0);
        let err = FileType::from_name(ty.name()).unwrap_err().to_string();
        assert!(err.contains("read") && err.contains(ty.name()), "{err}");
    }
}

/// tiny-c as `layout` with keys `rope.*` of its own.
fn with_keys(layout: Layout, keys: &[(&str, Value)]) -> TextModel {
    let (from, dir) = (tiny_c(), tempfile::tempdir().unwrap());
    let arch = architecture_of(&longtake::model::family::QWEN2_VL, layout).unwrap();
    let mut meta = Metadata::default();
    for (key, value) in from.meta().iter() {
        let key = key.strip_prefix("qwen2vl.").map_or(key.to_string(), |rest| format!("{arch}.{rest}"));
        meta.set(key, value.clone());
    }
    meta.set("general.architecture", arch.clone());
    keys.iter().for_each(|(key, value)| meta.set(format!("{arch}.rope.{key}"), value.clone()));
    let path = dir.path().join("m.gguf");
    copy(&from, meta, |t| t.ty, &path);
    load(&path).unwrap()
}

/// llama.cpp's keys for a longer context become the stretch of frequencies that they stand for.
#[test]
fn rope_scaling_keys_are_read_with_the_defaults_of_llama_cpp() {
    let stretch = |keys: &[(&str, Value)]| with_keys(Layout::Mrope, keys).hparams().rope_stretch;
    assert_eq!(stretch(&[]), Stretch::NONE);
    assert_eq!(stretch(&[("scaling.type", "none".into()), ("scaling.factor", 4f32.into())]), Stretch::NONE);
    let linear = Stretch { factor: 4.0, ..Stretch::NONE };
    assert_eq!(stretch(&[("scaling.type", "linear".into()), ("scaling.factor", 4f32.into())]), linear);
    assert_eq!(stretch(&[("scaling.factor", 4f32.into())]), linear, "a factor without a type is linear");
    assert_eq!(stretch(&[("scale_linear", 4f32.into())]), linear, "the older name");
    assert_eq!(stretch(&[("scaling.factor", 0f32.into())]), Stretch::NONE);
    let yarn = Yarn { n_ctx_orig: 32768.0, beta_fast: 32.0, beta_slow: 1.0, ext_factor: 1.0 };
    let want = Stretch { factor: 4.0, yarn: Some(yarn), magnitude: 1.0 + 0.1 * 4f64.ln() };
    let keys = [("scaling.type", "yarn".into()), ("scaling.factor", 4f32.into())];
    assert_eq!(stretch(&keys), want, "the trained context, where no other is named");
    let more = [
        ("scaling.original_context_length", 8192u32.into()),
        ("scaling.attn_factor", 0.5f32.into()),
        ("scaling.yarn_beta_fast", 16f32.into()),
        ("scaling.yarn_beta_slow", 2f32.into()),
    ];
    let yarn = Yarn { n_ctx_orig: 8192.0, beta_fast: 16.0, beta_slow: 2.0, ext_factor: 1.0 };
    let want = Stretch { factor: 4.0, yarn: Some(yarn), magnitude: 0.5 * (1.0 + 0.1 * 4f64.ln()) };
    assert_eq!(stretch(&[&keys[..], &more].concat()), want);
    let none =
        [("scaling.type", "yarn".into()), ("scaling.factor", 4f32.into()), ("scaling.yarn_ext_factor", 0f32.into())];
    assert_eq!(stretch(&none).magnitude, 1.0, "without extrapolation YaRN is linear");
}

/// The logits of the last of some tokens.
fn logits(model: &TextModel) -> Vec<f32> {
    let (hp, n) = (model.hparams(), 40);
    let ty = GgmlType::F32.into();
    let shape = hp.cache_shape(n, (ty, ty));
    let tokens: Vec<u32> = (0..n as u32).map(|i| 5 + i * 7 % 90).collect();
    let (mut embd, mut pos) = (vec![0.0; n * hp.n_embd], Vec::new());
    model.embed(&tokens, &mut embd).unwrap();
    Placer::new(hp.layout).text(n, &mut pos);
    let (mut cache, mut scratch) = (KvCache::new(shape).unwrap(), Scratch::new(hp, n));
    model
        .forward(&Batch { embd: &embd, deep: &[], pos: &pos, n_logits: 1 }, &mut cache, &mut scratch, None)
        .unwrap()
        .to_vec()
}

#[test]
fn a_longer_context_changes_what_every_layout_computes() {
    for layout in Layout::OF_HOPE {
        let plain = logits(&with_keys(layout, &[]));
        let same = logits(&with_keys(layout, &[("scaling.type", "yarn".into()), ("scaling.factor", 1f32.into())]));
        assert!(same == plain, "{layout}: a factor of 1 changes nothing");
        for keys in [
            vec![("scaling.type", "yarn".into()), ("scaling.factor", 4f32.into())],
            vec![("scaling.type", "linear".into()), ("scaling.factor", 4f32.into())],
            vec![("scaling.type", "none".into()), ("scaling.attn_factor", 1.5f32.into())],
        ] {
            let other = logits(&with_keys(layout, &keys));
            let diff = other.iter().zip(&plain).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(other.iter().all(|x| x.is_finite()), "{layout} {keys:?}");
            assert!(diff > 1e-4, "{layout} {keys:?}: logits differ by {diff}");
        }
    }
}
