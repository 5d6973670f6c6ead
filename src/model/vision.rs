//! The vision tower: patches of frame pairs in, merged tokens of the language model's width out. What happens in a block is in
//! `vit.rs`.

use std::sync::{Arc, Mutex, PoisonError};

use super::Trace;
use super::cuda::DeviceTower;
use super::device::{Device, Pairs, WindowEnds};
use super::host::{FreshRows, Host};
use super::vision_hparams::{VisionHParams, Windows};
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
        VisionTower::with(VisionHParams::from_gguf(file).at(|| file.path().display().to_string())?, file)
    }

    /// The same with sizes and rules of one's own.
    ///
    /// # Errors
    /// As [`VisionTower::load`].
    pub fn with(hp: VisionHParams, file: &Arc<Gguf>) -> Result<(VisionTower, Vec<String>)> {
        let mut load = Loader::new(file);
        let tower = Tower::load(&mut load, &hp, file);
        let unused = load.finish()?;
        let Some(tower) = tower else { unreachable!("finish reports missing matrices") };
        let exact = tower.blocks.iter().all(|block| block.attn_q.weight.view().ty().block_len() == 1);
        let (host, kept) = (Host(kernels::select()?), Mutex::default());
        Ok((VisionTower { hp, host, exact, tower, kept, device: None }, unused))
    }

    /// Bytes that [`VisionTower::encode`] takes on a device for `n` patches; none where the tower is on the host.
    pub fn device_bytes(&self, n: usize) -> usize {
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
        let pairs = pairs(&self.hp, h, w);
        let has_begun = device.begin(&self.hp, pixels, &pairs, &self.angles(&pairs))?;
        // Made only where it is true: dropped, it would abandon what others began.
        Ok(if has_begun { Some(Encoding { hp: &self.hp, device, n, order: pairs.order }) } else { None })
    }

    /// cos and sin of every patch of a pair.
    fn angles(&self, pairs: &Pairs<Host>) -> RotaryTable {
        rotary_table(&pairs.places, self.hp.n_embd / self.hp.n_head)
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
        let pairs = pairs(hp, h, w);
        let (angles, order) = (self.angles(&pairs), pairs.order.as_deref());
        let mut trace = trace;
        if let Some(device) = &self.device {
            let planes = device.encode(hp, pixels, &pairs, &angles, trace.as_deref_mut())?;
            in_patch_order(trace, order, hp.n_embd);
            return tokens(hp, planes, order);
        }
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memory = kept().pop().unwrap_or_else(|| (Rows::of(Default::default()), FreshRows::default()));
        let (rows, fresh) = &mut memory;
        let n_part = self.rows_at_once(n, n_per_pair);
        rows.grow(hp, n, n_part);
        fresh.grow(n * hp.n_embd);
        let pass = Pass { device: &self.host, hp, n, pairs: &pairs, n_part, angles: &angles, exact: self.exact };
        pass.encode(&self.tower, pixels, rows, fresh, trace.as_deref_mut(), step)?;
        in_patch_order(trace, order, hp.n_embd);
        let n_out = n / (hp.merge * hp.merge);
        let planes = self.host.read(&rows.out, 0, n_out * hp.n_out_values())?;
        // What a large picture took is given back.
        if n_part == n {
            kept().push(memory);
        }
        tokens(hp, planes, order)
    }

    /// Where blocks attend within windows: the merged tokens of a pair of `h` x `w` patches in the order of their windows, and
    /// where windows end, in patches.
    pub fn windows(&self, h: usize, w: usize) -> Option<(Vec<usize>, Vec<usize>)> {
        self.hp.windows.as_ref()?;
        let (pairs, merged) = (pairs(&self.hp, h, w), self.hp.merge * self.hp.merge);
        let mut cells: Vec<usize> = (0..h * w / merged).collect();
        if let Some(order) = &pairs.order {
            cells.sort_by_key(|cell| order[cell * merged]);
        }
        let ends = pairs.windows.map_or(vec![h * w], |windows| windows.ends.iter().map(|end| *end as usize).collect());
        Some((cells, ends))
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
        let (type_k, type_v) = (GgmlType::F32.into(), GgmlType::F32.into());
        let kv = KvView { type_k, type_v, k, v, stride_k: stride, stride_v: stride };
        attention(self.host.0, shape, kv, &q, &mut vec![0f32; q.len()]);
    }

    /// Whether it is on a device.
    pub fn is_on_gpu(&self) -> bool {
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
        // Where tokens come in another order, or with rows of taps: what is numbered, and tokens twice.
        let is_arranged = hp.windows.is_some() || !hp.taps.is_empty();
        let arranged = if is_arranged { n / (hp.merge * hp.merge) * hp.n_out_values() + 3 * n } else { 0 };
        // What products make of their input: 16 bits a value.
        (floats + arranged) * size_of::<f32>() + rows * (hp.n_embd.max(hp.n_ff) + hp.n_patch_values()) * 2
    }
}

/// Patches that are being encoded while other work goes on.
pub struct Encoding<'t> {
    hp: &'t VisionHParams,
    device: &'t DeviceTower,
    n: usize,
    /// See [`Pairs::order`].
    order: Option<Vec<i32>>,
}

impl Encoding<'_> {
    /// What [`VisionTower::encode`] returns.
    ///
    /// # Errors
    /// Activations that are not finite; what a device says.
    pub fn finish(mut self) -> Result<Vec<f32>> {
        let Encoding { hp, device, n, .. } = self;
        let order = self.order.take();
        // Nothing is left to abandon.
        std::mem::forget(self);
        tokens(hp, device.finish(hp, n)?, order.as_deref())
    }
}

impl Drop for Encoding<'_> {
    fn drop(&mut self) {
        self.device.abandon();
    }
}

/// Visual tokens (n, n_out_values) of what the tower leaves, planes (1 + n_taps, n, n_embd_out) in its own order; all finite.
fn tokens(hp: &VisionHParams, planes: Vec<f32>, order: Option<&[i32]>) -> Result<Vec<f32>> {
    let (n_embd, n_values, merged) = (hp.n_embd_out, hp.n_out_values(), hp.merge * hp.merge);
    let n = planes.len() / n_values;
    if let Some(at) = planes.iter().position(|v| !v.is_finite()) {
        let token = at / n_embd % n;
        return Err(Error::format(format!("visual token {token} is not finite: the weights are broken")));
    }
    if n_values == n_embd && order.is_none() {
        return Ok(planes);
    }
    let mut out = Vec::with_capacity(planes.len());
    for i in 0..n {
        let at = order.map_or(i, |order| {
            let n_per_pair = order.len() / merged;
            i / n_per_pair * n_per_pair + order[i % n_per_pair * merged] as usize / merged
        });
        planes.chunks_exact(n * n_embd).for_each(|plane| out.extend_from_slice(&plane[at * n_embd..][..n_embd]));
    }
    Ok(out)
}

/// Brings traced rows (n, width) from the tower's order into that of patch rows.
fn in_patch_order(trace: Option<&mut Trace>, order: Option<&[i32]>, width: usize) {
    let (Some(trace), Some(order)) = (trace, order) else { return };
    for stage in &mut trace.vit_stages {
        let rows = std::mem::take(stage);
        for pair in rows.chunks_exact(order.len() * width) {
            order.iter().for_each(|at| stage.extend_from_slice(&pair[*at as usize * width..][..width]));
        }
    }
}

/// How the patches of pairs of `h` x `w` lie: in merge-block order, or window by window, where there are windows that do not hold
/// a whole pair. A merged token's patches stay together.
fn pairs(hp: &VisionHParams, h: usize, w: usize) -> Pairs<Host> {
    let (merge, rows, cols) = (hp.merge, h / hp.merge, w / hp.merge);
    let is_cut = |windows: &&Windows| (rows > windows.side || cols > windows.side) && windows.full.contains(&false);
    let side = hp.windows.as_ref().filter(is_cut).map(|windows| windows.side);
    let (height, width) = (side.unwrap_or(rows), side.unwrap_or(cols));
    let (mut places, mut order, mut ends) = (Vec::with_capacity(2 * h * w), vec![0; h * w], Vec::new());
    for (top, left) in (0..rows).step_by(height).flat_map(|top| (0..cols).step_by(width).map(move |left| (top, left))) {
        for row in top..rows.min(top + height) {
            for col in left..cols.min(left + width) {
                for i in 0..merge * merge {
                    order[(row * cols + col) * merge * merge + i] = (places.len() / 2) as i32;
                    places.extend([row * merge + i / merge, col * merge + i % merge].map(|at| at as i32));
                }
            }
        }
        ends.push((places.len() / 2) as i32);
    }
    let longest = height.min(rows) * width.min(cols) * merge * merge;
    let windows = side.map(|_| WindowEnds { n: ends.len(), longest, ends });
    Pairs { grid: (h, w), places, order: side.map(|_| order), windows }
}

/// cos and sin of every patch at its place (row, column): base 10000 over half a head, the first half of the pairs by row, the
/// second by column.
fn rotary_table(places: &[i32], d: usize) -> RotaryTable {
    let quarter = d / 4;
    let theta = |i: usize| 10_000f64.powf(-(i as f64) / quarter as f64);
    let thetas: Vec<f64> = (0..quarter).map(theta).collect();
    let mut table = RotaryTable::default();
    table.fill(places.len() / 2, (d / 2, d / 2), 1.0, |it, i| {
        let at = if i < quarter { places[2 * it] } else { places[2 * it + 1] };
        f64::from(at) * thetas[i % quarter]
    });
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::family::{QWEN2_5_VL, QWEN2_VL};

    fn hparams(windows: Option<Windows>) -> VisionHParams {
        VisionHParams {
            family: &QWEN2_5_VL,
            spec: QWEN2_VL.vit,
            n_layer: 1,
            n_embd: 8,
            n_head: 1,
            n_ff: 8,
            n_embd_out: 1,
            patch_size: 14,
            merge: 2,
            eps: 1e-6,
            windows,
            taps: Vec::new(),
            n_pos_side: 0,
            tokens_per_second: None,
            video: crate::model::family::VideoRules::of(crate::model::family::QWEN2_VL.video),
            image_mean: [0.5; 3],
            image_std: [0.5; 3],
            image_min_pixels: None,
            image_max_pixels: None,
        }
    }

    #[test]
    fn patches_lie_window_by_window_and_tokens_come_back() {
        let hp = hparams(Some(Windows { side: 2, full: vec![false] }));
        // Merged: 3 rows of 3 cells, in windows of 2 x 2, 2 x 1, 1 x 2 and 1.
        let pairs = pairs(&hp, 6, 6);
        let windows = pairs.windows.as_ref().unwrap();
        assert_eq!((&windows.ends[..], windows.n, windows.longest), (&[16, 24, 32, 36][..], 4, 16));
        let order = pairs.order.as_ref().unwrap();
        let cells: Vec<i32> = order.iter().step_by(4).map(|at| at / 4).collect();
        assert_eq!(cells, [0, 1, 4, 2, 3, 5, 6, 7, 8]);
        // Cell 4 is the fourth of the first window; its patches are rows and columns 2 and 3.
        assert_eq!(pairs.places[2 * 12..2 * 16], [2, 2, 2, 3, 3, 2, 3, 3]);
        // Tokens of two pairs, numbered in the tower's order, come back in that of the grid.
        let planes: Vec<f32> = (0..18).map(|i| i as f32).collect();
        let got = tokens(&hp, planes, pairs.order.as_deref()).unwrap();
        assert_eq!(got[..9], [0., 1., 4., 2., 3., 5., 6., 7., 8.]);
        assert_eq!(got[9..11], [9., 10.]);
    }

    #[test]
    fn a_pair_that_one_window_holds_stays_as_it_is() {
        for windows in [None, Some(Windows { side: 3, full: vec![false] }), Some(Windows { side: 1, full: vec![true] })]
        {
            let pairs = pairs(&hparams(windows), 6, 4);
            assert!(pairs.order.is_none() && pairs.windows.is_none());
            assert_eq!(pairs.places[..10], [0, 0, 0, 1, 1, 0, 1, 1, 0, 2]);
        }
    }

    #[test]
    fn rows_of_taps_stand_behind_their_token() {
        let hp = VisionHParams { taps: vec![0, 1], n_embd_out: 2, ..hparams(None) };
        let planes = vec![1., 2., 3., 4., 11., 12., 13., 14., 21., 22., 23., 24.];
        assert_eq!(tokens(&hp, planes, None).unwrap(), [1., 2., 11., 12., 21., 22., 3., 4., 13., 14., 23., 24.]);
        assert!(tokens(&hp, vec![f32::NAN; 12], None).is_err());
    }
}
