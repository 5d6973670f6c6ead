//! The product operations of an instruction set: their list, what they take, and how an instruction set provides them.

use super::codes::{CHUNK, Chunk};
use super::dot::{DotRows, RowChunk};
use super::float::{self, FloatRows};
use super::lanes::Lanes;
use crate::gguf::GgmlType;
use crate::kernels::prefetch;

/// The product operations of one instruction set.
pub struct Int8Ops {
    /// See [`Kernels::features`](crate::kernels::Kernels::features).
    pub features: &'static str,
    /// How `pack`, `quantize_tile` and `tile` lay out their words.
    pub layout: Layout,
    /// Quantizes rows of activations for `dot_rows`: (x, n_cols) into ceil(n_cols / 256) chunks per row.
    pub quantize_rows: fn(&[f32], usize, &mut [RowChunk]),
    /// out(n_tokens, n_rows) = x · wᵀ for up to eight tokens, straight from packed blocks.
    pub dot_rows: fn(GgmlType, DotRows<'_>, &mut [f32]),
    /// The same for F32, F16 and BF16 weights and any number of tokens, in f32.
    pub dot_floats: fn(GgmlType, FloatRows<'_>, &mut [f32]),
    /// Quantizes a tile of tokens for `tile`.
    pub quantize_tile: fn(QuantizeTile<'_>),
    /// Brings a tile of packed rows into a panel for `tile`: words (n_steps, layout.rows), scales (n_groups, layout.rows).
    /// The panel is that of [`Panel::of`].
    pub pack: fn(GgmlType, PackRows<'_>, &mut [u32], &mut [f32]),
    /// out(width, layout.rows) = [out +] x · wᵀ, in rows of `ldo`.
    pub tile: fn(Tile<'_>, &mut [f32]),
}

/// What products multiply in a panel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// 8-bit integers with a scale per group.
    Int8,
    /// 16-bit integers with a scale per group, for weights of 16 bits.
    Int16,
    /// The floats themselves; their scales are 1.
    F32,
}

/// The form that weights of a type, and the activations that they meet, have in prefill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panel {
    pub number: Number,
    /// Columns whose products add up before they meet a scale: 32, 64, 128 or 256.
    pub group: usize,
}

impl Panel {
    /// The panel of weights of `ty`; `None` for a type without a decoder.
    pub fn of(ty: GgmlType) -> Option<Panel> {
        match ty {
            GgmlType::F32 => Some(Panel { number: Number::F32, group: CHUNK }),
            GgmlType::F16 | GgmlType::BF16 => Some(Panel { number: Number::Int16, group: 32 }),
            _ => panel_group(ty).map(|group| Panel { number: Number::Int8, group }),
        }
    }

    /// Groups per 256 columns.
    pub const fn groups(&self) -> usize {
        CHUNK / self.group
    }
}

/// How weights and activations are laid out. A word is what one lane of a dot-product instruction takes from one row at
/// one step: four bytes, two 16-bit numbers or a float, of consecutive columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Weight rows per tile.
    pub rows: usize,
    /// Tokens per tile; the last tile of a batch is narrower.
    pub tokens: usize,
    /// The words of [`Number::Int8`].
    pub int8: Word,
}

/// What a word holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Four columns: weights as unsigned bytes, 128 too large; activations as signed bytes. Their products' excess is
    /// taken off through the sums of the activations.
    Bytes,
    /// Four columns, both as signed bytes.
    Signed,
    /// The same, for products of two rows with two tokens, eight columns at a time. Weights: two steps of a row lie side by
    /// side, (n_steps / 2, rows, 2). Activations: pairs of tokens take turns, two steps each; a last one is alone.
    Octets,
    /// Two columns as i16.
    Pairs,
    /// One column as f32.
    Float,
}

impl Layout {
    /// What a word of these numbers holds.
    pub const fn word(&self, number: Number) -> Word {
        match number {
            Number::Int8 => self.int8,
            Number::Int16 => Word::Pairs,
            Number::F32 => Word::Float,
        }
    }

    /// Steps per 256 columns.
    pub const fn steps(&self, number: Number) -> usize {
        match self.word(number) {
            Word::Bytes | Word::Signed | Word::Octets => CHUNK / 4,
            Word::Pairs => CHUNK / 2,
            Word::Float => CHUNK,
        }
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

/// Activations of up to `layout.tokens` tokens, and where their panel form goes; columns are padded to a multiple of 256
/// with zeros.
pub struct QuantizeTile<'a> {
    /// (n, n_cols)
    pub x: &'a [f32],
    pub n_cols: usize,
    pub panel: Panel,
    /// (n_chunks, n, steps)
    pub words: &'a mut [u32],
    /// (n_groups, n)
    pub scales: &'a mut [f32],
    /// (n_groups, n): for words of bytes the sum of the group's integers, times -128; else 0.
    pub sums: &'a mut [i32],
}

/// The operands of a `tile`.
#[derive(Clone, Copy)]
pub struct Tile<'a> {
    pub panel: Panel,
    /// (n_chunks * steps, layout.rows)
    pub w: &'a [u32],
    /// (n_groups, layout.rows)
    pub w_scales: &'a [f32],
    /// (n_chunks, width, steps)
    pub x: &'a [u32],
    /// (n_groups, width)
    pub x_scales: &'a [f32],
    /// (n_groups, width)
    pub x_sums: &'a [i32],
    /// Tokens.
    pub width: usize,
    /// Elements from one row of the output, a token, to the next.
    pub ldo: usize,
    /// Replace what `out` holds instead of adding to it.
    pub fresh: bool,
    /// What other tiles will want, in the output and in the activations.
    pub soon: [Soon; 2],
}

/// Memory that will be wanted soon: a piece per token. Asking for it little by little while a tile is computed costs
/// nothing.
#[derive(Clone, Copy)]
pub struct Soon {
    /// The piece of the first token; pieces are `ld` words apart and `len` words long.
    pub at: *const u32,
    pub ld: usize,
    pub len: usize,
}

impl Soon {
    /// Nothing.
    pub const NONE: Soon = Soon { at: std::ptr::null(), ld: 0, len: 0 };

    /// Asks for the pieces of some tokens whose turn it is at chunk `c` of `n_chunks`.
    #[inline(always)]
    pub fn ask(&self, (c, n_chunks): (usize, usize), tokens: std::ops::Range<usize>) {
        if self.len == 0 {
            return;
        }
        for it in tokens {
            if it % n_chunks == c {
                prefetch::later(self.at.wrapping_add(it * self.ld).cast(), self.len * size_of::<u32>());
            }
        }
    }
}

impl Tile<'_> {
    /// The number of chunks, once all lengths agree: what [`Int8Isa::tile`] may rely on.
    ///
    /// # Panics
    /// When they do not.
    #[inline(always)]
    pub(in crate::kernels) fn check(&self, layout: &Layout, out: &[f32]) -> usize {
        let steps = layout.steps(self.panel.number);
        let n_chunks = self.w.len() / (steps * layout.rows);
        let n_groups = n_chunks * self.panel.groups();
        assert!(self.w.len() == n_chunks * steps * layout.rows && self.w_scales.len() == n_groups * layout.rows);
        assert!(self.width > 0 && self.x.len() == n_chunks * steps * self.width);
        assert!(self.x_scales.len() == n_groups * self.width && self.x_sums.len() == self.x_scales.len());
        assert!(self.ldo >= layout.rows && out.len() >= (self.width - 1) * self.ldo + layout.rows);
        n_chunks
    }
}

/// What an instruction set provides; everything else is written once, in plain Rust, and compiled for it.
///
/// Its functions are called, inlined, from code that is compiled for the features which the table of the instruction set
/// was made with.
pub trait Int8Isa {
    const LAYOUT: Layout;
    type Lanes: Lanes;
    /// Partial sums of a product of a row and a token.
    type Acc: Copy;

    fn zero() -> Self::Acc;
    /// acc += chunk · x. `centered` as in `Codes::CENTERED`.
    fn dot(acc: &mut Self::Acc, chunk: &Chunk<Self::Lanes>, x: &RowChunk, centered: bool);
    fn sum(acc: Self::Acc) -> f32;

    /// Rows of `len` words, each as long, become columns: word `j` of row `i` of `rows` goes to word `i` of row `j` of
    /// `out`. Rows are `LAYOUT.rows`; `len` is 64, 128 or 256.
    #[inline(always)]
    fn transpose(rows: &[u32], len: usize, out: &mut [u32]) {
        let n = rows.len() / len;
        for (i, row) in rows.chunks_exact(len).enumerate() {
            for (j, word) in row.iter().enumerate() {
                out[j * n + i] = *word;
            }
        }
    }

    /// `dot_floats` for this machine: in f32, a fused multiply-add or two roundings per product as it likes.
    #[inline(always)]
    fn dot_floats(ty: GgmlType, d: FloatRows<'_>, out: &mut [f32]) {
        float::dot_plain(ty, d, out);
    }

    /// Puts x · wᵀ into `out`, or adds it where the tile is not `fresh`: for every token and row the sum, over groups, of
    /// the exact sum of the group's integer products (an i32 holds it), or of its products of floats, times the group's
    /// two scales. Starts with [`Tile::check`].
    fn tile(tile: Tile<'_>, out: &mut [f32]);
}

/// Columns per scale in a panel of `ty`; `None` for types whose products are not of 8-bit integers.
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
            use $crate::kernels::matmul::{
                self, DotRows, FloatRows, PackRows, QuantizeTile, RowChunk, Tile, codes::with_codes,
            };

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
            pub fn dot_floats(ty: GgmlType, d: FloatRows<'_>, out: &mut [f32]) {
                <$isa as $crate::kernels::matmul::Int8Isa>::dot_floats(ty, d, out)
            }
            $(#[target_feature(enable = $features)])?
            pub fn quantize_tile(q: QuantizeTile<'_>) {
                matmul::panel::quantize_tile::<$isa>(q)
            }
            $(#[target_feature(enable = $features)])?
            pub fn pack(ty: GgmlType, p: PackRows<'_>, words: &mut [u32], scales: &mut [f32]) {
                matmul::panel::pack::<$isa>(ty, p, words, scales)
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
            dot_floats: |ty, d, out| detected!(int8_compiled::dot_floats(ty, d, out)),
            quantize_tile: |q| detected!(int8_compiled::quantize_tile(q)),
            pack: |ty, p, words, scales| detected!(int8_compiled::pack(ty, p, words, scales)),
            tile: |t, out| detected!(int8_compiled::tile(t, out)),
        };
    };
}
pub(in crate::kernels) use int8_ops;
