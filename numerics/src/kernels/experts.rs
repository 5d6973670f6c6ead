//! A few experts for each token: which ones, and what they make of it.
//!
//! Tokens are brought together by expert, so that each expert's weights are read once, and only those of experts that somebody
//! chose. Experts with few tokens, all of them in a step of decoding, are multiplied in one go; one with many has the cores to
//! itself. What a token gets is added up in the order of its experts' numbers, whatever is computed beside it.

use std::cell::Cell;

use super::disjoint::SharedMat;
use super::matmul::{Activations, Epilogue, MAX_DOT_TOKENS, Stacked, TokenGroup};
use super::{Kernels, for_rows, scratch, threads};

/// The experts of a layer, each down(silu(gate · x) * up · x).
#[derive(Debug, Clone, Copy)]
pub struct Experts<'a> {
    /// How many there are.
    pub n: usize,
    /// How many of them a token goes through.
    pub n_used: usize,
    /// Gates, (n_ff, n_embd) each.
    pub gate: Stacked<'a>,
    /// Ups, likewise.
    pub up: Stacked<'a>,
    /// Downs, (n_embd, n_ff) each.
    pub down: Stacked<'a>,
}

/// Rows that are worked on at once where experts have few tokens each, at least.
const ROWS: usize = 256;
/// Columns that one task adds.
const COLUMNS: usize = 256;

/// Who goes where. A thread keeps the memory for its next layer.
struct Routes {
    /// Of each token its experts, the one with the largest score first, and their weights.
    chosen: Vec<(u32, f32)>,
    /// Pairs of a token and an expert by the expert, then by the token: the token, and the weight.
    pairs: Vec<(u32, f32)>,
    /// Where the pairs of each expert end, and of the one before it begin.
    ends: Vec<usize>,
    groups: Vec<TokenGroup>,
}

thread_local! {
    static KEPT: Cell<Routes> = const { Cell::new(Routes::empty()) };
}

/// Bytes that [`experts`] takes for `n_tokens` tokens of `n_embd` floats, `n_used` experts of `n_ff` each.
pub fn expert_bytes(n_tokens: usize, n_used: usize, (n_embd, n_ff): (usize, usize)) -> usize {
    at_once(n_tokens, n_used) * (n_embd + n_ff) * size_of::<f32>() + n_tokens * n_used * 2 * size_of::<(u32, f32)>()
}

/// Pairs that are worked on at once.
fn at_once(n_tokens: usize, n_used: usize) -> usize {
    n_tokens.max(ROWS.min(n_tokens * n_used))
}

/// out += the sum, over the `n_used` experts with the largest scores, of what each makes of x, times its share of their softmax.
/// `scores`: (n_tokens, n), `x`, `out`: (n_tokens, n_embd). Of equal scores the lower number counts first.
///
/// # Panics
/// When lengths disagree.
pub fn experts(kernels: &Kernels, experts: Experts<'_>, scores: &[f32], x: &[f32], out: &mut [f32]) {
    let Experts { n, n_used, gate, up, down } = experts;
    let (n_embd, n_ff, n_tokens) = (down.n_rows, gate.n_rows, scores.len() / n);
    assert!((1..=n).contains(&n_used) && scores.len() == n_tokens * n, "{n_used} of {n} experts");
    assert!(x.len() == n_tokens * n_embd && out.len() == x.len(), "rows of experts disagree");
    let mut routes = KEPT.replace(Routes::empty());
    routes.fill(scores, n, n_used);
    let n_most = at_once(n_tokens, n_used);
    scratch::with_shared(n_most * (n_embd + n_ff), |memory| {
        let (rows, hidden) = memory.split_at_mut(n_most * n_embd);
        let mut first = 0;
        while first < n {
            let next = routes.take_groups(first, n_most);
            let pairs = &routes.pairs[routes.ends[first]..routes.ends[next]];
            first = next;
            if pairs.is_empty() {
                continue;
            }
            let (rows, hidden) = (&mut rows[..pairs.len() * n_embd], &mut hidden[..pairs.len() * n_ff]);
            for_rows(rows, n_embd, |i, row| row.copy_from_slice(&x[pairs[i].0 as usize * n_embd..][..n_embd]));
            let groups = &routes.groups;
            Activations::new(kernels, rows, n_embd).matmul_gated_of_groups((gate, None), (up, None), groups, hidden);
            // The products behind are linear: a weight may as well come before them.
            for_rows(hidden, n_ff, |i, row| row.iter_mut().for_each(|h| *h *= pairs[i].1));
            Activations::new(kernels, hidden, n_ff).matmul_of_groups(down, groups, Epilogue::default(), rows);
            let (rows, out) = (&*rows, &SharedMat::new(out, n_embd));
            threads::for_each(n_embd.div_ceil(COLUMNS), |task| {
                let columns = task * COLUMNS..n_embd.min((task + 1) * COLUMNS);
                for ((token, _), row) in pairs.iter().zip(rows.chunks_exact(n_embd)) {
                    // SAFETY: tasks have their own columns.
                    unsafe { out.add(*token as usize, columns.start, &row[columns.clone()]) };
                }
            });
        }
    });
    KEPT.set(routes);
}

impl Routes {
    const fn empty() -> Routes {
        Routes { chosen: Vec::new(), pairs: Vec::new(), ends: Vec::new(), groups: Vec::new() }
    }

    /// Chooses experts for the tokens of `scores` (n_tokens, n).
    fn fill(&mut self, scores: &[f32], n: usize, n_used: usize) {
        let n_pairs = scores.len() / n * n_used;
        self.chosen.resize(n_pairs, (0, 0.0));
        for (scores, chosen) in scores.chunks_exact(n).zip(self.chosen.chunks_exact_mut(n_used)) {
            choose(scores, chosen);
        }
        // Counted first, then each pair goes to the next place of its expert; `ends` begins with a 0.
        self.ends.clear();
        self.ends.resize(n + 1, 0);
        self.chosen.iter().for_each(|(expert, _)| self.ends[*expert as usize + 1] += 1);
        (1..=n).for_each(|i| self.ends[i] += self.ends[i - 1]);
        self.pairs.resize(n_pairs, (0, 0.0));
        for (i, (expert, weight)) in self.chosen.iter().enumerate() {
            let place = &mut self.ends[*expert as usize];
            self.pairs[*place] = ((i / n_used) as u32, *weight);
            *place += 1;
        }
        // Every place stands where the next one began.
        self.ends.rotate_right(1);
        self.ends[0] = 0;
    }

    /// The experts from `first` on that are worked on at once, `groups` with places among their pairs: one with many tokens, or
    /// as many with few as have room for `n_most` pairs. Returns the first expert behind them.
    fn take_groups(&mut self, first: usize, n_most: usize) -> usize {
        let begin = self.ends[first];
        self.groups.clear();
        let mut next = first;
        while next + 1 < self.ends.len() {
            let (from, to) = (self.ends[next], self.ends[next + 1]);
            let is_large = to - from > MAX_DOT_TOKENS;
            if !self.groups.is_empty() && (is_large || to - begin > n_most) {
                break;
            }
            next += 1;
            if to > from {
                self.groups.push(TokenGroup { matrix: next - 1, tokens: from - begin..to - begin });
            }
            if is_large {
                break;
            }
        }
        next
    }
}

/// The experts with the largest of `scores`, largest first, and what each one's share of their softmax is.
fn choose(scores: &[f32], chosen: &mut [(u32, f32)]) {
    let mut n = 0;
    for (i, score) in scores.iter().enumerate() {
        let mut at = n;
        // What is not a number comes behind everything, and wherever it counts it shows in the result.
        while at > 0 && !score.is_nan() && (*score > chosen[at - 1].1 || chosen[at - 1].1.is_nan()) {
            at -= 1;
        }
        if at < chosen.len() {
            n = chosen.len().min(n + 1);
            chosen[at..n].rotate_right(1);
            chosen[at] = (i as u32, *score);
        }
    }
    let top = chosen[0].1;
    let mut sum = 0.0;
    for (_, weight) in chosen.iter_mut() {
        *weight = (*weight - top).exp();
        sum += *weight;
    }
    chosen.iter_mut().for_each(|(_, weight)| *weight /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_scores_count_and_of_equal_ones_the_first() {
        let mut chosen = [(0, 0.0); 3];
        choose(&[1.0, 3.0, 2.0, 3.0, -1.0, 2.0], &mut chosen);
        assert_eq!(chosen.map(|(expert, _)| expert), [1, 3, 2]);
        let share = 1.0 / (2.0 + (-1f32).exp());
        assert!((chosen[0].1 - share).abs() < 1e-6 && (chosen[2].1 - share * (-1f32).exp()).abs() < 1e-6);
        // All of them, none of which is the largest by far.
        let mut chosen = [(0, 0.0); 2];
        choose(&[1e30, -1e30], &mut chosen);
        assert_eq!(chosen, [(0, 1.0), (1, 0.0)]);
        // Broken weights show in the result, and nothing else comes of them.
        let mut chosen = [(0, 0.0); 2];
        choose(&[f32::NAN, f32::NAN, f32::NAN], &mut chosen);
        assert!(chosen.iter().all(|(expert, weight)| *expert < 3 && weight.is_nan()));
        let mut chosen = [(0, 0.0); 2];
        choose(&[f32::NAN, 1.0, f32::NAN, 2.0], &mut chosen);
        assert_eq!(chosen.map(|(expert, _)| expert), [3, 1]);
    }

    #[test]
    fn tokens_stand_by_their_experts() {
        let mut routes = Routes::empty();
        // Token 0: experts 2, 0; token 1: 0, 1; token 2: 2, 1.
        routes.fill(&[1.0, 0.0, 2.0, 5.0, 4.0, 0.0, 0.0, 1.0, 2.0], 3, 2);
        assert_eq!(routes.ends, [0, 2, 4, 6]);
        let tokens: Vec<u32> = routes.pairs.iter().map(|(token, _)| *token).collect();
        assert_eq!(tokens, [0, 1, 1, 2, 0, 2]);
        assert_eq!(routes.take_groups(0, 4), 2);
        let group = |matrix, tokens| TokenGroup { matrix, tokens };
        assert_eq!(routes.groups, [group(0, 0..2), group(1, 2..4)]);
        assert_eq!(routes.take_groups(2, 4), 3);
        assert_eq!(routes.groups, [group(2, 0..2)]);
        // One with many tokens is alone, and what nobody chose is passed over.
        routes.fill(&[0.0, 1.0, 0.0].repeat(20), 3, 1);
        assert_eq!((routes.take_groups(0, 20), routes.groups.clone()), (2, vec![group(1, 0..20)]));
        assert_eq!((routes.take_groups(2, 20), routes.groups.len()), (3, 0));
    }
}
