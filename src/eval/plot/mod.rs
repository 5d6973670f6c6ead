//! Plots: line charts and the V-NIAH heat map, drawn as SVG and kept as SVG and, with the feature `plots`, as PNG.
//!
//! SVG scales and can be read back cell by cell; labels at 45 degrees, as in the published heat map, are beyond the plotting
//! crates that were considered (they turn text by right angles only).
//! Start reading at [`Chart`] and [`Heatmap`], which give the text of a whole file, and at [`save`].

#[cfg(feature = "plots")]
mod png;

use std::fmt::Write;
use std::path::Path;

#[cfg(feature = "plots")]
pub use png::to_png;

use crate::files::atomic::write_beside;
use crate::{Error, Result};

/// Most cells of a heat map and most points of a line chart: far beyond what anybody can see.
const MAX_MARKS: usize = 1 << 20;
/// Series colours, told apart by most eyes; the first is for what the chart is about.
const COLOURS: [&str; 7] = ["#0b6e4f", "#c1121f", "#1d4ed8", "#b45309", "#6d28d9", "#0e7490", "#4b5563"];

/// What a plot is kept as: the extensions of its files.
pub const KEPT_AS: &[&str] = if cfg!(feature = "plots") { &["svg", "png"] } else { &["svg"] };

/// Writes a plot as `stem`.svg and, with the feature `plots`, `stem`.png.
///
/// # Errors
/// A drawing that is none, or is larger than memory; files that cannot be written.
pub fn save(stem: &Path, svg: &str) -> Result<()> {
    #[cfg(feature = "plots")]
    let dots = to_png(svg)?;
    write_beside(&stem.with_extension("svg"), |out| Ok(out.write_all(svg.as_bytes())?))?;
    #[cfg(feature = "plots")]
    write_beside(&stem.with_extension("png"), |out| Ok(out.write_all(&dots)?))?;
    Ok(())
}

/// How an axis maps numbers to places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    #[default]
    Linear,
    /// Decades; values must be positive.
    Log,
}

/// One line with its name in the legend.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub name: String,
    /// (x, y); a point that is not finite breaks the line.
    pub points: Vec<(f64, f64)>,
}

/// A line chart.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Chart {
    pub title: String,
    pub x_title: String,
    pub y_title: String,
    pub x_scale: Scale,
    pub y_scale: Scale,
    pub series: Vec<Series>,
    /// Draws a line across at this value.
    pub zero_line: Option<f64>,
}

impl Chart {
    /// The chart as an SVG file.
    ///
    /// # Errors
    /// Nothing to draw, too much of it, or a value of zero and below on a logarithmic axis.
    pub fn to_svg(&self) -> Result<String> {
        let n: usize = self.series.iter().map(|s| s.points.len()).sum();
        if n > MAX_MARKS {
            return Err(Error::limit(format!("a chart of `{n}` points, expected at most {MAX_MARKS}")));
        }
        let finite = || self.series.iter().flat_map(|s| &s.points).filter(|(x, y)| x.is_finite() && y.is_finite());
        let x = Axis::of(finite().map(|p| p.0), self.x_scale)?;
        let y = Axis::of(finite().map(|p| p.1).chain(self.zero_line), self.y_scale)?;

        let (left, top, right, bottom) = (74.0, 46.0, 660.0, 430.0);
        let mut svg = Svg::new(860.0, 490.0);
        let place = |p: (f64, f64)| (left + (right - left) * x.share(p.0), bottom - (bottom - top) * y.share(p.1));
        svg.text((left + right) / 2.0, 26.0, "middle", 15, None, &self.title);
        for tick in &x.ticks {
            let at = place((*tick, y.low)).0;
            svg.line((at, top), (at, bottom), "#e5e7eb", 1.0, None);
            svg.text(at, bottom + 18.0, "middle", 11, None, &x.label(*tick));
        }
        for tick in &y.ticks {
            let at = place((x.low, *tick)).1;
            svg.line((left, at), (right, at), "#e5e7eb", 1.0, None);
            svg.text(left - 8.0, at + 4.0, "end", 11, None, &y.label(*tick));
        }
        if let Some(zero) = self.zero_line {
            let at = place((x.low, zero)).1;
            svg.line((left, at), (right, at), "#111827", 1.2, None);
        }
        svg.line((left, bottom), (right, bottom), "#111827", 1.0, None);
        svg.line((left, top), (left, bottom), "#111827", 1.0, None);
        svg.text((left + right) / 2.0, bottom + 42.0, "middle", 13, None, &self.x_title);
        svg.text(20.0, (top + bottom) / 2.0, "middle", 13, Some(-90.0), &self.y_title);
        for (i, series) in self.series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            for run in series.points.split(|(x, y)| !(x.is_finite() && y.is_finite())).filter(|run| !run.is_empty()) {
                svg.polyline(run.iter().map(|p| place(*p)), colour);
            }
            let at = top + 14.0 + 22.0 * i as f64;
            svg.line((right + 18.0, at), (right + 44.0, at), colour, 2.5, None);
            svg.text(right + 52.0, at + 4.0, "start", 12, None, &series.name);
        }
        Ok(svg.finish())
    }
}

/// A grid of scores from 0 to 1: rows from top to bottom, columns from left to right.
#[derive(Debug, Clone, PartialEq)]
pub struct Heatmap {
    pub title: String,
    pub x_title: String,
    pub y_title: String,
    pub columns: Vec<String>,
    pub rows: Vec<String>,
    /// (rows, columns); a cell that was not measured is left out.
    pub values: Vec<Vec<Option<f64>>>,
    pub bar_title: String,
    /// Where a dotted vertical line stands, in columns from the left edge of the first (1.5: the middle of the second); what
    /// lies outside is drawn at the edge.
    pub mark: Option<f64>,
}

impl Heatmap {
    /// The heat map of V-NIAH: depth percent by number of frames. `mark` as in [`Heatmap::mark`], for the training length.
    pub fn niah(n_frames: &[usize], depths: &[f64], values: Vec<Vec<Option<f64>>>, mark: Option<f64>) -> Heatmap {
        Heatmap {
            title: String::new(),
            x_title: "Num. of Frames".to_string(),
            y_title: "Depth Percent".to_string(),
            columns: n_frames.iter().map(|n| short_count(*n)).collect(),
            rows: depths.iter().map(|depth| format!("{:.0}", 100.0 * depth)).collect(),
            values,
            bar_title: "Score".to_string(),
            mark,
        }
    }

    /// The heat map as an SVG file.
    ///
    /// # Errors
    /// No cells, too many, a table that is not as wide and high as its labels, scores outside 0 to 1.
    pub fn to_svg(&self) -> Result<String> {
        let (n_rows, n_columns) = (self.rows.len(), self.columns.len());
        let is_table = self.values.len() == n_rows && self.values.iter().all(|row| row.len() == n_columns);
        if n_rows == 0 || n_columns == 0 || !is_table {
            let message = format!("a heat map of {n_rows} row and {n_columns} column labels does not have its values");
            return Err(Error::mismatch(message));
        }
        if n_rows.saturating_mul(n_columns) > MAX_MARKS {
            return Err(Error::limit(format!("a heat map of `{n_rows}x{n_columns}` cells, at most {MAX_MARKS}")));
        }
        // 17.5 x 8 inches at 72 dots, as published.
        let (width, height) = (1260.0, 576.0);
        let (left, top, right, bottom) = (90.0, 40.0, 1110.0, 470.0);
        let (cell_w, cell_h) = ((right - left) / n_columns as f64, (bottom - top) / n_rows as f64);
        let mut svg = Svg::new(width, height);
        svg.text((left + right) / 2.0, 26.0, "middle", 18, None, &self.title);
        for (i, row) in self.values.iter().enumerate() {
            for (j, value) in row.iter().enumerate() {
                let Some(value) = value else { continue };
                let colour = score_colour(*value)?;
                let corner = (left + cell_w * j as f64, top + cell_h * i as f64);
                svg.rect(corner, (cell_w, cell_h), &colour, Some(("white", 1.5)));
            }
        }
        for (j, label) in self.columns.iter().enumerate() {
            svg.text(left + cell_w * (j as f64 + 0.5), bottom + 18.0, "end", 14, Some(-45.0), label);
        }
        for (i, label) in self.rows.iter().enumerate() {
            svg.text(left - 10.0, top + cell_h * (i as f64 + 0.5) + 5.0, "end", 14, None, label);
        }
        svg.text((left + right) / 2.0, bottom + 78.0, "middle", 18, None, &self.x_title);
        svg.text(30.0, (top + bottom) / 2.0, "middle", 18, Some(-90.0), &self.y_title);
        if let Some(mark) = self.mark.filter(|mark| mark.is_finite()) {
            let at = left + cell_w * mark.clamp(0.0, n_columns as f64);
            svg.line((at, top), (at, bottom), "black", 2.5, Some("2 5"));
        }
        self.bar(&mut svg, (right + 40.0, top), bottom)?;
        Ok(svg.finish())
    }

    /// The colour bar: what the colours mean.
    fn bar(&self, svg: &mut Svg, (left, top): (f64, f64), bottom: f64) -> Result<()> {
        const STEPS: usize = 100;
        let step = (bottom - top) / STEPS as f64;
        for i in 0..STEPS {
            let colour = score_colour((i as f64 + 0.5) / STEPS as f64)?;
            // A little overlap hides the seams.
            svg.rect((left, bottom - step * (i + 1) as f64), (22.0, step + 0.5), &colour, None);
        }
        for i in 0..=5 {
            let score = f64::from(i) / 5.0;
            let at = bottom - (bottom - top) * score;
            svg.line((left + 22.0, at), (left + 27.0, at), "#111827", 1.0, None);
            svg.text(left + 31.0, at + 4.0, "start", 13, None, &format!("{score:.1}"));
        }
        svg.text(left + 72.0, (top + bottom) / 2.0, "middle", 16, Some(-90.0), &self.bar_title);
        Ok(())
    }
}

/// The heat map's colour of a score: #F0496E at 0, #EBB839 at a half, #9ad5b3 at 1, linear between.
///
/// # Errors
/// A score outside 0 to 1.
pub fn score_colour(score: f64) -> Result<String> {
    const STOPS: [[f64; 3]; 3] = [
        [0xF0 as f64, 0x49 as f64, 0x6E as f64],
        [0xEB as f64, 0xB8 as f64, 0x39 as f64],
        [0x9A as f64, 0xD5 as f64, 0xB3 as f64],
    ];
    if !(0.0..=1.0).contains(&score) {
        return Err(Error::bad_input(format!("score `{score}` is not between 0 and 1")));
    }
    let (from, share) = if score < 0.5 { (0, 2.0 * score) } else { (1, 2.0 * score - 1.0) };
    let mix = |c: usize| (STOPS[from][c] + (STOPS[from + 1][c] - STOPS[from][c]) * share).round() as u8;
    Ok(format!("#{:02X}{:02X}{:02X}", mix(0), mix(1), mix(2)))
}

/// `900`, `1.1K`, `3K`: counts as axis labels.
pub fn short_count(n: usize) -> String {
    match n {
        0..1000 => n.to_string(),
        _ => {
            let thousands = format!("{:.1}", n as f64 / 1e3);
            format!("{}K", thousands.strip_suffix(".0").unwrap_or(&thousands))
        }
    }
}

/// The range of an axis and where its labels stand.
struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>, scale: Scale) -> Result<Axis> {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            return Err(Error::bad_input("a chart without a single finite point"));
        }
        match scale {
            Scale::Linear => {
                let span = if high > low { high - low } else { low.abs().max(1.0) };
                // The largest of 1, 2, 5 times a power of ten that gives at least five steps.
                let power = 10f64.powf((span / 5.0).log10().floor());
                let step = [5.0, 2.0, 1.0].into_iter().map(|m| m * power).find(|s| span / s >= 4.0).unwrap_or(power);
                let (first, last) = ((low / step).floor(), ((low + span) / step).ceil());
                let ticks = (0..=(last - first) as usize).map(|i| (first + i as f64) * step).collect();
                Ok(Axis { scale, low: first * step, high: last * step, ticks })
            }
            Scale::Log if low <= 0.0 => {
                Err(Error::bad_input(format!("`{low}` has no place on a logarithmic axis, expected more than 0")))
            }
            Scale::Log => {
                let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
                let last = last.max(first + 1);
                let ticks = (first..=last).map(|p| 10f64.powi(p)).collect();
                Ok(Axis { scale, low: 10f64.powi(first), high: 10f64.powi(last), ticks })
            }
        }
    }

    /// Where a value stands, from 0 to 1.
    fn share(&self, v: f64) -> f64 {
        match self.scale {
            Scale::Linear => (v - self.low) / (self.high - self.low),
            Scale::Log => (v / self.low).log10() / (self.high / self.low).log10(),
        }
    }

    fn label(&self, v: f64) -> String {
        match self.scale {
            Scale::Log if v >= 1e3 => format!("1e{:.0}", v.log10()),
            _ if v.abs() >= 1e5 => format!("{v:e}"),
            // Steps are multiples of powers of ten; this hides what is left of rounding.
            _ => format!("{}", (v * 1e6).round() / 1e6),
        }
    }
}

/// The text of an SVG file in the making.
struct Svg(String);

impl Svg {
    fn new(width: f64, height: f64) -> Svg {
        let mut svg = String::new();
        let head = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\">"
        );
        svg.push_str(&head);
        svg.push('\n');
        let mut svg = Svg(svg);
        svg.rect((0.0, 0.0), (width, height), "white", None);
        svg
    }

    /// Writing to a string cannot fail.
    fn push(&mut self, line: std::fmt::Arguments<'_>) {
        self.0.write_fmt(line).expect("a string takes everything");
        self.0.push('\n');
    }

    fn rect(&mut self, (x, y): (f64, f64), (w, h): (f64, f64), fill: &str, border: Option<(&str, f64)>) {
        let border = border.map_or(String::new(), |(c, w)| format!(" stroke=\"{c}\" stroke-width=\"{w}\""));
        self.push(format_args!(
            "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{w:.2}\" height=\"{h:.2}\" fill=\"{fill}\"{border}/>"
        ));
    }

    fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str, width: f64, dash: Option<&str>) {
        let dash = dash.map_or(String::new(), |d| format!(" stroke-dasharray=\"{d}\" stroke-linecap=\"round\""));
        self.push(format_args!("<line x1=\"{x1:.2}\" y1=\"{y1:.2}\" x2=\"{x2:.2}\" y2=\"{y2:.2}\" stroke=\"{colour}\" stroke-width=\"{width}\"{dash}/>"));
    }

    fn polyline(&mut self, points: impl Iterator<Item = (f64, f64)>, colour: &str) {
        let points: Vec<String> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.push(format_args!("<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\" stroke-linejoin=\"round\"/>", points.join(" ")));
    }

    /// Text that stands at its `anchor` (start, middle, end), turned by degrees.
    fn text(&mut self, x: f64, y: f64, anchor: &str, size: usize, turn: Option<f64>, text: &str) {
        if text.is_empty() {
            return;
        }
        let turn = turn.map_or(String::new(), |t| format!(" transform=\"rotate({t} {x:.2} {y:.2})\""));
        self.push(format_args!(
            "<text x=\"{x:.2}\" y=\"{y:.2}\" text-anchor=\"{anchor}\" font-size=\"{size}\"{turn}>{}</text>",
            escaped(text)
        ));
    }

    fn finish(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

fn escaped(text: &str) -> String {
    let plain: String = text.chars().filter(|c| !c.is_control()).collect();
    plain.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute<'a>(line: &'a str, name: &str) -> &'a str {
        let from = line.find(&format!("{name}=\"")).unwrap() + name.len() + 2;
        &line[from..from + line[from..].find('"').unwrap()]
    }

    #[test]
    fn a_heat_map_has_the_published_colours_cell_by_cell() {
        assert_eq!(score_colour(0.0).unwrap(), "#F0496E");
        assert_eq!(score_colour(0.5).unwrap(), "#EBB839");
        assert_eq!(score_colour(1.0).unwrap(), "#9AD5B3");
        // Half way from EB to 9A, B8 to D5, 39 to B3, rounded half up.
        assert_eq!(score_colour(0.75).unwrap(), "#C3C776");

        let values = vec![vec![Some(0.0), Some(0.5), Some(1.0)], vec![Some(0.25), None, Some(0.75)]];
        let map = Heatmap::niah(&[100, 900, 1100], &[0.0, 1.0], values.clone(), Some(-0.3));
        let svg = map.to_svg().unwrap();
        let cells: Vec<&str> = svg.lines().filter(|l| l.contains("stroke=\"white\" stroke-width=\"1.5\"")).collect();
        let fills: Vec<&str> = cells.iter().map(|l| attribute(l, "fill")).collect();
        let want: Vec<String> = values.iter().flatten().flatten().map(|v| score_colour(*v).unwrap()).collect();
        assert_eq!(fills, want, "row by row from the top");
        assert_eq!(attribute(cells[0], "y"), attribute(cells[2], "y"));
        assert_ne!(attribute(cells[0], "y"), attribute(cells[3], "y"));
        for text in [">100<", ">900<", ">1.1K<", ">0<", ">Num. of Frames<", ">Depth Percent<", ">Score<"] {
            assert!(svg.contains(text), "{text}");
        }
        assert_eq!(svg.matches("rotate(-45 ").count(), 3, "labels of columns are turned");
        let mark = svg.lines().find(|l| l.contains("stroke-dasharray")).unwrap();
        assert_eq!(attribute(mark, "x1"), attribute(cells[0], "x"), "left of the first column: at its edge");
        assert_eq!(attribute(mark, "stroke"), "black");
    }

    #[test]
    fn counts_are_short() {
        let rows = [(57, "57"), (999, "999"), (1000, "1K"), (1100, "1.1K"), (2900, "2.9K"), (3000, "3K")];
        for (n, want) in rows {
            assert_eq!(short_count(n), want);
        }
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let map = |values| Heatmap::niah(&[1, 2], &[0.0], values, None).to_svg();
        assert!(map(vec![vec![Some(0.1)]]).is_err());
        assert!(map(vec![vec![Some(0.1), Some(1.1)]]).unwrap_err().to_string().contains("`1.1`"));
        assert!(map(vec![vec![Some(0.1), Some(f64::NAN)]]).is_err());
        let chart = |points: &[(f64, f64)], y_scale| {
            let series = vec![Series { name: "a<b".to_string(), points: points.to_vec() }];
            Chart { y_scale, series, ..Chart::default() }.to_svg()
        };
        assert!(chart(&[], Scale::Linear).is_err());
        assert!(chart(&[(1.0, 0.0)], Scale::Log).is_err());
        let svg = chart(&[(0.0, 1.0), (1.0, f64::NAN), (2.0, 1.0), (3.0, 4.0)], Scale::Linear).unwrap();
        assert_eq!(svg.matches("<polyline").count(), 2, "a gap breaks the line");
        assert!(svg.contains("a&lt;b"));
    }

    #[test]
    fn axes_end_on_round_numbers() {
        let axis = Axis::of([0.3, 61.2].into_iter(), Scale::Linear).unwrap();
        assert_eq!((axis.low, axis.high, axis.ticks.len()), (0.0, 70.0, 8));
        let axis = Axis::of([5.0, 5.0].into_iter(), Scale::Linear).unwrap();
        assert!(axis.low <= 5.0 && axis.high > 5.0);
        let axis = Axis::of([3.0, 432_000.0].into_iter(), Scale::Log).unwrap();
        assert_eq!((axis.low, axis.high), (1.0, 1e6));
        assert_eq!(axis.label(1e5), "1e5");
    }
}
