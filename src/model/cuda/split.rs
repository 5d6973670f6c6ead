//! How the layers of a model are shared among GPUs.

use std::ops::Range;

/// `n` layers in runs whose lengths are as the free bytes of GPUs.
pub(super) fn shares(free: &[u64], n: usize) -> Vec<Range<usize>> {
    let total: f64 = free.iter().map(|bytes| *bytes as f64).sum::<f64>().max(1.0);
    let (mut start, mut sum) = (0, 0.0);
    let mut runs: Vec<Range<usize>> = Vec::new();
    for bytes in free {
        sum += *bytes as f64;
        let end = ((sum / total * n as f64).round() as usize).clamp(start, n);
        runs.push(start..end);
        start = end;
    }
    // Rounding leaves nothing over.
    if let Some(last) = runs.last_mut() {
        last.end = n;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::shares;

    #[test]
    fn gpus_get_layers_by_their_memory() {
        assert_eq!(shares(&[10, 0], 28), [0..28, 28..28]);
        assert_eq!(shares(&[30, 10], 28), [0..21, 21..28]);
        assert_eq!(shares(&[1, 1, 1], 2), [0..1, 1..1, 1..2]);
        assert_eq!(shares(&[0, 0], 3), [0..0, 0..3]);
    }
}
