//! Sizes and rules of the vision tower, read from metadata and checked before any weight is looked at.

use super::family::{Family, VideoRules, VideoTime, VitMlp, VitSpec, family_of_projector};
use super::hparams::{positive, sized};
use crate::gguf::{Gguf, Metadata};
use crate::{Error, Result};

/// The tower's sizes, and what its pixels must look like.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionHParams {
    /// The family whose projector type the file names; others may share it.
    pub family: &'static Family,
    /// What its blocks have.
    pub spec: VitSpec,
    /// Blocks.
    pub n_layer: usize,
    /// Width of a patch's row.
    pub n_embd: usize,
    /// Heads of attention.
    pub n_head: usize,
    /// Width inside a block's second half.
    pub n_ff: usize,
    /// Width of a merged token: the language model's `n_embd`.
    pub n_embd_out: usize,
    /// Patch side in pixels.
    pub patch_size: usize,
    /// Patches per merged token side.
    pub merge: usize,
    /// What keeps norms from dividing by zero.
    pub eps: f32,
    /// Where blocks attend within windows.
    pub windows: Option<Windows>,
    /// Blocks with a tap, in order.
    pub taps: Vec<usize>,
    /// Side of the square table of learned positions; 0 without one.
    pub n_pos_side: usize,
    /// Time ids per second of video, where the family has them: the file's, or those of all published models.
    pub tokens_per_second: Option<f64>,
    /// How videos are sampled, sized and told of.
    pub video: VideoRules,
    /// Mean of each channel, of pixels from 0 to 1.
    pub image_mean: [f32; 3],
    /// Standard deviation of each channel, likewise.
    pub image_std: [f32; 3],
    /// Least pixels of a still image, where the file states them.
    pub image_min_pixels: Option<u64>,
    /// Most pixels of a still image, likewise.
    pub image_max_pixels: Option<u64>,
}

/// Attention within windows of a frame pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    /// Merged tokens along the side of a window.
    pub side: usize,
    /// Of each block, whether it attends to the whole pair all the same.
    pub full: Vec<bool>,
}

impl VisionHParams {
    /// Pixels along the side of a merged token.
    pub fn factor(&self) -> usize {
        self.patch_size * self.merge
    }

    /// Values per patch row: channels, the two frames of a pair, rows, columns.
    pub fn n_patch_values(&self) -> usize {
        3 * 2 * self.patch_size * self.patch_size
    }

    /// Values of a visual token as [`VisionTower::encode`](super::VisionTower::encode) gives it: the token itself, (n_embd_out),
    /// then what each tap adds behind a decoder layer, likewise.
    pub fn n_out_values(&self) -> usize {
        (1 + self.taps.len()) * self.n_embd_out
    }

    /// Blocks that attend to a whole frame pair, whose work grows with its square.
    pub fn n_full_blocks(&self) -> usize {
        self.windows.as_ref().map_or(self.n_layer, |windows| windows.full.iter().filter(|full| **full).count())
    }

    /// Reads and checks the keys of a projector.
    ///
    /// # Errors
    /// A text model, another projector type, missing keys, sizes that make no sense.
    pub fn from_gguf(file: &Gguf) -> Result<VisionHParams> {
        const MAX_LAYERS: u64 = 1024;
        const MAX_WIDTH: u64 = 1 << 20;
        let meta = file.meta();
        let arch = meta.need_str("general.architecture")?;
        if arch != "clip" {
            return Err(Error::mismatch(format!(
                "architecture is `{arch}`, expected a projector (`clip`); pass a text model as --model"
            )));
        }
        let kind = match meta.str("clip.vision.projector_type")? {
            Some(kind) => kind,
            None => meta.need_str("clip.projector_type")?,
        };
        let family = family_of_projector(kind)?;
        let spec = family.vit;
        for (flag, belongs) in
            [("clip.use_gelu", spec.mlp == VitMlp::GeluTanh), ("clip.use_silu", spec.mlp == VitMlp::SwiGlu)]
        {
            if !belongs && meta.bool(flag)? == Some(true) {
                return Err(Error::unsupported(format!("`{flag}` does not belong to `{kind}`")));
            }
        }
        let n_embd = sized(meta, "clip.vision.embedding_length", MAX_WIDTH)?;
        let n_head = sized(meta, "clip.vision.attention.head_count", MAX_WIDTH)?;
        if !n_embd.is_multiple_of(n_head) || !(n_embd / n_head).is_multiple_of(4) || n_embd / n_head > 1024 {
            return Err(Error::format(format!(
                "`{n_head}` vision heads do not split the width `{n_embd}` into multiples of 4 up to 1024"
            )));
        }
        let merge = match meta.uint("clip.vision.spatial_merge_size")? {
            Some(_) => sized(meta, "clip.vision.spatial_merge_size", 8)?,
            None => 2,
        };
        // The stored feed-forward length is not to be trusted (converters write the text width there): the tensors know.
        let shape = |name: &str| file.tensor(name).map(|t| (t.ne[0], t.n_rows()));
        let n_ff = match shape("v.blk.0.ffn_up.weight") {
            Some((cols, rows)) if cols == n_embd => rows,
            Some((cols, _)) => cols,
            None => return Err(Error::format("tensor `v.blk.0.ffn_up.weight` is missing")),
        };
        let triple = |key: &str| -> Result<[f32; 3]> {
            let list = meta.floats(key)?.ok_or_else(|| Error::format(format!("key `{key}` is missing")))?;
            match list.as_slice() {
                [r, g, b] if list.iter().all(|v| v.is_finite()) => Ok([*r as f32, *g as f32, *b as f32]),
                _ => Err(Error::format(format!("key `{key}` is `{list:?}`, expected three finite numbers"))),
            }
        };
        let image_std = triple("clip.vision.image_std")?;
        if image_std.iter().any(|s| *s <= 0.0) {
            return Err(Error::format(format!(
                "key `clip.vision.image_std` is `{image_std:?}`, expected positive numbers"
            )));
        }
        let n_layer = sized(meta, "clip.vision.block_count", MAX_LAYERS)?;
        let patch_size = sized(meta, "clip.vision.patch_size", 256)?;
        let n_pos_side = if spec.learned_positions { pos_side(file, n_embd, patch_size)? } else { 0 };
        let tokens_per_second = match meta.float("clip.vision.tokens_per_second")? {
            Some(rate) => Some(positive(rate, "clip.vision.tokens_per_second")?),
            None => match family.video.time {
                VideoTime::Clock { ids_per_second } => Some(ids_per_second),
                VideoTime::Index | VideoTime::Stamps => None,
            },
        };
        Ok(VisionHParams {
            family,
            spec,
            n_layer,
            n_embd,
            n_head,
            n_ff,
            n_embd_out: sized(meta, "clip.vision.projection_dim", MAX_WIDTH)?,
            patch_size,
            merge,
            windows: windows(meta, spec, n_layer, patch_size * merge)?,
            taps: taps(meta, spec, n_layer)?,
            n_pos_side,
            tokens_per_second,
            video: VideoRules::from_metadata(meta, family.video)?,
            eps: positive(
                meta.need_float("clip.vision.attention.layer_norm_epsilon")?,
                "clip.vision.attention.layer_norm_epsilon",
            )? as f32,
            image_mean: triple("clip.vision.image_mean")?,
            image_std,
            image_min_pixels: meta.uint("clip.vision.image_min_pixels")?,
            image_max_pixels: meta.uint("clip.vision.image_max_pixels")?,
        })
    }
}

/// Which blocks attend within windows, and how large these are: as the file lists the others, else by its pattern, else as
/// published.
fn windows(meta: &Metadata, spec: VitSpec, n_layer: usize, factor: usize) -> Result<Option<Windows>> {
    const MAX_SIZE: u64 = 1 << 16;
    let Some(published) = spec.windows else { return Ok(None) };
    let size = match meta.uint("clip.vision.window_size")? {
        Some(_) => sized(meta, "clip.vision.window_size", MAX_SIZE)?,
        None => published.size,
    };
    if size < factor {
        return Err(Error::format(format!(
            "key `clip.vision.window_size` is `{size}`, expected at least the {factor} pixels of a merged token"
        )));
    }
    let key = "clip.vision.wa_layer_indexes";
    let full = if let Some(list) = meta.ints(key)? {
        let mut full = vec![false; n_layer];
        for at in list {
            let flag = usize::try_from(at).ok().and_then(|at| full.get_mut(at)).ok_or_else(|| {
                Error::format(format!("key `{key}` names block `{at}`, but there are {n_layer} blocks"))
            })?;
            *flag = true;
        }
        full
    } else {
        let pattern = meta.uint("clip.vision.n_wa_pattern")?.unwrap_or(published.pattern as u64);
        // Without a pattern there are no windows.
        (1..=n_layer as u64).map(|n| pattern == 0 || n % pattern == 0).collect()
    };
    Ok(Some(Windows { side: size / factor, full }))
}

/// Blocks with a tap.
fn taps(meta: &Metadata, spec: VitSpec, n_layer: usize) -> Result<Vec<usize>> {
    let key = "clip.vision.is_deepstack_layers";
    let Some(flags) = meta.bools(key)?.filter(|_| spec.taps) else { return Ok(Vec::new()) };
    if flags.len() != n_layer {
        return Err(Error::format(format!("key `{key}` has {} values, expected {n_layer}", flags.len())));
    }
    Ok((0..n_layer).filter(|il| flags[*il]).collect())
}

/// The side of the table of learned positions.
fn pos_side(file: &Gguf, n_embd: usize, patch_size: usize) -> Result<usize> {
    let name = "v.position_embd.weight";
    let tensor = file.tensor(name).ok_or_else(|| Error::format(format!("tensor `{name}` is missing")))?;
    let side = tensor.n_rows().isqrt();
    if tensor.ne[0] != n_embd || side == 0 || side * side != tensor.n_rows() {
        return Err(Error::format(format!(
            "tensor `{name}` is {:?}, expected a square of rows of {n_embd}",
            tensor.ne
        )));
    }
    let key = "clip.vision.image_size";
    if let Some(size) = file.meta().uint(key)?
        && size != (side * patch_size) as u64
    {
        let message = format!("key `{key}` is `{size}`, expected {side} patches of {patch_size} as in `{name}`");
        return Err(Error::format(message));
    }
    Ok(side)
}
