//! Packed matrices for the tests of kernels.

use longtake_numerics::GgmlType;
pub use longtake_numerics::random::Rng;
use longtake_numerics::tensor::{MatView, can_quantize, dequantize_row, quantize_row};

/// Blocks of a format that is only read: bytes at random, from the bits of `values`, under scales of about 0.01.
fn any_blocks(ty: GgmlType, values: &[f32], packed: &mut [u8]) {
    let seed = values.iter().fold(1u64, |hash, x| (hash ^ u64::from(x.to_bits())).wrapping_mul(0x100_0000_01b3));
    let mut rng = Rng(seed);
    let mut next = || rng.below(256) as u8;
    packed.fill_with(&mut next);
    for block in packed.chunks_exact_mut(ty.block_bytes()) {
        let d = half::f16::from_f32(0.01 + f32::from(next()) * 1e-4).to_bits();
        let mut put = |at: usize| block[at..at + 2].copy_from_slice(&d.to_le_bytes());
        match ty {
            GgmlType::TQ1_0 => put(52),
            GgmlType::TQ2_0 => put(64),
            GgmlType::MXFP4 => block[0] = 118 + next() % 4,
            GgmlType::NVFP4 => block[..4].iter_mut().for_each(|scale| *scale &= 0x3f),
            // Four bits in each of four words.
            GgmlType::IQ1_M => {
                (0..4).for_each(|i| block[49 + 2 * i] = block[49 + 2 * i] & 15 | ((d >> (4 * i)) as u8 & 15) << 4);
            }
            _ => put(0),
        }
    }
}

/// Packed weights of one matrix, and what they decode to.
pub struct Weights {
    pub ty: GgmlType,
    pub n_cols: usize,
    pub n_rows: usize,
    pub packed: Vec<u8>,
    pub decoded: Vec<f32>,
}

impl Weights {
    /// Packs `values`, (n_rows, n_cols).
    pub fn pack(ty: GgmlType, n_cols: usize, n_rows: usize, values: &[f32]) -> Weights {
        let mut packed = vec![0; n_rows * ty.row_bytes(n_cols).unwrap()];
        match can_quantize(ty) {
            true => quantize_row(ty, values, &mut packed, None).unwrap(),
            false => any_blocks(ty, values, &mut packed),
        }
        let mut decoded = vec![0.0; n_rows * n_cols];
        dequantize_row(ty, &packed, &mut decoded).unwrap();
        Weights { ty, n_cols, n_rows, packed, decoded }
    }

    pub fn view(&self) -> MatView<'_> {
        MatView::new(self.ty, self.n_cols, self.n_rows, &self.packed).unwrap()
    }
}
