//! Picking the next token from logits: llama.cpp's chain of penalties, top-k, top-p, min-p, temperature, in this order.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::Guide;
use crate::random::Rng;
use crate::{Error, Result};

/// Longest memory for the penalties, in tokens.
pub const MAX_REPEAT_LAST_N: usize = 1 << 20;

/// llama.cpp's sampling flags and their meaning.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerOptions {
    /// Where the random numbers begin: the same seed, the same choices.
    pub seed: u64,
    /// Temperature; 0 or below: greedy.
    pub temp: f32,
    /// Choose among so many of the likeliest; 0: all.
    pub top_k: usize,
    /// Choose among the likeliest that together reach this probability; 1: all.
    pub top_p: f32,
    /// Drop what is less likely than this share of the likeliest; 0: nothing.
    pub min_p: f32,
    /// Divides the logits of recent tokens above 0, and multiplies those below; 1: none.
    pub repeat_penalty: f32,
    /// How many recent tokens the penalties look at; 0 switches all of them off.
    pub repeat_last_n: usize,
    /// Taken from the logits of tokens among the recent ones; 0: none.
    pub presence_penalty: f32,
    /// Taken from them once per occurrence; 0: none.
    pub frequency_penalty: f32,
    /// What is added to the logits of tokens; ids beyond the vocabulary mean nothing.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Default for SamplerOptions {
    /// llama.cpp's defaults, with seed 0.
    fn default() -> SamplerOptions {
        SamplerOptions {
            seed: 0,
            temp: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
        }
    }
}

impl SamplerOptions {
    /// # Errors
    /// `BadInput`, naming the option, its value and its range.
    fn check(&self) -> Result<()> {
        let rows: [(&str, f32, bool, &str); 6] = [
            ("temp", self.temp, self.temp.is_finite(), "a finite number"),
            ("top_p", self.top_p, (0.0..=1.0).contains(&self.top_p), "0 to 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 to 1"),
            // The upper bounds keep penalized logits finite.
            (
                "repeat_penalty",
                self.repeat_penalty,
                self.repeat_penalty > 0.0 && self.repeat_penalty <= 1e3,
                "above 0, up to 1000",
            ),
            ("presence_penalty", self.presence_penalty, (-1e3..=1e3).contains(&self.presence_penalty), "-1000 to 1000"),
            (
                "frequency_penalty",
                self.frequency_penalty,
                (-1e3..=1e3).contains(&self.frequency_penalty),
                "-1000 to 1000",
            ),
        ];
        for (name, value, good, range) in rows {
            if !good {
                return Err(Error::bad_input(format!("{name} is `{value}`, expected {range}")));
            }
        }
        if let Some((id, bias)) = self.logit_bias.iter().find(|(_, bias)| !(-1e3..=1e3).contains(bias)) {
            return Err(Error::bad_input(format!("logit_bias of token `{id}` is `{bias}`, expected -1000 to 1000")));
        }
        if self.repeat_last_n > MAX_REPEAT_LAST_N {
            let n = self.repeat_last_n;
            return Err(Error::bad_input(format!("repeat_last_n is `{n}`, expected 0 to {MAX_REPEAT_LAST_N}")));
        }
        Ok(())
    }

    fn has_penalties(&self) -> bool {
        self.repeat_last_n > 0
            && (self.repeat_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0)
    }
}

/// A sampler with its random state and its memory of recent tokens. Its buffers grow with the first call and are reused:
/// later tokens ask for no memory. The same options, tokens and logits give the same choices on every machine.
pub struct Sampler {
    options: SamplerOptions,
    rng: Rng,
    recent: Recent,
    /// What is left to choose from: best first once sorted.
    candidates: Vec<Candidate>,
    /// Weights of the candidates, relative to the best one's.
    weights: Vec<f64>,
    /// What may come, where the answer has to have a form, and why that is not known any more.
    guide: Option<Box<dyn Guide>>,
    lost: Option<Error>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
}

impl Sampler {
    /// # Errors
    /// NaN or out-of-range options.
    pub fn new(options: SamplerOptions) -> Result<Sampler> {
        options.check()?;
        let n = if options.has_penalties() { options.repeat_last_n } else { 0 };
        let rng = Rng::new(options.seed);
        Ok(Sampler {
            options,
            rng,
            recent: Recent::new(n),
            candidates: Vec::new(),
            weights: Vec::new(),
            guide: None,
            lost: None,
        })
    }

    /// The same, choosing only what `guide` allows.
    pub fn guided(self, guide: Option<Box<dyn Guide>>) -> Sampler {
        Sampler { guide, ..self }
    }

    /// Counts `id` as generated: for the penalties, and for the guide.
    pub fn accept(&mut self, id: u32) {
        self.recent.push(id);
        if let (Some(guide), None) = (&mut self.guide, &self.lost) {
            // Told with the next choice, which is the first that cannot be made.
            self.lost = guide.accept(id).err();
        }
    }

    /// The next token. Ties go to the lowest id.
    ///
    /// # Errors
    /// No logits; a logit that is NaN or positive infinity; all of them negative infinity, so that nothing is left; a guide
    /// that lost its way.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        self.load(logits)?;
        if self.options.temp <= 0.0 {
            // Top-k, top-p and min-p always keep the best token, so greedy need not look at them.
            return Ok(self.candidates.iter().copied().min_by(best_first).map_or(0, |c| c.id));
        }
        self.keep_top_k();
        self.keep_top_p();
        self.keep_min_p();
        Ok(self.draw())
    }

    /// How many of the largest logits [`Sampler::sample_top`] needs; `None` where a choice takes all of them.
    pub fn n_top(&self) -> Option<usize> {
        let o = &self.options;
        match o.top_k {
            // A penalty, a bias or a guide may bring a token up among the largest.
            _ if o.has_penalties() || !o.logit_bias.is_empty() || self.guide.is_some() => None,
            _ if o.temp <= 0.0 => Some(1),
            0 => None,
            k => Some(k),
        }
    }

    /// As [`Sampler::sample`], from the [`Sampler::n_top`] largest logits with their tokens, largest first, of equal ones the
    /// lower token first. They must be finite or negative infinity.
    ///
    /// # Errors
    /// Nothing to choose from.
    ///
    /// # Panics
    /// When all logits are needed.
    pub fn sample_top(&mut self, top: &[(u32, f32)]) -> Result<u32> {
        let n_top = self.n_top().expect("a caller asks first");
        let Some((best, _)) = top.first().filter(|(_, logit)| *logit > f32::NEG_INFINITY) else {
            return Err(Error::format(format!("`{}` logits leave no token to choose", top.len())));
        };
        if self.options.temp <= 0.0 {
            return Ok(*best);
        }
        self.candidates.clear();
        self.candidates.extend(top.iter().take(n_top).map(|(id, logit)| Candidate { id: *id, logit: *logit }));
        self.keep_top_p();
        self.keep_min_p();
        Ok(self.draw())
    }

    /// Fills the candidates from `logits` and applies the penalties.
    fn load(&mut self, logits: &[f32]) -> Result<()> {
        if let Some((id, logit)) = logits.iter().enumerate().find(|(_, l)| l.is_nan() || **l == f32::INFINITY) {
            return Err(Error::format(format!("the logit of token `{id}` is `{logit}`, expected a finite number")));
        }
        if logits.len() > u32::MAX as usize || logits.iter().all(|l| *l == f32::NEG_INFINITY) {
            return Err(Error::format(format!("`{}` logits leave no token to choose", logits.len())));
        }
        self.candidates.clear();
        self.candidates.extend((0u32..).zip(logits).map(|(id, logit)| Candidate { id, logit: *logit }));
        let o = &self.options;
        for (id, bias) in &o.logit_bias {
            if let Some(candidate) = self.candidates.get_mut(*id as usize).filter(|c| c.logit.is_finite()) {
                candidate.logit = (candidate.logit + bias).clamp(f32::MIN, f32::MAX);
            }
        }
        for (id, n) in &self.recent.counts {
            let Some(candidate) = self.candidates.get_mut(*id as usize) else { continue };
            let logit = candidate.logit;
            // Dividing a negative logit would make it more likely.
            let repeated = if logit <= 0.0 { logit * o.repeat_penalty } else { logit / o.repeat_penalty };
            // The clamp stops a logit near the end of the range from overflowing.
            let penalized = repeated - *n as f32 * o.frequency_penalty - o.presence_penalty;
            candidate.logit = if logit.is_finite() { penalized.clamp(f32::MIN, f32::MAX) } else { logit };
        }
        self.keep_allowed()
    }

    /// Keeps what the guide allows, where there is one.
    fn keep_allowed(&mut self) -> Result<()> {
        let Some(guide) = &mut self.guide else { return Ok(()) };
        if let Some(err) = self.lost.take() {
            return Err(err);
        }
        let allowed = guide.allowed()?;
        let is_allowed = |id: u32| allowed.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1);
        self.candidates.retain(|c| c.logit > f32::NEG_INFINITY && is_allowed(c.id));
        if self.candidates.is_empty() {
            return Err(Error::bad_input("no token that the form of the answer allows can come"));
        }
        Ok(())
    }

    /// Keeps the `top_k` best candidates and sorts them, best first.
    fn keep_top_k(&mut self) {
        let k = self.options.top_k;
        if k > 0 && k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k - 1, best_first);
            self.candidates.truncate(k);
        }
        self.candidates.sort_unstable_by(best_first);
    }

    /// Keeps the fewest best candidates whose probabilities reach `top_p` together; at least one.
    fn keep_top_p(&mut self) {
        if self.options.top_p >= 1.0 {
            return;
        }
        let total = self.weigh(1.0);
        let mut sum = 0.0;
        let reached = self.weights.iter().position(|w| {
            sum += w / total;
            sum >= f64::from(self.options.top_p)
        });
        self.candidates.truncate(reached.map_or(self.candidates.len(), |i| i + 1));
    }

    /// Keeps the candidates that are at least `min_p` times as likely as the best one.
    fn keep_min_p(&mut self) {
        if self.options.min_p > 0.0 {
            let least = self.candidates[0].logit + self.options.min_p.ln();
            let n = self.candidates.partition_point(|c| c.logit >= least).max(1);
            self.candidates.truncate(n);
        }
    }

    /// Draws one candidate with its probability at the temperature.
    fn draw(&mut self) -> u32 {
        let total = self.weigh(f64::from(self.options.temp));
        let wanted = self.rng.unit() * total;
        let mut sum = 0.0;
        let hit = self.weights.iter().position(|w| {
            sum += w;
            wanted < sum
        });
        // Rounding may leave the sum a hair below the total; then the last candidate with any weight is meant.
        let last = || self.weights.iter().rposition(|w| *w > 0.0);
        self.candidates[hit.or_else(last).unwrap_or(0)].id
    }

    /// Sets the weights `exp((logit - best) / temp)` and returns their sum, at least 1.
    fn weigh(&mut self, temp: f64) -> f64 {
        let best = f64::from(self.candidates[0].logit);
        self.weights.clear();
        self.weights.extend(self.candidates.iter().map(|c| ((f64::from(c.logit) - best) / temp).exp()));
        self.weights.iter().sum()
    }
}

/// Higher logits first, then lower ids. No logit is NaN here.
fn best_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.id.cmp(&b.id))
}

/// The last `n` tokens as a ring, and how often each occurs in it.
struct Recent {
    ring: Vec<u32>,
    n: usize,
    /// Where the oldest token is once the ring is full.
    oldest: usize,
    counts: HashMap<u32, u32>,
}

impl Recent {
    fn new(n: usize) -> Recent {
        // Twice the room for the counts: a table that is at most half full never has to move for removed entries.
        Recent { ring: Vec::with_capacity(n), n, oldest: 0, counts: HashMap::with_capacity(2 * n) }
    }

    fn push(&mut self, id: u32) {
        if self.n == 0 {
            return;
        }
        if self.ring.len() < self.n {
            self.ring.push(id);
        } else {
            let gone = std::mem::replace(&mut self.ring[self.oldest], id);
            self.oldest = (self.oldest + 1) % self.n;
            if let Some(count) = self.counts.get_mut(&gone) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&gone);
                }
            }
        }
        *self.counts.entry(id).or_insert(0) += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_bias_moves_a_choice_and_needs_all_logits() {
        let of = |logit_bias: Vec<(u32, f32)>| {
            let mut sampler = Sampler::new(SamplerOptions { logit_bias, temp: 0.0, ..plain() }).unwrap();
            (sampler.sample(&[1.0, 2.0, 3.0]).unwrap(), sampler.n_top())
        };
        assert_eq!(of(vec![]), (2, Some(1)));
        assert_eq!(of(vec![(2, -100.0)]), (1, None));
        assert_eq!(of(vec![(0, 100.0), (77, 100.0)]), (0, None));
        assert!(Sampler::new(SamplerOptions { logit_bias: vec![(0, f32::NAN)], ..plain() }).is_err());
    }

    /// Everything off: plain sampling from the softmax.
    fn plain() -> SamplerOptions {
        SamplerOptions { temp: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..SamplerOptions::default() }
    }

    /// Draws often and compares the frequencies with `probs` (chi-square, at most 3 degrees of freedom; 16.3 is the
    /// 0.1 % point, and the seed is fixed). A token of probability 0 must never come.
    fn check_distribution(options: SamplerOptions, logits: &[f32], probs: &[f64], case: &str) {
        const N: usize = 20_000;
        let mut sampler = Sampler::new(SamplerOptions { seed: 42, ..options }).unwrap();
        let mut counts = vec![0usize; logits.len()];
        for _ in 0..N {
            counts[sampler.sample(logits).unwrap() as usize] += 1;
        }
        let mut chi2 = 0.0;
        for (id, (count, p)) in counts.iter().zip(probs).enumerate() {
            if *p == 0.0 {
                assert_eq!(*count, 0, "{case}: token {id} should never be drawn");
            } else {
                let expected = p * N as f64;
                chi2 += (*count as f64 - expected).powi(2) / expected;
            }
        }
        assert!(chi2 < 16.3, "{case}: chi-square {chi2}, counts {counts:?}, expected {probs:?}");
    }

    /// Logits whose softmax is 0.5, 0.25, 0.15, 0.1.
    fn logits() -> Vec<f32> {
        [0.5f32, 0.25, 0.15, 0.1].iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn distributions_match_hand_computed_ones() {
        let l = logits();
        check_distribution(plain(), &l, &[0.5, 0.25, 0.15, 0.1], "plain");
        // Temperature 0.5 squares the probabilities: 0.25, 0.0625, 0.0225, 0.01 over their sum 0.345.
        let squared = [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345];
        check_distribution(SamplerOptions { temp: 0.5, ..plain() }, &l, &squared, "temp");
        check_distribution(SamplerOptions { top_k: 2, ..plain() }, &l, &[2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0], "top_k");
        // 0.5 + 0.25 passes 0.7, so two stay; with 0.76 a third is needed.
        check_distribution(
            SamplerOptions { top_p: 0.7, ..plain() },
            &l,
            &[2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0],
            "top_p 0.7",
        );
        check_distribution(
            SamplerOptions { top_p: 0.76, ..plain() },
            &l,
            &[0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0.0],
            "top_p 0.76",
        );
        check_distribution(SamplerOptions { top_p: 0.0, ..plain() }, &l, &[1.0, 0.0, 0.0, 0.0], "top_p 0");
        // 0.4 of the best is 0.2: the first two.
        check_distribution(SamplerOptions { min_p: 0.4, ..plain() }, &l, &[2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0], "min_p");
        check_distribution(SamplerOptions { min_p: 1.0, ..plain() }, &l, &[1.0, 0.0, 0.0, 0.0], "min_p 1");
        // Top-p looks at what top-k left (2/3, 1/3): 0.6 is reached by the first alone.
        check_distribution(
            SamplerOptions { top_k: 2, top_p: 0.6, ..plain() },
            &l,
            &[1.0, 0.0, 0.0, 0.0],
            "top_k, top_p",
        );
        // The filters come before the temperature: a high one does not bring tokens back.
        let hot = SamplerOptions { top_p: 0.7, temp: 1e6, ..plain() };
        check_distribution(hot, &l, &[0.5, 0.5, 0.0, 0.0], "top_p before temp");
        let masked = [l[0], f32::NEG_INFINITY, l[2], f32::NEG_INFINITY];
        check_distribution(plain(), &masked, &[0.5 / 0.65, 0.0, 0.15 / 0.65, 0.0], "masked");
        check_distribution(SamplerOptions { temp: f32::MIN_POSITIVE, ..plain() }, &l, &[1.0, 0.0, 0.0, 0.0], "cold");
    }

    #[test]
    fn penalties_follow_the_last_tokens() {
        let options = SamplerOptions { repeat_penalty: 2.0, repeat_last_n: 3, temp: 0.0, ..plain() };
        let mut sampler = Sampler::new(options.clone()).unwrap();
        let logits = [3.0, 2.0, -1.0, -1.5];
        assert_eq!(sampler.sample(&logits).unwrap(), 0);
        sampler.accept(0); // 1.5, 2.0, -1.0, -1.5
        assert_eq!(sampler.sample(&logits).unwrap(), 1);
        sampler.accept(1); // 1.5, 1.0, -1.0, -1.5
        assert_eq!(sampler.sample(&logits).unwrap(), 0);
        assert_eq!(sampler.sample(&[-9.0, -9.0, -1.0, -1.5]).unwrap(), 2);
        sampler.accept(2); // negative logits move down: -2.0 against -1.5
        assert_eq!(sampler.sample(&[-9.0, -9.0, -1.0, -1.5]).unwrap(), 3);
        sampler.accept(2);
        assert_eq!(sampler.sample(&[3.0, 2.5, -1.0, -1.5]).unwrap(), 0, "token 0 left the window of three");
        sampler.accept(u32::MAX); // an id outside the vocabulary is harmless

        let mut sampler = Sampler::new(SamplerOptions {
            repeat_penalty: 1.0,
            frequency_penalty: 0.5,
            presence_penalty: 0.25,
            ..options
        })
        .unwrap();
        sampler.accept(0);
        sampler.accept(0); // 3 - 2 * 0.5 - 0.25 = 1.75
        assert_eq!(sampler.sample(&[3.0, 1.7, 0.0, 0.0]).unwrap(), 0);
        assert_eq!(sampler.sample(&[3.0, 1.8, 0.0, 0.0]).unwrap(), 1);
        assert_eq!(sampler.sample(&[f32::MIN, f32::NEG_INFINITY]).unwrap(), 0, "penalties do not overflow");
        let mut off =
            Sampler::new(SamplerOptions { repeat_last_n: 0, repeat_penalty: 2.0, temp: 0.0, ..plain() }).unwrap();
        off.accept(0);
        assert_eq!(off.sample(&logits).unwrap(), 0);
    }

    #[test]
    fn ties_go_to_the_lowest_id_and_seeds_repeat() {
        let mut greedy = Sampler::new(SamplerOptions { temp: 0.0, ..plain() }).unwrap();
        assert_eq!(greedy.sample(&[0.0, 7.0, 7.0, -1.0]).unwrap(), 1);
        assert_eq!(greedy.sample(&[0.0, -0.0]).unwrap(), 0);
        let mut one = Sampler::new(SamplerOptions { top_k: 1, ..plain() }).unwrap();
        assert_eq!(one.sample(&vec![1.0; 1000]).unwrap(), 0);
        let draw = |seed| {
            let mut sampler = Sampler::new(SamplerOptions { seed, ..plain() }).unwrap();
            (0..64).map(|_| sampler.sample(&[0.0; 100]).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn the_largest_logits_are_as_good_as_all() {
        let logits: Vec<f32> = (0..500).map(|i| ((i * 37) % 101) as f32 / 10.0).collect();
        let mut ranked: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        for options in [
            SamplerOptions { temp: 0.0, ..plain() },
            SamplerOptions { top_k: 1, ..plain() },
            SamplerOptions { top_k: 7, seed: 3, ..plain() },
            SamplerOptions { seed: 4, ..SamplerOptions::default() },
            SamplerOptions { top_k: 600, seed: 5, ..plain() },
        ] {
            let (mut all, mut some) = (Sampler::new(options.clone()).unwrap(), Sampler::new(options).unwrap());
            let top = &ranked[..some.n_top().unwrap().min(ranked.len())];
            for _ in 0..50 {
                assert_eq!(some.sample_top(top).unwrap(), all.sample(&logits).unwrap());
            }
        }
        let n_top = |options| Sampler::new(options).unwrap().n_top();
        assert_eq!(n_top(plain()), None, "without a limit all may be drawn");
        assert_eq!(n_top(SamplerOptions { repeat_penalty: 1.1, temp: 0.0, ..plain() }), None, "penalties need all");
        let mut greedy = Sampler::new(SamplerOptions { temp: 0.0, ..plain() }).unwrap();
        assert!(greedy.sample_top(&[]).is_err() && greedy.sample_top(&[(0, f32::NEG_INFINITY)]).is_err());
    }

    #[test]
    fn hostile_options_and_logits_are_errors() {
        let bad = |f: fn(&mut SamplerOptions)| {
            let mut options = plain();
            f(&mut options);
            let err = Sampler::new(options.clone()).err().unwrap_or_else(|| panic!("accepted {options:?}"));
            assert_eq!(err.kind(), ErrorKind::BadInput);
        };
        bad(|o| o.temp = f32::NAN);
        bad(|o| o.temp = f32::INFINITY);
        bad(|o| o.top_p = 2.0);
        bad(|o| o.top_p = -0.1);
        bad(|o| o.top_p = f32::NAN);
        bad(|o| o.min_p = 1.1);
        bad(|o| o.repeat_penalty = 0.0);
        bad(|o| o.repeat_penalty = -1.0);
        bad(|o| o.repeat_penalty = f32::NAN);
        bad(|o| o.presence_penalty = -1001.0);
        bad(|o| o.frequency_penalty = f32::INFINITY);
        bad(|o| o.repeat_last_n = usize::MAX);
        for temp in [0.0, 1.0] {
            let mut sampler = Sampler::new(SamplerOptions { temp, ..plain() }).unwrap();
            for logits in [&[][..], &[0.0, f32::NAN], &[f32::INFINITY, 0.0], &[f32::NEG_INFINITY; 3]] {
                assert_eq!(sampler.sample(logits).unwrap_err().kind(), ErrorKind::Format, "{logits:?}");
            }
            assert_eq!(sampler.sample(&[1.0]).unwrap(), 0, "an error leaves the sampler usable");
        }
    }

    #[test]
    fn later_tokens_allocate_nothing() {
        let options = SamplerOptions { repeat_penalty: 1.1, repeat_last_n: 16, ..SamplerOptions::default() };
        let mut sampler = Sampler::new(options).unwrap();
        let logits: Vec<f32> = (0..5000).map(|i| ((i * 37) % 101) as f32 / 10.0).collect();
        sampler.sample(&logits).unwrap();
        let room = |s: &Sampler| {
            (s.candidates.capacity(), s.weights.capacity(), s.recent.ring.capacity(), s.recent.counts.capacity())
        };
        let before = room(&sampler);
        for i in 0..2000 {
            sampler.accept(i);
            sampler.sample(&logits).unwrap();
        }
        assert_eq!(room(&sampler), before);
    }
}
