//! Seeded random numbers for experiments and for letters that have to be guessed: the same on every machine.

/// SplitMix64: every seed, zero included, gives a good stream.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in (0, 1]: never 0, so that its logarithm is finite.
    pub fn uniform(&mut self) -> f64 {
        ((self.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in 0 to `n` - 1; the bias is below 2^-32 for any `n` that fits 32 bits.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// Fills `out` with independent normal values (Box-Muller).
    pub fn normal(&mut self, out: &mut [f64], mean: f64, sigma: f64) {
        for pair in out.chunks_mut(2) {
            let radius = (-2.0 * self.uniform().ln()).sqrt() * sigma;
            let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
            pair[0] = mean + radius * cos;
            if let Some(second) = pair.get_mut(1) {
                *second = mean + radius * sin;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_values_have_their_mean_and_variance() {
        let (mut rng, mut v) = (Rng::new(7), vec![0.0; 200_001]);
        rng.normal(&mut v, 0.25, 2.0);
        let n = v.len() as f64;
        let mean = v.iter().sum::<f64>() / n;
        let variance = v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        assert!((mean - 0.25).abs() < 5.0 * 2.0 / n.sqrt(), "seed 7: mean {mean}");
        assert!((variance - 4.0).abs() < 5.0 * 4.0 * (2.0 / n).sqrt(), "seed 7: variance {variance}");
        assert!((0..1000).all(|_| rng.below(3) < 3));
    }
}
