//! A few experts for each token: see [`experts`](crate::kernels::experts()). Pairs of a token and an expert are brought together by the
//! expert, so that its weights are read once for up to eight of them, or for a tile of those on tensor cores; nobody's are read
//! whom no token chose. All of it happens on the GPU, so that steps can be recorded.

use super::kernel::Kernel;
use super::memory::{Gpu, Mem};
use super::ops::{THREADS, args, blocks_for, int, want};
use super::product::{DevMat, FEW, Input, QuantizedMem, tile_tokens};
use crate::Result;

/// Matrices of one shape in one place, those of the experts of a layer.
#[derive(Clone, Copy)]
pub struct StackMem<'a> {
    /// All of their rows.
    pub mat: &'a DevMat,
    /// The first row of the first one.
    pub first: usize,
    /// Rows from one to the next.
    pub step: usize,
    /// Rows of each.
    pub n_rows: usize,
}

/// The experts of a layer, each down(silu(gate · x) * up · x).
#[derive(Clone, Copy)]
pub struct ExpertsMem<'a> {
    /// How many there are.
    pub n: usize,
    /// How many of them a token goes through.
    pub n_used: usize,
    /// Gates, (n_ff, n_embd) each.
    pub gate: StackMem<'a>,
    /// Ups, likewise.
    pub up: StackMem<'a>,
    /// Downs, (n_embd, n_ff) each.
    pub down: StackMem<'a>,
}

/// Working memory of [`Gpu::experts`], for pairs of a token and an expert.
pub struct PairMem {
    /// (n_tokens, n_used): which ones, i32, and how much of each counts.
    ids: Mem,
    weights: Mem,
    /// Pairs by their experts, and tiles of them: see experts.cu.
    order: Mem,
    tiles: Mem,
    /// (n_tokens, n_used, n_ff)
    gate: Mem,
    up: Mem,
    /// (n_tokens, n_used, n_embd)
    rows: Mem,
}

impl PairMem {
    /// Words of each for `n_tokens` tokens that go through `n_used` of `n` experts.
    fn sizes(n_tokens: usize, (n, n_used): (usize, usize), (n_embd, n_ff): (usize, usize)) -> [usize; 7] {
        let n_pairs = n_tokens * n_used;
        let n_tiles = [FEW, tile_tokens(false), tile_tokens(true)].map(|most| Tiles::new(n_pairs, n, most).n);
        let n_tiles = n_tiles.into_iter().max().unwrap_or(0);
        [n_pairs, n_pairs, n_pairs, 3 * n_tiles, n_pairs * n_ff, n_pairs * n_ff, n_pairs * n_embd]
    }

    /// For `n_tokens` tokens that go through `n_used` of `n` experts, from and to rows of `n_embd` by way of `n_ff`.
    ///
    /// # Errors
    /// Memory that the GPU does not have.
    pub fn new(gpu: &Gpu, n_tokens: usize, experts: (usize, usize), widths: (usize, usize)) -> Result<PairMem> {
        let sizes = PairMem::sizes(n_tokens, experts, widths).map(|n| n * size_of::<f32>());
        let [ids, weights, order, tiles, gate, up, rows] =
            gpu.alloc_parts(sizes, &format!("experts of {n_tokens} tokens"))?;
        Ok(PairMem { ids, weights, order, tiles, gate, up, rows })
    }

    /// Bytes of what [`PairMem::new`] reserves.
    pub fn n_bytes(n_tokens: usize, experts: (usize, usize), widths: (usize, usize)) -> usize {
        PairMem::sizes(n_tokens, experts, widths).iter().sum::<usize>() * size_of::<f32>()
    }
}

/// How pairs are shared out.
#[derive(Clone, Copy, PartialEq)]
struct Tiles {
    /// Pairs of each, at most.
    most: usize,
    /// Places for tiles: one for each pair, or as many as may be full and one for each expert.
    n: usize,
    by_pair: bool,
}

impl Tiles {
    fn new(n_pairs: usize, n_experts: usize, most: usize) -> Tiles {
        let n = n_pairs / most + n_experts;
        if n_pairs <= n { Tiles { most, n: n_pairs, by_pair: true } } else { Tiles { most, n, by_pair: false } }
    }
}

/// Pairs of a product with stacked matrices, on the GPU.
pub(super) struct Grouped<'a> {
    pub order: &'a Mem,
    pub tiles: &'a Mem,
    pub n_tiles: usize,
    /// Whether tiles are for kernels of a few tokens, of a single one, or for tensor cores.
    pub is_few: bool,
    pub is_one: bool,
    /// Pairs that have the same input row.
    pub per_row: usize,
}

impl Gpu {
    /// out (n_tokens, n_embd) += the sum, over the `n_used` experts with the largest `scores` (n_tokens, n), of what each makes of x
    /// (n_tokens, n_embd), times its share of their softmax. Of equal scores the lower number counts first. Up to eight tokens get what
    /// each gets alone.
    ///
    /// # Errors
    /// What the GPU says.
    ///
    /// # Panics
    /// When lengths disagree.
    pub fn experts(
        &self,
        experts: &ExpertsMem<'_>,
        n_tokens: usize,
        (scores, x, out): (&Mem, &Mem, &Mem),
        (mem, quantized): (&PairMem, &QuantizedMem),
    ) -> Result<()> {
        let ExpertsMem { n, n_used, gate, up, down } = *experts;
        let (n_embd, n_ff, n_pairs) = (down.n_rows, gate.n_rows, n_tokens * n_used);
        assert!((1..=n).contains(&n_used), "{n_used} of {n} experts");
        want("experts", &[(scores, n_tokens * n), (out, n_tokens * n_embd)]);
        want("experts", &[(&mem.ids, n_pairs), (&mem.weights, n_pairs), (&mem.order, n_pairs)]);
        want("experts", &[(&mem.rows, n_pairs * n_embd), (&mem.gate, n_pairs * n_ff), (&mem.up, n_pairs * n_ff)]);
        for (stack, what) in [(gate, "gates"), (up, "ups"), (down, "downs")] {
            let rows = stack.first + (n - 1) * stack.step + stack.n_rows;
            assert!(rows <= stack.mat.n_rows(), "{rows} rows of {what} in {}", stack.mat.n_rows());
        }
        let (of_scores, ids, weights) = (scores.at(), mem.ids.at(), mem.weights.at());
        let (n_experts, k, grid) = (int(n)?, int(n_used)?, [int(n_tokens)? as u32, 1, 1]);
        // SAFETY: lengths were checked above.
        unsafe {
            self.launch(Kernel::CHOOSE_EXPERTS, grid, 32, args![of_scores, ids, weights, n_experts, k])?;
        }
        let mut last = None;
        let input = Input::new(self, x, quantized, (n_tokens, n_embd));
        for (w, to) in [(gate, &mem.gate), (up, &mem.up)] {
            self.of_groups(&input, (w, n), n_used, n_tokens, mem, to, &mut last)?;
        }
        self.silu_mul(&mem.gate, &mem.up, n_pairs * n_ff)?;
        let hidden = Input::new(self, &mem.gate, quantized, (n_pairs, n_ff));
        self.of_groups(&hidden, (down, n), 1, n_tokens, mem, &mem.rows, &mut last)?;
        let (out, rows, width, n) = (out.at(), mem.rows.at(), int(n_embd)?, (n_tokens * n_embd) as u64);
        let grid = [blocks_for(n_tokens * n_embd)?, 1, 1];
        // SAFETY: lengths were checked above.
        unsafe { self.launch(Kernel::ADD_PAIRS, grid, THREADS, args![out, rows, weights, width, k, n]) }
    }

    /// A product of every pair with its expert's matrix, in tiles for its type, which are made unless they are those of `last`.
    #[allow(clippy::too_many_arguments)]
    fn of_groups(
        &self,
        input: &Input<'_>,
        (w, n): (StackMem<'_>, usize),
        per_row: usize,
        n_tokens: usize,
        mem: &PairMem,
        out: &Mem,
        last: &mut Option<Tiles>,
    ) -> Result<()> {
        let n_pairs = input.n_tokens() * per_row;
        // Tensor cores pay where most experts have many.
        let is_few = n_tokens <= FEW || n_pairs <= FEW * n;
        let tiles = Tiles::new(n_pairs, n, if is_few { FEW } else { tile_tokens(w.mat.is_float()) });
        if *last != Some(tiles) {
            want("experts", &[(&mem.tiles, 3 * tiles.n)]);
            let (ids, order, to) = (mem.ids.at(), mem.order.at(), mem.tiles.at());
            let (n_pairs, most, by_pair) = (int(n_pairs)?, int(tiles.most)?, i32::from(tiles.by_pair));
            let (grid, args) = ([int(n)? as u32, 1, 1], args![ids, order, to, n_pairs, most, by_pair]);
            // SAFETY: the caller checked the lengths, those of tiles were checked above.
            unsafe { self.launch(Kernel::GROUP_PAIRS, grid, 32, args)? };
            *last = Some(tiles);
        }
        let (order, n_tiles) = (&mem.order, tiles.n);
        input.product_of_groups(
            w,
            &Grouped { order, tiles: &mem.tiles, n_tiles, is_few, is_one: n_tokens == 1, per_row },
            out,
        )
    }

    /// x *= sigmoid(gate) for `n` rows of `width` floats, with one `gate` for a row.
    ///
    /// # Errors
    /// What the GPU says.
    ///
    /// # Panics
    /// When lengths disagree.
    pub fn gate_rows(&self, x: &Mem, gate: &Mem, (n, width): (usize, usize)) -> Result<()> {
        want("gate_rows", &[(x, n * width), (gate, n)]);
        let grid = [blocks_for(n * width)?, 1, 1];
        let (x, gate, width, count) = (x.at(), gate.at(), int(width)?, (n * width) as u64);
        // SAFETY: lengths were checked above.
        unsafe { self.launch(Kernel::GATE_ROWS, grid, THREADS, args![x, gate, width, count]) }
    }
}

#[cfg(test)]
mod tests {
    use super::Tiles;

    #[test]
    fn every_expert_has_places_for_its_tiles() {
        // As experts.cu numbers them, for any counts.
        for (counts, most) in
            [(vec![8, 0, 9, 1, 0, 16, 7], 8), (vec![0; 5], 8), (vec![300, 1, 0, 129], 128), (vec![1], 64)]
        {
            let n_pairs: usize = counts.iter().sum();
            let tiles = Tiles { by_pair: false, most, n: n_pairs / most + counts.len() };
            let (mut before, mut next) = (0, 0);
            for (expert, n) in counts.iter().enumerate() {
                let first = before / most + expert;
                assert_eq!(first, next, "places without gaps");
                before += n;
                next = before / most + expert + 1;
                assert!(first + n.div_ceil(most) <= next, "expert {expert} of {counts:?}");
            }
            assert_eq!(next, tiles.n);
        }
        assert_eq!(Tiles::new(8, 128, 8).n, 8);
        assert_eq!(Tiles::new(4096, 128, 128).n, 160);
    }
}
