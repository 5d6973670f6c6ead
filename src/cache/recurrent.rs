//! Layers that remember a state of one size and not a row per token: what of it is kept besides, to go back to.
//!
//! A state holds all tokens that it was made of and cannot let go of the last ones. So a cache with such layers can be cut to where
//! a copy of the states was kept ([`KvCache::keep_states`]), or to nothing; whoever wants another place reads again from the nearest
//! one before it ([`KvCache::place_before`]).

use super::{KvCache, Slots};
use crate::kernels::{DeltaShape, DeltaState};
use crate::{Error, Result};

/// Places that can be gone back to, at most; with what is in use, that is so many states and one.
pub const MAX_KEPT: usize = 2;

/// A set of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerSet([u64; LayerSet::MAX / 64]);

impl LayerSet {
    /// Layers that there may be.
    pub const MAX: usize = 1024;

    /// The layers whose flag is set.
    ///
    /// # Panics
    /// When there are more than [`LayerSet::MAX`] flags.
    pub fn of(flags: impl IntoIterator<Item = bool>) -> LayerSet {
        let mut set = LayerSet::default();
        flags.into_iter().enumerate().for_each(|(il, flag)| set.0[il / 64] |= u64::from(flag) << (il % 64));
        set
    }

    /// Whether layer `il` is one of them.
    pub fn contains(&self, il: usize) -> bool {
        self.0.get(il / 64).is_some_and(|word| word >> (il % 64) & 1 == 1)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there are below `il`.
    pub fn before(&self, il: usize) -> usize {
        (0..il).filter(|i| self.contains(*i)).count()
    }
}

/// Which layers of a cache are recurrent, and what they remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recurrent {
    /// Which layers these are.
    pub layers: LayerSet,
    /// Sizes of what each of them remembers.
    pub state: DeltaShape,
}

impl Recurrent {
    /// Floats of all states, where they fit the address space.
    pub fn n_floats(&self) -> Option<usize> {
        let DeltaShape { n_head_k, n_head_v, d_k, d_v } = self.state;
        // No product of two sizes below may overflow where these do not.
        let most = n_head_k.max(n_head_v).checked_mul(d_k)?.checked_mul(d_v.max(16))?;
        most.checked_mul(16)?.checked_mul(self.layers.len().max(1))?;
        self.state.n_state().checked_mul(self.layers.len())
    }
}

/// The states of all recurrent layers, (layers, n_state) floats each time.
pub(super) struct States {
    recurrent: Recurrent,
    now: Vec<f32>,
    /// Whether they hold the filled slots' tokens, all of them and no others.
    whole: bool,
    /// Whether the host's and the devices' memory hold those of layers on devices.
    pub here: bool,
    pub there: bool,
    /// By their places.
    kept: Vec<Kept>,
}

struct Kept {
    len: usize,
    states: Vec<f32>,
}

impl States {
    /// Those of no tokens.
    pub(super) fn new(recurrent: Recurrent) -> Result<States> {
        let n = recurrent.n_floats().ok_or_else(|| Error::limit("recurrent states overflow"))?;
        let mut now = Vec::new();
        now.try_reserve_exact(n)
            .map_err(|err| Error::limit(format!("cannot reserve `{n}` floats for recurrent states: {err}")))?;
        now.resize(n, 0.0);
        Ok(States { recurrent, now, whole: true, here: true, there: false, kept: Vec::new() })
    }

    /// Those of layers `layers` of the model.
    pub(super) fn of(&self, layers: &std::ops::Range<usize>) -> &[f32] {
        &self.now[self.span(layers)]
    }

    /// The same, to be written.
    pub(super) fn of_mut(&mut self, layers: &std::ops::Range<usize>) -> &mut [f32] {
        let span = self.span(layers);
        &mut self.now[span]
    }

    fn span(&self, layers: &std::ops::Range<usize>) -> std::ops::Range<usize> {
        let n = self.recurrent.state.n_state();
        self.recurrent.layers.before(layers.start) * n..self.recurrent.layers.before(layers.end) * n
    }

    /// All layers have taken in what is counted now.
    pub(super) fn complete(&mut self) {
        self.whole = true;
    }

    fn need_whole(&self) -> Result<()> {
        if self.whole {
            return Ok(());
        }
        Err(Error::mismatch("the recurrent states took in tokens of a step that failed, and are lost; go back first"))
    }

    /// Keeps a copy of what they are after `len` tokens. Where there are enough already, the one goes of whose loss the least
    /// comes that would have to be read again.
    fn keep(&mut self, len: usize) {
        let at = self.kept.partition_point(|kept| kept.len < len);
        if len == 0 || self.kept.get(at).is_some_and(|kept| kept.len == len) {
            return;
        }
        let mut states = Vec::new();
        if self.kept.len() == MAX_KEPT {
            // The new one is not among those that may go.
            let lens: Vec<usize> = std::iter::once(0).chain(self.kept.iter().map(|kept| kept.len)).collect();
            let least = (0..self.kept.len()).min_by_key(|i| lens[i + 1] - lens[*i]).expect("it is full");
            states = self.kept.remove(least).states;
        }
        states.clone_from(&self.now);
        let at = self.kept.partition_point(|kept| kept.len < len);
        self.kept.insert(at, Kept { len, states });
    }

    /// The last place up to `len` that states can be had of, where `now` is what they are of.
    fn place_before(&self, len: usize, now: usize) -> usize {
        if self.whole && len == now {
            return len;
        }
        self.kept.iter().rev().find(|kept| kept.len <= len).map_or(0, |kept| kept.len)
    }

    /// What they were after `len` tokens.
    pub(super) fn restore(&mut self, len: usize, now: usize) -> Result<()> {
        if self.place_before(len, now) != len {
            let place = self.place_before(len, now);
            let message = format!(
                "recurrent layers remember `{now}` tokens and cannot go back to {len}: they can to {place}, from where the rest \
                 has to be read again"
            );
            return Err(Error::mismatch(message));
        }
        if !(self.whole && len == now) {
            match self.kept.iter().find(|kept| kept.len == len) {
                Some(kept) => self.now.copy_from_slice(&kept.states),
                None => self.now.fill(0.0),
            }
            (self.whole, self.here, self.there) = (true, true, false);
        }
        self.kept.retain(|kept| kept.len <= len);
        Ok(())
    }

    /// Slots `slots` were forgotten: places among them are none any more, those behind them moved.
    pub(super) fn forget(&mut self, slots: &Slots) {
        self.kept.retain(|kept| !slots.runs().iter().any(|run| run.start < kept.len && kept.len < run.end));
        for kept in &mut self.kept {
            kept.len -= slots.before(kept.len);
        }
        self.kept.dedup_by_key(|kept| kept.len);
    }
}

impl KvCache {
    /// What recurrent layer `il` remembers, with its sizes, to be brought up to date with a step's tokens before
    /// [`KvCache::advance`] counts them; `None` for a layer with rows. Until then the states are of no use: see
    /// [`KvCache::check_states`].
    pub fn state_mut(&mut self, il: usize) -> Option<(DeltaShape, DeltaState<'_>)> {
        let states = self.states.as_mut().filter(|states| states.recurrent.layers.contains(il))?;
        states.whole = false;
        let shape = states.recurrent.state;
        Some((shape, DeltaState::of(&shape, states.of_mut(&(il..il + 1)))))
    }

    /// Says that states on devices are about to take in tokens.
    pub fn touch_states(&mut self) {
        if let Some(states) = &mut self.states {
            states.whole = false;
        }
    }

    /// Checks, before a step, that recurrent layers remember exactly the filled slots.
    ///
    /// # Errors
    /// A step before that failed half way, with what can be done.
    pub fn check_states(&self) -> Result<()> {
        self.states.as_ref().map_or(Ok(()), States::need_whole)
    }

    /// All states, (recurrent layers, n_state) floats, each (3, n_channels) inputs of the convolution and (n_head_v, d_k, d_v) of
    /// matrices; empty where no layer is recurrent.
    ///
    /// # Errors
    /// States that a failed step has left behind.
    ///
    /// # Panics
    /// When they are on devices only (see [`KvCache::pull`]).
    pub fn states(&self) -> Result<&[f32]> {
        let Some(states) = &self.states else { return Ok(&[]) };
        states.need_whole()?;
        assert!(self.elsewhere.is_none() || states.here, "states are on devices: pull first");
        Ok(&states.now)
    }

    /// Replaces all states by those of the filled slots.
    ///
    /// # Errors
    /// More or fewer floats than there are.
    pub fn set_states(&mut self, from: &[f32]) -> Result<()> {
        let Some(states) = self.states.as_mut().filter(|states| states.now.len() == from.len()) else {
            let n = self.states.as_ref().map_or(0, |states| states.now.len());
            return if from.len() == n {
                Ok(())
            } else {
                Err(Error::mismatch(format!("states of `{}` floats, expected {n}", from.len())))
            };
        };
        states.now.copy_from_slice(from);
        (states.whole, states.here, states.there) = (true, true, false);
        Ok(())
    }

    /// Keeps a copy of the recurrent states, so that the cache can be cut back to here later. Of several, [`MAX_KEPT`] stay.
    /// Without recurrent layers every place can be gone back to, and nothing has to be kept.
    ///
    /// # Errors
    /// What a device says; states that a failed step has left behind.
    pub fn keep_states(&mut self) -> Result<()> {
        self.check_states()?;
        self.pull_states()?;
        if let Some(states) = &mut self.states {
            states.keep(self.len);
        }
        Ok(())
    }

    /// The last place, at most `len`, that [`KvCache::truncate`] can go back to.
    pub fn place_before(&self, len: usize) -> usize {
        let len = len.min(self.len);
        self.states.as_ref().map_or(len, |states| states.place_before(len, self.len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::CacheShape;
    use crate::gguf::GgmlType;

    const STATE: DeltaShape = DeltaShape { n_head_k: 1, n_head_v: 2, d_k: 16, d_v: 16 };

    fn shape() -> CacheShape {
        let layers = LayerSet::of([true, false, true, true, false]);
        let ty = GgmlType::F16.into();
        let recurrent = Some(Recurrent { layers, state: STATE });
        CacheShape { n_layer: 5, n_head_kv: 2, d: 32, n_ctx: 40, type_k: ty, type_v: ty, recurrent }
    }

    /// Takes in tokens: each state becomes the number of tokens.
    fn fill(cache: &mut KvCache, n: usize) {
        let end = (cache.len() + n) as f32;
        for il in 0..5 {
            if let Some((_, state)) = cache.state_mut(il) {
                state.conv.fill(end);
                state.matrix.fill(end + il as f32);
            }
        }
        cache.advance(n);
    }

    fn first(cache: &KvCache) -> f32 {
        cache.states().unwrap()[0]
    }

    #[test]
    fn only_other_layers_have_rows_and_all_bytes_are_counted() {
        let cache = KvCache::new(shape()).unwrap();
        assert_eq!(cache.shape().n_row_layers(), 2);
        let (k, v) = cache.shape().part_bytes().unwrap();
        assert_eq!((k, v), (2 * 2 * 40 * 64, 2 * 2 * 40 * 64));
        let states = 3 * STATE.n_state() * 4;
        assert_eq!(cache.shape().n_bytes().unwrap(), k + v + states * (1 + MAX_KEPT));
        assert_eq!(cache.states().unwrap().len() * 4, states);
        assert_eq!(cache.runs(0..40).count(), 2 * 2 * 2);
        let part = cache.shape().of_layers(&(1..4));
        assert_eq!((part.n_layer, part.n_row_layers()), (3, 1));
        assert!(!part.recurrent.unwrap().layers.contains(0) && part.recurrent.unwrap().layers.contains(2));
        let mut huge = shape();
        huge.recurrent =
            Some(Recurrent { state: DeltaShape { n_head_v: usize::MAX / 2, ..STATE }, ..huge.recurrent.unwrap() });
        assert!(KvCache::new(huge).is_err());
    }

    #[test]
    fn one_goes_back_to_what_was_kept_or_to_nothing() {
        let mut cache = KvCache::new(shape()).unwrap();
        fill(&mut cache, 7);
        cache.keep_states().unwrap();
        fill(&mut cache, 5);
        assert_eq!([6, 7, 11, 12, 99].map(|len| cache.place_before(len)), [0, 7, 7, 12, 12]);
        let error = cache.truncate(9).unwrap_err().to_string();
        assert!(error.contains("`12` tokens") && error.contains("to 9") && error.contains("to 7"), "{error}");
        assert_eq!((cache.len(), first(&cache)), (12, 12.0));
        cache.truncate(12).unwrap();
        cache.truncate(7).unwrap();
        assert_eq!((cache.len(), first(&cache)), (7, 7.0));
        fill(&mut cache, 1);
        cache.truncate(7).unwrap();
        cache.truncate(0).unwrap();
        assert_eq!((cache.len(), first(&cache), cache.place_before(7)), (0, 0.0, 0));
    }

    #[test]
    fn of_many_places_those_stay_whose_loss_costs_most() {
        let mut cache = KvCache::new(shape()).unwrap();
        for n in [2, 20, 3, 4] {
            fill(&mut cache, n);
            cache.keep_states().unwrap();
            cache.keep_states().unwrap();
        }
        // 2, then 22 (2 goes for 25, since it is the nearest to the one before), then 25 goes.
        assert_eq!([21, 24, 28, 29].map(|len| cache.place_before(len)), [0, 22, 22, 29]);
        let place = |cache: &KvCache| cache.states.as_ref().unwrap().kept.iter().map(|k| k.len).collect::<Vec<_>>();
        assert_eq!(place(&cache), [22, 29]);
        // What is forgotten stays in the states; places move with their rows.
        assert_eq!(cache.forget(4..10).unwrap().n_recurrent, 3);
        assert_eq!((cache.len(), place(&cache)), (23, vec![16, 23]));
        cache.forget(15..17).unwrap();
        assert_eq!((cache.len(), place(&cache)), (21, vec![21]));
    }

    #[test]
    fn states_of_a_failed_step_are_used_for_nothing() {
        let mut cache = KvCache::new(shape()).unwrap();
        fill(&mut cache, 3);
        cache.keep_states().unwrap();
        fill(&mut cache, 3);
        cache.state_mut(2).unwrap().1.matrix.fill(f32::NAN);
        let error = cache.check_states().unwrap_err().to_string();
        assert!(error.contains("failed") && error.contains("go back"), "{error}");
        assert!(cache.states().is_err() && cache.keep_states().is_err() && cache.truncate(6).is_err());
        assert_eq!(cache.place_before(6), 3);
        cache.truncate(3).unwrap();
        assert_eq!(first(&cache), 3.0);
        let copy = cache.to_memory().unwrap();
        assert_eq!((copy.len(), first(&copy)), (3, 3.0));
    }

    #[test]
    fn sets_count() {
        let set = LayerSet::of((0..130).map(|il| il % 3 == 0));
        assert_eq!((set.len(), set.before(0), set.before(64), set.before(130)), (44, 0, 22, 44));
        assert!(set.contains(129) && !set.contains(128) && !set.contains(5000) && LayerSet::default().is_empty());
    }
}
