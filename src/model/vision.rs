//! The vision tower: patches of frame pairs in, merged tokens of the language model's width out. What happens in a block is in
//! `vit.rs`.

use std::sync::{Arc, Mutex, PoisonError};

use super::Trace;
use super::cuda::DeviceTower;
use super::device::Device;
use super::family::QWEN2_VL;
use super::host::{FreshRows, Host};
use super::vision_hparams::VisionHParams;
use super::vit::{Pass, Rows, Tower};
use super::weights::Loader;
use crate::gguf::{GgmlType, Gguf};
use crate::kernels::{self, AttentionShape, KvView, attention};
use crate::position::RotaryTable;
use crate::{Error, Result, error::Context};

/// A loaded vision tower.
pub struct VisionTower {
    hp: VisionHParams,
    host: Host,
    /// Weights of 16 bits and more get exact attention; beside quantized ones its rounding does not show.
    exact: bool,
    pub(super) tower: Tower<Host>,
    /// Working memory of batches that were encoded on the host, for the next ones.
    kept: Mutex<Vec<(Rows<Host>, FreshRows)>>,
    /// All of it on a device, where that is wanted.
    pub(super) device: Option<DeviceTower>,
}

impl VisionTower {
    /// Checks every tensor of a projector file. Also returns the names of tensors that have no use here.
    ///
    /// # Errors
    /// A text model, another projector type, missing keys or tensors, sizes that make no sense.
    pub fn load(file: &Arc<Gguf>) -> Result<(VisionTower, Vec<String>)> {
        let hp = VisionHParams::from_gguf(file).at(|| file.path().display().to_string())?;
        if hp.spec != QWEN2_VL.vit {
            return Err(Error::unsupported(format!("the tower of {} is not computed yet", hp.family.name)));
        }
        let mut load = Loader::new(file);
        let tower = Tower::load(&mut load, &hp, file);
        let unused = load.finish()?;
        let Some(tower) = tower else { unreachable!("finish reports missing matrices") };
        let exact = tower.blocks.iter().all(|block| block.attn_q.weight.view().ty().block_len() == 1);
        let (host, kept) = (Host(kernels::select()?), Mutex::default());
        Ok((VisionTower { hp, host, exact, tower, kept, device: None }, unused))
    }

    /// Bytes that [`VisionTower::encode`] takes on a device for `n` patches; none where the tower is on the host.
    pub fn card_bytes(&self, n: usize) -> usize {
        if self.device.is_some() { DeviceTower::n_bytes(&self.hp, n) } else { 0 }
    }

    /// Reserves what batches of up to `n` patches need on a device, so that none of them has to.
    ///
    /// # Errors
    /// Memory that the device does not have, with the numbers.
    pub fn reserve(&self, n: usize) -> Result<()> {
        self.device.as_ref().map_or(Ok(()), |device| device.reserve(&self.hp, n))
    }

    /// Starts [`VisionTower::encode`] where it can go on beside other work, on a device. `None` where it cannot: on the host,
    /// or while tokens of another batch are on their way.
    ///
    /// # Errors
    /// What the device says.
    ///
    /// # Panics
    /// As `encode`.
    pub fn begin(&self, pixels: &[f32], h: usize, w: usize) -> Result<Option<Encoding<'_>>> {
        let n = self.n_patches(pixels, h, w);
        let Some(device) = &self.device else { return Ok(None) };
        let has_begun = device.begin(&self.hp, pixels, h * w, &self.angles(h, w))?;
        // Made only where it is true: dropped, it would abandon what others began.
        Ok(if has_begun { Some(Encoding { hp: &self.hp, device, n }) } else { None })
    }

    /// cos and sin of every patch of a pair of `h` x `w`.
    fn angles(&self, h: usize, w: usize) -> RotaryTable {
        rotary_table(h, w, self.hp.merge, self.hp.n_embd / self.hp.n_head)
    }

    /// # Panics
    /// When `pixels` is not a whole number of pairs or the grid is not a whole number of merge blocks.
    fn n_patches(&self, pixels: &[f32], h: usize, w: usize) -> usize {
        let (values, merge) = (self.hp.n_patch_values(), self.hp.merge);
        let n = pixels.len() / values;
        assert!(
            pixels.len() == n * values && n.is_multiple_of(h * w) && h.is_multiple_of(merge) && w.is_multiple_of(merge)
        );
        n
    }

    /// Sizes.
    pub fn hparams(&self) -> &VisionHParams {
        &self.hp
    }

    /// Encodes frame pairs of `h` x `w` patches. `pixels` is (n_pairs * h * w, n_patch_values) in merge-block order; returns
    /// (n_pairs * h * w / merge², [`VisionHParams::n_out_values`]): of each token itself, then its row of each tap. Attention never leaves a pair, so pairs may come in any grouping.
    ///
    /// # Errors
    /// Activations that are not finite.
    ///
    /// # Panics
    /// When `pixels` is not a whole number of pairs or the grid is not a whole number of merge blocks.
    pub fn encode(&self, pixels: &[f32], h: usize, w: usize, trace: Option<&mut Trace>) -> Result<Vec<f32>> {
        self.encode_in_steps(pixels, h, w, trace, &mut |_, _| Ok(()))
    }

    /// [`VisionTower::encode`], which calls `step` with the number of steps done and of all of them, so that a large picture
    /// can be watched and stopped: a step is a layer, or a part of one where a pair has many patches. On a device there are
    /// none.
    ///
    /// # Errors
    /// Activations that are not finite; what `step` says.
    ///
    /// # Panics
    /// As `encode`.
    pub fn encode_in_steps(
        &self,
        pixels: &[f32],
        h: usize,
        w: usize,
        trace: Option<&mut Trace>,
        step: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Vec<f32>> {
        let (hp, n, n_per_pair) = (&self.hp, self.n_patches(pixels, h, w), h * w);
        let angles = self.angles(h, w);
        if let Some(device) = &self.device {
            return finite(device.encode(hp, pixels, n_per_pair, &angles, trace)?, hp.n_embd_out);
        }
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memory = kept().pop().unwrap_or_else(|| (Rows::of(Default::default()), FreshRows::default()));
        let (rows, fresh) = &mut memory;
        let n_part = self.rows_at_once(n, n_per_pair);
        rows.grow(hp, n, n_part);
        fresh.grow(n * hp.n_embd);
        let pass = Pass { device: &self.host, hp, n, n_per_pair, n_part, angles: &angles, exact: self.exact };
        pass.encode(&self.tower, pixels, rows, fresh, trace, step)?;
        let n_out = n / (hp.merge * hp.merge);
        let tokens = self.host.read(&rows.out, 0, n_out * hp.n_embd_out)?;
        // What a large picture took is given back.
        if n_part == n {
            kept().push(memory);
        }
        finite(tokens, hp.n_embd_out)
    }

    /// The attention of one layer, of `n_queries` patches to `n_keys`, over nothing in particular: for calibrations.
    pub fn attend_once(&self, n_queries: usize, n_keys: usize) {
        let VisionHParams { n_embd, n_head, .. } = self.hp;
        let [keys, vals] = std::array::from_fn(|_| vec![0.5f32; n_keys * n_embd]);
        let q = vec![0.5f32; n_queries * n_embd];
        let (d, exact, n_past) = (n_embd / n_head, self.exact, n_keys.saturating_sub(n_queries));
        let shape = AttentionShape { n_head, n_head_kv: n_head, d, n_past, causal: false, exact };
        let stride = size_of_val(&keys[..]) / n_head;
        let (k, v) = (bytemuck::cast_slice(&keys), bytemuck::cast_slice(&vals));
        let (type_k, type_v) = (GgmlType::F32, GgmlType::F32);
        let kv = KvView { type_k, type_v, k, v, stride_k: stride, stride_v: stride };
        attention(self.host.0, shape, kv, &q, &mut vec![0f32; q.len()]);
    }

    /// Whether it is on a device.
    pub fn is_on_card(&self) -> bool {
        self.device.is_some()
    }

    /// Patches whose rows go through the products of a layer together, of `n` in all: a large pair is cut, so that only its keys
    /// and values are whole in memory, and so that the attention of a part takes no longer than a moment.
    fn rows_at_once(&self, n: usize, n_per_pair: usize) -> usize {
        /// Enough to feed the products.
        const ROWS: usize = 2048;
        const LEAST_ROWS: usize = 256;
        /// Queries times keys: with 16 heads of 80, half a second on two cores.
        const ATTENDED: usize = 1 << 24;
        if n > n_per_pair || n <= ROWS {
            return n;
        }
        (ATTENDED / n_per_pair).clamp(LEAST_ROWS, ROWS).next_multiple_of(self.hp.merge * self.hp.merge)
    }

    /// Bytes that [`VisionTower::encode`] takes for `pairs` frame pairs of `h` x `w` patches.
    pub fn n_bytes(&self, pairs: usize, h: usize, w: usize) -> usize {
        let (n, hp) = (pairs * h * w, &self.hp);
        let rows = self.rows_at_once(n, h * w);
        let floats = Rows::<Host>::sizes(hp, n, rows).iter().sum::<usize>() + 2 * n * hp.n_embd;
        // What products make of their input: 16 bits a value.
        floats * size_of::<f32>() + rows * (hp.n_embd.max(hp.n_ff) + hp.n_patch_values()) * 2
    }
}

/// Patches that are being encoded while other work goes on.
pub struct Encoding<'t> {
    hp: &'t VisionHParams,
    device: &'t DeviceTower,
    n: usize,
}

impl Encoding<'_> {
    /// What [`VisionTower::encode`] returns.
    ///
    /// # Errors
    /// Activations that are not finite; what a device says.
    pub fn finish(self) -> Result<Vec<f32>> {
        let Encoding { hp, device, n } = self;
        // Nothing is left to abandon.
        std::mem::forget(self);
        finite(device.finish(hp, n)?, hp.n_embd_out)
    }
}

impl Drop for Encoding<'_> {
    fn drop(&mut self) {
        self.device.abandon();
    }
}

/// Visual tokens (n, n_embd_out) that are all finite.
fn finite(out: Vec<f32>, n_embd_out: usize) -> Result<Vec<f32>> {
    match out.iter().position(|v| !v.is_finite()) {
        None => Ok(out),
        Some(at) => {
            let token = at / n_embd_out;
            Err(Error::format(format!("visual token {token} is not finite: the weights are broken")))
        }
    }
}

/// cos and sin of every patch of an `h` x `w` grid in merge-block order: base 10000 over half a head, the first half of
/// the pairs by row, the second by column.
fn rotary_table(h: usize, w: usize, merge: usize, d: usize) -> RotaryTable {
    let mut order = Vec::with_capacity(h * w);
    for by in 0..h / merge {
        for bx in 0..w / merge {
            for y in 0..merge {
                for x in 0..merge {
                    order.push((by * merge + y, bx * merge + x));
                }
            }
        }
    }
    let quarter = d / 4;
    let theta = |i: usize| 10_000f64.powf(-(i as f64) / quarter as f64);
    let thetas: Vec<f64> = (0..quarter).map(theta).collect();
    let mut table = RotaryTable::default();
    table.fill(order.len(), d / 2, 1.0, |it, i| {
        let (row, col) = order[it];
        (if i < quarter { row as f64 } else { col as f64 }) * thetas[i % quarter]
    });
    table
}
