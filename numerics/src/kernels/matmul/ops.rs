//! The product operations of an instruction set: their list, what they take, and how an instruction set provides them.

use super::codes::{CHUNK, Chunk, Codes, with_codes};
use super::dot::{DotRows, RowChunk};
use super::float::{self, FloatRows};
use super::lanes::Lanes;
use crate::ggml_type::GgmlType;
use crate::kernels::prefetch;

/// The product operations of one instruction set.
#[derive(Clone, Copy)]
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
    /// Brings a tile of packed rows into a panel for `tile`: words (n_chunks * w_words, layout.rows), scales
    /// (n_chunks * w_scales, layout.rows).
    pub pack: fn(GgmlType, PackRows<'_>, &mut [u32], &mut [f32]),
    /// out(width, layout.rows) = [out +] x · wᵀ, in rows of `ldo`.
    pub tile: fn(Tile<'_>, &mut [f32]),
}

/// What products multiply in a panel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// 8-bit integers with a scale per group.
    Int8,
    /// 16-bit integers with a scale per group, as large as the sum of a group allows, see [`Panel::largest`].
    Int16,
    /// The floats themselves; their scales are 1.
    F32,
    /// The codes of a block format as they are, up to `max`, with integer scales per group and floats per 256 columns, see
    /// [`Word::Codes`].
    Codes {
        /// The largest code.
        max: u8,
        /// Offsets have a unit of their own; else they are multiples of the scales.
        affine: bool,
    },
}

/// The form that weights of a type, and the activations that they meet, have in prefill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panel {
    /// What is multiplied.
    pub number: Number,
    /// Columns whose products add up before they meet a scale: 32, 64, 128 or 256; for codes 16 or 32.
    pub group: usize,
}

impl Panel {
    /// The panel of weights of `ty` where codes are not multiplied as they are; `None` for a type without a decoder.
    pub fn of(ty: GgmlType) -> Option<Panel> {
        match ty {
            GgmlType::F32 => Some(Panel { number: Number::F32, group: CHUNK }),
            GgmlType::F16 | GgmlType::BF16 => Some(Panel { number: Number::Int16, group: 32 }),
            _ => panel_group(ty).map(|group| Panel { number: Number::Int8, group }),
        }
    }

    /// The panel of weights of `ty` where there are products of 16-bit integers but none of 8-bit ones, and codes are too large
    /// to be multiplied as they are.
    fn wide(ty: GgmlType) -> Option<Panel> {
        let panel = Panel::of(ty)?;
        Some(if panel.number == Number::Int8 { Panel { number: Number::Int16, group: CHUNK } } else { panel })
    }

    /// The largest 16-bit integers of weights and of activations: sums of products of a group stay below 2^31, and so exact.
    /// Weights of 16 bits, in groups of 32 columns, and what they meet have 13 bits and a sign. Codes times their scales,
    /// 14 bits in groups of 256, meet activations of 9: less than the 7 bits per 32 columns round off that byte products take,
    /// whichever column is the largest.
    pub const fn largest(&self) -> (i16, i16) {
        let (w, x) = if self.group == CHUNK { (16383, 511) } else { (8191, 8191) };
        assert!(w as i64 * x as i64 * self.group as i64 <= i32::MAX as i64);
        (w, x)
    }

    /// Groups per 256 columns.
    pub const fn groups(&self) -> usize {
        CHUNK / self.group
    }

    /// Floats per 256 columns that go with a row of weights.
    pub const fn w_scales(&self) -> usize {
        if let Number::Codes { .. } = self.number { 2 } else { self.groups() }
    }

    /// Floats per 256 columns that go with a token.
    pub const fn x_scales(&self) -> usize {
        if let Number::Codes { .. } = self.number { 1 } else { self.groups() }
    }

    /// The panel that stands for all whose activations have the same form.
    pub fn input(self) -> Panel {
        match self.number {
            Number::Codes { .. } => Panel { number: Number::Codes { max: 0, affine: false }, ..self },
            _ => self,
        }
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
    /// Whether codes of at most `MAX_CODE` are multiplied as they are, and others as 16-bit integers.
    pub codes: bool,
}

/// The largest code of which two products with activations fit into 16 bits twice.
pub(super) const MAX_CODE: u8 = 63;

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
    /// Four columns: weights as unsigned codes, activations as signed bytes. Behind the 64 words of 256 columns of weights
    /// come the scales of the groups, an i16 twice in each word, and then their offsets, two groups to a word; behind those
    /// of activations the sums of the groups, likewise two to a word. A product is the sum of codes times activations times
    /// scales, in units of the first float of the row, and of offsets times sums, in units of the second, or of the first
    /// where panels are not affine; all that in units of the token's float.
    Codes,
}

impl Layout {
    /// What a word of these numbers holds.
    pub const fn word(&self, number: Number) -> Word {
        match number {
            Number::Int8 => self.int8,
            Number::Int16 => Word::Pairs,
            Number::F32 => Word::Float,
            Number::Codes { .. } => Word::Codes,
        }
    }

    /// The panel of weights of `ty`; `None` for a type without a decoder.
    pub fn panel(&self, ty: GgmlType) -> Option<Panel> {
        if self.codes { panel_of_codes(ty).or_else(|| Panel::wide(ty)) } else { Panel::of(ty) }
    }

    /// Steps per 256 columns.
    pub const fn steps(&self, number: Number) -> usize {
        match self.word(number) {
            Word::Bytes | Word::Signed | Word::Octets | Word::Codes => CHUNK / 4,
            Word::Pairs => CHUNK / 2,
            Word::Float => CHUNK,
        }
    }

    /// Words per 256 columns of a row of weights, whole vectors.
    pub const fn w_words(&self, panel: Panel) -> usize {
        match panel.number {
            Number::Codes { .. } => (self.steps(panel.number) + panel.groups() / 2 * 3).next_multiple_of(16),
            number => self.steps(number),
        }
    }

    /// Words per 256 columns of a token.
    pub const fn x_words(&self, panel: Panel) -> usize {
        match panel.number {
            Number::Codes { .. } => self.steps(panel.number) + panel.groups() / 2,
            number => self.steps(number),
        }
    }
}

/// Rows to pack: chunks `chunks` of every row in `rows`.
#[derive(Clone)]
pub struct PackRows<'a> {
    /// Up to `layout.rows` whole rows, of `row_bytes` bytes each.
    pub rows: &'a [u8],
    /// Bytes of a row.
    pub row_bytes: usize,
    /// Which chunks of 256 columns.
    pub chunks: std::ops::Range<usize>,
    /// [`Layout::panel`] of their type.
    pub panel: Panel,
}

/// Activations of up to `layout.tokens` tokens, and where their panel form goes; columns are padded to a multiple of 256
/// with zeros.
pub struct QuantizeTile<'a> {
    /// (n, n_cols)
    pub x: &'a [f32],
    /// Elements of a row.
    pub n_cols: usize,
    /// The form that the weights have.
    pub panel: Panel,
    /// (n_chunks, n, x_words)
    pub words: &'a mut [u32],
    /// (n_chunks, x_scales, n)
    pub scales: &'a mut [f32],
    /// (n_chunks, x_scales, n): for words of bytes the sum of the group's integers, times -128; else 0.
    pub sums: &'a mut [i32],
}

/// The operands of a `tile`.
#[derive(Clone, Copy)]
pub struct Tile<'a> {
    /// The form of weights and activations.
    pub panel: Panel,
    /// (n_chunks * w_words, layout.rows)
    pub w: &'a [u32],
    /// (n_chunks * w_scales, layout.rows)
    pub w_scales: &'a [f32],
    /// (n_chunks, width, x_words)
    pub x: &'a [u32],
    /// (n_chunks * x_scales, width)
    pub x_scales: &'a [f32],
    /// (n_chunks * x_scales, width)
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
    /// Words from piece to piece.
    pub ld: usize,
    /// Words of a piece.
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
        let (panel, rows) = (self.panel, layout.rows);
        let n_chunks = self.w.len() / (layout.w_words(panel) * rows);
        assert!(self.w.len() == n_chunks * layout.w_words(panel) * rows);
        assert!(self.w_scales.len() == n_chunks * panel.w_scales() * rows);
        assert!(self.width > 0 && self.x.len() == n_chunks * layout.x_words(panel) * self.width);
        assert!(self.x_scales.len() == n_chunks * panel.x_scales() * self.width);
        assert!(self.x_sums.len() == self.x_scales.len());
        assert!(self.ldo >= layout.rows && out.len() >= (self.width - 1) * self.ldo + layout.rows);
        n_chunks
    }
}

/// What an instruction set provides; everything else is written once, in plain Rust, and compiled for it.
///
/// Its functions are called, inlined, from code that is compiled for the features which the table of the instruction set
/// was made with.
pub(crate) trait Int8Isa {
    const LAYOUT: Layout;
    /// Whether there are products of [`Word::Codes`].
    const CODES: bool = Self::LAYOUT.codes;
    type Lanes: Lanes;
    /// Rows of weights that a few tokens meet at once, 1 or 2.
    const ROWS: usize = 1;
    /// A chunk of each of these rows.
    type Chunks;
    /// Partial sums of their products with a token.
    type Acc: Copy;

    /// The chunks of two rows; of the first alone where those are not as many.
    fn chunks(first: Chunk<Self::Lanes>, second: Chunk<Self::Lanes>) -> Self::Chunks;
    fn zero() -> Self::Acc;
    /// acc += chunks · x, for chunks of `F`.
    fn dot<F: Codes>(acc: &mut Self::Acc, chunks: &Self::Chunks, x: &RowChunk);
    /// The sum of each row.
    fn sum(acc: Self::Acc) -> [f32; 2];

    /// Rows of `len` words, each as long, become columns: word `j` of row `i` of `rows` goes to word `i` of row `j` of
    /// `out`. Rows are `LAYOUT.rows`; `len` is a multiple of 16.
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
    with_codes!(ty, F => <F as Codes>::GROUP)
}

/// The panel of codes as they are; `None` for types that have none, or too large ones.
fn panel_of_codes(ty: GgmlType) -> Option<Panel> {
    with_codes!(ty, F => {
        let number = Number::Codes { max: F::MAX_CODE, affine: F::ZERO.is_none() };
        F::NARROW.then_some(Panel { number, group: if F::WIDE { 32 } else { 16 } })
    })?
}

/// Builds the unproven [`Int8Ops`] of an [`Int8Isa`]: `int8_ops!(Isa, "features")`.
macro_rules! int8_ops {
    ($isa:ty $(, $features:literal)?) => {
        mod int8_compiled {
            use super::*;
            use $crate::ggml_type::GgmlType;
            use $crate::kernels::matmul::{
                self, DotRows, FloatRows, PackRows, QuantizeTile, RowChunk, Tile, codes::Codes, codes::with_codes,
            };

            const NO_CODES: &str = "only quantized types come here";

            $(#[target_feature(enable = $features)])?
            pub(super) fn quantize_rows(x: &[f32], n_cols: usize, out: &mut [RowChunk]) {
                matmul::dot::quantize_rows::<$isa>(x, n_cols, out)
            }
            $(#[target_feature(enable = $features)])?
            pub(super) fn dot_rows(ty: GgmlType, d: DotRows<'_>, out: &mut [f32]) {
                with_codes!(ty, F => dot_rows_of::<F>(d, out)).expect(NO_CODES)
            }
            // Every format is a function of its own: one of all of them takes the compiler several times as long.
            $(#[target_feature(enable = $features)])?
            #[inline(never)]
            fn dot_rows_of<F: Codes>(d: DotRows<'_>, out: &mut [f32]) {
                matmul::dot::dot_rows::<$isa, F>(d, out)
            }
            $(#[target_feature(enable = $features)])?
            pub(super) fn dot_floats(ty: GgmlType, d: FloatRows<'_>, out: &mut [f32]) {
                <$isa as $crate::kernels::matmul::Int8Isa>::dot_floats(ty, d, out)
            }
            $(#[target_feature(enable = $features)])?
            pub(super) fn quantize_tile(q: QuantizeTile<'_>) {
                matmul::panel::quantize_tile::<$isa>(q)
            }
            $(#[target_feature(enable = $features)])?
            pub(super) fn pack(ty: GgmlType, p: PackRows<'_>, words: &mut [u32], scales: &mut [f32]) {
                matmul::panel::check_pack::<$isa>(&p, words, scales);
                if matmul::panel_group(ty).is_none() {
                    return matmul::panel::pack_floats::<$isa>(ty, p, words, scales);
                }
                with_codes!(ty, F => pack_of::<F>(p, words, scales)).expect(NO_CODES)
            }
            $(#[target_feature(enable = $features)])?
            #[inline(never)]
            fn pack_of<F: Codes>(p: PackRows<'_>, words: &mut [u32], scales: &mut [f32]) {
                matmul::panel::pack::<$isa, F>(p, words, scales)
            }
            $(#[target_feature(enable = $features)])?
            pub(super) fn tile(tile: Tile<'_>, out: &mut [f32]) {
                <$isa as $crate::kernels::matmul::Int8Isa>::tile(tile, out)
            }
        }

        use $crate::kernels::vector_fns::detected;
        pub(in $crate::kernels) const INT8: $crate::kernels::isa::Unproven<$crate::kernels::Int8Ops> =
            $crate::kernels::isa::Unproven::new($crate::kernels::Int8Ops {
            features: concat!($($features)?),
            layout: <$isa as $crate::kernels::matmul::Int8Isa>::LAYOUT,
            quantize_rows: |x, n_cols, out| detected!(int8_compiled::quantize_rows(x, n_cols, out)),
            dot_rows: |ty, d, out| detected!(int8_compiled::dot_rows(ty, d, out)),
            dot_floats: |ty, d, out| detected!(int8_compiled::dot_floats(ty, d, out)),
            quantize_tile: |q| detected!(int8_compiled::quantize_tile(q)),
            pack: |ty, p, words, scales| detected!(int8_compiled::pack(ty, p, words, scales)),
            tile: |t, out| detected!(int8_compiled::tile(t, out)),
        });
    };
}
pub(in crate::kernels) use int8_ops;
