//! The theory as pictures.

use super::experiments::{FRAMES, SCALES, frame_step};
use super::{AxisPart, BASE, N_ROT, diagonal, in_time, preference, rotary, scan};
use crate::Result;
use crate::eval::plot::{Chart, Scale, Series};
use crate::position::{Layout, Pos};

/// A plot and its name.
pub struct Plot {
    pub name: &'static str,
    pub svg: String,
}

/// All plots.
///
/// # Errors
/// None in practice: sizes are fixed.
pub fn plots() -> Result<Vec<Plot>> {
    Ok(vec![
        Plot { name: "preference-in-time", svg: in_time_chart()?.to_svg()? },
        Plot { name: "preference-as-implemented", svg: implemented_chart()?.to_svg()? },
        Plot { name: "temporal-scale", svg: scale_chart()?.to_svg()? },
        Plot { name: "critical-lengths", svg: length_chart()?.to_svg()? },
    ])
}

/// Whole distances from 1 to 10^`decades`, evenly spread on a logarithmic axis.
fn distances(decades: usize) -> Vec<f64> {
    const PER_DECADE: usize = 60;
    let mut all: Vec<f64> =
        (0..=decades * PER_DECADE).map(|i| 10f64.powf(i as f64 / PER_DECADE as f64).round()).collect();
    all.dedup();
    all
}

fn series(layout: Layout, part: AxisPart, decades: usize, at: impl Fn(f64) -> Pos) -> Result<Series> {
    let rotary = rotary(layout, BASE)?;
    let points = distances(decades).into_iter().map(|d| (d, preference(&rotary, part, at(d)))).collect();
    Ok(Series { name: layout.to_string(), points })
}

fn in_time_chart() -> Result<Chart> {
    let layouts = [Layout::Hope, Layout::Mrope, Layout::VideoRope];
    Ok(Chart {
        title: "Semantic preference of the temporal part by distance in time".to_string(),
        x_title: "distance (position ids)".to_string(),
        y_title: "sum of temporal cosines".to_string(),
        x_scale: Scale::Log,
        series: layouts
            .map(|layout| series(layout, AxisPart::Temporal, 7, in_time))
            .into_iter()
            .collect::<Result<_>>()?,
        zero_line: Some(0.0),
        ..Chart::default()
    })
}

fn implemented_chart() -> Result<Chart> {
    let line = |layout: Layout| match layout {
        Layout::Mrope => series(layout, AxisPart::Whole, 6, in_time),
        _ => series(layout, AxisPart::Whole, 6, diagonal),
    };
    let layouts = [Layout::Hope, Layout::Mrope, Layout::VideoRope, Layout::HopeX];
    let mut all = layouts.into_iter().map(line).collect::<Result<Vec<_>>>()?;
    all[1].name = "mrope (t only)".to_string();
    all[2].name = "videorope, rope".to_string();
    Ok(Chart {
        title: "Semantic preference S by distance, ids moving as implemented".to_string(),
        x_title: "distance (position ids)".to_string(),
        y_title: "S".to_string(),
        x_scale: Scale::Log,
        series: all,
        zero_line: Some(0.0),
        ..Chart::default()
    })
}

fn scale_chart() -> Result<Chart> {
    // S swings from frame to frame; a mean over a few seconds shows where it goes.
    const WINDOW: u64 = 60;
    let line = |layout: Layout, scale: f64, name: String| -> Result<Series> {
        let (rotary, step) = (rotary(layout, BASE)?, frame_step(layout, scale));
        let at = |n: u64| {
            let n = n as f64;
            preference(&rotary, AxisPart::Whole, Pos { t: n * step.t, h: n * step.h, w: n * step.w })
        };
        let mean = |first: u64| (first..first + WINDOW).map(at).sum::<f64>() / WINDOW as f64;
        let points = (0..FRAMES / WINDOW).map(|i| ((i * WINDOW + WINDOW / 2) as f64, mean(i * WINDOW))).collect();
        Ok(Series { name, points })
    };
    let mut all = SCALES
        .into_iter()
        .map(|scale| line(Layout::Hope, scale, format!("hope, scale {scale}")))
        .collect::<Result<Vec<_>>>()?;
    all.push(line(Layout::VideoRope, 2.0, "videorope, scale 2".to_string())?);
    all.push(line(Layout::Mrope, 1.0, "mrope".to_string())?);
    Ok(Chart {
        title: "What the temporal scale does to S over 3000 frames".to_string(),
        x_title: "frames between query and key".to_string(),
        y_title: format!("S, mean over {WINDOW} frames"),
        series: all,
        zero_line: Some(0.0),
        ..Chart::default()
    })
}

fn length_chart() -> Result<Chart> {
    const BASES: [f64; 7] = [1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6];
    let line = |layout: Layout, part: AxisPart, name: &str| -> Result<Series> {
        let mut points = Vec::new();
        for base in BASES {
            if let Some(first) = scan(&rotary(layout, base)?, part, in_time(1.0), 1_500_000)?.first_negative {
                points.push((base, first as f64));
            }
        }
        Ok(Series { name: name.to_string(), points })
    };
    Ok(Chart {
        title: "First distance at which the temporal part prefers the unrelated key".to_string(),
        x_title: "rope base".to_string(),
        y_title: "distance (position ids)".to_string(),
        x_scale: Scale::Log,
        y_scale: Scale::Log,
        series: vec![
            line(Layout::Hope, AxisPart::Temporal, "hope: never")?,
            line(Layout::Mrope, AxisPart::Temporal, "mrope")?,
            line(Layout::VideoRope, AxisPart::Temporal, "videorope")?,
            line(Layout::VideoRope, AxisPart::Pair(N_ROT / 2 - 1), "lowest pair alone")?,
        ],
        zero_line: None,
    })
}
