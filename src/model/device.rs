//! What a network asks of the place where it is computed: some ten operations over rows of floats. The language model
//! (`decoder.rs`) and the vision tower (`vit.rs`) are written once over these; `host.rs` and `cuda/` carry them out.

use std::ops::Range;

use super::ffn::Experts;
use super::mixer::DeltaNet;
use super::weights::Mat;
use super::{HParams, Trace};
use crate::Result;
use crate::cache::KvCache;
use crate::position::RotaryTable;

/// A place where layers are computed. An operation touches the rows that it is told and no others, so that behind the last keys
/// and values only rows with a use are computed, and a large picture goes through in parts.
pub(super) trait Device: Sized {
    /// A packed matrix, (rows, columns) = (outputs, inputs); copies are the same memory.
    type Mat: Clone;
    /// A vector of weights.
    type Vec;
    /// Working memory: floats, row after row.
    type Rows;
    /// What comes from outside, row after row.
    type Input: ?Sized;
    /// Cosines and sines, (n_tokens, 2, n_turning).
    type Angles;
    /// Room for the keys and values of [`Device::attend_within`].
    type Fresh;
    /// Numbers of rows, and places on a grid.
    type Ids;

    /// Where weights go.
    type Home;

    /// `mat` in the device's memory; `what` names it in errors.
    ///
    /// # Errors
    /// Memory that the device does not have, a type without kernels.
    fn mat(home: &Self::Home, mat: &Mat, what: &str) -> Result<Self::Mat>;

    /// `vec` in the device's memory.
    ///
    /// # Errors
    /// Memory that the device does not have.
    fn vec(home: &Self::Home, vec: &[f32], what: &str) -> Result<Self::Vec>;

    /// out = `norm`(x) for `n` rows.
    ///
    /// # Errors
    /// What the device says; so of all below.
    fn norm(
        &self,
        norm: &Norm<Self>,
        eps: f32,
        n: usize,
        x: From<'_, Self::Rows>,
        out: To<'_, Self::Rows>,
    ) -> Result<()>;

    /// x = w · input + bias for `n` rows of what came from outside.
    fn product_of(&self, n: usize, input: From<'_, Self::Input>, w: &Linear<Self>, x: To<'_, Self::Rows>)
    -> Result<()>;

    /// x += input for `n` rows of `width` floats that came from outside.
    fn add_input(&self, dim: (usize, usize), input: From<'_, Self::Input>, x: To<'_, Self::Rows>) -> Result<()>;

    /// Of the first `n` rows of `rows`, (n_head, 2, d), the first half of every head, to `out`, (n_head, d).
    fn take_queries(&self, n: usize, heads: (usize, usize), rows: &Self::Rows, out: &mut Self::Rows) -> Result<()>;

    /// x *= sigmoid(gate) for the first `n` rows of `x`, (n_head, d), with the second halves of the heads of `rows`.
    fn gate_heads(&self, n: usize, heads: (usize, usize), rows: &Self::Rows, x: &mut Self::Rows) -> Result<()>;

    /// Puts `rows` of a batch, the first of which is the first of `x`, where `pairs` wants them among the rows of their pair.
    fn arrange(
        &self,
        rows: Range<usize>,
        width: usize,
        x: &Self::Rows,
        pairs: &Pairs<Self>,
        out: &mut Self::Rows,
    ) -> Result<()>;

    /// Adds to the first `n` rows of `x` what a square table of learned positions has at their places, between its entries
    /// where the grid is finer or coarser (aligned corners). `table`: (side * side, width), and its side.
    fn add_positions(
        &self,
        n: usize,
        pairs: &Pairs<Self>,
        table: (&Self::Vec, usize),
        x: &mut Self::Rows,
    ) -> Result<()>;

    /// Products of one input of `n` rows, which is brought into the form that they want once.
    fn products<const N: usize>(
        &self,
        n: usize,
        x: From<'_, Self::Rows>,
        products: [Product<'_, Self>; N],
    ) -> Result<()>;

    /// out = silu(gate · x + bias) * (up · x + bias) for `n` rows, from the first one of `out` on.
    fn gated(
        &self,
        n: usize,
        x: From<'_, Self::Rows>,
        gated: (&Linear<Self>, &Linear<Self>),
        out: &mut Self::Rows,
    ) -> Result<()>;

    /// Adds to `n` rows of `out` what the experts that they choose by `scores`, (n, n_expert), make of those of `x`.
    fn experts(
        &self,
        n: usize,
        x: From<'_, Self::Rows>,
        scores: &Self::Rows,
        experts: &Experts<Self>,
        out: To<'_, Self::Rows>,
    ) -> Result<()>;

    /// x *= sigmoid(gate) for the first `n` rows of `x`, `width` floats each, with one `gate` for a row.
    fn gate_rows(&self, n: usize, width: usize, gate: &Self::Rows, x: &mut Self::Rows) -> Result<()>;

    /// What is done to every head of the first `n` rows of `x` before it meets keys; `heads`: (n_head, elements per head). Their
    /// angles are those from row `angle` on.
    fn finish(
        &self,
        n: usize,
        heads: (usize, usize),
        finish: Finish<'_, Self>,
        angle: usize,
        x: &mut Self::Rows,
    ) -> Result<()>;

    /// Puts the rows of keys and values of every sequence behind the filled slots of layer `il` of its cache: finished, encoded
    /// and stored in one pass.
    fn store(
        &self,
        heads: (usize, usize),
        k: (&Self::Rows, Finish<'_, Self>),
        v: (&Self::Rows, Finish<'_, Self>),
        to: (&mut [Sequence<'_>], usize),
    ) -> Result<()>;

    /// out = softmax(q·kᵀ / sqrt(d)) · v over layer `il`, for `rows` of the batch, the first of which is the first of `q` and
    /// `out`: each sees the filled slots of its sequence's cache and those of its sequence's rows up to its own.
    fn attend(
        &self,
        rows: Range<usize>,
        heads: Heads,
        q: &Self::Rows,
        of: (&[Sequence<'_>], usize),
        out: &mut Self::Rows,
    ) -> Result<()>;

    /// What a recurrent layer gives of the rows of projections of every sequence, which it takes into that sequence's state:
    /// out = norm(o) * silu(z), (n, value_dim). See [`delta`](crate::kernels::delta()).
    fn recur(
        &self,
        net: (&DeltaNet<Self>, f32),
        rows: Projected<'_, Self::Rows>,
        of: (&mut [Sequence<'_>], usize),
        out: &mut Self::Rows,
    ) -> Result<()>;

    /// Keeps keys and values of `rows` of a batch, the first of which is the first of `k` and `v`, until all rows of their
    /// sequence attend to them. Sequences have `n_per_seq` rows each; angles are those of one.
    fn store_within(
        &self,
        rows: Range<usize>,
        n_per_seq: usize,
        heads: (usize, usize),
        k: (&mut Self::Rows, Finish<'_, Self>),
        v: (&mut Self::Rows, Finish<'_, Self>),
        fresh: &mut Self::Fresh,
    ) -> Result<()>;

    /// [`Device::attend`] to all rows of the same sequence, or of the same of its windows, with queries that are finished on
    /// the way.
    fn attend_within(
        &self,
        rows: Range<usize>,
        n_per_seq: (usize, Option<&WindowEnds<Self>>),
        heads: Heads,
        q: (&mut Self::Rows, Finish<'_, Self>),
        fresh: &Self::Fresh,
        out: &mut Self::Rows,
    ) -> Result<()>;

    /// `n` floats from number `start` on, for people to look at.
    fn read(&self, x: &Self::Rows, start: usize, n: usize) -> Result<Vec<f32>>;
}

/// The most of the largest logits that a device is asked for; whoever wants more takes the whole row.
pub(super) const MAX_TOP: usize = 64;

/// Rows of a batch that belong to one context: a batch is one of these, or several, in order and without gaps. Sequences do not
/// see each other; all else of a layer is done to their rows together, so its weights are read once.
pub struct Sequence<'c> {
    /// Which rows of the batch.
    pub rows: Range<usize>,
    /// How many of its last rows want logits.
    pub n_logits: usize,
    /// What they attend to, and where their keys and values go.
    pub cache: &'c mut KvCache,
}

/// Memory, and the row to begin with.
pub(super) type From<'a, R> = (&'a R, usize);
/// The same, to be written.
pub(super) type To<'a, R> = (&'a mut R, usize);

/// Sizes of attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub n_head: usize,
    pub n_head_kv: usize,
    /// Elements per head.
    pub d: usize,
    /// See [`AttentionShape::exact`](crate::kernels::AttentionShape::exact).
    pub exact: bool,
}

/// How the patches of every frame pair of a batch lie.
pub(super) struct Pairs<D: Device> {
    /// Patches of a pair, in rows and columns.
    pub grid: (usize, usize),
    /// (h * w, 2): row and column of each, in the order in which the tower has them.
    pub places: D::Ids,
    /// (h * w): where those that come in the order of patch rows are in that order; `None` where it is the same.
    pub order: Option<D::Ids>,
    /// Those that see each other where not all do.
    pub windows: Option<WindowEnds<D>>,
}

impl<D: Device> Pairs<D> {
    /// Patches of a pair.
    pub(super) fn n(&self) -> usize {
        self.grid.0 * self.grid.1
    }
}

/// Windows, one after another.
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "the host goes by the ends alone, but for tests"))]
pub(super) struct WindowEnds<D: Device> {
    /// Where each ends; the last one where its pair does.
    pub ends: D::Ids,
    pub n: usize,
    /// Patches of the longest.
    pub longest: usize,
}

/// What goes into a recurrence: see [`DeltaRows`](crate::kernels::DeltaRows). All but `z` are changed on the way.
pub(super) struct Projected<'a, R> {
    pub qkv: &'a mut R,
    pub z: &'a R,
    pub beta: &'a mut R,
    pub alpha: &'a mut R,
}

/// A matrix with its bias.
pub(super) struct Linear<D: Device> {
    pub weight: D::Mat,
    pub bias: Option<D::Vec>,
}

/// Matrices of one shape in one place, those of the experts of a layer.
pub(super) struct Stack<D: Device> {
    /// All of their rows.
    pub mat: D::Mat,
    /// The first row of the first one, and rows from one to the next.
    pub first: usize,
    pub step: usize,
    /// Rows of each.
    pub n_rows: usize,
}

/// LayerNorm where there is a bias, RMSNorm where there is none.
pub(super) struct Norm<D: Device> {
    pub weight: D::Vec,
    pub bias: Option<D::Vec>,
}

/// out = then(w · input + bias)
pub(super) struct Product<'a, D: Device> {
    pub w: &'a D::Mat,
    pub bias: Option<&'a D::Vec>,
    pub then: Then,
    pub out: To<'a, D::Rows>,
}

impl<'a, D: Device> Product<'a, D> {
    /// The product of a matrix with its bias.
    pub(super) fn of(linear: &'a Linear<D>, then: Then, out: To<'a, D::Rows>) -> Product<'a, D> {
        Product { w: &linear.weight, bias: linear.bias.as_ref(), then, out }
    }

    /// That of the matrix alone, from the first row of `out` on: its bias is added where heads are finished.
    pub(super) fn raw(linear: &'a Linear<D>, out: &'a mut D::Rows) -> Product<'a, D> {
        Product { w: &linear.weight, bias: None, then: Then::Store, out: (out, 0) }
    }
}

/// What becomes of a product with its bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Store,
    /// Onto what is there.
    Add,
    /// x * sigmoid(1.702 x)
    QuickGelu,
    /// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x³)))
    GeluTanh,
    /// 0.5 x (1 + erf(x / sqrt(2)))
    GeluErf,
}

/// What is done to every head of fresh rows: the bias is added, then the head is rotated by its token's angles.
pub(super) struct Finish<'a, D: Device> {
    pub bias: Option<&'a D::Vec>,
    pub angles: Option<&'a D::Angles>,
}

impl<'a, D: Device> Finish<'a, D> {
    /// The bias of `linear`, and these angles.
    pub(super) fn of(linear: &'a Linear<D>, angles: Option<&'a D::Angles>) -> Finish<'a, D> {
        Finish { bias: linear.bias.as_ref(), angles }
    }
}

/// A batch that goes through layers on devices after those on the host.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the host is the only device"))]
pub(super) struct DeviceBatch<'a> {
    pub hp: &'a HParams,
    pub n: usize,
    /// Rows that have a use behind the last layer's keys and values.
    pub last: Range<usize>,
    /// What is added behind the first layers: (n_taps, n, n_embd), or empty.
    pub deep: &'a [f32],
    /// The one token of the batch, where the embedding is on a GPU; without it the batch is the hidden states given.
    pub token: Option<u32>,
    pub n_logits: usize,
    /// Not 0: of one row of logits only so many come back, the largest.
    pub n_top: usize,
    pub angles: &'a RotaryTable,
}

/// Where results go on the host.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the host is the only device"))]
pub(super) struct DeviceOutput<'a> {
    /// (n, n_embd): also the input, where there is no token.
    pub x: &'a mut [f32],
    /// (n_logits, n_vocab), or empty.
    pub logits: &'a mut Vec<f32>,
    /// The largest logits, or empty.
    pub top: &'a mut Vec<(u32, f32)>,
    pub trace: Option<&'a mut Trace>,
}
