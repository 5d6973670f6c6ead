//! What of a stream is in the context, pair by pair, and what of it goes when the context is full.
//!
//! Either whole pairs go, the oldest first, or single visual tokens of the past, those that tell least ([`HeldPairs::thin`]): of every
//! place of a frame the tokens of the pairs before and behind each other are a chain, and a token tells as much as it differs from
//! the one before it in its chain, by the cosine between the values that the first layer with attention keeps of both. That layer
//! makes them of nothing but the token itself and rotates nothing (where recurrent layers stand before it, they took in what came
//! before, too). The token goes that differs least, its successor is compared with its predecessor, and so on, until there is room:
//! what stays the same is kept once, at its first time, and what changes slowly is kept as often as it has changed enough. The first
//! token of a place has nothing to be compared with and stays until there is nothing else, and so does the newest eighth, whole. No question
//! is needed for that, nothing is kept beside the cache but which places a pair still has, and a pair that has none is forgotten,
//! with the words that told its time. InfiniPot-V (arXiv 2506.15745) does likewise with keys beside the newest frames, and with the
//! sizes of values, which this does not look at.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Range;

use super::left_out::{Kept, distance};
use crate::Result;
use crate::cache::{KvCache, Slots};
use crate::random::Rng;

/// At least this share of the window goes at once, so that moving the rest forward costs next to nothing; and as much of the newest
/// stays whole where the past becomes thinner.
pub(super) const SHARE_AT_ONCE: usize = 8;

/// What a visual token of the past is worth: the least goes first, of equals the oldest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// As much as it differs from the token of its place before it.
    Change,
    /// What is drawn for it with this seed: a way to choose that the first has to beat.
    Random(u64),
    /// As much as its pair, of which the second, the fourth, the eighth and so on are worth ever more: likewise.
    Pairs,
}

/// The places of a pair's visual tokens that are in the context: all of them, or these, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places(Option<Box<[u32]>>);

impl Places {
    pub(super) fn of(kept: &Kept) -> Places {
        let marked = |marks: &[bool]| (0..).zip(marks).filter(|(_, kept)| **kept).map(|(place, _)| place).collect();
        Places(kept.marks().map(marked))
    }

    /// How many of `n`.
    pub(super) fn n_of(&self, n: usize) -> usize {
        self.0.as_ref().map_or(n, |places| places.len())
    }

    fn iter(&self, n: usize) -> impl Iterator<Item = u32> {
        let all = if self.0.is_none() { 0..n as u32 } else { 0..0 };
        all.chain(self.0.iter().flatten().copied())
    }
}

/// A pair of a stream that was read and not forgotten.
#[derive(Debug)]
pub(super) struct HeldPair {
    /// Its number.
    pub pair: u32,
    /// Tokens before it, where time is told in words.
    pub lead: Box<[u32]>,
    pub places: Places,
}

/// What is there of a stream.
#[derive(Debug, Default)]
pub(super) struct HeldPairs {
    /// In order; the last of them may not be in the cache yet.
    pub pairs: VecDeque<HeldPair>,
    /// Tokens behind each of them, where time is told in words.
    pub tail: Vec<u32>,
    /// See [`PairText::n_taken`](super::PairText::n_taken).
    pub n_taken: usize,
    /// Tokens around the pairs that are forgotten.
    pub n_forgotten: usize,
    /// The words before the stream.
    pub before: Vec<u32>,
    /// Whether the past becomes thinner, instead of ending.
    pub is_compressed: bool,
}

/// Where a stream stands in the cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stand {
    /// Slots before it, and its slots that are filled.
    pub n_before: usize,
    pub n_read: usize,
    /// Visual tokens of a pair of which nothing is left out.
    pub per_pair: usize,
}

/// What is to leave the cache.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Gone {
    pub slots: Slots,
    /// Pairs of which nothing is left.
    pub n_pairs: usize,
    /// Visual tokens among the slots.
    pub n_visual: usize,
    /// Whether what was at some place first is among them: then nothing may show what is there.
    pub has_first: bool,
}

impl HeldPairs {
    fn n_around(&self, pair: &HeldPair) -> usize {
        pair.lead.len() + self.tail.len()
    }

    fn n_tokens(&self, pair: &HeldPair, per_pair: usize) -> usize {
        pair.places.n_of(per_pair) + self.n_around(pair)
    }

    /// Pairs that are in the cache whole, from the oldest on, and how many tokens are there behind them.
    pub(super) fn n_whole(&self, stand: Stand) -> (usize, usize) {
        let (mut n_whole, mut left) = (0, stand.n_read);
        for pair in &self.pairs {
            let Some(rest) = left.checked_sub(self.n_tokens(pair, stand.per_pair)) else { break };
            (left, n_whole) = (rest, n_whole + 1);
        }
        (n_whole, left)
    }

    /// Forgets the oldest pairs that are in the cache whole: as many as have the visual tokens of `n` pairs of which nothing is left
    /// out.
    pub(super) fn forget(&mut self, n: usize, stand: Stand) -> Gone {
        let (n_whole, _) = self.n_whole(stand);
        let (mut left, mut end) = (n * stand.per_pair, stand.n_before);
        let mut gone = Gone { has_first: true, ..Gone::default() };
        while left > 0 && gone.n_pairs < n_whole {
            let Some(pair) = self.pairs.pop_front() else { break };
            let (n_visual, n_around) = (pair.places.n_of(stand.per_pair), self.n_around(&pair));
            (left, end) = (left.saturating_sub(n_visual), end + n_visual + n_around);
            self.n_forgotten += n_around;
            (gone.n_pairs, gone.n_visual) = (gone.n_pairs + 1, gone.n_visual + n_visual);
        }
        gone.slots = Slots::from(stand.n_before..end);
        gone
    }

    /// Lets visual tokens of the past go, the least worth first, until `n` slots are free; with a pair's last token the words around it go,
    /// too. The newest pairs with `n_newest` slots stay whole, but for half of all pairs at most.
    ///
    /// # Errors
    /// Those of [`KvCache::first_values`].
    pub(super) fn thin(
        &mut self,
        worth: Worth,
        (n, n_newest): (usize, usize),
        cache: &KvCache,
        stand: Stand,
    ) -> Result<Gone> {
        let n_old = self.n_old(n_newest, stand);
        let mut past = Past::of(self, n_old, worth, cache, stand)?;
        let mut n_free: usize =
            (0..n_old).filter(|i| past.n_left[*i] == 0).map(|i| self.n_around(&self.pairs[i])).sum();
        let mut gone = Gone::default();
        while n_free < n {
            let Some((i, is_first)) = past.take_least(worth, cache)? else { break };
            (n_free, gone.n_visual) = (n_free + 1, gone.n_visual + 1);
            gone.has_first |= is_first;
            if past.n_left[i] == 0 {
                n_free += self.n_around(&self.pairs[i]);
            }
        }
        // What stays, pair by pair; slots in order.
        let (mut slots, mut at) = (Vec::new(), 0);
        let newest = self.pairs.split_off(n_old);
        for (i, mut pair) in std::mem::take(&mut self.pairs).into_iter().enumerate() {
            let tokens = &past.tokens[at..at + pair.places.n_of(stand.per_pair)];
            at += tokens.len();
            if past.n_left[i] == 0 {
                slots.extend(past.spans[i].clone());
                self.n_forgotten += self.n_around(&pair);
                gone.n_pairs += 1;
                continue;
            }
            if past.n_left[i] < tokens.len() {
                slots.extend(tokens.iter().filter(|token| token.is_gone).map(|token| token.slot));
                pair.places = Places(Some(tokens.iter().filter(|token| !token.is_gone).map(|t| t.place).collect()));
            }
            self.pairs.push_back(pair);
        }
        self.pairs.extend(newest);
        gone.slots = slots.into_iter().collect();
        Ok(gone)
    }

    /// How many of the oldest pairs are in the cache whole and not among the newest.
    fn n_old(&self, n_newest: usize, stand: Stand) -> usize {
        let (n_whole, _) = self.n_whole(stand);
        let (mut n_old, mut n) = (n_whole, 0);
        while n < n_newest && n_old > n_whole.div_ceil(2) {
            n_old -= 1;
            n += self.n_tokens(&self.pairs[n_old], stand.per_pair);
        }
        n_old
    }
}

/// A visual token of the past.
struct Token {
    slot: usize,
    /// Its pair among those that are held.
    pair: usize,
    place: u32,
    /// Those of its place before and behind it.
    before: Option<usize>,
    behind: Option<usize>,
    /// What it is worth, as bits of a number that is not negative, which have its order.
    worth: u32,
    is_gone: bool,
}

/// Of a token that has nothing to be compared with.
const FIRST: f32 = f32::INFINITY;

/// Visual tokens that may go.
struct Past {
    tokens: Vec<Token>,
    /// Of each pair, its slots and how many of its tokens stay.
    spans: Vec<Range<usize>>,
    n_left: Vec<usize>,
    /// The least worth first; whose worth has changed since is there again.
    order: BinaryHeap<Reverse<(u32, usize)>>,
    /// Values of two tokens.
    values: [Vec<f32>; 2],
}

impl Past {
    /// The oldest `n_old` pairs.
    fn of(held: &HeldPairs, n_old: usize, worth: Worth, cache: &KvCache, stand: Stand) -> Result<Past> {
        let (mut tokens, mut spans, mut n_left): (Vec<Token>, _, _) = (Vec::new(), Vec::new(), Vec::new());
        let (mut slot, mut last) = (stand.n_before, vec![None; stand.per_pair]);
        for (i, pair) in held.pairs.iter().take(n_old).enumerate() {
            let start = slot;
            slot += pair.lead.len();
            for place in pair.places.iter(stand.per_pair) {
                let at = tokens.len();
                let before = last[place as usize].replace(at);
                if let Some(before) = before {
                    tokens[before].behind = Some(at);
                }
                tokens.push(Token { slot, pair: i, place, before, behind: None, worth: 0, is_gone: false });
                slot += 1;
            }
            slot += held.tail.len();
            n_left.push(pair.places.n_of(stand.per_pair));
            spans.push(start..slot);
        }
        let n = cache.shape().n_head_kv * cache.shape().d;
        let mut past = Past { tokens, spans, n_left, order: BinaryHeap::new(), values: [vec![0.0; n], vec![0.0; n]] };
        for i in 0..past.tokens.len() {
            let Token { pair, place, .. } = past.tokens[i];
            let pair = u64::from(held.pairs[pair].pair);
            let worth = match worth {
                Worth::Change => past.change(i, cache)?,
                Worth::Random(seed) => {
                    Rng::new(Rng::new(seed ^ (pair << 20)).next_u64() ^ u64::from(place)).unit() as f32
                }
                Worth::Pairs => pair.trailing_zeros() as f32,
            };
            past.set(i, worth);
        }
        Ok(past)
    }

    fn set(&mut self, i: usize, worth: f32) {
        // Rounding may be below zero, and what is no number tells nothing.
        self.tokens[i].worth = worth.max(0.0).to_bits();
        self.order.push(Reverse((self.tokens[i].worth, i)));
    }

    /// How far token `i` is from the one before it.
    fn change(&mut self, i: usize, cache: &KvCache) -> Result<f32> {
        let Token { slot, before, .. } = self.tokens[i];
        let Some(before) = before else { return Ok(FIRST) };
        let [old, new] = &mut self.values;
        cache.first_values(self.tokens[before].slot, old)?;
        cache.first_values(slot, new)?;
        Ok(distance(old, new))
    }

    /// Takes the token that is worth least, and says of which pair it was and whether it was the first of its place.
    fn take_least(&mut self, worth: Worth, cache: &KvCache) -> Result<Option<(usize, bool)>> {
        while let Some(Reverse((bits, i))) = self.order.pop() {
            let Token { pair, before, behind, .. } = self.tokens[i];
            if self.tokens[i].is_gone || self.tokens[i].worth != bits {
                continue;
            }
            self.tokens[i].is_gone = true;
            self.n_left[pair] -= 1;
            if let Some(before) = before {
                self.tokens[before].behind = behind;
            }
            if let Some(behind) = behind {
                self.tokens[behind].before = before;
                if worth == Worth::Change {
                    let change = self.change(behind, cache)?;
                    self.set(behind, change);
                }
            }
            return Ok(Some((pair, before.is_none())));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::CacheShape;
    use crate::gguf::GgmlType;

    const PER_PAIR: usize = 5;
    const N_BEFORE: usize = 3;
    const D: usize = 7;

    /// Pairs of which something may be left out, some with words around them, and a cache that holds all but the last one.
    fn stream(seed: u64, n_pairs: u32, is_stamped: bool) -> (HeldPairs, KvCache, Stand) {
        let mut rng = Rng::new(seed);
        let mut held = HeldPairs { tail: vec![9; usize::from(is_stamped)], ..HeldPairs::default() };
        for pair in 0..n_pairs {
            let marks: Vec<u32> = (0..PER_PAIR as u32).filter(|_| pair == 0 || rng.below(4) > 0).collect();
            let places = if marks.len() == PER_PAIR { Places(None) } else { Places(Some(marks.into())) };
            let lead = if is_stamped { vec![8; 1 + rng.below(3)].into() } else { Box::default() };
            held.pairs.push_back(HeldPair { pair, lead, places });
        }
        let n: usize = held.pairs.iter().map(|pair| held.n_tokens(pair, PER_PAIR)).sum();
        let n_read = n - held.n_tokens(held.pairs.back().unwrap(), PER_PAIR).min(2);
        let (ty, n_ctx) = (GgmlType::F32.into(), N_BEFORE + n);
        let shape = CacheShape { n_layer: 2, n_head_kv: 2, d: D, n_ctx, type_k: ty, type_v: ty, recurrent: None };
        let mut cache = KvCache::new(shape).unwrap();
        let (_, v) = cache.rows_mut(0);
        for (i, value) in v.data.chunks_exact_mut(4).enumerate() {
            // Some tokens are as one before them, and one says nothing at all.
            let row = i / D % n_ctx;
            let like = if row.is_multiple_of(3) { row / 2 } else { row };
            let at = Rng::new((like * 100 + i % D + i / D / n_ctx * 50) as u64).normal();
            value.copy_from_slice(&(if row == 11 { 0.0 } else { at }).to_le_bytes());
        }
        cache.advance_here(N_BEFORE + n_read);
        (held, cache, Stand { n_before: N_BEFORE, n_read, per_pair: PER_PAIR })
    }

    /// (pair, place, slot) of a visual token.
    type Known = (usize, u32, usize);

    /// All visual tokens of the first pairs, and the slots around them by pair.
    fn tokens(held: &HeldPairs, n: usize) -> (Vec<Known>, Vec<Vec<usize>>) {
        let (mut tokens, mut around, mut slot) = (Vec::new(), Vec::new(), N_BEFORE);
        for (i, pair) in held.pairs.iter().take(n).enumerate() {
            let mut words: Vec<usize> = (slot..slot + pair.lead.len()).collect();
            slot += pair.lead.len();
            for place in pair.places.iter(PER_PAIR) {
                tokens.push((i, place, slot));
                slot += 1;
            }
            words.extend(slot..slot + held.tail.len());
            slot += held.tail.len();
            around.push(words);
        }
        (tokens, around)
    }

    #[test]
    fn the_tokens_go_that_a_search_through_all_of_them_finds() {
        for (seed, n_pairs, is_stamped, n) in
            [(1, 12, false, 9), (2, 20, true, 31), (3, 9, true, 1), (4, 30, false, 60)]
        {
            let (mut held, cache, stand) = stream(seed, n_pairs, is_stamped);
            let (n_newest, pairs): (usize, Vec<u32>) = (8, held.pairs.iter().map(|pair| pair.pair).collect());
            let n_old = held.n_old(n_newest, stand);
            assert!(n_old > 2 && n_old < n_pairs as usize, "{n_old} of {n_pairs}");
            let (mut left, around) = tokens(&held, n_old);
            let value = |slot: usize| {
                let mut value = vec![0.0; 2 * D];
                cache.first_values(slot, &mut value).unwrap();
                value
            };
            let is_empty = |left: &[Known], i: usize| left.iter().all(|(pair, ..)| *pair != i);
            let n_words =
                |left: &[_]| (0..n_old).filter(|i| is_empty(left, *i)).map(|i| around[i].len()).sum::<usize>();
            let (mut want, mut has_first) = (Vec::new(), false);
            while want.len() + n_words(&left) < n {
                let worth = |(at, token): (usize, &Known)| {
                    let before = left[..at].iter().rfind(|before| before.1 == token.1);
                    before.map_or(f32::INFINITY, |before| distance(&value(before.2), &value(token.2)).max(0.0))
                };
                let least = left.iter().enumerate().map(worth).enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
                has_first |= least.1 == f32::INFINITY;
                want.push(left.remove(least.0).2);
            }
            let n_visual = want.len();
            want.extend((0..n_old).filter(|i| is_empty(&left, *i)).flat_map(|i| around[i].clone()));
            want.sort_unstable();
            let gone = held.thin(Worth::Change, (n, n_newest), &cache, stand).unwrap();
            assert_eq!(gone.slots, want.iter().copied().collect(), "seed {seed}");
            assert_eq!((gone.n_visual, gone.has_first), (n_visual, has_first), "seed {seed}");
            let stays: Vec<u32> =
                pairs.iter().copied().filter(|i| *i as usize >= n_old || !is_empty(&left, *i as usize)).collect();
            assert_eq!(held.pairs.iter().map(|pair| pair.pair).collect::<Vec<_>>(), stays, "seed {seed}");
            assert_eq!(gone.n_pairs, pairs.len() - stays.len());
            let n_left: usize = held.pairs.iter().map(|pair| held.n_tokens(pair, PER_PAIR)).sum();
            assert_eq!(
                held.n_whole(Stand { n_read: stand.n_read - gone.slots.len(), ..stand }).0,
                held.pairs.len() - 1
            );
            assert!(n_left >= stand.n_read - gone.slots.len());
        }
    }

    #[test]
    fn what_does_not_look_at_tokens_leaves_what_it_says() {
        let (mut held, cache, stand) = stream(5, 32, false);
        let all = held.n_whole(stand).0;
        held.thin(Worth::Pairs, (40, 0), &cache, stand).unwrap();
        let kept: Vec<u32> = held.pairs.iter().map(|pair| pair.pair).collect();
        assert!((0..all as u32).step_by(2).all(|pair| kept.contains(&pair)) && kept.len() < 24, "{kept:?}");
        let random = |seed: u64| {
            let (mut held, cache, stand) = stream(5, 32, false);
            held.thin(Worth::Random(seed), (40, 0), &cache, stand).unwrap().slots
        };
        assert!(random(1) == random(1) && random(1) != random(2) && random(1).len() == 40);
    }

    #[test]
    fn the_oldest_pairs_go_whole_with_their_words() {
        let (mut held, _, stand) = stream(6, 10, true);
        let n: Vec<(usize, usize)> =
            held.pairs.iter().map(|pair| (pair.places.n_of(PER_PAIR), held.n_tokens(pair, PER_PAIR))).collect();
        let gone = held.forget(2, stand);
        let n_pairs = (1..).find(|i| n[..*i].iter().map(|n| n.0).sum::<usize>() >= 2 * PER_PAIR).unwrap();
        let n_slots: usize = n[..n_pairs].iter().map(|n| n.1).sum();
        assert_eq!((gone.n_pairs, gone.slots), (n_pairs, Slots::from(N_BEFORE..N_BEFORE + n_slots)));
        assert_eq!((held.pairs[0].pair as usize, held.pairs.len()), (n_pairs, 10 - n_pairs));
        // What is not in the cache whole stays.
        assert_eq!(held.forget(99, Stand { n_read: 0, ..stand }).n_pairs, 0);
    }
}
