//! Random numbers and packed matrices for the tests of kernels.

use longtake::gguf::GgmlType;
use longtake::tensor::{MatView, can_quantize, dequantize_row, quantize_row};

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
/// Blocks of a format that is only read: bytes at random, from the bits of `values`, under scales of about 0.01.
fn any_blocks(ty: GgmlType, values: &[f32], packed: &mut [u8]) {
    let mut state = values.iter().fold(1u64, |hash, x| (hash ^ u64::from(x.to_bits())).wrapping_mul(0x100_0000_01b3));
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
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
