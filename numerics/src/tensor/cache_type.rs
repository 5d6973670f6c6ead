//! How a cache stores a head of keys or of values: a block format, and whether the head is transformed before.

use super::hadamard::hadamard;
use super::{block, dequantize_row, quantize_row};
use crate::ggml_type::GgmlType;
use crate::{Error, Result};

/// Block formats that a cache may hold, with their names where heads are transformed.
const FORMATS: [(GgmlType, &str); 9] = [
    (GgmlType::F32, "F32H"),
    (GgmlType::F16, "F16H"),
    (GgmlType::BF16, "BF16H"),
    (GgmlType::Q8_0, "Q8_0H"),
    (GgmlType::Q5_1, "Q5_1H"),
    (GgmlType::Q5_0, "Q5_0H"),
    (GgmlType::Q4_1, "Q4_1H"),
    (GgmlType::Q4_0, "Q4_0H"),
    (GgmlType::IQ4_NL, "IQ4_NLH"),
];

/// Block formats that a cache may hold, each as it is or under a transform.
pub const CACHE_TYPES: [GgmlType; FORMATS.len()] = {
    let mut types = [GgmlType::F32; FORMATS.len()];
    let mut i = 0;
    while i < types.len() {
        types[i] = FORMATS[i].0;
        i += 1;
    }
    types
};

/// The type of the keys or the values of a cache: `Q4_0`, or `Q4_0H` for the same bytes of heads that went through
/// [`hadamard`] first. What attends to transformed keys transforms its queries, which leaves their products as they were; what it
/// makes of transformed values is transformed back once.
///
/// Under a transform Q4_0 and Q5_0 are encoded with a search (see `block::symmetric::aligned`); without one every format is
/// encoded as everyone does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheType {
    /// The block format.
    pub ty: GgmlType,
    /// Whether heads are transformed before they are encoded.
    pub hadamard: bool,
}

impl From<GgmlType> for CacheType {
    fn from(ty: GgmlType) -> CacheType {
        CacheType { ty, hadamard: false }
    }
}

impl CacheType {
    /// All that there are: the block formats, then the same under a transform.
    pub fn all() -> impl Iterator<Item = CacheType> {
        [false, true].into_iter().flat_map(|hadamard| CACHE_TYPES.map(|ty| CacheType { ty, hadamard }))
    }

    /// The type called `name`, in any case.
    pub fn from_name(name: &str) -> Option<CacheType> {
        CacheType::all().find(|ty| ty.name().eq_ignore_ascii_case(name))
    }

    /// Its name: that of the block format, with an `H` behind it under a transform.
    pub fn name(self) -> &'static str {
        let transformed = FORMATS.iter().find(|(ty, _)| self.hadamard && *ty == self.ty);
        transformed.map_or_else(|| self.ty.name(), |(_, name)| name)
    }

    /// Whether a cache can hold it.
    pub fn is_known(self) -> bool {
        FORMATS.iter().any(|(ty, _)| *ty == self.ty)
    }

    /// The same under a transform.
    pub fn transformed(self) -> CacheType {
        CacheType { hadamard: true, ..self }
    }

    /// See [`GgmlType::block_len`].
    pub fn block_len(self) -> usize {
        self.ty.block_len()
    }

    /// See [`GgmlType::row_bytes`].
    pub fn row_bytes(self, n: usize) -> Option<usize> {
        self.ty.row_bytes(n)
    }

    /// Encodes a head, which is transformed in place on the way: the definition for kernels.
    ///
    /// # Panics
    /// When the lengths disagree.
    ///
    /// # Errors
    /// See [`quantize_row`].
    pub fn encode(self, head: &mut [f32], dst: &mut [u8]) -> Result<()> {
        if self.hadamard {
            hadamard(head);
        }
        self.encode_transformed(head, dst)
    }

    /// Encodes a head that is transformed already, where it is to be.
    ///
    /// # Panics
    /// When the lengths disagree.
    ///
    /// # Errors
    /// See [`quantize_row`].
    pub fn encode_transformed(self, head: &[f32], dst: &mut [u8]) -> Result<()> {
        let Some(max) = self.aligned_max() else { return quantize_row(self.ty, head, dst, None) };
        // No range contains a NaN.
        if let Some(i) = head.iter().position(|x| !(-max..=max).contains(x)) {
            let message = format!("value `{}` at index {i}: {self} holds finite numbers up to {max:e}", head[i]);
            return Err(Error::bad_input(message));
        }
        assert_eq!(self.row_bytes(head.len()), Some(dst.len()), "bytes for {} elements of {self}", head.len());
        match self.ty {
            GgmlType::Q4_0 => block::encode_aligned_q4_0(head, dst),
            _ => block::encode_aligned_q5_0(head, dst),
        }
        Ok(())
    }

    /// The largest magnitude that the search for an aligned scale takes, of types that are encoded so.
    #[inline(always)]
    pub(crate) fn aligned_max(self) -> Option<f32> {
        // A scale may have to be nearly twice the largest element by the largest code.
        match self.ty {
            GgmlType::Q4_0 if self.hadamard => Some(65504.0 * 4.0),
            GgmlType::Q5_0 if self.hadamard => Some(65504.0 * 8.0),
            _ => None,
        }
    }

    /// Decodes rows of heads of `d` elements: what went in, but for what encoding rounded.
    ///
    /// # Panics
    /// When the lengths disagree.
    ///
    /// # Errors
    /// See [`dequantize_row`].
    pub fn decode(self, src: &[u8], d: usize, dst: &mut [f32]) -> Result<()> {
        dequantize_row(self.ty, src, dst)?;
        if self.hadamard {
            dst.chunks_exact_mut(d).for_each(hadamard);
        }
        Ok(())
    }
}

impl std::fmt::Display for CacheType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Rng;

    #[test]
    fn names_go_both_ways() {
        assert_eq!(CacheType::all().count(), 18);
        for ty in CacheType::all() {
            assert_eq!(CacheType::from_name(&ty.to_string().to_lowercase()), Some(ty));
            assert!(ty.is_known() && ty.transformed().name().starts_with(ty.ty.name()));
        }
        assert_eq!(CacheType::from_name("q4_kh"), None);
        assert!(!CacheType::from(GgmlType::Q4_K).is_known());
    }

    /// Squared error of heads that were encoded and decoded, with a transform where the type has one, relative to their own.
    fn error(ty: CacheType, heads: &[f32], d: usize) -> f64 {
        let (mut error, mut power) = (0.0, 0.0);
        for head in heads.chunks_exact(d) {
            let (mut bytes, mut got) = (vec![0; ty.row_bytes(d).unwrap()], vec![0.0; d]);
            ty.encode(&mut head.to_vec(), &mut bytes).unwrap();
            ty.decode(&bytes, d, &mut got).unwrap();
            error += head.iter().zip(&got).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            power += head.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        }
        error / power
    }

    /// Where a few channels are 30 times larger than the others: what the transform is for.
    #[test]
    fn transformed_types_lose_less_of_heads_with_outliers() {
        for d in [64, 128, 256] {
            let mut heads = Rng(d as u64).vec(200 * d);
            heads.chunks_exact_mut(d).for_each(|head| [3, 3 + d / 2, d - 7].iter().for_each(|i| head[*i] *= 30.0));
            for ty in CACHE_TYPES.into_iter().filter(|ty| ty.block_len() > 1 && *ty != GgmlType::Q8_0) {
                let plain = CacheType::from(ty);
                let (before, after) = (error(plain, &heads, d), error(plain.transformed(), &heads, d));
                assert!(after < 0.7 * before, "{ty} of {d}: {after:.2e}, without a transform {before:.2e}");
            }
        }
    }

    #[test]
    fn the_search_loses_less_and_keeps_products_of_a_block_with_itself() {
        let heads = Rng(4).vec(500 * 128);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        for (ty, most) in [(GgmlType::Q4_0, 0.93), (GgmlType::Q5_0, 0.97)] {
            let (mut before, mut after) = (0.0, 0.0);
            for block in heads.chunks_exact(32) {
                let decoded = |ty: CacheType| {
                    let (mut bytes, mut got) = (vec![0; ty.row_bytes(32).unwrap()], vec![0.0; 32]);
                    ty.encode_transformed(block, &mut bytes).unwrap();
                    dequantize_row(ty.ty, &bytes, &mut got).unwrap();
                    got
                };
                let (plain, aligned) = (decoded(ty.into()), decoded(CacheType { ty, hadamard: true }));
                let error = |got: &[f32]| got.iter().zip(block).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
                (before, after) = (before + error(&plain), after + error(&aligned));
                // But for the rounding of the scale to 11 bits.
                let (got, want) = (dot(&aligned, block), dot(block, block));
                assert!((got / want - 1.0).abs() < 6e-4, "{got} of {want}");
            }
            assert!(after < most * before, "{ty}: {after:.3e} after {before:.3e}");
        }
    }

    #[test]
    fn zeros_and_extremes() {
        let ty = CacheType::from(GgmlType::Q4_0).transformed();
        let of = |x: f32| {
            let (mut bytes, mut got) = ([1; 18], [1.0; 32]);
            ty.encode_transformed(&[x; 32], &mut bytes).map(|()| {
                dequantize_row(ty.ty, &bytes, &mut got).unwrap();
                got
            })
        };
        assert_eq!((of(0.0).unwrap(), of(-0.0).unwrap()), ([0.0; 32], [0.0; 32]));
        assert!(of(1e-36).unwrap().iter().all(|x| x.abs() < 1e-6));
        for x in [65504.0 * 4.0, -65504.0 * 4.0] {
            assert!(of(x).unwrap().iter().all(|got| (got / x - 1.0).abs() < 1e-3));
        }
        for x in [65504.0 * 4.1, f32::NAN, f32::INFINITY] {
            assert!(of(x).unwrap_err().to_string().contains("Q4_0H holds finite numbers up to"));
        }
    }
}
