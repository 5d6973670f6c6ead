//! Seeded random numbers, the same on every machine: for sampling, experiments, drawn videos, and tests.

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014): a counter that is stepped by an odd
/// constant and scrambled. Every seed, zero included, gives a good stream.
pub struct Rng(pub u64);

impl Rng {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// 64 random bits.
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

    /// Uniform in [0, 1), from the upper 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [-1, 1).
    pub fn signed(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Roughly normal, of variance 1: quick, and never beyond 3.5.
    pub fn normal(&mut self) -> f32 {
        let z = self.next_u64();
        (0..4).map(|i| ((z >> (16 * i)) & 0xffff) as f32 / 65536.0 - 0.5).sum::<f32>() * 1.732
    }

    /// `n` values of [`Rng::normal`].
    pub fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }

    /// Uniform in 0 to `n` - 1; the bias is below 2^-32 for any `n` that fits 32 bits.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// Fills `out` with independent normal values (Box-Muller).
    pub fn fill_normal(&mut self, out: &mut [f64], mean: f64, sigma: f64) {
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
    fn the_first_numbers_are_those_published_with_the_generator() {
        let mut rng = Rng::new(0);
        assert_eq!([rng.next_u64(), rng.next_u64()], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
    }

    #[test]
    fn normal_values_have_their_mean_and_variance() {
        let (mut rng, mut v) = (Rng::new(7), vec![0.0; 200_001]);
        rng.fill_normal(&mut v, 0.25, 2.0);
        let n = v.len() as f64;
        let mean = v.iter().sum::<f64>() / n;
        let variance = v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        assert!((mean - 0.25).abs() < 5.0 * 2.0 / n.sqrt(), "seed 7: mean {mean}");
        assert!((variance - 4.0).abs() < 5.0 * 4.0 * (2.0 / n).sqrt(), "seed 7: variance {variance}");
        assert!((0..1000).all(|_| rng.below(3) < 3));
    }
}
