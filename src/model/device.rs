//! What a network asks of the place where it is computed: some ten operations over rows of floats. The language model
//! (`decoder.rs`) and the vision tower (`vit.rs`) are written once over these; `host.rs` and `cuda/` carry them out.

use std::ops::Range;

use super::weights::Mat;
use crate::Result;
use crate::cache::KvCache;

/// A place where layers are computed. Rows are numbered within the batch; an operation touches those that it is told and no
/// others, so that behind the last keys and values only rows with a use are computed.
pub(super) trait Device: Sized {
    /// A packed matrix, (rows, columns) = (outputs, inputs).
    type Mat;
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

    /// out = `norm`(x), row by row.
    ///
    /// # Errors
    /// What the device says; so of all below.
    fn norm(&self, norm: &Norm<Self>, eps: f32, rows: Range<usize>, x: &Self::Rows, out: &mut Self::Rows)
    -> Result<()>;

    /// `x = w · input` for the first `n` rows of what came from outside.
    fn product_of(&self, n: usize, input: &Self::Input, w: &Self::Mat, x: &mut Self::Rows) -> Result<()>;

    /// Products of one input, which is brought into the form that they want once.
    fn products<const N: usize>(
        &self,
        rows: Range<usize>,
        x: &Self::Rows,
        products: [Product<'_, Self>; N],
    ) -> Result<()>;

    /// out = w · x for these rows, which are the first ones of `out`.
    fn logits(&self, rows: Range<usize>, x: &Self::Rows, w: &Self::Mat, out: &mut Self::Rows) -> Result<()>;

    /// out = silu(gate · x) * (up · x)
    fn gated(
        &self,
        rows: Range<usize>,
        x: &Self::Rows,
        gated: (&Linear<Self>, &Linear<Self>),
        out: &mut Self::Rows,
    ) -> Result<()>;

    /// What is done to every head of `x` before it meets keys; `heads`: (n_head, elements per head).
    fn finish(
        &self,
        rows: Range<usize>,
        heads: (usize, usize),
        finish: Finish<'_, Self>,
        x: &mut Self::Rows,
    ) -> Result<()>;

    /// Puts the keys and values of the first `n` rows behind the filled slots of layer `il`: finished, encoded and stored in
    /// one pass.
    fn store(
        &self,
        n: usize,
        heads: (usize, usize),
        k: (&Self::Rows, Finish<'_, Self>),
        v: (&Self::Rows, Finish<'_, Self>),
        to: (&mut KvCache, usize),
    ) -> Result<()>;

    /// out = softmax(q·kᵀ / sqrt(d)) · v over layer `il` of the cache: row `i` sees the filled slots and those of rows up to
    /// its own.
    fn attend(
        &self,
        rows: Range<usize>,
        heads: Heads,
        q: &Self::Rows,
        of: (&KvCache, usize),
        out: &mut Self::Rows,
    ) -> Result<()>;

    /// The same among sequences, `seqs` of them with so many rows each, which do not see each other, every row all of its own:
    /// with queries, keys and values that are finished on the way. `d` floats a head; the angles are those of one sequence.
    fn attend_within(
        &self,
        seqs: (usize, usize),
        heads: Heads,
        qkv: [(&mut Self::Rows, Finish<'_, Self>); 3],
        fresh: &mut Self::Fresh,
        out: &mut Self::Rows,
    ) -> Result<()>;

    /// `n` floats from number `start` on, for people to look at.
    fn read(&self, x: &Self::Rows, start: usize, n: usize) -> Result<Vec<f32>>;
}

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

/// A matrix with its bias.
pub(super) struct Linear<D: Device> {
    pub weight: D::Mat,
    pub bias: Option<D::Vec>,
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
    pub out: &'a mut D::Rows,
}

impl<'a, D: Device> Product<'a, D> {
    /// The product of a matrix with its bias.
    pub fn of(linear: &'a Linear<D>, then: Then, out: &'a mut D::Rows) -> Product<'a, D> {
        Product { w: &linear.weight, bias: linear.bias.as_ref(), then, out }
    }

    /// That of the matrix alone: its bias is added where the head is finished.
    pub fn without_bias(linear: &'a Linear<D>, out: &'a mut D::Rows) -> Product<'a, D> {
        Product { w: &linear.weight, bias: None, then: Then::Store, out }
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
    pub fn of(linear: &'a Linear<D>, angles: Option<&'a D::Angles>) -> Finish<'a, D> {
        Finish { bias: linear.bias.as_ref(), angles }
    }
}
