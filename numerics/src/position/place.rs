//! Where every token stands: one cursor, one rule for all layouts (spec: positions, "one algorithm for all variants").

use super::scale::check_temporal_scale;
use super::{BlockRule, Clock, Cursor, Layout, Pace, Rule, Space, Time};
use crate::{Error, Result};
use std::f64::consts::{PI, TAU};

/// The position of a token. HoPE's are fractional and may be negative. In f64 they are exact (or rounded once, for a temporal
/// scale that is no binary fraction) for as long as any stream may last.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pos {
    /// Time.
    pub t: f64,
    /// Height: the row.
    pub h: f64,
    /// Width: the column.
    pub w: f64,
}

impl Pos {
    /// The same id on all axes.
    pub fn all(id: f64) -> Pos {
        Pos { t: id, h: id, w: id }
    }
}

/// A piece of a sequence. Grids count merged tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Segment {
    /// So many tokens of text.
    Text(usize),
    /// A picture.
    Image {
        /// Rows of its grid.
        h: usize,
        /// Columns of its grid.
        w: usize,
    },
    /// A video.
    Video {
        /// Frame pairs.
        t: usize,
        /// Rows of each pair's grid.
        h: usize,
        /// Columns of each pair's grid.
        w: usize,
    },
}

/// Largest side of a grid and largest count: keeps every position well inside what f64 and f32 hold.
const MAX_COUNT: usize = 1 << 24;
/// Most tokens of a stream: centuries, and far below where f64 rounds a position noticeably.
const MAX_TOKENS: usize = 1 << 46;

/// A visual segment that may still grow.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Open {
    start: f64,
    /// Tokens placed before the segment (TAD's running index).
    token: f64,
    h: usize,
    w: usize,
    scale: f64,
    clock: Option<Clock>,
    /// The least angle of a cell about the centre, and the range of all, for layouts on circles.
    turn: [f64; 2],
    frames: usize,
}

impl Open {
    /// How far pair `f` of a block is from its start in time.
    fn time(&self, rule: &Rule, f: f64) -> f64 {
        match (rule.time, &self.clock) {
            (Time::Index, Some(clock)) => clock.id(f),
            (Time::Index, None) => f,
            (Time::Scaled(_), _) => f * self.scale,
            (Time::Step(step), _) => f * step,
            (Time::Tokens, _) => f * (self.h * self.w) as f64,
            (Time::Sides, _) => f * (self.h + self.w - 1) as f64,
        }
    }

    /// How far a block of `n` pairs moves the cursor, for `n` of at least 1.
    fn advance(&self, rule: &Rule, n: f64) -> f64 {
        match rule.cursor {
            Cursor::NextPair => self.time(rule, n),
            Cursor::AboveTime => self.time(rule, n - 1.0) + 1.0,
            Cursor::AboveAll => {
                let (h, w) = ((self.h - 1) as f64, (self.w - 1) as f64);
                let [h, w] = match rule.space {
                    Space::Point => [0.0, 0.0],
                    Space::Raster => [h * self.w as f64 + w; 2],
                    Space::Corner { h: step_h, w: step_w } => [h * step_h, w * step_w],
                    Space::Reset => [h, w],
                    Space::Stretched(stride) => [stride - 1.0; 2],
                    Space::Corners => [h, w].map(|side| self.time(rule, n - 1.0) + side + (h + w - side) / 2.0),
                    Space::Circle { radius, alpha } => [self.circle_extent(radius, alpha); 2],
                    Space::Diagonal => [h, w].map(|side| self.time(rule, n - 1.0) + (side / 2.0).ceil()),
                };
                let t = self.time(rule, n - 1.0);
                match rule.space {
                    // A circle goes along with time on all axes.
                    Space::Circle { .. } => t + h + 1.0,
                    _ => t.max(h).max(w) + 1.0,
                }
            }
        }
    }

    /// Where a cell stands on the circle around the origin, as (t, h, w): its angle is a mixture of that of its place about the
    /// centre, spread over the whole turn, and of its number.
    fn on_circle(&self, radius: f64, alpha: f64, y: usize, x: usize) -> [f64; 3] {
        let [least, range] = self.turn;
        let by_place = self.angle(y, x);
        let by_place = if range > 0.0 { (by_place - least) / range * TAU } else { by_place };
        let by_number = (y * self.w + x) as f64 / (self.h * self.w) as f64 * TAU;
        let (sin, cos) = (alpha * by_place + (1.0 - alpha) * by_number).sin_cos();
        // Across (1, 1, 1): u = (-1, 1, 0) / sqrt 2 and v = (-1, -1, 2) / sqrt 6 in (w, h, t).
        let (u, v) = (radius * cos / 2f64.sqrt(), radius * sin / 6f64.sqrt());
        [2.0 * v, u - v, -u - v]
    }

    /// The angle of a cell about the centre.
    fn angle(&self, y: usize, x: usize) -> f64 {
        let from_centre = |i: usize, side: usize| i as f64 - (side - 1) as f64 / 2.0;
        from_centre(y, self.h).atan2(from_centre(x, self.w))
    }

    /// The largest id of a circle around the origin.
    fn circle_extent(&self, radius: f64, alpha: f64) -> f64 {
        let ids = (0..self.h * self.w).flat_map(|cell| self.on_circle(radius, alpha, cell / self.w, cell % self.w));
        ids.fold(f64::NEG_INFINITY, f64::max)
    }

    /// Where pair `f` starts, and its time. Pairs that are blocks of their own stand behind each other.
    fn pair(&self, rule: &Rule, f: f64) -> (f64, f64) {
        match rule.block {
            BlockRule::Video => (self.start, self.start + self.time(rule, f)),
            BlockRule::Pair => {
                let start = self.start + f * self.advance(rule, 1.0);
                (start, start)
            }
        }
    }
}

/// Gives positions to tokens as they come: text, whole images, and videos frame by frame. What is placed never moves.
#[derive(Debug, Clone, PartialEq)]
pub struct Placer {
    layout: Layout,
    /// Next id of the current text, or of whatever follows.
    cursor: f64,
    /// Tokens placed so far.
    n_tokens: usize,
    open: Option<Open>,
}

impl Placer {
    /// An empty sequence.
    pub fn new(layout: Layout) -> Placer {
        Placer { layout, cursor: 0.0, n_tokens: 0, open: None }
    }

    /// The layout it follows.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Tokens placed so far.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// The cursor after everything placed so far.
    fn cursor(&self) -> f64 {
        let Some(open) = self.open.filter(|open| open.frames > 0) else { return self.cursor };
        let (rule, n) = (self.layout.rule(), open.frames as f64);
        match rule.block {
            BlockRule::Video => open.start + open.advance(rule, n),
            BlockRule::Pair => open.start + n * open.advance(rule, 1.0),
        }
    }

    /// The id of the next text or generated token, on all three axes.
    pub fn next_pos(&self) -> f64 {
        self.cursor() + if self.layout.rule().numbered { self.n_tokens as f64 } else { 0.0 }
    }

    /// Places `n` text (or generated) tokens; ends an open visual segment.
    pub fn text(&mut self, n: usize, out: &mut Vec<Pos>) {
        self.end_visual();
        let (start, step) = (self.next_pos(), self.layout.decode_step());
        out.extend((0..n).map(|j| Pos::all(start + step * j as f64)));
        self.cursor += n as f64;
        self.n_tokens += n;
    }

    /// Goes past `n` text tokens: what follows stands where it would stand after them.
    pub fn pass_text(&mut self, n: usize) {
        self.end_visual();
        self.cursor += n as f64;
        self.n_tokens += n;
    }

    /// Opens a visual segment of frames with `h` x `w` tokens. `pace` is its temporal scale or clock; what a layout does not
    /// know it ignores.
    ///
    /// # Errors
    /// A zero or absurd side, a scale or clock that is not positive and finite.
    pub fn begin_visual(&mut self, h: usize, w: usize, pace: impl Into<Pace>) -> Result<()> {
        self.end_visual();
        if h == 0 || w == 0 || h > MAX_COUNT || w > MAX_COUNT || h * w > MAX_COUNT {
            return Err(Error::bad_input(format!(
                "visual grid `{h}x{w}` must have sides of at least 1 and at most {MAX_COUNT} tokens"
            )));
        }
        let pace = pace.into();
        let scale = check_temporal_scale(pace.scale.unwrap_or(self.layout.default_temporal_scale()))?;
        let clock = pace.clock.map(Clock::checked).transpose()?;
        let (start, token) = (self.cursor, self.n_tokens as f64);
        let mut open = Open { start, token, h, w, scale, clock, turn: [0.0; 2], frames: 0 };
        if let Space::Circle { .. } = self.layout.rule().space {
            let angles = (0..h * w).map(|cell| open.angle(cell / w, cell % w));
            let (least, most) = angles.fold((PI, -PI), |(least, most), angle| (angle.min(least), angle.max(most)));
            open.turn = [least, most - least];
        }
        self.open = Some(open);
        Ok(())
    }

    /// Places the next `n` frames of the open segment, frame-major, then row-major.
    ///
    /// # Panics
    /// When no segment is open.
    pub fn frames(&mut self, n: usize, out: &mut Vec<Pos>) {
        let rule = self.layout.rule();
        let open = self.open.as_mut().expect("begin_visual comes before frames");
        let (h, w) = (open.h, open.w);
        let centre = |side: usize, i: usize| i as f64 - ((side - 1) / 2) as f64;
        out.reserve(n * h * w);
        for f in open.frames..open.frames + n {
            let f = f as f64;
            let (start, t) = open.pair(rule, f);
            for y in 0..h {
                for x in 0..w {
                    let cell = y as f64 * w as f64 + x as f64;
                    let mut pos = match rule.space {
                        Space::Point => Pos::all(t),
                        Space::Raster => Pos::all(t + cell),
                        Space::Corner { h, w } => Pos { t, h: start + y as f64 * h, w: start + x as f64 * w },
                        Space::Reset => Pos { t, h: y as f64, w: x as f64 },
                        Space::Corners => {
                            let exact = |side: usize, i: usize| i as f64 - (side - 1) as f64 / 2.0;
                            let middle = t + (h + w - 2) as f64 / 2.0;
                            Pos { t: middle, h: middle + exact(h, y), w: middle + exact(w, x) }
                        }
                        Space::Stretched(stride) => Pos::all(t - 1.0 + stride * (cell + 1.0) / (h * w) as f64),
                        Space::Circle { radius, alpha } => {
                            let [on_t, on_h, on_w] = open.on_circle(radius, alpha, y, x);
                            Pos { t: t + on_t, h: t + on_h, w: t + on_w }
                        }
                        Space::Diagonal => Pos { t, h: t + centre(h, y), w: t + centre(w, x) },
                    };
                    if rule.numbered {
                        let number = open.token + f * (h * w) as f64 + cell;
                        pos = Pos { t: pos.t + number, h: pos.h + number, w: pos.w + number };
                    }
                    out.push(pos);
                }
            }
        }
        open.frames += n;
        self.n_tokens += n * h * w;
    }

    /// Goes past the next `n` frames of the open segment: what follows stands where it would stand after them.
    ///
    /// # Errors
    /// `Limit` beyond the frames whose positions f64 tells apart.
    ///
    /// # Panics
    /// When no segment is open.
    pub fn pass_frames(&mut self, n: usize) -> Result<()> {
        let open = self.open.as_mut().expect("begin_visual comes before frames");
        let frames = open.frames.checked_add(n);
        let n_tokens = n.checked_mul(open.h * open.w).and_then(|n| n.checked_add(self.n_tokens));
        match (frames, n_tokens) {
            (Some(frames), Some(n_tokens)) if n_tokens <= MAX_TOKENS => {
                (open.frames, self.n_tokens) = (frames, n_tokens);
                Ok(())
            }
            _ => Err(Error::limit(format!("`{n}` frames of {} tokens are beyond {MAX_TOKENS}", open.h * open.w))),
        }
    }

    /// Goes past `n` segments of one frame each, like the one that is open.
    ///
    /// # Errors
    /// As [`Placer::pass_frames`].
    ///
    /// # Panics
    /// When no segment is open.
    pub fn pass_blocks(&mut self, n: usize) -> Result<()> {
        let before = self.cursor;
        self.pass_frames(n)?;
        let open = self.open.take().expect("frames were passed");
        self.cursor = before + n as f64 * open.advance(self.layout.rule(), 1.0);
        Ok(())
    }

    /// Ends the open visual segment, if any; later tokens continue after it.
    pub fn end_visual(&mut self) {
        self.cursor = self.cursor();
        self.open = None;
    }

    /// Places a whole segment.
    ///
    /// # Errors
    /// See [`Placer::begin_visual`]; also a video without frames, and absurd counts.
    pub fn segment(&mut self, segment: Segment, pace: impl Into<Pace>, out: &mut Vec<Pos>) -> Result<()> {
        let (t, h, w) = match segment {
            Segment::Text(n) if n > MAX_COUNT => {
                return Err(Error::limit(format!("`{n}` tokens are more than {MAX_COUNT}")));
            }
            Segment::Text(n) => {
                self.text(n, out);
                return Ok(());
            }
            Segment::Image { h, w } => (1, h, w),
            Segment::Video { t, h, w } => (t, h, w),
        };
        if t == 0 {
            return Err(Error::bad_input("a video segment needs at least one frame"));
        }
        self.begin_visual(h, w, pace)?;
        if t.checked_mul(h * w).is_none_or(|n| n > MAX_COUNT) {
            return Err(Error::limit(format!("video grid `{t}x{h}x{w}` has more than {MAX_COUNT} tokens")));
        }
        self.frames(t, out);
        self.end_visual();
        Ok(())
    }
}

/// Positions of a whole sequence. `scales` holds one temporal scale for all visual segments, or one for each in order,
/// or none.
///
/// # Errors
/// A number of scales that fits neither, and what [`Placer::segment`] refuses.
pub fn place_all(layout: Layout, segments: &[Segment], scales: &[f64]) -> Result<(Vec<Pos>, Placer)> {
    let n_visual = segments.iter().filter(|s| !matches!(s, Segment::Text(_))).count();
    if scales.len() > 1 && scales.len() != n_visual {
        return Err(Error::bad_input(format!(
            "`{}` temporal scales for `{n_visual}` visual segments, expected one for all or one for each",
            scales.len()
        )));
    }
    let (mut placer, mut out, mut visual) = (Placer::new(layout), Vec::new(), 0);
    for segment in segments {
        let scale = if scales.len() > 1 { scales.get(visual) } else { scales.first() };
        placer.segment(*segment, scale.copied(), &mut out)?;
        visual += usize::from(!matches!(segment, Segment::Text(_)));
    }
    Ok((out, placer))
}
