//! The vision tower on a GPU. It computes in a stream of its own, beside the language model; pixels go there and tokens come
//! back in the stream of copies.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Cuda, FreshMem, broken};
use crate::Result;
use crate::kernels::cuda::{Gpu, GpuEvent, Mem, QuantizedMem, Rotation, Stream};
use crate::model::device::{Pairs, WindowEnds};
use crate::model::family::VitMlp;
use crate::model::host::Host;
use crate::model::vit::{Pass, Rows, Tower};
use crate::model::{Trace, VisionHParams};
use crate::position::RotaryTable;

/// All weights of the tower in memory of a GPU.
pub(crate) struct DeviceTower {
    gpu: Gpu,
    copies: Gpu,
    tower: Tower<Cuda>,
    /// Working memory, reserved for the largest batch so far.
    buffers: Mutex<Option<Buffers>>,
    /// Whether tokens in them wait to be brought over.
    is_busy: AtomicBool,
}

/// Working memory for up to `n` patches.
struct Buffers {
    n: usize,
    /// Those that are copied, besides the tokens: pixels, cosines and sines.
    input: Mem,
    angles: Mem,
    /// Numbers of rows and places: see [`Pairs`].
    places: Mem,
    order: Mem,
    ends: Mem,
    device: Cuda,
    rows: Rows<Cuda>,
    fresh: FreshMem,
    /// The inputs have arrived; everything was computed.
    sent: GpuEvent,
    done: GpuEvent,
}

/// Bytes of each of the [`Buffers`] that are copied, of the others, in their order, and activations that are quantized at
/// once at most.
fn sizes(hp: &VisionHParams, n: usize) -> ([usize; 7], [usize; 10], usize) {
    let floats = |n: usize| n * size_of::<f32>();
    let d = hp.n_embd / hp.n_head;
    let [x, xb, q, k, v, hidden, out] = Rows::<Cuda>::sizes(hp, n, n).map(floats);
    let parts = floats(Gpu::attention_parts(n, hp.n_head, d));
    let up = if hp.spec.mlp == VitMlp::SwiGlu { hidden } else { 0 };
    let copied = [floats(n * hp.n_patch_values()), floats(n * d), 8 * n, 4 * n, 4 * n, out, 4];
    (copied, [x, xb, q, k, v, hidden, up, k, v, parts], n * hp.n_embd.max(hp.n_ff))
}

impl Buffers {
    fn new(gpu: &Gpu, copies: &Gpu, hp: &VisionHParams, n: usize) -> Result<Buffers> {
        let what = format!("{n} patches in the vision tower");
        let (copied, others, n_quantized) = sizes(hp, n);
        let [input, angles, places, order, ends, out, flags] = copies.alloc_parts(copied, &what)?;
        let [x, xb, q, k, v, hidden, up, keys, values, parts] = gpu.alloc_parts(others, &what)?;
        let quantized = QuantizedMem::new(gpu, n_quantized)?;
        let (sent, done) = (GpuEvent::new(gpu)?, GpuEvent::new(gpu)?);
        let (gpu, up) = (gpu.clone(), Some(up));
        let device = Cuda { gpu, quantized, parts, up, pairs: None, flags, table: None, place: 0 };
        let rows = Rows::of([x, xb, q, k, v, hidden, out]);
        Ok(Buffers {
            n,
            input,
            angles,
            places,
            order,
            ends,
            device,
            rows,
            fresh: FreshMem { keys, values },
            sent,
            done,
        })
    }
}

impl DeviceTower {
    /// Copies the tower to `gpu`.
    ///
    /// # Errors
    /// Memory that the GPU does not have; a type without kernels.
    pub(crate) fn load(on: &Gpu, tower: &Tower<Host>) -> Result<DeviceTower> {
        let (gpu, copies) = (on.on(Stream::Vision), on.on(Stream::Copy));
        let tower = tower.on::<Cuda>(&copies, "the vision tower")?;
        // Whoever uses the weights need not wait for them any more.
        copies.sync()?;
        Ok(DeviceTower { gpu, copies, tower, buffers: Mutex::new(None), is_busy: AtomicBool::new(false) })
    }

    /// Bytes of working memory on the GPU for `n` patches.
    pub(crate) fn n_bytes(hp: &VisionHParams, n: usize) -> usize {
        let (copied, others, quantized) = sizes(hp, n);
        copied.iter().chain(&others).sum::<usize>() + QuantizedMem::n_bytes(quantized)
    }

    fn buffers(&self) -> MutexGuard<'_, Option<Buffers>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves working memory for batches of up to `n` patches.
    ///
    /// # Errors
    /// Memory that the GPU does not have.
    pub(crate) fn reserve(&self, hp: &VisionHParams, n: usize) -> Result<()> {
        let mut buffers = self.buffers();
        if buffers.as_ref().is_none_or(|have| have.n < n) && !self.is_busy.load(Ordering::Acquire) {
            // What is there goes first: both might not fit.
            *buffers = None;
            *buffers = Some(Buffers::new(&self.gpu, &self.copies, hp, n)?);
        }
        Ok(())
    }

    /// Encodes frame pairs whose patches lie as `pairs` says, with the rotation of one pair's patches: (n, n_patch_values) in,
    /// (1 + n_taps, n / merge², n_embd_out) out, in the tower's order, which may hold numbers that are not finite.
    ///
    /// # Errors
    /// Keys or values that are not finite; memory that the GPU does not have.
    pub(crate) fn encode(
        &self,
        hp: &VisionHParams,
        pixels: &[f32],
        pairs: &Pairs<Host>,
        angles: &RotaryTable,
        trace: Option<&mut Trace>,
    ) -> Result<Vec<f32>> {
        let n = pixels.len() / hp.n_patch_values();
        self.reserve(hp, n)?;
        let mut buffers = self.buffers();
        if let Some(b) = buffers.as_mut().filter(|_| !self.is_busy.load(Ordering::Acquire)) {
            self.launch(hp, b, pixels, pairs, angles, trace)?;
            return self.fetch(hp, b, n);
        }
        // Others' tokens are in the buffers.
        let mut own = Buffers::new(&self.gpu, &self.copies, hp, n)?;
        self.launch(hp, &mut own, pixels, pairs, angles, trace)?;
        self.fetch(hp, &own, n)
    }

    /// Starts what [`DeviceTower::encode`] does, without waiting; [`DeviceTower::finish`] has the tokens. False, and nothing is
    /// done, while others are on their way.
    ///
    /// # Errors
    /// Memory that the GPU does not have; what the GPU says.
    pub(crate) fn begin(
        &self,
        hp: &VisionHParams,
        pixels: &[f32],
        pairs: &Pairs<Host>,
        angles: &RotaryTable,
    ) -> Result<bool> {
        self.reserve(hp, pixels.len() / hp.n_patch_values())?;
        let mut buffers = self.buffers();
        let Some(b) = buffers.as_mut().filter(|_| !self.is_busy.load(Ordering::Acquire)) else { return Ok(false) };
        self.launch(hp, b, pixels, pairs, angles, None)?;
        self.is_busy.store(true, Ordering::Release);
        Ok(true)
    }

    /// The tokens of `n` patches that [`DeviceTower::begin`] began with.
    ///
    /// # Errors
    /// Keys or values that are not finite; what the GPU says.
    pub(crate) fn finish(&self, hp: &VisionHParams, n: usize) -> Result<Vec<f32>> {
        let buffers = self.buffers();
        let b = buffers.as_ref().expect("they stay while tokens are in them");
        let tokens = self.fetch(hp, b, n);
        self.is_busy.store(false, Ordering::Release);
        tokens
    }

    /// Forgets what [`DeviceTower::begin`] began.
    pub(crate) fn abandon(&self) {
        self.is_busy.store(false, Ordering::Release);
    }

    /// Waits for the tokens of `n` patches.
    fn fetch(&self, hp: &VisionHParams, b: &Buffers, n: usize) -> Result<Vec<f32>> {
        b.done.wait(&self.copies)?;
        let mut flag = [0i32];
        b.device.flags.read(&mut flag)?;
        if flag != [0] {
            b.device.flags.write(&[0i32])?;
            return Err(broken("of a patch "));
        }
        let mut tokens = vec![0f32; n / (hp.merge * hp.merge) * hp.n_out_values()];
        b.rows.out.read(&mut tokens)?;
        Ok(tokens)
    }

    /// Sends the pixels and launches everything from them to the tokens. Without a trace nothing here waits.
    fn launch(
        &self,
        hp: &VisionHParams,
        b: &mut Buffers,
        pixels: &[f32],
        pairs: &Pairs<Host>,
        angles: &RotaryTable,
        trace: Option<&mut Trace>,
    ) -> Result<()> {
        // A batch that was abandoned may still be computed from the inputs.
        b.done.wait(&self.copies)?;
        b.input.write(pixels)?;
        b.angles.write(angles.rows())?;
        b.places.write(&pairs.places)?;
        if let Some(order) = &pairs.order {
            b.order.write(order)?;
        }
        if let Some(windows) = &pairs.windows {
            b.ends.write(&windows.ends)?;
        }
        b.sent.record(&self.copies)?;
        b.sent.wait(&self.gpu)?;
        let (n_turning, n_pair) = (angles.n_turning(), angles.n_pair());
        let rotation = Rotation { table: b.angles.clone(), n_tokens: pairs.n(), n_turning, n_pair };
        let ends =
            |windows: &WindowEnds<Host>| WindowEnds { ends: b.ends.clone(), n: windows.n, longest: windows.longest };
        let pairs = Pairs {
            grid: pairs.grid,
            places: b.places.clone(),
            order: pairs.order.as_ref().map(|_| b.order.clone()),
            windows: pairs.windows.as_ref().map(ends),
        };
        let n = pixels.len() / hp.n_patch_values();
        let pass = Pass { device: &b.device, hp, n, pairs: &pairs, n_part: n, angles: &rotation, exact: true };
        pass.encode(&self.tower, &b.input, &mut b.rows, &mut b.fresh, trace, &mut |_, _| Ok(()))?;
        b.done.record(&self.gpu)
    }
}
