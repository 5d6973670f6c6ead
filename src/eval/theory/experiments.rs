//! The experiments: numbers that follow from the definitions, beside what this program computes.

use std::f64::consts::{FRAC_PI_2, PI};

use super::{AxisPart, BASE, N_ROT, diagonal, in_time, monte_carlo, needle, preference, rotary, scan, share_negative};
use crate::position::{Driver, Layout, Pos, Rotary, Segment, place_all};
use crate::{Error, Result};

/// One experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct Experiment {
    /// E1 to E9.
    pub id: &'static str,
    pub title: &'static str,
    pub rows: Vec<ExperimentRow>,
}

impl Experiment {
    /// Whether no row says otherwise.
    pub fn holds(&self) -> bool {
        self.rows.iter().all(|row| row.ok != Some(false))
    }
}

/// One number, or one statement, as expected and as computed.
#[derive(Debug, Clone, PartialEq)]
pub struct ExperimentRow {
    pub what: String,
    pub expected: String,
    pub computed: String,
    /// Nothing for what is shown for information.
    pub ok: Option<bool>,
}

impl ExperimentRow {
    /// A number that must come out to the digits as printed.
    pub(super) fn digits(what: impl Into<String>, expected: &str, computed: f64) -> ExperimentRow {
        let decimals = expected.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        let computed = format!("{computed:.decimals$}");
        ExperimentRow { what: what.into(), expected: expected.to_string(), ok: Some(computed == expected), computed }
    }

    /// A count, or `never`.
    pub(super) fn first(what: impl Into<String>, expected: Option<u64>, computed: Option<u64>) -> ExperimentRow {
        let text = |n: Option<u64>| n.map_or("never".to_string(), |n| n.to_string());
        let ok = Some(expected == computed);
        ExperimentRow { what: what.into(), expected: text(expected), computed: text(computed), ok }
    }

    /// A mean over random draws: right within five standard errors.
    pub(super) fn mean(what: impl Into<String>, expected: f64, mean: f64, error: f64) -> ExperimentRow {
        ExperimentRow {
            what: what.into(),
            expected: format!("{expected:.2}"),
            computed: format!("{mean:.2} ± {error:.2}"),
            ok: Some((mean - expected).abs() <= 5.0 * error),
        }
    }

    /// A statement that holds or does not.
    pub(super) fn holds(
        what: impl Into<String>,
        expected: impl Into<String>,
        computed: String,
        ok: bool,
    ) -> ExperimentRow {
        ExperimentRow { what: what.into(), expected: expected.into(), computed, ok: Some(ok) }
    }

    /// For information only.
    pub(super) fn info(what: impl Into<String>, expected: impl Into<String>, computed: String) -> ExperimentRow {
        ExperimentRow { what: what.into(), expected: expected.into(), computed, ok: None }
    }
}

type Run = fn(u64) -> Result<Experiment>;
const ALL: [(&str, Run); 9] = [
    ("E1", |_| neighbours()),
    ("E2", monte_carlo::gap),
    ("E3", |_| critical_lengths()),
    ("E4", monte_carlo::signs),
    ("E5", monte_carlo::strongest),
    ("E6", |_| implemented()),
    ("E7", |_| temporal_scale()),
    ("E8", needle::proxy),
    ("E9", |_| families()),
];

/// The names of all experiments, in order.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|(id, _)| *id)
}

/// Runs the experiments called `only`, or all if none is; draws are seeded with `seed`.
///
/// # Errors
/// An experiment of another name.
pub fn experiments(only: &[String], seed: u64) -> Result<Vec<Experiment>> {
    if let Some(name) = only.iter().find(|name| !names().any(|id| id.eq_ignore_ascii_case(name))) {
        let known = names().collect::<Vec<_>>().join(", ");
        return Err(Error::bad_input(format!("experiment `{name}` is not known, expected one of {known}")));
    }
    let wanted = |id: &str| only.is_empty() || only.iter().any(|name| name.eq_ignore_ascii_case(id));
    ALL.iter().filter(|(id, _)| wanted(id)).map(|(_, run)| run(seed)).collect()
}

fn minus(a: Pos, b: Pos) -> Pos {
    Pos { t: a.t - b.t, h: a.h - b.h, w: a.w - b.w }
}

/// E1, proposition 3.1: how far apart neighbours stand.
fn neighbours() -> Result<Experiment> {
    let mut rows = Vec::new();
    let mut check = |layout: Layout, [h, w]: [usize; 2], scale: f64, expected: [&str; 3]| -> Result<()> {
        let scales = if layout.uses_temporal_scale() { vec![scale] } else { Vec::new() };
        let (pos, _) = place_all(layout, &[Segment::Text(3), Segment::Video { t: 2, h, w }], &scales)?;
        let first = pos[3];
        let neighbours = [("next frame", 3 + h * w), ("row below", 3 + w), ("column to the right", 4)];
        for ((name, at), expected) in neighbours.into_iter().zip(expected) {
            let d = minus(pos[at], first);
            // Where all ids are equal there is one distance.
            let computed = if layout == Layout::Rope { d.t.to_string() } else { format!("({},{},{})", d.t, d.h, d.w) };
            let of = if layout.uses_temporal_scale() { format!(", scale {scale}") } else { String::new() };
            let ok = computed == expected;
            rows.push(ExperimentRow::holds(format!("{layout} {h}x{w}{of}: {name}"), expected, computed, ok));
        }
        Ok(())
    };
    check(Layout::Rope, [9, 16], 1.0, ["144", "16", "1"])?;
    check(Layout::Rope, [4, 5], 1.0, ["20", "5", "1"])?;
    check(Layout::Mrope, [9, 16], 1.0, ["(1,0,0)", "(0,1,0)", "(0,0,1)"])?;
    check(Layout::VideoRope, [9, 16], 2.0, ["(2,2,2)", "(0,1,0)", "(0,0,1)"])?;
    check(Layout::Hope, [9, 16], 0.75, ["(0.75,0.75,0.75)", "(0,1,0)", "(0,0,1)"])?;
    check(Layout::Hope, [9, 16], 1.5, ["(1.5,1.5,1.5)", "(0,1,0)", "(0,0,1)"])?;
    Ok(Experiment { id: "E1", title: "how far apart neighbours stand (proposition 3.1)", rows })
}

/// How many displacements are enough to find the first negative sum of every allocation but HoPE's.
const SCANNED: u64 = 4_000_000;

/// E3, theorem 3.1 and lemma A.1: where the temporal part fails.
fn critical_lengths() -> Result<Experiment> {
    let mut rows = Vec::new();
    let step = in_time(1.0);
    for (base, mrope, videorope, single, length) in
        [(1e6, 16, 486_910, 1_265_814, "1265814.95"), (1e4, 5, 4_537, 13_603, "13603.54")]
    {
        let first = |layout, part| -> Result<Option<u64>> {
            Ok(scan(&rotary(layout, base)?, part, step, SCANNED)?.first_negative)
        };
        let name = |of: &str| format!("first temporal part below 0, {of}, base {base:e}");
        rows.push(ExperimentRow::first(name("mrope"), Some(mrope), first(Layout::Mrope, AxisPart::Temporal)?));
        rows.push(ExperimentRow::first(
            name("videorope"),
            Some(videorope),
            first(Layout::VideoRope, AxisPart::Temporal)?,
        ));
        let lowest = N_ROT / 2 - 1;
        rows.push(ExperimentRow::first(
            name("lowest frequency alone"),
            Some(single),
            first(Layout::VideoRope, AxisPart::Pair(lowest))?,
        ));
        rows.push(ExperimentRow::first(name("hope"), None, first(Layout::Hope, AxisPart::Temporal)?));
        let theta = rotary(Layout::VideoRope, base)?.angle(lowest, in_time(1.0));
        rows.push(ExperimentRow::digits(
            format!("critical length pi/(2 theta)+1, base {base:e}"),
            length,
            PI / (2.0 * theta) + 1.0,
        ));
    }
    let distances = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5];
    for (layout, expected) in [
        (Layout::Mrope, ["14.646", "1.772", "-1.781", "1.072", "0.390", "-3.333"]),
        (Layout::VideoRope, ["16.000", "16.000", "16.000", "15.999", "15.858", "7.319"]),
    ] {
        let rotary = rotary(layout, BASE)?;
        for (distance, expected) in distances.into_iter().zip(expected) {
            let computed = preference(&rotary, AxisPart::Temporal, in_time(distance));
            rows.push(ExperimentRow::digits(format!("temporal part of {layout} at {distance}"), expected, computed));
        }
    }
    for (layout, negative, min) in [(Layout::Mrope, "50.0", "-12.15"), (Layout::VideoRope, "60.5", "-5.50")] {
        let found = scan(&rotary(layout, BASE)?, AxisPart::Temporal, step, SCANNED)?;
        let percent = 100.0 * found.n_negative as f64 / found.n as f64;
        rows.push(ExperimentRow::digits(format!("% negative below 4e6, {layout}"), negative, percent));
        rows.push(ExperimentRow::digits(format!("least temporal part below 4e6, {layout}"), min, found.min));
    }
    // Lemma A.1: zero, then 2/3, then towards a half, but not steadily.
    const N: u64 = 1001;
    let share = |k: f64| share_negative(k * FRAC_PI_2 / (N - 1) as f64, N);
    let expected = [
        (0.999, "0.0000"),
        (1.5, "0.334"),
        (2.0, "0.4995"),
        (3.0, "0.6663"),
        (5.0, "0.4016"),
        (7.0, "0.571"),
        (9.0, "0.444"),
        // 546 of 1001.
        (11.0, "0.545"),
        (101.0, "0.4945"),
    ];
    for (k, expected) in expected {
        rows.push(ExperimentRow::digits(
            format!("share of negative cosines, theta (L-1) = {k} pi/2"),
            expected,
            share(k),
        ));
    }
    Ok(Experiment { id: "E3", title: "where time alone loses its preference (theorem 3.1, lemma A.1)", rows })
}

/// The longest distance that E6 looks at: hours of video, every token of it.
const DIAGONAL: u64 = 432_000;

/// E6: the layouts as implemented, where all three ids move together.
fn implemented() -> Result<Experiment> {
    let mut rows = Vec::new();
    // Exact frequencies: -4.0247 and 16.1649. Frequencies rounded to f32 move either by a hundredth.
    type Expected = (Layout, f64, Option<u64>, &'static str, Option<u64>);
    let expected: [Expected; 8] = [
        (Layout::Rope, 1e6, Some(27_115), "-18.18", Some(377_585)),
        (Layout::VideoRope, 1e6, Some(27_115), "-18.18", Some(377_585)),
        (Layout::Hope, 1e6, Some(33_649), "-4.02", Some(377_585)),
        (Layout::HopeX, 1e6, None, "16.16", Some(270_990)),
        (Layout::Rope, 1e4, Some(1_707), "-23.27", None),
        (Layout::VideoRope, 1e4, Some(1_707), "-23.27", None),
        (Layout::Hope, 1e4, Some(30_376), "-3.99", None),
        (Layout::HopeX, 1e4, None, "16.07", None),
    ];
    for (layout, base, first, min, at) in expected {
        let found = scan(&rotary(layout, base)?, AxisPart::Whole, diagonal(1.0), DIAGONAL + 1)?;
        rows.push(ExperimentRow::first(
            format!("first S below 0, {layout}, base {base:e}"),
            first,
            found.first_negative,
        ));
        rows.push(ExperimentRow::digits(format!("least S, {layout}, base {base:e}"), min, found.min));
        if let Some(at) = at {
            rows.push(ExperimentRow::first(format!("where, {layout}, base {base:e}"), Some(at), Some(found.at_min)));
        }
    }
    let distances = [1.0, 10.0, 100.0, 1e3, 3e3, 1e4, 1e5, 1e6];
    let videorope = ["62.644", "49.630", "37.523", "31.432", "26.246", "19.938", "2.310", "1.493"];
    let hope = ["62.644", "49.630", "37.523", "31.433", "26.258", "20.080", "10.992", "17.778"];
    for (layout, expected) in [(Layout::Rope, videorope), (Layout::VideoRope, videorope), (Layout::Hope, hope)] {
        let rotary = rotary(layout, BASE)?;
        for (distance, expected) in distances.into_iter().zip(expected) {
            let computed = preference(&rotary, AxisPart::Whole, diagonal(distance));
            rows.push(ExperimentRow::digits(format!("S of {layout} at {distance}"), expected, computed));
        }
    }
    Ok(Experiment { id: "E6", title: "the layouts as implemented: all ids move together", rows })
}

/// Frames of the longest V-NIAH video.
pub(super) const FRAMES: u64 = 3000;
/// The temporal scales that HoPE is trained with.
pub(super) const SCALES: [f64; 5] = [0.5, 0.75, 1.0, 1.25, 1.5];

/// How a layout moves from one frame to the next.
pub(super) fn frame_step(layout: Layout, scale: f64) -> Pos {
    match layout {
        Layout::Mrope => in_time(1.0),
        _ => diagonal(scale),
    }
}

/// E7: what the temporal scale does over 3000 frames.
fn temporal_scale() -> Result<Experiment> {
    let mut rows = Vec::new();
    let over = |rotary: &Rotary, step: Pos| scan(rotary, AxisPart::Whole, step, FRAMES + 1);
    for (layout, min, mean) in [(Layout::Mrope, "40.57", "48.00"), (Layout::VideoRope, "9.24", "25.19")] {
        let found = over(&rotary(layout, BASE)?, frame_step(layout, layout.default_temporal_scale()))?;
        rows.push(ExperimentRow::digits(format!("least S, {layout}"), min, found.min));
        rows.push(ExperimentRow::digits(format!("mean S, {layout}"), mean, found.mean));
    }
    let videorope = over(&rotary(Layout::VideoRope, BASE)?, diagonal(2.0))?;
    let hope = rotary(Layout::Hope, BASE)?;
    let expected = [("19.27", "31.60"), ("16.97", "29.70"), ("15.72", "28.45"), ("13.97", "27.43"), ("12.97", "26.52")];
    let mut found = Vec::new();
    for (scale, (min, mean)) in SCALES.into_iter().zip(expected) {
        let one = over(&hope, diagonal(scale))?;
        rows.push(ExperimentRow::digits(format!("least S, hope, scale {scale}"), min, one.min));
        rows.push(ExperimentRow::digits(format!("mean S, hope, scale {scale}"), mean, one.mean));
        found.push(one);
    }
    let falls = found.windows(2).all(|two| two[1].min < two[0].min && two[1].mean < two[0].mean);
    rows.push(ExperimentRow::holds("least and mean fall as the scale grows", "yes", yes(falls), falls));
    let above = found.iter().all(|one| one.min > videorope.min && one.mean > videorope.mean);
    rows.push(ExperimentRow::holds("every scale is above videorope", "yes", yes(above), above));
    // E6 in frames: 33649 is 67298 frames away at scale 0.5, and the half step before it is below 0 already.
    let first = scan(&hope, AxisPart::Whole, diagonal(0.5), 70_000)?.first_negative;
    rows.push(ExperimentRow::first("first frame with S below 0, hope, scale 0.5", Some(67_297), first));
    Ok(Experiment { id: "E7", title: "the temporal scale over 3000 frames", rows })
}

/// E9: the families with interleaved pairs. What a head does not rotate counts as pairs that stand still.
fn families() -> Result<Experiment> {
    let mut rows = Vec::new();
    // Name, layout, sections, rotated dimensions, base, pairs of the head beyond them.
    type Family = (&'static str, Layout, [usize; 3], usize, f64, usize, Option<u64>, &'static str);
    let all: [Family; 4] = [
        ("Qwen3-VL", Layout::MropeI, [24, 20, 20], 128, 5e6, 0, Some(82_999), "-8.96"),
        ("Qwen3-VL with hope-i", Layout::HopeI, [24, 20, 20], 128, 5e6, 0, None, "12.61"),
        ("Qwen3-VL's sections as hope", Layout::Hope, [24, 20, 20], 128, 5e6, 0, None, "7.19"),
        ("Qwen3.5", Layout::MropeI, [11, 11, 10], 64, 1e7, 96, None, "87.75"),
    ];
    for (name, layout, sections, n_rot, base, n_still, first, least) in all {
        let rotary = Rotary::new(layout, n_rot, base, sections)?;
        // S below 0 is a sum over the pairs that turn below minus the number of those that do not.
        let found = scan(&rotary, AxisPart::Whole, diagonal(1.0), DIAGONAL)?;
        let n_zero = rotary.drivers().iter().filter(|driver| **driver == Driver::ZERO).count() + n_still;
        let n_all = rotary.n_pair() + n_still;
        rows.push(ExperimentRow::info(format!("pairs that stand still, {name}"), "", format!("{n_zero} of {n_all}")));
        let negative = if n_still == 0 { found.first_negative } else { first_below(&rotary, -(n_still as f64)) };
        rows.push(ExperimentRow::first(format!("first S below 0, {name}"), first, negative));
        rows.push(ExperimentRow::digits(format!("least S, {name}"), least, found.min + n_still as f64));
        // However far: the pairs that turn cannot take more than their number.
        let bound = 2.0 * n_zero as f64 - n_all as f64;
        let (is_proof, holds) = (bound > 0.0, if bound > 0.0 { "at any distance" } else { "as far as was looked" });
        if first.is_none() {
            let expected = if name == "Qwen3.5" { "at any distance" } else { "as far as was looked" };
            let ok = is_proof == (name == "Qwen3.5");
            rows.push(ExperimentRow::holds(format!("S stays above 0, {name}"), expected, holds.to_string(), ok));
        }
    }
    Ok(Experiment { id: "E9", title: "the families with interleaved pairs, all ids together", rows })
}

/// The first distance at which the pairs that turn sum to less than `bound`.
fn first_below(rotary: &Rotary, bound: f64) -> Option<u64> {
    // Their sum is never below minus their number.
    if bound < -(rotary.n_pair() as f64) {
        return None;
    }
    (0..DIAGONAL).find(|distance| preference(rotary, AxisPart::Whole, diagonal(*distance as f64)) < bound)
}

pub(super) fn yes(holds: bool) -> String {
    if holds { "yes" } else { "no" }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every experiment that a person can run is a test.
    #[test]
    fn everything_comes_out_as_expected() {
        let seed = 20_250_526;
        for experiment in experiments(&[], seed).unwrap() {
            let wrong: Vec<&ExperimentRow> = experiment.rows.iter().filter(|row| row.ok == Some(false)).collect();
            assert!(wrong.is_empty(), "{} with seed {seed}: {wrong:#?}", experiment.id);
            assert!(!experiment.rows.is_empty());
        }
        assert!(experiments(&["E10".to_string()], 0).unwrap_err().to_string().contains("`E10`"));
    }
}
