//! What a layout is made of: a table of drivers and a rule of placement, as data.

use super::Driver;

/// A layout in full. Whatever places tokens or computes angles reads it from here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// The name on the command line and in files.
    pub name: &'static str,
    /// Other spellings, in lower case without dashes and underscores.
    pub spellings: &'static [&'static str],
    /// What drives which pair.
    pub pairs: Pairs,
    /// What is placed as one block: a video, or each of its frame pairs.
    pub block: BlockRule,
    /// How time ids of frame pairs follow from their number.
    pub time: Time,
    /// Where rows and columns of a frame pair lie.
    pub space: Space,
    /// Where text goes on behind a block.
    pub cursor: Cursor,
    /// Every id is that of the rules above plus the number of the token in the sequence (TAD-RoPE).
    pub numbered: bool,
}

/// Which driver has which pair; sections are the counts of pairs [t, h, w].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pairs {
    /// One for all.
    All(Driver),
    /// Time, height and width in contiguous bands of their sections.
    Bands,
    /// Height and width in turn on the high frequencies, as many as both sections have; then this one.
    SpaceFirst(Driver),
    /// The same with this one before them, in place of the first: width has a pair less.
    SpaceSecond(Driver),
    /// Height and width every third pair each, from the second and third on, as many as their sections have; this one has
    /// all others, to the last pair.
    Interleaved(Driver),
    /// These in turn, whatever the sections.
    Repeated(&'static [Driver]),
}

/// What the frame pairs of a video are to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockRule {
    /// Parts of one block with a common start.
    Video,
    /// A block each: every pair starts where the cursor is after the one before.
    Pair,
}

/// How far pair f of a block is from its start in time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Time {
    /// f, or what a [`Clock`](super::Clock) says of it, where the segment has one.
    Index,
    /// f times the temporal scale; this one where the segment names none.
    Scaled(f64),
    /// f times a fixed step.
    Step(f64),
    /// f times the tokens of a pair.
    Tokens,
    /// f times what a pair covers along its diagonal, H + W - 1.
    Sides,
}

/// Where the cells of a pair stand, when the block starts at s and the pair is at time t.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Space {
    /// All at t.
    Point,
    /// One after the other from t on, on all axes.
    Raster,
    /// h = s + y times a step of its own, w = s + x likewise.
    Corner {
        /// The step from row to row.
        h: f64,
        /// The step from column to column.
        w: f64,
    },
    /// h = y, w = x: rows and columns begin anew in every block.
    Reset,
    /// h = t + y - floor((H - 1) / 2), w likewise.
    Diagonal,
    /// The same about the exact centre, which stands (H + W - 2) / 2 behind t: sums of ids are then distances from all four
    /// corners.
    Corners,
    /// One after the other on all axes, a pair stretched over this many ids: t - 1 + stride (k + 1) / (H W) for cell k.
    Stretched(f64),
    /// On a circle in the plane across (1, 1, 1), about s + t: every cell is as far from every word.
    Circle {
        /// How far each cell is from the axis.
        radius: f64,
        /// How much of a cell's angle is that of its place in the picture; the rest is its number.
        alpha: f64,
    },
}

/// Where the sequence goes on after n pairs of a block that starts at s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    /// One above the largest id of any axis.
    AboveAll,
    /// One above the last time.
    AboveTime,
    /// Where pair n would stand.
    NextPair,
}
