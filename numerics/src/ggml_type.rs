//! The element types of GGUF tensors: their ids, names and block sizes (ggml's table).
#![forbid(unsafe_code)]

use crate::{Error, Result};

/// A tensor element type, spelled as ggml spells it.
#[allow(non_camel_case_types)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum GgmlType {
    /// Floats of 32 bits.
    F32 = 0,
    /// Floats of 16 bits.
    F16 = 1,
    /// Codes of 4 bits, a scale per 32.
    Q4_0 = 2,
    /// Codes of 4 bits, a scale and a minimum per 32.
    Q4_1 = 3,
    /// Codes of 5 bits, a scale per 32.
    Q5_0 = 6,
    /// Codes of 5 bits, a scale and a minimum per 32.
    Q5_1 = 7,
    /// Integers of 8 bits, a scale per 32.
    Q8_0 = 8,
    /// Integers of 8 bits, a scale and the sum per 32: for activations.
    Q8_1 = 9,
    /// Codes of 2 bits, scales and minima of 4 bits per 16, in blocks of 256.
    Q2_K = 10,
    /// Codes of 3 bits, scales of 6 bits per 16, in blocks of 256.
    Q3_K = 11,
    /// Codes of 4 bits, scales and minima of 6 bits per 32, in blocks of 256.
    Q4_K = 12,
    /// Codes of 5 bits, scales and minima of 6 bits per 32, in blocks of 256.
    Q5_K = 13,
    /// Codes of 6 bits, scales of 8 bits per 16, in blocks of 256.
    Q6_K = 14,
    /// Integers of 8 bits, a scale per 256: for activations.
    Q8_K = 15,
    /// Eight values at once from a grid of 256, in 2.06 bits each.
    IQ2_XXS = 16,
    /// Eight values at once from a grid of 512, in 2.31 bits each.
    IQ2_XS = 17,
    /// Four values at once from a grid of 256, in 3.06 bits each.
    IQ3_XXS = 18,
    /// Eight values at once from a grid of 2048, in 1.56 bits each.
    IQ1_S = 19,
    /// Codes of 4 bits for sixteen uneven values, a scale per 32.
    IQ4_NL = 20,
    /// Four values at once from a grid of 512, in 3.44 bits each.
    IQ3_S = 21,
    /// Eight values at once from a grid of 1024, in 2.56 bits each.
    IQ2_S = 22,
    /// Codes of 4 bits for sixteen uneven values, scales of 6 bits per 32, in blocks of 256.
    IQ4_XS = 23,
    /// Integers of 8 bits.
    I8 = 24,
    /// Integers of 16 bits.
    I16 = 25,
    /// Integers of 32 bits.
    I32 = 26,
    /// Integers of 64 bits.
    I64 = 27,
    /// Floats of 64 bits.
    F64 = 28,
    /// Eight values at once from a grid of 2048, in 1.75 bits each.
    IQ1_M = 29,
    /// Floats of 16 bits with the exponent of 32.
    BF16 = 30,
    /// Three values, in 1.69 bits each.
    TQ1_0 = 34,
    /// Three values, in 2.06 bits each.
    TQ2_0 = 35,
    /// Floats of 4 bits, a power of two per 32.
    MXFP4 = 39,
    /// Floats of 4 bits, a float of 8 bits per 16.
    NVFP4 = 40,
    /// Signs, a scale per 128.
    Q1_0 = 41,
    /// Codes of 2 bits, a scale per 64.
    Q2_0 = 42,
}

use GgmlType::*;

/// Every type with its name, elements per block and bytes per block.
const TABLE: &[(GgmlType, &str, usize, usize)] = &[
    (F32, "F32", 1, 4),
    (F16, "F16", 1, 2),
    (Q4_0, "Q4_0", 32, 18),
    (Q4_1, "Q4_1", 32, 20),
    (Q5_0, "Q5_0", 32, 22),
    (Q5_1, "Q5_1", 32, 24),
    (Q8_0, "Q8_0", 32, 34),
    (Q8_1, "Q8_1", 32, 36),
    (Q2_K, "Q2_K", 256, 84),
    (Q3_K, "Q3_K", 256, 110),
    (Q4_K, "Q4_K", 256, 144),
    (Q5_K, "Q5_K", 256, 176),
    (Q6_K, "Q6_K", 256, 210),
    (Q8_K, "Q8_K", 256, 292),
    (IQ2_XXS, "IQ2_XXS", 256, 66),
    (IQ2_XS, "IQ2_XS", 256, 74),
    (IQ3_XXS, "IQ3_XXS", 256, 98),
    (IQ1_S, "IQ1_S", 256, 50),
    (IQ4_NL, "IQ4_NL", 32, 18),
    (IQ3_S, "IQ3_S", 256, 110),
    (IQ2_S, "IQ2_S", 256, 82),
    (IQ4_XS, "IQ4_XS", 256, 136),
    (I8, "I8", 1, 1),
    (I16, "I16", 1, 2),
    (I32, "I32", 1, 4),
    (I64, "I64", 1, 8),
    (F64, "F64", 1, 8),
    (IQ1_M, "IQ1_M", 256, 56),
    (BF16, "BF16", 1, 2),
    (TQ1_0, "TQ1_0", 256, 54),
    (TQ2_0, "TQ2_0", 256, 66),
    (MXFP4, "MXFP4", 32, 17),
    (NVFP4, "NVFP4", 64, 36),
    (Q1_0, "Q1_0", 128, 18),
    (Q2_0, "Q2_0", 64, 18),
];

impl GgmlType {
    /// The type with ggml's number `id`.
    ///
    /// # Errors
    /// `Unsupported` with the id, for retired and unknown numbers.
    pub fn from_id(id: u32) -> Result<GgmlType> {
        let row = TABLE.iter().find(|row| row.0 as u32 == id);
        row.map(|row| row.0).ok_or_else(|| {
            let newest = TABLE.iter().map(|row| row.0 as u32).max().unwrap_or_default();
            let what = if id > newest { "is newer than this program" } else { "is not known or was retired" };
            Error::unsupported(format!(
                "tensor type id `{id}` {what}; take the file as Q4_K_M or Q8_0, or quantize its F16 form again"
            ))
        })
    }

    /// The type called `name`, in any case (`q4_k`, `Q4_K`).
    pub fn from_name(name: &str) -> Option<GgmlType> {
        TABLE.iter().find(|row| row.1.eq_ignore_ascii_case(name)).map(|row| row.0)
    }

    fn row(self) -> &'static (GgmlType, &'static str, usize, usize) {
        TABLE.iter().find(|row| row.0 == self).expect("every variant has a row")
    }

    /// ggml's number.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// ggml's name.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Elements per block (1 for plain types).
    pub fn block_len(self) -> usize {
        self.row().2
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        self.row().3
    }

    /// Bytes of a row of `n` elements, or `None` when `n` is not a whole number of blocks or the size overflows.
    pub fn row_bytes(self, n: usize) -> Option<usize> {
        let (_, _, len, bytes) = *self.row();
        if n.is_multiple_of(len) { (n / len).checked_mul(bytes) } else { None }
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
