//! How the attention of a sequence's tokens is shared out over what its cache holds, where somebody asks for it.
//!
//! Layers leave the queries of the row that chooses the next token ([`KvCache::keep_queries`]); once it was chosen,
//! [`KvCache::look`] finds the shares of all layers in one go, over the rows as they are stored.

use super::KvCache;
use crate::Result;
use crate::kernels::{AttentionShape, Kernels, attention_shares};

/// Shares of runs of slots, added up over tokens. Layers are those with rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Looks {
    n_head: usize,
    /// The slot behind each run. What is behind the last one is a run of its own.
    ends: Vec<usize>,
    /// Of the row that was computed last, (layers, n_head * d).
    queries: Vec<f32>,
    /// (layers, n_head, runs + 1)
    sums: Vec<f64>,
    n_tokens: usize,
}

impl Looks {
    /// Nobody looked yet, with `n_head` heads at runs that end behind these slots.
    ///
    /// # Panics
    /// When the ends are not in order.
    pub fn new(n_head: usize, ends: Vec<usize>) -> Looks {
        assert!(ends.is_sorted(), "runs in order");
        Looks { n_head, ends, ..Looks::default() }
    }

    /// Tokens that were counted.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Heads of a layer.
    pub fn n_head(&self) -> usize {
        self.n_head
    }

    /// Runs, with the one behind the last.
    pub fn n_runs(&self) -> usize {
        self.ends.len() + 1
    }

    /// Queries of the row that was computed last, rotated: (layers, n_head * d).
    pub fn queries(&self) -> &[f32] {
        &self.queries
    }

    /// The shares of all runs and of what is behind them, in each layer and head a mean over tokens: (layers, n_head, runs + 1).
    /// Nothing where no token was counted.
    pub fn shares(&self) -> Vec<f64> {
        self.sums.iter().map(|sum| sum / self.n_tokens as f64).collect()
    }

    /// The mean over layers and heads.
    pub fn mean(&self) -> Vec<f64> {
        let n_runs = self.ends.len() + 1;
        let mut mean = vec![0.0; n_runs];
        let n = (self.sums.len() / n_runs * self.n_tokens) as f64;
        for row in self.sums.chunks_exact(n_runs) {
            mean.iter_mut().zip(row).for_each(|(mean, sum)| *mean += sum / n);
        }
        mean
    }
}

impl KvCache {
    /// From now on, or with `None` no longer, finds out where tokens look.
    pub fn set_looks(&mut self, looks: Option<Looks>) {
        self.looks = looks.map(Box::new);
    }

    /// Where tokens have looked, where that is found out.
    pub fn looks(&self) -> Option<&Looks> {
        self.looks.as_deref()
    }

    /// Keeps the queries (n_head * d), rotated, of the row that will choose the next token, in layer `il`.
    pub fn keep_queries(&mut self, il: usize, queries: &[f32]) {
        let il = self.shape.row_layer(il);
        if let Some(looks) = &mut self.looks {
            looks.queries.resize(self.shape.n_row_layers() * queries.len(), 0.0);
            looks.queries[il * queries.len()..][..queries.len()].copy_from_slice(queries);
        }
    }

    /// Counts where the row that was read last looked: it chose a token. Does nothing where nobody asks.
    ///
    /// # Errors
    /// What a device says that holds rows.
    ///
    /// # Panics
    /// When layers kept no queries of it, or it stands within the runs.
    pub fn look(&mut self, kernels: &Kernels) -> Result<()> {
        let Some(mut looks) = self.looks.take() else { return Ok(()) };
        let pulled = self.pull();
        if pulled.is_ok() {
            self.add(&mut looks, kernels);
        }
        self.looks = Some(looks);
        pulled
    }

    fn add(&self, looks: &mut Looks, kernels: &Kernels) {
        let Looks { n_head, ends, queries, sums, n_tokens } = looks;
        let (n_layers, n_runs) = (self.shape.n_row_layers(), ends.len() + 1);
        sums.resize(n_layers * *n_head * n_runs, 0.0);
        *n_tokens += 1;
        let width = *n_head * self.shape.d;
        assert_eq!(queries.len(), n_layers * width, "queries of every layer");
        let shape = AttentionShape {
            n_head: *n_head,
            n_head_kv: self.shape.n_head_kv,
            d: self.shape.d,
            n_past: self.len - 1,
            causal: true,
            exact: true,
        };
        ends.push(self.len);
        let mut shares = vec![0.0; *n_head * n_runs];
        let layers = queries.chunks_exact(width).zip(sums.chunks_exact_mut(shares.len()));
        for (il, (queries, sums)) in layers.enumerate() {
            attention_shares(kernels, shape, self.view_of(il), queries, ends, &mut shares);
            sums.iter_mut().zip(&shares).for_each(|(sum, share)| *sum += share);
        }
        ends.pop();
    }
}
