//! How much of the cache the answers of a model could leave unread with proof: [`skip`](crate::cache::skip) over the queries and
//! keys of an answer. It is a measurement; nothing is left out.

use std::sync::Arc;

use super::{Engine, Events, Prompt, Session, SessionOptions};
use crate::cache::KvCache;
use crate::cache::skip::{Blocks, Bound, HeadPairs};
use crate::gguf::GgmlType;
use crate::position::{Driver, drivers};
use crate::{Error, Result};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SkipOptions {
    /// Keys of a block.
    pub block: usize,
    /// Share of a head's softmax that may be lost.
    pub limit: f64,
    /// Tokens of the answer.
    pub n_predict: usize,
}

/// What came out for one way to bound blocks, over all tokens, layers and heads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SkipRow {
    /// The way.
    pub bound: Bound,
    /// Share of the keys that a head has to read, in the mean.
    pub read: f64,
    /// Share that is read where heads share keys: what one of them needs is read.
    pub read_together: f64,
    /// The same in the layer that needs least.
    pub read_least: f64,
    /// The largest share of a softmax that was left out, and the largest that was proven.
    pub dropped: f64,
    /// See `dropped`.
    pub proven: f64,
}

/// What came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Skips {
    /// Keys of a head when the answer began.
    pub n_keys: usize,
    /// Dimensions of a head, and those that no position turns.
    pub d: usize,
    /// See `d`.
    pub n_still: usize,
    /// One for each of [`Bound::ALL`].
    pub rows: Vec<SkipRow>,
}

/// Sums over tokens and heads.
#[derive(Default, Clone)]
struct Sum {
    /// Of each layer.
    read_together: Vec<f64>,
    read: f64,
    dropped: f64,
    proven: f64,
}

/// Answers `prompt` over a cache in F16 and measures what each token could have left out.
///
/// # Errors
/// Those of [`Session::new`] and [`Session::feed`]; an answer of no tokens, blocks of no keys, a limit that is no share.
pub fn skips(
    engine: &Arc<Engine>,
    mut prompt: Prompt,
    options: SessionOptions,
    what: SkipOptions,
    events: &mut Events<'_>,
) -> Result<Skips> {
    let SkipOptions { block, limit, n_predict } = what;
    if n_predict == 0 || block == 0 || !(0.0..1.0).contains(&limit) {
        let given = format!("`{n_predict}` tokens, blocks of `{block}` keys, a limit of `{limit}`");
        return Err(Error::bad_input(format!("{given}: expected some tokens and keys, and a share below 1")));
    }
    let n_ctx = prompt.n_tokens()?.saturating_add(n_predict);
    let types = SessionOptions { n_ctx, type_k: GgmlType::F16.into(), type_v: GgmlType::F16.into(), ..options };
    let mut session = Session::new(engine, types)?;
    session.find_looks(true);
    session.feed(&mut prompt, events)?;
    let pairs = head_pairs(engine)?;
    let n_keys = session.cache().len();
    let mut sums = vec![Sum::default(); Bound::ALL.len()];
    for i in 0..n_predict {
        events.check()?;
        session.context_mut().pull()?;
        measure(session.cache(), (&pairs, block, limit), &mut sums)?;
        if i + 1 < n_predict {
            let logits = session.context().logits();
            let top = (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap_or(0);
            session.context_mut().step(top as u32, 0)?;
        }
    }
    let hp = engine.text.hparams();
    let n_heads = (n_predict * session.cache().shape().n_row_layers() * hp.n_head) as f64;
    let rows = Bound::ALL.iter().zip(sums).map(|(bound, sum)| {
        let of_layers: Vec<f64> =
            sum.read_together.iter().map(|read| read / (n_predict * hp.n_head_kv) as f64).collect();
        SkipRow {
            bound: *bound,
            read: sum.read / n_heads,
            read_together: of_layers.iter().sum::<f64>() / of_layers.len().max(1) as f64,
            read_least: of_layers.iter().copied().fold(1.0, f64::min),
            dropped: sum.dropped,
            proven: sum.proven,
        }
    });
    Ok(Skips { n_keys, d: session.cache().shape().d, n_still: pairs.n_still(), rows: rows.collect() })
}

/// Which pairs of a head positions turn.
fn head_pairs(engine: &Engine) -> Result<HeadPairs> {
    let hp = engine.text.hparams();
    let drivers = drivers(hp.layout, hp.rope_sections, hp.n_rot)?;
    let turns: Vec<bool> = drivers.iter().map(|driver| *driver != Driver::ZERO).collect();
    Ok(HeadPairs::new(hp.n_embd_head, &turns))
}

/// Adds what the token that was read last could leave out.
fn measure(cache: &KvCache, (pairs, block, limit): (&HeadPairs, usize, f64), sums: &mut [Sum]) -> Result<()> {
    let shape = cache.shape();
    let looks = cache.looks().ok_or_else(|| Error::internal("a cache that keeps no queries"))?;
    let (n, d, n_layers) = (cache.len(), shape.d, shape.n_row_layers());
    let group = looks.n_head() / shape.n_head_kv;
    let rows = looks.queries().chunks_exact(looks.n_head() * d);
    let has_rows = |il: &usize| shape.recurrent.is_none_or(|recurrent| !recurrent.layers.contains(*il));
    for (at, (il, queries)) in (0..shape.n_layer).filter(has_rows).zip(rows).enumerate() {
        for (ih_kv, queries) in queries.chunks_exact(group * d).enumerate() {
            let keys = cache.keys_f32(il, ih_kv, n)?;
            let blocks = Blocks::new(&keys, d, block, pairs);
            let n_of = |read: &[bool]| {
                let of = |(i, read): (usize, &bool)| if *read { block.min(n - i * block) } else { 0 };
                read.iter().enumerate().map(of).sum::<usize>() as f64 / n as f64
            };
            for (bound, sum) in Bound::ALL.iter().zip(sums.iter_mut()) {
                let mut together = vec![false; n.div_ceil(block)];
                for q in queries.chunks_exact(d) {
                    let skipped = blocks.skip(q, *bound, limit);
                    sum.read += n_of(&skipped.read);
                    together.iter_mut().zip(&skipped.read).for_each(|(all, read)| *all |= read);
                    sum.dropped = sum.dropped.max(skipped.dropped);
                    sum.proven = sum.proven.max(skipped.bound);
                }
                sum.read_together.resize(n_layers, 0.0);
                sum.read_together[at] += n_of(&together);
            }
        }
    }
    Ok(())
}
