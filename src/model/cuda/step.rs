//! What a batch does on GPUs: its inputs go there in one piece, the kernels of all layers are launched, and what was asked
//! for comes back: hidden states, logits, or only the largest of them. Where contexts read a token each, launches are the same from
//! step to step, what changes is in the inputs, whose contexts these are, too; so they are recorded as a graph, which is then
//! replayed.

use super::layers::{DeviceLayers, DeviceScratch, Run};
use super::rows::GpuRows;
use super::{Cuda, broken};
use crate::Result;
use crate::cache::CacheType;
use crate::kernels::MAX_DOT_TOKENS;
use crate::kernels::cuda::{Gpu, Graph, HostMem, Mem, MemId, PairMem, QuantizedMem, Rotation, SeqTable, TopMem};
use crate::model::decoder::{Head, Pass, Rows};
use crate::model::device::{Device, DeviceBatch, DeviceOutput, MAX_TOP, Product, Sequence};
use crate::model::{ExpertShape, HParams, Trace};

/// Rows whose logits are computed at once.
const HEAD_ROWS: usize = 8;

/// Words before the table of sequences in `RunScratch::inputs`: the token, and three that keep what follows on 16 bytes.
const INPUT_HEAD: usize = 4;
/// Words of `RunScratch::results`: flags and padding, then the tokens of the largest logits, then these.
const RESULT_HEAD: usize = 4;
const RESULTS: usize = RESULT_HEAD + 2 * MAX_TOP;
/// Bits of the flags: keys or values that are not finite, logits that are not.
const BROKEN_CACHE: i32 = 1;
const BROKEN_LOGITS: i32 = 2;

/// Working memory on one GPU, for batches of up to `n_batch` tokens.
pub(super) struct RunScratch {
    device: Cuda,
    rows: Rows<Cuda>,
    /// (n_taps, n_tokens, n_embd), where layers are here behind which rows of taps are added.
    deep: Mem,
    /// ([`HEAD_ROWS`], n_vocab), where the head is.
    logits: Mem,
    /// What changes from step to step: [`INPUT_HEAD`] words, the table of sequences, (n_tokens, 2, pairs) cosines and sines.
    inputs: Mem,
    /// What comes back, [`RESULTS`] words.
    results: Mem,
    top: Option<TopMem>,
    /// The same on the host: results, then inputs, then hidden states or logits.
    host: HostMem,
    recorded: Recorded,
}

/// What the launches of a step depend on in which contexts read a token each, besides the inputs.
#[derive(Clone, Copy, PartialEq)]
struct Shape {
    /// Where the weights of the first layer are; the others follow.
    weights: MemId,
    /// How many contexts there are, and the types of all of their caches.
    n: usize,
    types: [CacheType; 2],
    /// The most ranges of keys in attention.
    n_splits: usize,
    takes_token: bool,
    n_turning: usize,
    n_logits: usize,
    n_top: usize,
}

/// The launches of such a step, once they came twice in the same shape: the first time kernels may still be loaded, which cannot be
/// recorded.
#[derive(Default)]
struct Recorded {
    shape: Option<Shape>,
    graph: Option<Graph>,
}

/// Bytes of each buffer of [`RunScratch`], in the order in which it makes them.
fn scratch_sizes(hp: &HParams, n_batch: usize, run: &Run) -> [usize; 14] {
    let floats = |n: usize| n * size_of::<f32>();
    let [x, xb, q, attn, k, v, hidden, gated] = Rows::<Cuda>::sizes(hp, n_batch).map(floats);
    let parts = floats(Gpu::attention_parts(n_batch, hp.n_head, hp.n_embd_head));
    let logits = if run.head.is_some() { floats(HEAD_ROWS * hp.n_vocab) } else { 0 };
    let inputs = floats(INPUT_HEAD + SeqTable::n_words(n_batch, n_batch) + n_batch * hp.n_embd_head);
    let deep = run.n_taps(hp) * x;
    [x, xb, q, attn, k, v, hidden, gated, hidden, deep, parts, logits, inputs, RESULTS * size_of::<u32>()]
}

/// Words of hidden states or logits that are on their way at once.
fn host_rows(hp: &HParams, n_batch: usize, has_head: bool) -> usize {
    (n_batch * hp.n_embd).max(if has_head { HEAD_ROWS * hp.n_vocab } else { 0 })
}

fn widest(hp: &HParams) -> usize {
    let value = hp.recurrent.map_or(0, |shape| shape.value_dim());
    let pairs = hp.experts.map_or(0, |shape| shape.n_used * shape.n_ff);
    hp.n_embd.max(hp.n_head * hp.n_embd_head).max(hp.n_ff).max(value).max(pairs)
}

/// What [`PairMem`] is made for, where layers have experts.
fn expert_sizes(hp: &HParams) -> Option<((usize, usize), (usize, usize))> {
    hp.experts.map(|ExpertShape { n, n_used, n_ff }| ((n, n_used), (hp.n_embd, n_ff)))
}

impl RunScratch {
    /// For the GPU whose rows of the cache are number `place`.
    ///
    /// # Errors
    /// Memory that the GPU does not have.
    pub(super) fn new(run: &Run, place: usize, hp: &HParams, n_batch: usize) -> Result<RunScratch> {
        let (gpu, has_head) = (&run.gpu, run.head.is_some());
        let what = format!("batches of {n_batch} tokens");
        let [x, xb, q, attn, k, v, hidden, gated, up, deep, parts, logits, inputs, results] =
            gpu.alloc_parts(scratch_sizes(hp, n_batch, run), &what)?;
        let quantized = QuantizedMem::new(gpu, n_batch * widest(hp))?;
        let (ids, values) = (results.floats(RESULT_HEAD, MAX_TOP), results.floats(RESULT_HEAD + MAX_TOP, MAX_TOP));
        let top = has_head.then(|| TopMem::new(gpu, (1, hp.n_vocab), MAX_TOP, values, ids)).transpose()?;
        let n_inputs = inputs.len() / size_of::<u32>();
        let host = HostMem::new(gpu, RESULTS + n_inputs + host_rows(hp, n_batch, has_head))?;
        let heads = (hp.n_head, hp.n_head_kv, hp.n_embd_head);
        let table = SeqTable::new(inputs.floats(INPUT_HEAD, SeqTable::n_words(n_batch, n_batch)), heads);
        let (flags, up, table) = (results.floats(0, 1), Some(up), Some(table));
        let pairs =
            expert_sizes(hp).map(|(experts, widths)| PairMem::new(gpu, n_batch, experts, widths)).transpose()?;
        let device = Cuda { gpu: gpu.clone(), quantized, parts, up, pairs, flags, table, place };
        let rows = Rows::of([x, xb, q, attn, k, v, hidden, gated]);
        Ok(RunScratch { device, rows, deep, logits, inputs, results, top, host, recorded: Recorded::default() })
    }

    /// Bytes of it on the GPU.
    pub(super) fn n_bytes(hp: &HParams, n_batch: usize, run: &Run) -> usize {
        let top = if run.head.is_some() { TopMem::n_bytes(1, hp.n_vocab, MAX_TOP) } else { 0 };
        let sizes = scratch_sizes(hp, n_batch, run);
        let pairs = expert_sizes(hp).map_or(0, |(experts, widths)| PairMem::n_bytes(n_batch, experts, widths));
        sizes.iter().sum::<usize>() + pairs + QuantizedMem::n_bytes(n_batch * widest(hp)) + top
    }

    /// One i32: the token.
    fn token(&self) -> Mem {
        self.inputs.floats(0, 1)
    }

    /// Where inputs and rows begin in `host`; results are the first.
    fn host_inputs(&self) -> usize {
        RESULTS
    }

    fn host_rows(&self) -> usize {
        RESULTS + self.inputs.len() / size_of::<u32>()
    }

    fn table(&self) -> &SeqTable {
        self.device.table.as_ref().expect("a language model has one")
    }

    /// Sends what changes from step to step, and the hidden states `x` where the batch begins with these.
    fn send(&mut self, batch: &DeviceBatch<'_>, sequences: &[Sequence<'_>], x: Option<&[f32]>) -> Result<()> {
        let place = self.device.place;
        let table = self.device.table.as_mut().expect("a language model has one");
        table.begin(if batch.last.is_empty() { 0 } else { batch.last.start });
        for Sequence { rows, cache, .. } in sequences {
            table.push(GpuRows::of(cache, place).of_rows(rows.clone(), cache.len(), cache.shape()));
        }
        let (angles, at, rows) = (batch.angles.rows(), self.host_inputs(), self.host_rows());
        let (table, host) = (self.device.table.as_ref().expect("as before"), self.host.words_mut()?);
        let n = INPUT_HEAD + table.len() + angles.len();
        host[at] = batch.token.unwrap_or(0);
        table.write(&mut host[at + INPUT_HEAD..])?;
        host[at + n - angles.len()..at + n].copy_from_slice(bytemuck::cast_slice(angles));
        if let Some(x) = x {
            host[rows..][..x.len()].copy_from_slice(bytemuck::cast_slice(x));
            self.host.send((rows, x.len()), &self.rows.x)?;
        }
        self.host.send((at, n), &self.inputs)
    }

    /// Waits for the batch: its flags, and the `n_top` largest logits behind them.
    fn receive(&mut self, n_top: usize) -> Result<i32> {
        let used = if n_top > 0 { RESULTS } else { 1 };
        self.host.receive(&self.results, (0, used))?;
        let flags = self.host.words_mut()?[0] as i32;
        if flags != 0 {
            self.device.flags.write(&[0i32])?;
        }
        Ok(flags)
    }

    /// The largest logits that the last [`RunScratch::receive`] brought.
    fn largest(&mut self, n_top: usize) -> Result<impl Iterator<Item = (u32, f32)>> {
        let (ids, values) = self.host.words_mut()?[RESULT_HEAD..RESULTS].split_at(MAX_TOP);
        let pairs = ids.iter().zip(values).take(n_top).map(|(id, value)| (*id, f32::from_bits(*value)));
        // Places without a number are called -1.
        Ok(pairs.take_while(|(id, _)| *id as i32 >= 0))
    }

    /// Brings the first `out.len()` floats of the hidden states or, with `logits`, of the logits.
    fn fetch(&mut self, logits: bool, out: &mut [f32]) -> Result<()> {
        let (from, at) = (if logits { &self.logits } else { &self.rows.x }, self.host_rows());
        self.host.receive(from, (at, out.len()))?;
        out.copy_from_slice(bytemuck::cast_slice(&self.host.words_mut()?[at..][..out.len()]));
        Ok(())
    }
}

impl DeviceLayers {
    /// Runs a batch through all layers here; fresh keys and values go behind the filled slots of their sequence's cache. With the
    /// head here, logits or the largest of them come back; otherwise `x` is what the layers make of it. Logits that are not finite
    /// come back whole.
    ///
    /// # Errors
    /// Keys or values that are not finite; what a GPU says.
    ///
    /// # Panics
    /// When the largest logits are wanted of several rows, or more than [`MAX_TOP`].
    pub(crate) fn forward(
        &self,
        batch: &DeviceBatch<'_>,
        sequences: &mut [Sequence<'_>],
        scratch: &mut DeviceScratch,
        mut out: DeviceOutput<'_>,
    ) -> Result<()> {
        assert!(batch.n_top == 0 || (batch.n_logits == 1 && batch.n_top <= MAX_TOP), "{} largest", batch.n_top);
        out.logits.clear();
        out.top.clear();
        sequences.iter_mut().for_each(|sequence| sequence.cache.touch_states());
        for (i, (run, s)) in self.runs.iter().zip(&mut scratch.0).enumerate() {
            let takes_token = i == 0 && batch.token.is_some();
            s.send(batch, sequences, (!takes_token).then_some(&*out.x))?;
            if run.n_taps(batch.hp) > 0 {
                s.deep.write(batch.deep)?;
            }
            run.work(batch, s, sequences, takes_token, out.trace.as_deref_mut())?;
            let n_top = if run.head.is_some() { batch.n_top } else { 0 };
            let flags = s.receive(n_top)?;
            if flags & BROKEN_CACHE != 0 {
                let layers = &run.layers;
                return Err(broken("").at(format!("layers {} to {}", layers.start, layers.end - 1)));
            }
            match &run.head {
                None => s.fetch(false, out.x)?,
                Some(_) if n_top > 0 && flags & BROKEN_LOGITS == 0 => out.top.extend(s.largest(n_top)?),
                Some(head) => run.logits(head, batch, s, out.logits)?,
            }
        }
        Ok(())
    }

    /// The whole row of logits of which the last batch brought only the largest.
    ///
    /// # Errors
    /// What a GPU says.
    pub(crate) fn last_logits(&self, hp: &HParams, scratch: &mut DeviceScratch, logits: &mut Vec<f32>) -> Result<()> {
        let Some(s) = scratch.0.last_mut() else { return Ok(()) };
        logits.resize(hp.n_vocab, 0.0);
        s.fetch(true, logits)
    }
}

impl Run {
    /// Taps whose rows are needed here.
    fn n_taps(&self, hp: &HParams) -> usize {
        if self.layers.start < hp.n_deepstack { hp.n_deepstack } else { 0 }
    }

    /// Asks the GPU for all that a batch takes. Where contexts read a token each, launches are recorded and replayed.
    fn work(
        &self,
        batch: &DeviceBatch<'_>,
        s: &mut RunScratch,
        sequences: &mut [Sequence<'_>],
        takes_token: bool,
        trace: Option<&mut Trace>,
    ) -> Result<()> {
        // Taken out, so that the launches can borrow the rest.
        let mut recorded = std::mem::take(&mut s.recorded);
        // What brings queries over cannot be recorded.
        let is_read = trace.is_some() || sequences.iter().any(|sequence| sequence.cache.looks().is_some());
        let is_step = batch.n == sequences.len() && batch.deep.is_empty() && !is_read;
        let mut work = Work { run: self, batch, s, sequences, takes_token };
        let done = if is_step { work.step(&mut recorded) } else { work.launch(trace) };
        s.recorded = recorded;
        done
    }

    /// Brings the logits of the batch over; those of the first [`HEAD_ROWS`] rows are there already.
    fn logits(
        &self,
        head: &Head<Cuda>,
        batch: &DeviceBatch<'_>,
        s: &mut RunScratch,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        let n_vocab = batch.hp.n_vocab;
        logits.resize(batch.n_logits * n_vocab, 0.0);
        for (i, out) in logits.chunks_mut(HEAD_ROWS * n_vocab).enumerate() {
            if i > 0 {
                head_rows(head, batch, s, i)?;
            }
            s.fetch(true, out)?;
        }
        Ok(())
    }
}

/// The `i`th [`HEAD_ROWS`] rows of logits of a batch that went through the output norm.
fn head_rows(head: &Head<Cuda>, batch: &DeviceBatch<'_>, s: &mut RunScratch, i: usize) -> Result<()> {
    let n_rows = HEAD_ROWS.min(batch.n_logits - i * HEAD_ROWS);
    let product = Product::raw(&head.output, &mut s.logits);
    s.device.products(n_rows, (&s.rows.xb, i * HEAD_ROWS), [product])
}

/// What one GPU has to do for a batch.
struct Work<'a, 'c> {
    run: &'a Run,
    batch: &'a DeviceBatch<'a>,
    s: &'a mut RunScratch,
    sequences: &'a mut [Sequence<'c>],
    /// Whether the batch is a token that waits in the inputs.
    takes_token: bool,
}

impl Work<'_, '_> {
    /// What the launches of a step depend on in which contexts read a token each; `None` without layers, and where launches depend on
    /// more: caches of several types, tokens of which some want logits, or more tokens than are multiplied together.
    fn shape(&self) -> Option<Shape> {
        let (DeviceBatch { n, angles, n_logits, n_top, .. }, table) = (self.batch, self.s.table());
        if *n > MAX_DOT_TOKENS || ![0, *n].contains(n_logits) {
            return None;
        }
        Some(Shape {
            weights: self.run.weights.first()?.attn_norm.weight.id(),
            n: *n,
            types: table.types()?,
            n_splits: table.n_splits(),
            takes_token: self.takes_token,
            n_turning: angles.n_turning(),
            n_logits: *n_logits,
            n_top: *n_top,
        })
    }

    /// The launches of such a step: replayed where they were recorded in this shape, recorded where they come for the
    /// second time.
    fn step(&mut self, recorded: &mut Recorded) -> Result<()> {
        let shape = self.shape();
        let gpu = &self.run.gpu;
        if shape.is_none() || recorded.shape != shape {
            *recorded = Recorded { shape, graph: None };
            return self.launch(None);
        }
        if recorded.graph.is_none() {
            recorded.graph = gpu.capture(|| self.launch(None))?;
        }
        let Some(graph) = &recorded.graph else { return self.launch(None) };
        if gpu.replay(graph)? {
            return Ok(());
        }
        recorded.graph = None;
        self.launch(None)
    }

    /// Launches every kernel, from the inputs to the results. Where nobody looks on, nothing here waits or copies.
    fn launch(&mut self, mut trace: Option<&mut Trace>) -> Result<()> {
        let Work { run, batch, s, sequences, takes_token } = self;
        let DeviceBatch { hp, n, n_logits, n_top, angles, .. } = **batch;
        let gpu = &run.gpu;
        if let (true, Some(embd)) = (*takes_token, &run.embd) {
            gpu.embed(embd, Some(&s.token()), n, &s.rows.x)?;
        }
        let table = s.inputs.floats(INPUT_HEAD + s.table().len(), angles.rows().len());
        let angles = Rotation { table, n_tokens: n, n_turning: angles.n_turning(), n_pair: angles.n_pair() };
        let n_taps = batch.deep.len() / (n * hp.n_embd);
        let deep = (&s.deep, n_taps.min(run.n_taps(hp)));
        let pass = Pass { device: &s.device, hp, n, last: batch.last.clone(), angles: &angles, deep };
        pass.layers(&run.weights, run.layers.start, &mut s.rows, sequences, trace.as_deref_mut())?;
        let Some(head) = &run.head else { return Ok(()) };
        if n_logits == 0 && trace.is_none() {
            return Ok(());
        }
        pass.output_norm(&head.norm, sequences, &mut s.rows, trace)?;
        if n_logits > 0 {
            head_rows(head, batch, s, 0)?;
        }
        match &s.top {
            Some(top) if n_top > 0 => gpu.top_k(&s.logits, (1, hp.n_vocab), n_top, top, &s.device.flags),
            _ => Ok(()),
        }
    }
}
