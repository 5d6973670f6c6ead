//! The integer operations of an instruction set: their list, what they take, and how an instruction set provides them.

use super::codes::{CHUNK, Chunk};
use super::dot::{DotRows, RowChunk};
use super::lanes::Lanes;
use crate::gguf::GgmlType;

/// The integer operations of one instruction set.
pub struct Int8Ops {
    /// See [`Kernels::features`](crate::kernels::Kernels::features).
    pub features: &'static str,
    /// How `pack`, `quantize_tile` and `tile` lay out their words.
    pub layout: Layout,
    /// Quantizes rows of activations for `dot_rows`: (x, n_cols) into ceil(n_cols / 256) chunks per row.
    pub quantize_rows: fn(&[f32], usize, &mut [RowChunk]),
    /// out(n_tokens, n_rows) = x · wᵀ for up to eight tokens, straight from packed blocks.
    pub dot_rows: fn(GgmlType, DotRows<'_>, &mut [f32]),
    /// Quantizes a tile of tokens for `tile`.
    pub quantize_tile: fn(QuantizeTile<'_>),
    /// Brings a tile of packed rows into a panel for `tile`: words (n_steps, layout.rows), scales (n_groups, layout.rows).
    pub pack: fn(GgmlType, PackRows<'_>, &mut [u32], &mut [f32]),
    /// out(n_tokens, layout.rows) += x · wᵀ.
    pub tile: fn(Tile<'_>, &mut [f32]),
}

/// How weights and activations interleave. A word is what one lane of a dot-product instruction takes from one row at one
/// step: four bytes or two 16-bit numbers, of consecutive columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Weight rows per tile.
    pub rows: usize,
    /// Tokens per tile; the last tile of a batch is rounded up to a multiple of `token_step` only.
    pub tokens: usize,
    pub token_step: usize,
    pub word: Word,
}

/// What a word holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Four columns: weights as unsigned bytes, 128 too large; activations as signed bytes. Their products' excess is
    /// taken off through the sums of the activations.
    Bytes,
    /// Four columns, both as signed bytes.
    Signed,
    /// The same, and the words of steps 2i and 2i + 1 of a row (or token) lie side by side: eight columns that one
    /// instruction takes.
    Octets,
    /// Two columns as i16.
    Pairs,
}

impl Layout {
    /// Columns per word.
    pub const fn cols_per_word(&self) -> usize {
        match self.word {
            Word::Bytes | Word::Signed | Word::Octets => 4,
            Word::Pairs => 2,
        }
    }

    /// Steps per 256 columns.
    pub const fn steps(&self) -> usize {
        CHUNK / self.cols_per_word()
    }
}

/// Rows to pack: chunks `chunks` of every row in `rows`.
#[derive(Clone)]
pub struct PackRows<'a> {
    /// Up to `layout.rows` whole rows, of `row_bytes` bytes each.
    pub rows: &'a [u8],
    pub row_bytes: usize,
    pub chunks: std::ops::Range<usize>,
}

/// Activations of up to `layout.tokens` tokens, and where their quantized form goes; columns are padded to a multiple of
/// 256 with zeros, tokens to `width`.
pub struct QuantizeTile<'a> {
    /// (n, n_cols)
    pub x: &'a [f32],
    pub n_cols: usize,
    /// Tokens per step of `words`: at least n.
    pub width: usize,
    /// Columns per scale.
    pub group: usize,
    /// (n_steps, width)
    pub words: &'a mut [u32],
    /// (n_groups, width)
    pub scales: &'a mut [f32],
    /// (n_groups, width): the sum of the group's integers, times -128 for bytes.
    pub sums: &'a mut [i32],
}

/// The operands of a `tile`.
#[derive(Clone, Copy)]
pub struct Tile<'a> {
    /// (n_steps, layout.rows)
    pub w: &'a [u32],
    /// (n_groups, layout.rows)
    pub w_scales: &'a [f32],
    /// (n_steps, width)
    pub x: &'a [u32],
    /// (n_groups, width)
    pub x_scales: &'a [f32],
    /// (n_groups, width)
    pub x_sums: &'a [i32],
    /// Tokens, a multiple of `layout.token_step` up to `layout.tokens`.
    pub width: usize,
    /// Steps per scale.
    pub group_steps: usize,
}

impl Tile<'_> {
    /// The number of groups, once all lengths agree.
    ///
    /// # Panics
    /// When they do not.
    #[inline(always)]
    pub(in crate::kernels) fn check(&self, layout: &Layout, out: &[f32]) -> usize {
        let n_groups = self.w_scales.len() / layout.rows;
        let n_steps = n_groups * self.group_steps;
        assert!(self.w_scales.len() == n_groups * layout.rows && self.w.len() == n_steps * layout.rows);
        assert!(self.x.len() == n_steps * self.width && self.x_scales.len() == n_groups * self.width);
        assert!(self.x_sums.len() == self.x_scales.len() && out.len() == self.width * layout.rows);
        n_groups
    }
}

/// What an instruction set provides; everything else is written once, in plain Rust, and compiled for it.
pub trait Int8Isa {
    const LAYOUT: Layout;
    type Lanes: Lanes;
    /// Partial sums of a product of a row and a token.
    type Acc: Copy;

    fn zero() -> Self::Acc;
    /// acc += chunk · x. `centered` as in `Codes::CENTERED`.
    fn dot(acc: &mut Self::Acc, chunk: &Chunk<Self::Lanes>, x: &RowChunk, centered: bool);
    fn sum(acc: Self::Acc) -> f32;

    /// Interleaves a chunk of `LAYOUT.rows` rows of weights, 128 too large, into words (steps, rows).
    fn interleave(rows: &[[u8; CHUNK]], words: &mut [u32]);

    /// Interleaves a chunk of a tile of tokens, signed bytes, into words (steps, tokens).
    #[inline(always)]
    fn interleave_tokens(tokens: &[[u8; CHUNK]], words: &mut [u32]) {
        super::panel::interleave_plain(Self::LAYOUT.word, tokens, words);
    }

    fn tile(tile: Tile<'_>, out: &mut [f32]);
}

/// Columns per scale in a panel of `ty`; `None` for types whose products are not integer.
pub fn panel_group(ty: GgmlType) -> Option<usize> {
    use super::codes::{Codes, with_codes};
    with_codes!(ty, F => <F as Codes>::GROUP)
}

/// Builds the [`Int8Ops`] of an [`Int8Isa`]: `int8_ops!(Isa, "features")`.
macro_rules! int8_ops {
    ($isa:ty $(, $features:literal)?) => {
        mod int8_compiled {
            use super::*;
            use $crate::gguf::GgmlType;
            use $crate::kernels::matmul::{self, DotRows, PackRows, QuantizeTile, RowChunk, Tile, codes::with_codes};

            const NO_CODES: &str = "only quantized types come here";

            $(#[target_feature(enable = $features)])?
            pub fn quantize_rows(x: &[f32], n_cols: usize, out: &mut [RowChunk]) {
                matmul::dot::quantize_rows::<$isa>(x, n_cols, out)
            }
            $(#[target_feature(enable = $features)])?
            pub fn dot_rows(ty: GgmlType, d: DotRows<'_>, out: &mut [f32]) {
                with_codes!(ty, F => matmul::dot::dot_rows::<$isa, F>(d, out)).expect(NO_CODES)
            }
            $(#[target_feature(enable = $features)])?
            pub fn quantize_tile(q: QuantizeTile<'_>) {
                matmul::panel::quantize_tile::<$isa>(q)
            }
            $(#[target_feature(enable = $features)])?
            pub fn pack(ty: GgmlType, p: PackRows<'_>, words: &mut [u32], scales: &mut [f32]) {
                with_codes!(ty, F => matmul::panel::pack::<$isa, F>(p, words, scales)).expect(NO_CODES)
            }
            $(#[target_feature(enable = $features)])?
            pub fn tile(tile: Tile<'_>, out: &mut [f32]) {
                <$isa as $crate::kernels::matmul::Int8Isa>::tile(tile, out)
            }
        }

        use $crate::kernels::vector_fns::detected;
        pub(in $crate::kernels) const INT8: $crate::kernels::Int8Ops = $crate::kernels::Int8Ops {
            features: concat!($($features)?),
            layout: <$isa as $crate::kernels::matmul::Int8Isa>::LAYOUT,
            quantize_rows: |x, n_cols, out| detected!(int8_compiled::quantize_rows(x, n_cols, out)),
            dot_rows: |ty, d, out| detected!(int8_compiled::dot_rows(ty, d, out)),
            quantize_tile: |q| detected!(int8_compiled::quantize_tile(q)),
            pack: |ty, p, words, scales| detected!(int8_compiled::pack(ty, p, words, scales)),
            tile: |t, out| detected!(int8_compiled::tile(t, out)),
        };
    };
}
pub(in crate::kernels) use int8_ops;
