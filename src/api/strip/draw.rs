//! Pixels of a strip.

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use crate::media::Rgb;
use crate::stream::{LookedMedium, MediaKind, clock, percent};
use crate::{Error, Result};

const WIDTH: usize = 1280;
const MARGIN: usize = 24;
const INNER: usize = WIDTH - 2 * MARGIN;
/// Between pictures.
const GAP: usize = 3;
/// The narrowest picture of a video, and the highest.
const NARROW: usize = 120;
const HIGH: usize = 160;
/// Of a timeline: the highest bar, and room for numbers above and below.
const BARS: usize = 120;
const NUMBERS: usize = 26;
/// Bars that are told in numbers, where they are this share of what went to media.
const NUMBERED: usize = 3;
const LEAST: f64 = 0.01;

const PAPER: [u8; 3] = [255, 255, 255];
const INK: [u8; 3] = [40, 44, 52];
const LINE: [u8; 3] = [205, 209, 216];
/// Of bars, from the lowest to the highest.
const COLD: [f64; 3] = [120.0, 150.0, 190.0];
const HOT: [f64; 3] = [224.0, 80.0, 20.0];

/// How a medium is laid out.
pub(super) struct Band {
    /// Cells of pictures, each of several pairs, side by side over the whole width.
    n_cells: usize,
    /// Width and height of a picture.
    picture: (usize, usize),
    seen: LookedMedium,
}

impl Band {
    /// Of a medium whose frames have this width and height.
    pub(super) fn new(seen: &LookedMedium, (width, height): (usize, usize)) -> Band {
        let (width, height) = (width.max(1), height.max(1));
        // At least so wide that times fit below.
        let wide = (HIGH * width / height).clamp(NARROW, INNER);
        let n_cells = match seen.kind {
            MediaKind::Image => 1,
            MediaKind::Video => seen.pairs.len().clamp(1, (INNER + GAP) / (NARROW + GAP)).max(1),
        };
        let cell = if seen.kind == MediaKind::Image { wide } else { (INNER / n_cells - GAP).min(wide) };
        let fits = (cell, (cell * height / width).max(1));
        let picture = if fits.1 > HIGH { ((HIGH * width / height).max(1), HIGH) } else { fits };
        Band { n_cells, picture, seen: seen.clone() }
    }

    /// Width and height of its pictures.
    pub(super) fn picture(&self) -> (usize, usize) {
        self.picture
    }

    /// The pairs of a cell.
    fn cell(&self, i: usize) -> std::ops::Range<usize> {
        let n = self.seen.pairs.len();
        i * n / self.n_cells..(i + 1) * n / self.n_cells
    }

    /// The pairs whose first frames are shown: of each cell the one that was looked at most.
    pub(super) fn shown(&self, seen: &LookedMedium) -> Vec<usize> {
        let most = |pairs: std::ops::Range<usize>| {
            pairs.rev().max_by(|a, b| seen.pairs[*a].share.total_cmp(&seen.pairs[*b].share))
        };
        (0..self.n_cells).filter_map(|i| most(self.cell(i))).collect()
    }

    fn height(&self) -> usize {
        let timeline = if self.seen.kind == MediaKind::Video { 2 * NUMBERS + BARS } else { NUMBERS };
        self.picture.1 + timeline + MARGIN
    }

    /// The largest share of a bar.
    fn peak(&self) -> f64 {
        match self.seen.kind {
            MediaKind::Image => self.seen.share,
            MediaKind::Video => self.seen.pairs.iter().fold(0.0, |most, pair| most.max(pair.share)),
        }
    }
}

/// A picture in the making.
pub(super) struct Canvas {
    height: usize,
    data: Vec<u8>,
}

impl Canvas {
    /// All bands below each other, with the pictures that there are; `among` tells the share among media of a share of all.
    pub(super) fn of(bands: &[(Band, Vec<Rgb>)], among: &dyn Fn(f64) -> f64) -> Canvas {
        let height = MARGIN + bands.iter().map(|(band, _)| band.height()).sum::<usize>();
        let mut canvas = Canvas { height, data: PAPER.repeat(WIDTH * height) };
        let peak = bands.iter().fold(f64::MIN_POSITIVE, |peak, (band, _)| peak.max(band.peak()));
        let mut y = MARGIN;
        for (band, pictures) in bands {
            match band.seen.kind {
                MediaKind::Image => canvas.still(y, band, pictures, among),
                MediaKind::Video => canvas.film(y, band, pictures, (peak, among)),
            }
            y += band.height();
        }
        canvas
    }

    fn still(&mut self, y: usize, band: &Band, pictures: &[Rgb], among: &dyn Fn(f64) -> f64) {
        let (width, height) = band.picture;
        self.rect((MARGIN, y), (width, height), LINE);
        if let Some(picture) = pictures.first() {
            self.blit((MARGIN, y), picture, 1.0);
        }
        self.text((MARGIN, y + height + 8), &percent(among(band.seen.share)), INK);
    }

    fn film(&mut self, y: usize, band: &Band, pictures: &[Rgb], (peak, among): (f64, &dyn Fn(f64) -> f64)) {
        let (pairs, (width, height)) = (&band.seen.pairs, band.picture);
        let left = |i: usize, of: usize| MARGIN + i * INNER / of;
        let shown = band.shown(&band.seen);
        let base = y + height + NUMBERS + BARS;
        for (i, pair) in shown.iter().enumerate() {
            let (x0, x1) = (left(i, band.n_cells), left(i + 1, band.n_cells));
            let at = (x0 + (x1 - x0).saturating_sub(width) / 2, y);
            match pictures.get(i) {
                // What was not looked at is pale.
                Some(picture) => self.blit(at, picture, 0.35 + 0.65 * (pairs[*pair].share / peak).sqrt()),
                None => self.rect(at, (width, height), LINE),
            }
            self.rect((x0, base + 2), (1, 6), INK);
            if let Some(first) = pairs.get(band.cell(i).start) {
                self.text((x0 + 4, base + 8), &clock(first.from), INK);
            }
        }
        for (i, pair) in pairs.iter().enumerate() {
            let (x0, x1) = (left(i, pairs.len()), left(i + 1, pairs.len()));
            let share = pair.share / peak;
            let high = ((share * BARS as f64).round() as usize).clamp(1, BARS);
            let gap = usize::from(x1 - x0 > 4);
            let color = std::array::from_fn(|c| (COLD[c] + share * (HOT[c] - COLD[c])) as u8);
            // Of many pairs in one column the highest shows.
            self.rect((x0, base - high), ((x1 - x0).saturating_sub(gap).max(1), high), color);
        }
        self.rect((MARGIN, base), (INNER, 2), INK);
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        order.sort_by(|a, b| pairs[*b].share.total_cmp(&pairs[*a].share));
        let mut taken: Vec<(usize, usize)> = Vec::new();
        for i in order.into_iter().take(NUMBERED).filter(|i| among(pairs[*i].share) >= LEAST) {
            let (text, high) = (percent(among(pairs[i].share)), (pairs[i].share / peak * BARS as f64) as usize);
            let (middle, width) = ((left(i, pairs.len()) + left(i + 1, pairs.len())) / 2, text_width(&text));
            let x = middle.saturating_sub(width / 2).clamp(MARGIN, WIDTH - MARGIN - width);
            // Numbers do not stand on each other.
            if taken.iter().all(|(a, b)| x + width < *a || x > *b) {
                self.text((x, base - high - 18), &text, INK);
                taken.push((x, x + width));
            }
        }
    }

    fn rect(&mut self, (x, y): (usize, usize), (width, height): (usize, usize), color: [u8; 3]) {
        for row in y..(y + height).min(self.height) {
            let row = &mut self.data[row * WIDTH * 3..][..WIDTH * 3];
            row.chunks_exact_mut(3).skip(x).take(width).for_each(|pixel| pixel.copy_from_slice(&color));
        }
    }

    /// A picture, of which `weight` shows on the paper.
    fn blit(&mut self, (x, y): (usize, usize), picture: &Rgb, weight: f64) {
        for (row, from) in (y..self.height).zip(picture.data.chunks_exact(picture.width * 3)) {
            let row = self.data[row * WIDTH * 3..][..WIDTH * 3].chunks_exact_mut(3).skip(x);
            for (to, from) in row.zip(from.chunks_exact(3)) {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = (255.0 + weight * (f64::from(*from) - 255.0)).round() as u8;
                }
            }
        }
    }

    fn text(&mut self, (x, y): (usize, usize), text: &str, color: [u8; 3]) {
        for (i, glyph) in text.chars().map(glyph).enumerate() {
            for (row, bits) in glyph.iter().enumerate() {
                for column in (0..5).filter(|column| bits >> (4 - column) & 1 == 1) {
                    self.rect((x + (i * 6 + column) * SCALE, y + row * SCALE), (SCALE, SCALE), color);
                }
            }
        }
    }

    /// As a file.
    ///
    /// # Errors
    /// None, unless memory is refused.
    pub(super) fn png(&self) -> Result<Vec<u8>> {
        let mut png = Vec::new();
        PngEncoder::new(&mut png)
            .write_image(&self.data, WIDTH as u32, self.height as u32, ExtendedColorType::Rgb8)
            .map_err(|err| Error::format(format!("the picture cannot be written: {err}")))?;
        Ok(png)
    }
}

/// Pixels of a glyph's dot.
const SCALE: usize = 2;

fn text_width(text: &str) -> usize {
    text.chars().count() * 6 * SCALE
}

/// Five by seven dots, a row each, for what numbers and times are made of.
fn glyph(c: char) -> [u8; 7] {
    match c {
        '0' => [14, 17, 19, 21, 25, 17, 14],
        '1' => [4, 12, 4, 4, 4, 4, 14],
        '2' => [14, 17, 1, 2, 4, 8, 31],
        '3' => [31, 2, 4, 2, 1, 17, 14],
        '4' => [2, 6, 10, 18, 31, 2, 2],
        '5' => [31, 16, 30, 1, 1, 17, 14],
        '6' => [6, 8, 16, 30, 17, 17, 14],
        '7' => [31, 1, 2, 4, 8, 8, 8],
        '8' => [14, 17, 17, 14, 17, 17, 14],
        '9' => [14, 17, 17, 15, 1, 2, 12],
        ':' => [0, 12, 12, 0, 12, 12, 0],
        '.' => [0, 0, 0, 0, 0, 12, 12],
        '%' => [24, 25, 2, 4, 8, 19, 3],
        _ => [0; 7],
    }
}
