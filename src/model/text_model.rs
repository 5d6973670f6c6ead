//! The language model: what is loaded, and a batch's way through its layers, the first on the host, the last perhaps on
//! devices. What happens in a layer is in `decoder.rs`.

use std::sync::Arc;

use super::cuda::{DeviceLayers, DeviceScratch};
use super::decoder::{Head, Layer, Pass, Rows};
use super::device::{Device, DeviceBatch, DeviceOutput, Linear, MAX_TOP, Product, Sequence};
use super::host::Host;
use super::weights::{Loader, Mat};
use super::{DeviceBytes, HParams, Trace};
use crate::cache::{CacheShape, KvCache};
use crate::gguf::Gguf;
use crate::kernels;
use crate::position::{Pos, Rotary, RotaryTable};
use crate::{Error, Result, error::Context};

/// A loaded language model.
pub struct TextModel {
    hp: HParams,
    rotary: Rotary,
    host: Host,
    /// (n_vocab, n_embd)
    pub(super) token_embd: Mat,
    pub(super) layers: Vec<Layer<Host>>,
    /// Its matrix is the embedding itself when tied.
    pub(super) head: Head<Host>,
    /// The last layers, where they are on devices.
    pub(super) devices: Option<DeviceLayers>,
}

/// The tokens of one step: embeddings (words looked up, vision from the tower) and where each stands.
pub struct Batch<'a> {
    /// (n_tokens, n_embd)
    pub embd: &'a [f32],
    /// What is added to the hidden states behind the first decoder layers (DeepStack): (n_taps, n_tokens, n_embd), zeros for
    /// words; or empty, where nothing is.
    pub deep: &'a [f32],
    /// (n_tokens)
    pub pos: &'a [Pos],
    /// How many of the last tokens want logits.
    pub n_logits: usize,
}

/// What there is to choose the next token from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Choice<'s> {
    /// Every logit, (n_vocab).
    Logits(&'s [f32]),
    /// Tokens with the largest logits, largest first, of equal ones the lower token first.
    Top(&'s [(u32, f32)]),
}

/// Where a batch begins.
#[derive(Clone, Copy)]
enum Begin<'a> {
    /// (n_tokens, n_embd), and what is added behind the first layers.
    Embd(&'a [f32], &'a [f32]),
    Token(u32),
}

/// Working memory of `forward`, allocated once for the largest batch.
pub struct Scratch {
    n_batch: usize,
    rotary: RotaryTable,
    rows: Rows<Host>,
    /// (n_logits, n_vocab)
    logits: Vec<f32>,
    /// The largest logits, where only they came from a device.
    top: Vec<(u32, f32)>,
    /// On devices, once [`TextModel::prepare`] reserved it.
    devices: Option<DeviceScratch>,
}

impl Scratch {
    /// Memory for batches of up to `n_batch` tokens.
    pub fn new(hp: &HParams, n_batch: usize) -> Scratch {
        Scratch {
            n_batch,
            rotary: RotaryTable::default(),
            rows: Rows::of(Rows::<Host>::sizes(hp, n_batch).map(|n| vec![0.0; n])),
            logits: Vec::new(),
            top: Vec::new(),
            devices: None,
        }
    }

    /// Bytes that batches of up to `n_batch` tokens take, with what their quantized forms take besides.
    pub fn n_bytes(hp: &HParams, n_batch: usize) -> usize {
        let q = (hp.n_head * hp.n_embd_head).max(hp.recurrent.map_or(0, |shape| shape.value_dim()));
        let rows: usize = Rows::<Host>::sizes(hp, n_batch).iter().sum();
        let floats = rows + n_batch * hp.n_ff + hp.n_vocab;
        let experts = hp.experts.map_or(0, |shape| {
            let sizes = (hp.n_embd, shape.n_ff);
            kernels::expert_bytes(n_batch, shape.n_used, sizes) + n_batch * shape.n_ff * 2
        });
        floats * size_of::<f32>() + n_batch * (hp.n_embd + q + hp.n_ff) * 2 + experts
    }

    /// The largest batch.
    pub fn n_batch(&self) -> usize {
        self.n_batch
    }
}

impl TextModel {
    /// Checks every tensor of `file` against its hyper-parameters. Also returns the names of tensors that have no use here.
    ///
    /// # Errors
    /// What [`HParams::from_gguf`] refuses; all missing, misshaped and mistyped tensors in one error.
    pub fn load(file: &Arc<Gguf>) -> Result<(TextModel, Vec<String>)> {
        TextModel::with(HParams::from_gguf(file).at(|| file.path().display().to_string())?, file)
    }

    /// The same with sizes and rules of one's own.
    ///
    /// # Errors
    /// As [`TextModel::load`].
    pub fn with(hp: HParams, file: &Arc<Gguf>) -> Result<(TextModel, Vec<String>)> {
        let place = || file.path().display().to_string();
        let rotary = Rotary::new(hp.layout, hp.n_rot, hp.rope_freq_base, hp.rope_sections)
            .and_then(|rotary| rotary.stretched(&hp.rope_stretch))
            .at(place)?;
        let mut load = Loader::new(file);
        let n_embd = hp.n_embd;
        let token_embd = load.mat("token_embd.weight", n_embd, hp.n_vocab);
        let norm = load.rms_norm("output_norm", n_embd);
        let output =
            if load.has("output.weight") { load.mat("output.weight", n_embd, hp.n_vocab) } else { token_embd.clone() };
        let layers: Vec<Option<Layer<Host>>> = (0..hp.n_layer).map(|il| Layer::load(&mut load, &hp, il)).collect();
        let unused = load.finish()?;
        let layers = layers.into_iter().collect::<Option<Vec<_>>>();
        let (Some(token_embd), Some(output), Some(layers)) = (token_embd, output, layers) else {
            unreachable!("finish reports missing matrices")
        };
        let head = Head { norm, output: Linear { weight: output, bias: None } };
        let host = Host(kernels::select()?);
        Ok((TextModel { hp, rotary, host, token_embd, layers, head, devices: None }, unused))
    }

    /// Bytes that layers on devices take there for a cache of `shape` and steps of `n_batch` tokens.
    ///
    /// # Errors
    /// A cache that cannot be; a device that no longer answers.
    pub fn device_bytes(&self, shape: &CacheShape, n_batch: usize) -> Result<Option<DeviceBytes>> {
        self.devices.as_ref().map(|devices| devices.bytes(&self.hp, shape, n_batch)).transpose()
    }

    /// Reserves what a step with this cache and this working memory needs on devices, so that no step has to.
    ///
    /// # Errors
    /// Memory that a device does not have, with the numbers.
    pub fn prepare(&self, cache: &mut KvCache, s: &mut Scratch) -> Result<()> {
        let Some(devices) = &self.devices else { return Ok(()) };
        devices.place(cache)?;
        if s.devices.is_none() {
            s.devices = Some(devices.scratch(&self.hp, s.n_batch)?);
            s.top.reserve(MAX_TOP);
        }
        Ok(())
    }

    /// What a device should tell although its steps go on, once: a driver that records no launches.
    pub fn warning(&self) -> Option<String> {
        self.devices.as_ref().and_then(DeviceLayers::warning)
    }

    /// Layers that the CPU computes, the first ones; all others are on devices.
    pub fn n_host_layers(&self) -> usize {
        self.devices.as_ref().map_or(self.hp.n_layer, DeviceLayers::first)
    }

    /// Sizes and rules.
    pub fn hparams(&self) -> &HParams {
        &self.hp
    }

    /// Looks up the embedding rows of `tokens` into `out` (n_tokens, n_embd).
    ///
    /// # Errors
    /// A token outside the vocabulary.
    pub fn embed(&self, tokens: &[u32], out: &mut [f32]) -> Result<()> {
        let table = self.token_embd.view();
        for (id, row) in tokens.iter().zip(out.chunks_exact_mut(self.hp.n_embd)) {
            self.check_token(*id)?;
            table.row_f32(*id as usize, row)?;
        }
        Ok(())
    }

    fn check_token(&self, id: u32) -> Result<()> {
        let n_vocab = self.hp.n_vocab;
        if id as usize >= n_vocab {
            return Err(Error::bad_input(format!("token `{id}` is outside the vocabulary of {n_vocab}")));
        }
        Ok(())
    }

    /// Runs a batch through every layer, fills the cache, and returns the logits of its last `n_logits` tokens,
    /// (n_logits, n_vocab). On an error the cache keeps its length.
    ///
    /// # Errors
    /// A batch that does not fit the scratch or the cache; activations that are not finite; what a device says.
    ///
    /// # Panics
    /// When the arrays of the batch disagree, or rows of other taps are given than the model has.
    pub fn forward<'s>(
        &self,
        batch: &Batch<'_>,
        cache: &mut KvCache,
        s: &'s mut Scratch,
        trace: Option<&mut Trace>,
    ) -> Result<&'s [f32]> {
        let (n, n_logits) = (batch.pos.len(), batch.n_logits);
        let mut one = [Sequence { rows: 0..n, n_logits, cache }];
        self.run(self.begin(batch, &one), batch.pos, 0, &mut one, s, trace)?;
        Ok(if n == 0 { &[] } else { &s.logits })
    }

    /// [`TextModel::forward`] for several sequences, whose rows stand behind each other in `batch`: weights are read once for all
    /// of them. Returns the logits that they want, in their order. On an error no cache is longer than before.
    ///
    /// # Errors
    /// As `forward`.
    ///
    /// # Panics
    /// When the rows of the sequences are not those of the batch, in order.
    pub fn forward_together<'s>(
        &self,
        batch: &Batch<'_>,
        sequences: &mut [Sequence<'_>],
        s: &'s mut Scratch,
    ) -> Result<&'s [f32]> {
        self.run(self.begin(batch, sequences), batch.pos, 0, sequences, s, None)?;
        Ok(if batch.pos.is_empty() { &[] } else { &s.logits })
    }

    /// # Panics
    /// When arrays disagree with each other or with the sequences.
    fn begin<'a>(&self, batch: &Batch<'a>, sequences: &[Sequence<'_>]) -> Begin<'a> {
        let n_embd = self.hp.n_embd;
        let end = sequences.iter().fold(0, |end, Sequence { rows, n_logits, .. }| {
            assert!(rows.start == end && *n_logits <= rows.len(), "a sequence of rows {rows:?} behind {end}");
            rows.end
        });
        let n = batch.pos.len();
        assert!(end == n && batch.embd.len() == n * n_embd, "batch arrays disagree");
        let n_deep = self.hp.n_deepstack * n * n_embd;
        assert!([0, n_deep].contains(&batch.deep.len()), "{} floats of taps for {n_deep}", batch.deep.len());
        Begin::Embd(batch.embd, batch.deep)
    }

    /// Runs one token through every layer: as [`TextModel::forward`] with its embedding. A caller to whom the `n_top` largest
    /// logits are enough gets only these where they are on a device and finite; with 0, always all of them.
    ///
    /// # Errors
    /// A token outside the vocabulary; what `forward` refuses.
    pub fn step<'s>(
        &self,
        id: u32,
        pos: Pos,
        n_top: usize,
        cache: &mut KvCache,
        s: &'s mut Scratch,
    ) -> Result<Choice<'s>> {
        self.check_token(id)?;
        let mut one = [Sequence { rows: 0..1, n_logits: 1, cache }];
        self.run(Begin::Token(id), &[pos], n_top, &mut one, s, None)?;
        Ok(if s.top.is_empty() { Choice::Logits(&s.logits) } else { Choice::Top(&s.top) })
    }

    /// The whole row of logits after the last [`TextModel::step`], also where only the largest came back from it.
    ///
    /// # Errors
    /// What a device says.
    pub fn logits<'s>(&self, s: &'s mut Scratch) -> Result<&'s [f32]> {
        if let (Some(devices), Some(memory), false) = (&self.devices, &mut s.devices, s.top.is_empty()) {
            devices.last_logits(&self.hp, memory, &mut s.logits)?;
            s.top.clear();
        }
        Ok(&s.logits)
    }

    /// Counts where the row that `cache` took in last looked, where somebody asks: see [`KvCache::look`].
    ///
    /// # Errors
    /// What a device says.
    pub fn look(&self, cache: &mut KvCache) -> Result<()> {
        cache.look(self.host.0)
    }

    /// Leaves logits, or the largest of them, in `s`.
    fn run(
        &self,
        begin: Begin<'_>,
        pos: &[Pos],
        n_top: usize,
        sequences: &mut [Sequence<'_>],
        s: &mut Scratch,
        mut trace: Option<&mut Trace>,
    ) -> Result<()> {
        let (n, n_embd) = (pos.len(), self.hp.n_embd);
        for Sequence { rows, cache, .. } in sequences.iter() {
            let room = s.n_batch.min(cache.free());
            if n > s.n_batch || rows.len() > room {
                return Err(Error::limit(format!("a batch of `{n}` tokens does not fit, there is room for {room}")));
            }
        }
        if n == 0 {
            return Ok(());
        }
        for Sequence { cache, .. } in sequences.iter_mut() {
            cache.check_states()?;
            self.prepare(cache, s)?;
        }
        self.rotary.fill(pos, &mut s.rotary);
        // A device that has the embedding looks a token up itself.
        let (mut token, mut deep) = (None, &[][..]);
        match begin {
            Begin::Embd(embd, rows) => {
                s.rows.x[..n * n_embd].copy_from_slice(embd);
                deep = rows;
            }
            Begin::Token(id) if self.devices.as_ref().is_some_and(DeviceLayers::has_embd) => token = Some(id),
            Begin::Token(id) => self.embed(&[id], &mut s.rows.x[..n_embd])?,
        }
        if let Some(trace) = trace.as_deref_mut() {
            trace.hidden_last.clear();
            trace.hidden_visual.clear();
            trace.hidden(&self.host, &s.rows.x, n, n_embd)?;
        }
        s.top.clear();
        // Behind the last layer's keys and values, only what logits are made of has a use, and what is traced.
        let traced = trace.as_deref().map_or(n, |trace| trace.visual.unwrap_or(n - 1));
        let n_logits: usize = sequences.iter().map(|sequence| sequence.n_logits).sum();
        let mut wanted = sequences.iter().filter(|sequence| sequence.n_logits > 0);
        let first = wanted.next().map_or(n, |sequence| sequence.rows.end - sequence.n_logits);
        let last = traced.min(first)..n;
        let Scratch { rows, rotary: angles, logits, top, devices: memory, .. } = s;
        let n_taps = deep.len() / (n * n_embd);
        let pass = Pass { device: &self.host, hp: &self.hp, n, last, angles, deep: (deep, n_taps) };
        pass.layers(&self.layers[..self.n_host_layers()], 0, rows, sequences, trace.as_deref_mut())?;
        let mut has_head = false;
        if let (Some(devices), Some(memory)) = (&self.devices, memory) {
            has_head = devices.has_head();
            // More than devices look for is all of them.
            let n_top = if has_head && n_top <= MAX_TOP { n_top } else { 0 };
            let batch = DeviceBatch { hp: &self.hp, n, last: pass.last.clone(), deep, token, n_logits, n_top, angles };
            let x = &mut rows.x[..n * n_embd];
            let out = DeviceOutput { x, logits, top, trace: trace.as_deref_mut() };
            devices.forward(&batch, sequences, memory, out)?;
        }
        for Sequence { rows, cache, .. } in sequences.iter_mut() {
            cache.advance(rows.len());
        }
        if !has_head {
            if n_logits > 0 || trace.is_some() {
                pass.output_norm(&self.head.norm, sequences, rows, trace)?;
            }
            logits.resize(n_logits * self.hp.n_vocab, 0.0);
            if n_logits > 0 {
                let product = Product::raw(&self.head.output, logits);
                self.host.products(n_logits, (&rows.xb, 0), [product])?;
            }
        }
        Ok(())
    }
}
