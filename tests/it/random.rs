//! Random numbers and packed matrices for the tests of kernels.

use longtake::gguf::GgmlType;
use longtake::tensor::{MatView, dequantize_row, quantize_row};

/// A small generator (splitmix64): seeds appear in every message.
pub struct Rng(pub u64);

impl Rng {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Roughly normal, of variance 1.
    pub fn normal(&mut self) -> f32 {
        let z = self.bits();
        (0..4).map(|i| ((z >> (16 * i)) & 0xffff) as f32 / 65536.0 - 0.5).sum::<f32>() * 1.732
    }

    pub fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
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
        quantize_row(ty, values, &mut packed, None).unwrap();
        let mut decoded = vec![0.0; n_rows * n_cols];
        dequantize_row(ty, &packed, &mut decoded).unwrap();
        Weights { ty, n_cols, n_rows, packed, decoded }
    }

    pub fn view(&self) -> MatView<'_> {
        MatView::new(self.ty, self.n_cols, self.n_rows, &self.packed).unwrap()
    }
}
