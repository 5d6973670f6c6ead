//! Numbers into blocks: rows are checked, encoded in parallel, and, where asked, decoded again to measure the error.

use rayon::prelude::*;

use crate::gguf::GgmlType;
use crate::kernels::threads::in_rayon;
use crate::tensor::{dequantize_row, quantize_row};
use crate::{Error, Result};

/// How many f32 values are worked on at once, in all threads together (16 MiB).
pub(crate) const CHUNK: usize = 1 << 22;
/// Values that one task of the thread pool encodes, at least.
const TASK: usize = 1 << 14;

/// How far a tensor's encoded values are from what they encode.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct ErrorSums {
    pub n: u64,
    /// Sum of squared differences.
    pub diff2: f64,
    /// Sum of squared values before encoding.
    pub value2: f64,
    /// Largest absolute difference.
    pub max_abs: f64,
}

impl ErrorSums {
    pub(crate) fn add(&mut self, other: ErrorSums) {
        self.n += other.n;
        self.diff2 += other.diff2;
        self.value2 += other.value2;
        self.max_abs = self.max_abs.max(other.max_abs);
    }

    /// Root of the mean squared difference.
    pub(crate) fn rmse(&self) -> f64 {
        if self.n == 0 { 0.0 } else { (self.diff2 / self.n as f64).sqrt() }
    }

    /// Squared differences as a share of the squared values; 0 for a tensor of zeros that stayed zeros.
    pub(crate) fn nmse(&self) -> f64 {
        match (self.diff2 == 0.0, self.value2 == 0.0) {
            (true, _) => 0.0,
            (false, true) => f64::INFINITY,
            (false, false) => self.diff2 / self.value2,
        }
    }
}

/// Encodes whole rows of `n_cols` values as `ty` and appends them to `out`. `first` is the index within the tensor of the
/// first value, for messages.
///
/// # Errors
/// `Format` for NaN and infinity, `Limit` for a value too large for `ty`, both with index and value; what
/// [`quantize_row`] says.
pub(crate) fn encode(
    src: &[f32],
    n_cols: usize,
    first: usize,
    ty: GgmlType,
    importance: Option<&[f32]>,
    out: &mut Vec<u8>,
) -> Result<()> {
    check_values(src, first, ty)?;
    // Plain types have no blocks, so pieces of a row are as good as rows.
    let n_cols = if ty.block_len() == 1 { 1 } else { n_cols };
    let row_bytes = ty.row_bytes(n_cols).expect("the type was chosen to fit the row");
    let n_rows = src.len() / n_cols;
    let start = out.len();
    out.resize(start + n_rows * row_bytes, 0);
    let rows = TASK.div_ceil(n_cols);
    let tasks = out[start..].par_chunks_mut(rows * row_bytes).zip(src.par_chunks(rows * n_cols));
    let quantize = |(dst, src): (&mut [u8], &[f32])| match importance {
        None => quantize_row(ty, src, dst, None),
        Some(_) => {
            let mut rows = dst.chunks_exact_mut(row_bytes).zip(src.chunks_exact(n_cols));
            rows.try_for_each(|(dst, src)| quantize_row(ty, src, dst, importance))
        }
    };
    in_rayon(|| tasks.try_for_each(quantize))?
}

/// Decodes rows of `n_cols` values of type `ty` into `out`, in parallel.
pub(crate) fn decode(ty: GgmlType, src: &[u8], n_cols: usize, out: &mut [f32]) -> Result<()> {
    let row_bytes = ty.row_bytes(n_cols).expect("a row is a whole number of blocks");
    let rows = TASK.div_ceil(n_cols);
    let tasks = out.par_chunks_mut(rows * n_cols).zip(src.par_chunks(rows * row_bytes));
    in_rayon(|| tasks.try_for_each(|(dst, src)| dequantize_row(ty, src, dst)))?
}

/// Compares `values` with their encoding; the sums do not depend on the number of threads.
pub(crate) fn measure(values: &[f32], encoded: &[u8], n_cols: usize, ty: GgmlType) -> Result<ErrorSums> {
    let n_cols = if ty.block_len() == 1 { 1 } else { n_cols };
    let row_bytes = ty.row_bytes(n_cols).expect("the type was chosen to fit the row");
    let rows = TASK.div_ceil(n_cols);
    let tasks = values.par_chunks(rows * n_cols).zip(encoded.par_chunks(rows * row_bytes));
    let part = |(values, encoded): (&[f32], &[u8])| {
        let mut back = vec![0.0; values.len()];
        dequantize_row(ty, encoded, &mut back)?;
        Ok(values.iter().zip(&back).fold(ErrorSums::default(), |mut sums, (a, b)| {
            let (a, b) = (f64::from(*a), f64::from(*b));
            sums.add(ErrorSums { n: 1, diff2: (a - b) * (a - b), value2: a * a, max_abs: (a - b).abs() });
            sums
        }))
    };
    let parts: Vec<ErrorSums> = in_rayon(|| tasks.map(part).collect::<Result<_>>())??;
    Ok(parts.into_iter().fold(ErrorSums::default(), |mut sums, part| {
        sums.add(part);
        sums
    }))
}

/// The smallest magnitude that does not fit: what rounds to infinity, or gives a block an infinite scale.
fn limit(ty: GgmlType) -> f32 {
    match ty {
        GgmlType::F32 => f32::INFINITY,
        // Half a step above the largest BF16.
        GgmlType::BF16 => f32::from_bits(0x7f7f_8000),
        _ => 65520.0,
    }
}

fn check_values(src: &[f32], first: usize, ty: GgmlType) -> Result<()> {
    let limit = limit(ty);
    let fits = |x: &f32| x.abs() < limit;
    let Some(at) = in_rayon(|| src.par_iter().position_first(|x| !fits(x)))? else { return Ok(()) };
    let (x, at) = (src[at], first + at);
    Err(match x.is_finite() {
        true => Error::limit(format!("value `{x}` at index {at} is too large for {ty}; BF16 and F32 hold it")),
        false => Error::format(format!("value `{x}` at index {at}, expected finite numbers")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_do_not_fit_are_named_with_their_index() {
        let mut out = Vec::new();
        let mut x = vec![1.0; 64];
        x[37] = 70000.0;
        let err = encode(&x, 32, 100, GgmlType::F16, None, &mut out).unwrap_err().to_string();
        assert!(err.contains("70000") && err.contains("137") && err.contains("F16"), "{err}");
        encode(&x, 32, 0, GgmlType::BF16, None, &mut out).unwrap();
        x[37] = f32::NAN;
        for ty in [GgmlType::F32, GgmlType::BF16, GgmlType::Q8_0] {
            assert!(encode(&x, 32, 0, ty, None, &mut Vec::new()).is_err(), "{ty}");
        }
    }

    #[test]
    fn rows_come_out_in_order_and_the_error_is_measured() {
        let x: Vec<f32> = (0..32 * 2000).map(|i| (i as f32 * 0.37).sin()).collect();
        let mut out = Vec::new();
        encode(&x, 32, 0, GgmlType::Q8_0, None, &mut out).unwrap();
        let mut one = vec![0; 34];
        quantize_row(GgmlType::Q8_0, &x[32 * 1999..], &mut one, None).unwrap();
        assert_eq!(out[34 * 1999..], one);
        let sums = measure(&x, &out, 32, GgmlType::Q8_0).unwrap();
        assert_eq!(sums.n, x.len() as u64);
        assert!(sums.nmse() > 1e-7 && sums.nmse() < 1e-4, "{}", sums.nmse());
        assert!(sums.max_abs <= 1.0 / 254.0 + 1e-3);
        let mut back = vec![0.0; x.len()];
        decode(GgmlType::Q8_0, &out, 32, &mut back).unwrap();
        assert!((back[777] - x[777]).abs() < 0.005);
        assert_eq!(ErrorSums { n: 1, ..ErrorSums::default() }.nmse(), 0.0);
    }
}
