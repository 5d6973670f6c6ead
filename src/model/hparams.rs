//! Hyper-parameters of the language model, read from metadata and checked before any weight is looked at.

use super::family::{Family, FfnSpec, TextSpec, layout_of};
use crate::cache::{CacheShape, CacheType, LayerSet, Recurrent};
use crate::gguf::{Gguf, Metadata};
use crate::kernels::{CONV_KERNEL, DELTA_ALIGN, DeltaShape};
use crate::position::{Layout, Stretch, Yarn, default_sections};
use crate::{Error, Result};

/// The language model's sizes and rules.
#[derive(Debug, Clone, PartialEq)]
pub struct HParams {
    /// The family whose architecture the file names; others may share it.
    pub family: &'static Family,
    /// What its layers have.
    pub spec: TextSpec,
    /// How tokens get their positions.
    pub layout: Layout,
    /// The temporal scale used when a request names none.
    pub temporal_scale: f64,
    /// Layers.
    pub n_layer: usize,
    /// Width of a hidden state.
    pub n_embd: usize,
    /// Hidden elements of the MLP that every token goes through; 0 where all of them are experts.
    pub n_ff: usize,
    /// The experts, where layers have some.
    pub experts: Option<ExpertShape>,
    /// Heads of queries.
    pub n_head: usize,
    /// Heads of keys and values.
    pub n_head_kv: usize,
    /// Elements per head.
    pub n_embd_head: usize,
    /// The first elements of a head, which rotate: pairs (i, i + n_rot / 2). The others pass through.
    pub n_rot: usize,
    /// What each layer keeps of the tokens before.
    pub kinds: Vec<LayerKind>,
    /// Sizes of recurrent layers (Gated DeltaNet), where there are any.
    pub recurrent: Option<DeltaShape>,
    /// First layers behind which rows of the projector's taps are added.
    pub n_deepstack: usize,
    /// Context length of training.
    pub n_ctx_train: usize,
    /// Tokens of the vocabulary: rows of the embedding.
    pub n_vocab: usize,
    /// What keeps RMS norms from dividing by zero.
    pub f_norm_rms_eps: f32,
    /// Base of the frequencies: that of pair `i` is `base^(-2 i / n_rot)`.
    pub rope_freq_base: f64,
    /// How frequencies are changed for a longer context (`rope.scaling.*`).
    pub rope_stretch: Stretch,
    /// Pairs driven by time, height, width.
    pub rope_sections: [usize; 3],
}

/// What a layer keeps of the tokens before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// Keys and values of every token.
    Attention,
    /// A state of one size however many tokens there were.
    Recurrent,
}

/// Sizes of a layer's experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertShape {
    /// How many there are.
    pub n: usize,
    /// How many of them a token goes through.
    pub n_used: usize,
    /// Hidden elements of each.
    pub n_ff: usize,
}

/// Caps that keep every product of sizes far from overflow.
const MAX_LAYERS: u64 = 1024;
const MAX_WIDTH: u64 = 1 << 20;
const MAX_HEAD: u64 = 1024;
const MAX_EXPERTS: u64 = 4096;

impl HParams {
    /// The shape of a cache for this model, of `n_ctx` slots.
    pub fn cache_shape(&self, n_ctx: usize, (type_k, type_v): (CacheType, CacheType)) -> CacheShape {
        let layers = LayerSet::of(self.kinds.iter().map(|kind| *kind == LayerKind::Recurrent));
        let recurrent = self.recurrent.map(|state| Recurrent { layers, state });
        let HParams { n_layer, n_head_kv, n_embd_head: d, .. } = *self;
        CacheShape { n_layer, n_head_kv, d, n_ctx, type_k, type_v, recurrent }
    }

    /// The first layer with attention, where there is one.
    pub fn first_attention(&self) -> Option<usize> {
        self.kinds.iter().position(|kind| *kind == LayerKind::Attention)
    }

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
        let (family, layout) = layout_of(arch)?;
        let spec = family.text;
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
        let n_layer = n_layer(meta, arch)?;
        let n_embd = size("embedding_length", MAX_WIDTH)?;
        let (n_ff, experts) = match spec.ffn {
            FfnSpec::Dense => (size("feed_forward_length", MAX_WIDTH)?, None),
            FfnSpec::Experts { shared: false } => (0, Some(experts(meta, arch)?)),
            FfnSpec::Experts { shared: true } => {
                (size("expert_shared_feed_forward_length", MAX_WIDTH)?, Some(experts(meta, arch)?))
            }
        };
        let n_head = size("attention.head_count", MAX_WIDTH)?;
        let n_head_kv = match meta.uint(&key("attention.head_count_kv"))? {
            Some(_) => size("attention.head_count_kv", MAX_WIDTH)?,
            None => n_head,
        };
        let n_embd_head = match meta.uint(&key("attention.key_length"))? {
            Some(_) => size("attention.key_length", MAX_HEAD)?,
            None if spec.explicit_head => return Err(missing(&key("attention.key_length"))),
            None if n_embd.is_multiple_of(n_head) => n_embd / n_head,
            None => return Err(Error::format(format!("`{n_head}` heads do not divide the width `{n_embd}`"))),
        };
        if let Some(value) = meta.uint(&key("attention.value_length"))?
            && value != n_embd_head as u64
        {
            let key = key("attention.value_length");
            return Err(Error::unsupported(format!(
                "key `{key}` is `{value}`, expected the head size `{n_embd_head}`"
            )));
        }
        if !n_head.is_multiple_of(n_head_kv) {
            return Err(Error::format(format!("`{n_head_kv}` KV heads do not divide `{n_head}` heads")));
        }
        if !n_embd_head.is_multiple_of(2) || n_embd_head as u64 > MAX_HEAD {
            return Err(Error::format(format!("head dimension `{n_embd_head}` must be even and at most {MAX_HEAD}")));
        }
        let n_rot = n_rot(meta, &key("rope.dimension_count"), spec, n_embd_head)?;
        let token_embd =
            file.tensor("token_embd.weight").ok_or_else(|| Error::format("tensor `token_embd.weight` is missing"))?;
        let rope_sections = match meta.ints(&key("rope.dimension_sections"))? {
            Some(list) => sections(&list, n_rot).map_err(|err| err.at(key("rope.dimension_sections")))?,
            None if spec.explicit_sections => return Err(missing(&key("rope.dimension_sections"))),
            None => default_sections(layout, n_rot),
        };
        let n_ctx_train = size("context_length", 1 << 31)?;
        let scale = meta.float(&key("rope.temporal_scale"))?.unwrap_or(layout.default_temporal_scale());
        let kinds = kinds(meta, arch, spec, n_layer)?;
        let recurrent = kinds.contains(&LayerKind::Recurrent).then(|| recurrent(meta, arch)).transpose()?;
        let n_deepstack = match meta.uint(&key("n_deepstack_layers"))?.unwrap_or(spec.n_deepstack as u64) {
            n if n <= n_layer as u64 => n as usize,
            n => {
                let key = key("n_deepstack_layers");
                return Err(Error::format(format!("key `{key}` is `{n}`, but there are {n_layer} layers")));
            }
        };
        Ok(HParams {
            family,
            spec,
            layout,
            temporal_scale: positive(scale, "rope.temporal_scale")?,
            n_layer,
            n_embd,
            n_ff,
            experts,
            n_head,
            n_head_kv,
            n_embd_head,
            n_rot,
            kinds,
            recurrent,
            n_deepstack,
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

fn missing(key: &str) -> Error {
    Error::format(format!("key `{key}` is missing"))
}

/// Layers that are computed; those behind them predict further tokens in training (`nextn_predict_layers`), and have no use here.
fn n_layer(meta: &Metadata, arch: &str) -> Result<usize> {
    let n_block = sized(meta, &format!("{arch}.block_count"), MAX_LAYERS)?;
    let key = format!("{arch}.nextn_predict_layers");
    match meta.uint(&key)?.unwrap_or(0) {
        n if n < n_block as u64 => Ok(n_block - n as usize),
        n => Err(Error::format(format!("key `{key}` is `{n}`, expected fewer than the {n_block} blocks"))),
    }
}

/// Elements of a head that rotate.
fn n_rot(meta: &Metadata, key: &str, spec: TextSpec, n_embd_head: usize) -> Result<usize> {
    match meta.uint(key)? {
        None if spec.partial_rotary => Err(missing(key)),
        None => Ok(n_embd_head),
        Some(n) if n == n_embd_head as u64 => Ok(n_embd_head),
        Some(n) if spec.partial_rotary && n > 0 && n < n_embd_head as u64 && n % 2 == 0 => Ok(n as usize),
        Some(n) if spec.partial_rotary => Err(Error::format(format!(
            "key `{key}` is `{n}`, expected an even number up to the head size `{n_embd_head}`"
        ))),
        Some(n) => Err(Error::unsupported(format!("key `{key}` is `{n}`, expected the head size `{n_embd_head}`"))),
    }
}

/// What each layer keeps: as the file lists it, else by its interval, else by the family's.
fn kinds(meta: &Metadata, arch: &str, spec: TextSpec, n_layer: usize) -> Result<Vec<LayerKind>> {
    let Some(published) = spec.full_attention_interval else { return Ok(vec![LayerKind::Attention; n_layer]) };
    let kind = |is_recurrent| if is_recurrent { LayerKind::Recurrent } else { LayerKind::Attention };
    let list = format!("{arch}.attention.recurrent_layers");
    if let Some(flags) = meta.bools(&list)? {
        // Blocks that predict further tokens may be listed as well.
        if flags.len() < n_layer {
            return Err(Error::format(format!("key `{list}` has {} values, expected {n_layer}", flags.len())));
        }
        return Ok(flags[..n_layer].iter().map(|flag| kind(*flag)).collect());
    }
    let key = format!("{arch}.full_attention_interval");
    let interval = match meta.uint(&key)? {
        Some(_) => sized(meta, &key, MAX_LAYERS)?,
        None => published,
    };
    Ok((1..=n_layer).map(|n| kind(n % interval != 0)).collect())
}

/// Sizes of the recurrent layers, which the kernels can have.
fn recurrent(meta: &Metadata, arch: &str) -> Result<DeltaShape> {
    let key = |name: &str| format!("{arch}.ssm.{name}");
    let size = |name: &str, max: u64| sized(meta, &key(name), max);
    let (n_head_k, n_head_v) = (size("group_count", MAX_WIDTH)?, size("time_step_rank", MAX_WIDTH)?);
    let (d_k, inner) = (size("state_size", MAX_HEAD)?, size("inner_size", MAX_WIDTH)?);
    if !n_head_v.is_multiple_of(n_head_k) {
        let (of_v, of_k) = (key("time_step_rank"), key("group_count"));
        return Err(Error::format(format!(
            "key `{of_v}` is `{n_head_v}`, expected a multiple of `{of_k}`, `{n_head_k}`"
        )));
    }
    if !inner.is_multiple_of(n_head_v) || (inner / n_head_v) as u64 > MAX_HEAD || n_head_k * d_k > MAX_WIDTH as usize {
        let key = key("inner_size");
        return Err(Error::format(format!("key `{key}` is `{inner}`, expected {n_head_v} heads of up to {MAX_HEAD}")));
    }
    let d_v = inner / n_head_v;
    for (name, value) in [("state_size", d_k), ("inner_size", d_v)] {
        if !value.is_multiple_of(DELTA_ALIGN) {
            let key = key(name);
            return Err(Error::unsupported(format!(
                "key `{key}` makes heads of `{value}` elements, expected a multiple of {DELTA_ALIGN}"
            )));
        }
    }
    match size("conv_kernel", 1 << 16)? {
        CONV_KERNEL => Ok(DeltaShape { n_head_k, n_head_v, d_k, d_v }),
        n => {
            let key = key("conv_kernel");
            Err(Error::unsupported(format!("key `{key}` is `{n}`, expected {CONV_KERNEL}")))
        }
    }
}

/// Sizes of the experts, where nothing asks for another kind of router than there is.
fn experts(meta: &Metadata, arch: &str) -> Result<ExpertShape> {
    let key = |name: &str| format!("{arch}.{name}");
    let n = sized(meta, &key("expert_count"), MAX_EXPERTS)?;
    let n_used = sized(meta, &key("expert_used_count"), n as u64)?;
    // Scores are softmaxed and weigh what they are, experts have no groups, and every layer has some. 0 is what is not said.
    for (name, same) in [
        ("expert_gating_func", 1.0),
        ("expert_weights_scale", 1.0),
        ("expert_group_count", 1.0),
        ("moe_every_n_layers", 1.0),
        ("interleave_moe_layer_step", 1.0),
        ("leading_dense_block_count", 0.0),
    ] {
        let key = key(name);
        if let Some(value) = meta.float(&key)?
            && value != same
            && value != 0.0
        {
            return Err(Error::unsupported(format!("key `{key}` is `{value}`, expected {same}")));
        }
    }
    Ok(ExpertShape { n, n_used, n_ff: sized(meta, &key("expert_feed_forward_length"), MAX_WIDTH)? })
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

/// Three or four counts of pairs (the fourth must be zero) that sum to half of what rotates.
fn sections(list: &[i64], n_rot: usize) -> Result<[usize; 3]> {
    let wrong = || Error::format(format!("rope sections `{list:?}` must be three counts that sum to `{}`", n_rot / 2));
    let counts: Vec<usize> = list.iter().map(|n| usize::try_from(*n).map_err(|_| wrong())).collect::<Result<_>>()?;
    let three = match counts.as_slice() {
        [t, h, w] | [t, h, w, 0] => [*t, *h, *w],
        _ => return Err(wrong()),
    };
    let sum = three.iter().try_fold(0usize, |sum, n| sum.checked_add(*n));
    if sum == Some(n_rot / 2) { Ok(three) } else { Err(wrong()) }
}
