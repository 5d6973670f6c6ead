//! Hyper-parameters of the language model, read from metadata and checked before any weight is looked at.

use crate::gguf::{Gguf, Metadata};
use crate::position::{Layout, Stretch, Yarn, default_sections};
use crate::{Error, Result};

/// llama.cpp's architecture name of Qwen2-VL with its own position layout, M-RoPE.
const MROPE_ARCHITECTURE: &str = "qwen2vl";

/// The `general.architecture` of a model with `layout`. Every layout but M-RoPE has a name of its own, so that a reader
/// that does not know it refuses the file rather than computing wrong positions.
pub fn architecture_of(layout: Layout) -> String {
    match layout {
        Layout::Mrope => MROPE_ARCHITECTURE.to_string(),
        other => format!("{MROPE_ARCHITECTURE}-{other}"),
    }
}

/// The layout of a `general.architecture`.
///
/// # Errors
/// `Unsupported` naming the architecture.
pub fn layout_of(architecture: &str) -> Result<Layout> {
    let found = Layout::ALL.into_iter().find(|layout| architecture_of(*layout) == architecture);
    found.ok_or_else(|| {
        let known: Vec<_> = Layout::ALL.into_iter().map(architecture_of).collect();
        Error::unsupported(format!("architecture `{architecture}` is not one of {}", known.join(", ")))
    })
}

/// The language model's sizes and rules.
#[derive(Debug, Clone, PartialEq)]
pub struct HParams {
    pub layout: Layout,
    /// The temporal scale used when a request names none.
    pub temporal_scale: f64,
    pub n_layer: usize,
    pub n_embd: usize,
    pub n_ff: usize,
    pub n_head: usize,
    pub n_head_kv: usize,
    /// Elements per head.
    pub n_embd_head: usize,
    /// Context length of training.
    pub n_ctx_train: usize,
    pub n_vocab: usize,
    pub f_norm_rms_eps: f32,
    pub rope_freq_base: f64,
    /// How frequencies are changed for a longer context (`rope.scaling.*`).
    pub rope_stretch: Stretch,
    /// Pairs driven by time, height, width.
    pub rope_sections: [usize; 3],
}

/// Caps that keep every product of sizes far from overflow.
const MAX_LAYERS: u64 = 1024;
const MAX_WIDTH: u64 = 1 << 20;
const MAX_HEAD: u64 = 1024;

impl HParams {
    /// Reads and checks the keys of a text model.
    ///
    /// # Errors
    /// A projector file, an unknown architecture, missing keys, sizes that make no sense.
    pub fn from_gguf(file: &Gguf) -> Result<HParams> {
        let meta = file.meta();
        if let Some(what) = not_a_model(meta)? {
            return Err(Error::mismatch(format!("this is {what}, expected a text model")));
        }
        let arch = meta.need_str("general.architecture")?;
        if arch == "clip" {
            return Err(Error::mismatch(
                "this is a projector (architecture `clip`), expected a text model; pass it as --mmproj",
            ));
        }
        let layout = layout_of(arch)?;
        let key = |name: &str| format!("{arch}.{name}");
        if let Some(stored) = meta.str(&key("rope.layout"))?
            && stored != layout.name()
        {
            return Err(Error::mismatch(format!(
                "key `{}` is `{stored}`, but the architecture is `{arch}`",
                key("rope.layout")
            )));
        }
        let size = |name: &str, max: u64| sized(meta, &key(name), max);
        let n_layer = size("block_count", MAX_LAYERS)?;
        let n_embd = size("embedding_length", MAX_WIDTH)?;
        let n_ff = size("feed_forward_length", MAX_WIDTH)?;
        let n_head = size("attention.head_count", MAX_WIDTH)?;
        let n_head_kv = match meta.uint(&key("attention.head_count_kv"))? {
            Some(_) => size("attention.head_count_kv", MAX_WIDTH)?,
            None => n_head,
        };
        let n_embd_head = match meta.uint(&key("attention.key_length"))? {
            Some(_) => size("attention.key_length", MAX_HEAD)?,
            None if n_embd.is_multiple_of(n_head) => n_embd / n_head,
            None => return Err(Error::format(format!("`{n_head}` heads do not divide the width `{n_embd}`"))),
        };
        for other in ["attention.value_length", "rope.dimension_count"] {
            if let Some(value) = meta.uint(&key(other))?
                && value != n_embd_head as u64
            {
                let message = format!("key `{}` is `{value}`, expected the head dimension `{n_embd_head}`", key(other));
                return Err(Error::unsupported(message));
            }
        }
        if !n_head.is_multiple_of(n_head_kv) {
            return Err(Error::format(format!("`{n_head_kv}` KV heads do not divide `{n_head}` heads")));
        }
        if !n_embd_head.is_multiple_of(2) || n_embd_head as u64 > MAX_HEAD {
            return Err(Error::format(format!("head dimension `{n_embd_head}` must be even and at most {MAX_HEAD}")));
        }
        let token_embd =
            file.tensor("token_embd.weight").ok_or_else(|| Error::format("tensor `token_embd.weight` is missing"))?;
        let rope_sections = match meta.ints(&key("rope.dimension_sections"))? {
            Some(list) => sections(&list, n_embd_head).map_err(|err| err.at(key("rope.dimension_sections")))?,
            None => default_sections(layout, n_embd_head),
        };
        let n_ctx_train = size("context_length", 1 << 31)?;
        let scale = meta.float(&key("rope.temporal_scale"))?.unwrap_or(layout.default_temporal_scale());
        Ok(HParams {
            layout,
            temporal_scale: positive(scale, "rope.temporal_scale")?,
            n_layer,
            n_embd,
            n_ff,
            n_head,
            n_head_kv,
            n_embd_head,
            n_ctx_train,
            rope_stretch: stretch(meta, arch, n_ctx_train)?,
            n_vocab: token_embd.n_rows(),
            f_norm_rms_eps: positive(
                meta.need_float(&key("attention.layer_norm_rms_epsilon"))?,
                "layer_norm_rms_epsilon",
            )? as f32,
            rope_freq_base: positive(meta.need_float(&key("rope.freq_base"))?, "rope.freq_base")?,
            rope_sections,
        })
    }
}

/// How the file wants frequencies changed, by llama.cpp's keys and defaults: a factor without a type is linear.
fn stretch(meta: &Metadata, arch: &str, n_ctx_train: usize) -> Result<Stretch> {
    let float = |name: &str| meta.float(&format!("{arch}.rope.{name}"));
    let within = |name: &str, max: f64| -> Result<Option<f64>> {
        match float(name)? {
            Some(value) if !(0.0..=max).contains(&value) => {
                Err(Error::limit(format!("key `{arch}.rope.{name}` is `{value}`, expected 0 to {max}")))
            }
            value => Ok(value),
        }
    };
    let kind = meta.str(&format!("{arch}.rope.scaling.type"))?.unwrap_or("linear");
    let factor = match within("scaling.factor", 1e6)? {
        None => within("scale_linear", 1e6)?,
        some => some,
    };
    // 0 stands for no scaling.
    let factor = factor.filter(|factor| *factor != 0.0).unwrap_or(1.0);
    let attn_factor = match within("scaling.attn_factor", 1e3)? {
        Some(factor) => positive(factor, "rope.scaling.attn_factor")?,
        None => 1.0,
    };
    match kind {
        "none" => Ok(Stretch { magnitude: attn_factor, ..Stretch::NONE }),
        "linear" => Ok(Stretch { factor, yarn: None, magnitude: attn_factor }),
        "yarn" => {
            let n_ctx_orig = match within("scaling.original_context_length", 2f64.powi(31))? {
                Some(n) => positive(n, "rope.scaling.original_context_length")?,
                None => n_ctx_train as f64,
            };
            let turns = |name: &str, default: f64| -> Result<f64> {
                positive(within(name, 1e6)?.unwrap_or(default), &format!("rope.{name}"))
            };
            let yarn = Yarn {
                n_ctx_orig,
                beta_fast: turns("scaling.yarn_beta_fast", 32.0)?,
                beta_slow: turns("scaling.yarn_beta_slow", 1.0)?,
                ext_factor: within("scaling.yarn_ext_factor", 1.0)?.unwrap_or(1.0),
            };
            let log_multiplier = within("scaling.yarn_log_multiplier", 1e3)?.unwrap_or(0.0);
            // Without extrapolation nothing is left of YaRN but the interpolation.
            let own = if yarn.ext_factor == 0.0 { 1.0 } else { Stretch::yarn_magnitude(factor, log_multiplier) };
            Ok(Stretch { factor, yarn: Some(yarn), magnitude: attn_factor * own })
        }
        other => {
            let other: String = other.chars().take(40).collect();
            Err(Error::unsupported(format!("rope scaling `{other}` is not supported, expected none, linear or yarn")))
        }
    }
}

/// What else a GGUF file may be, in words.
fn not_a_model(meta: &Metadata) -> Result<Option<&'static str>> {
    Ok(match (meta.str("general.architecture")?, meta.str("general.type")?) {
        (Some("longtake-take"), _) => Some("a take (`longtake-take`), which `ask` and `chat --take` answer from"),
        (_, Some("adapter")) => Some("an adapter (LoRA); merge it into its base model and convert that"),
        (Some("imatrix"), _) | (_, Some("imatrix")) => {
            Some("an importance matrix, which `longtake quantize --imatrix` reads")
        }
        _ => None,
    })
}

/// A size of at least 1 and at most `max`.
pub(super) fn sized(meta: &Metadata, key: &str, max: u64) -> Result<usize> {
    match meta.need_uint(key)? {
        value if (1..=max).contains(&value) => Ok(value as usize),
        value => Err(Error::limit(format!("key `{key}` is `{value}`, expected 1 to {max}"))),
    }
}

pub(super) fn positive(value: f64, name: &str) -> Result<f64> {
    if value > 0.0 && value.is_finite() {
        Ok(value)
    } else {
        Err(Error::format(format!("key `{name}` is `{value}`, expected a positive finite number")))
    }
}

/// Three or four counts of pairs (the fourth must be zero) that sum to half a head.
fn sections(list: &[i64], n_embd_head: usize) -> Result<[usize; 3]> {
    let wrong =
        || Error::format(format!("rope sections `{list:?}` must be three counts that sum to `{}`", n_embd_head / 2));
    let counts: Vec<usize> = list.iter().map(|n| usize::try_from(*n).map_err(|_| wrong())).collect::<Result<_>>()?;
    let three = match counts.as_slice() {
        [t, h, w] | [t, h, w, 0] => [*t, *h, *w],
        _ => return Err(wrong()),
    };
    let sum = three.iter().try_fold(0usize, |sum, n| sum.checked_add(*n));
    if sum == Some(n_embd_head / 2) { Ok(three) } else { Err(wrong()) }
}
