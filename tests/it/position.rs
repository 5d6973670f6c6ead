//! Positions and rotations against the goldens and the acceptance checklist of the specification.

use longtake::position::{
    Driver, Layout, Placer, Pos, Rotary, RotaryTable, Segment, Stretch, Yarn, drivers, place_all, rotate_f32,
    rotate_f64,
};
use serde_json::Value;

use crate::common::golden_json;

fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().expect("an array").iter().map(|x| x.as_f64().expect("a number")).collect()
}

fn sizes(v: &Value) -> Vec<usize> {
    numbers(v).into_iter().map(|x| x as usize).collect()
}

fn segments(case: &Value) -> Vec<Segment> {
    let one = |s: &Value| match s["type"].as_str().unwrap() {
        "text" => Segment::Text(s["len"].as_u64().unwrap() as usize),
        kind => {
            let m = sizes(&s["merged"]);
            if kind == "image" {
                Segment::Image { h: m[1], w: m[2] }
            } else {
                Segment::Video { t: m[0], h: m[1], w: m[2] }
            }
        }
    };
    case["segments"].as_array().unwrap().iter().map(one).collect()
}

fn scales(case: &Value) -> Vec<f64> {
    case["gammas"].as_array().map(|g| g.iter().map(|x| x.as_f64().unwrap()).collect()).unwrap_or_default()
}

#[test]
fn golden_positions_are_exact() {
    let golden = golden_json("positions.json");
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len() as u64, golden["count"].as_u64().unwrap());
    for case in cases {
        let id = case["id"].as_str().unwrap();
        let layout = Layout::from_name(case["variant"].as_str().unwrap()).unwrap();
        let (pos, placer) = place_all(layout, &segments(case), &scales(case)).unwrap();
        assert_eq!(pos.len() as u64, case["n_tokens"].as_u64().unwrap(), "{id}");
        for (axis, got) in [
            ("t", pos.iter().map(|p| p.t).collect::<Vec<_>>()),
            ("h", pos.iter().map(|p| p.h).collect()),
            ("w", pos.iter().map(|p| p.w).collect()),
        ] {
            assert_eq!(got, numbers(&case[axis]), "{id} axis {axis}");
        }
        assert_eq!(placer.next_pos(), case["next_pos"].as_f64().unwrap(), "{id}");
        assert_eq!(layout.decode_step(), case["decode_step"].as_f64().unwrap(), "{id}");
    }
}

#[test]
fn streaming_a_video_frame_by_frame_changes_nothing() {
    let golden = golden_json("positions.json");
    for case in golden["cases"].as_array().unwrap() {
        let layout = Layout::from_name(case["variant"].as_str().unwrap()).unwrap();
        let (segments, scales) = (segments(case), scales(case));
        let (whole, end) = place_all(layout, &segments, &scales).unwrap();
        let (mut placer, mut out, mut visual) = (Placer::new(layout), Vec::new(), 0);
        for s in segments {
            let (t, h, w) = match s {
                Segment::Text(n) => {
                    (0..n).for_each(|_| placer.text(1, &mut out));
                    continue;
                }
                Segment::Image { h, w } => (1, h, w),
                Segment::Video { t, h, w } => (t, h, w),
            };
            placer.begin_visual(h, w, scales.get(visual).or(scales.first()).copied()).unwrap();
            for _ in 0..t {
                placer.frames(1, &mut out);
            }
            visual += 1;
        }
        assert_eq!(out, whole, "{}", case["id"]);
        assert_eq!(placer.next_pos(), end.next_pos(), "{}", case["id"]);
    }
}

#[test]
fn golden_rotations_hold_in_both_precisions() {
    let golden = golden_json("rotation.json");
    let (mut worst64, mut worst32) = (0f64, 0f64);
    for case in golden["cases"].as_array().unwrap() {
        let id = case["id"].as_str().unwrap();
        let layout = Layout::from_name(case["variant"].as_str().unwrap()).unwrap();
        let d = case["head_dim"].as_u64().unwrap() as usize;
        let s = sizes(&case["section"]);
        let rotary = Rotary::new(layout, d, case["base"].as_f64().unwrap(), [s[0], s[1], s[2]]).unwrap();
        let p = numbers(&case["pos"]);
        let pos = Pos { t: p[0], h: p[1], w: p[2] };
        let largest = p.iter().fold(0f64, |m, x| m.max(x.abs()));
        let mut q64 = numbers(&case["q"]);
        let mut q32: Vec<f32> = q64.iter().map(|x| *x as f32).collect();
        rotate_f64(&rotary, &mut q64, pos);
        let mut table = RotaryTable::default();
        rotary.fill(&[pos], &mut table);
        let (cos, sin) = table.token(0);
        rotate_f32(&mut q32, cos, sin);
        for (i, want) in numbers(&case["out_f64"]).iter().enumerate() {
            let (e64, e32) = ((q64[i] - want).abs(), (f64::from(q32[i]) - want).abs());
            let (t64, t32) = (1e-11 * (1.0 + largest), 2.0 * (1e-6 + 3e-7 * largest));
            assert!(e64 <= t64 && e32 <= t32, "{id} component {i}: f64 off by {e64:e}, f32 by {e32:e}");
            (worst64, worst32) = (worst64.max(e64 / t64), worst32.max(e32 / t32));
        }
        for (i, want) in numbers(&case["out_f32"]).iter().enumerate() {
            assert!(
                (f64::from(q32[i]) - want).abs() <= 2.0 * (1e-6 + 3e-7 * largest),
                "{id} component {i} against the f32 reference"
            );
        }
    }
    println!("rotation: worst share of the bound {worst64:.2} in f64, {worst32:.2} in f32");
}

#[test]
fn golden_allocations_and_frequencies() {
    let golden = golden_json("rotation.json");
    for row in golden["allocations"].as_array().unwrap() {
        let layout = Layout::from_name(row["variant"].as_str().unwrap()).unwrap();
        let d = row["head_dim"].as_u64().unwrap() as usize;
        let s = sizes(&row["section"]);
        let got: String = drivers(layout, [s[0], s[1], s[2]], d).unwrap().into_iter().map(Driver::name).collect();
        assert_eq!(got, row["alloc"].as_str().unwrap(), "{layout} {d}");
    }
}

/// Acceptance 6: HoPE's zero band passes through bit for bit, even where an angle could hide in a multiplication by one.
#[test]
fn hope_zero_band_is_untouched() {
    let rotary = Rotary::new(Layout::Hope, 128, 1e6, [16, 24, 24]).unwrap();
    let mut head: Vec<f32> = (0..128).map(|i| if i % 3 == 0 { -0.0 } else { (i as f32 - 60.0) * 0.37 }).collect();
    head[50] = f32::INFINITY;
    let before = head.clone();
    let mut table = RotaryTable::default();
    rotary.fill(&[Pos { t: 4321.75, h: -17.25, w: 65000.5 }], &mut table);
    let (cos, sin) = table.token(0);
    rotate_f32(&mut head, cos, sin);
    for i in (48..64).chain(112..128) {
        assert_eq!(head[i].to_bits(), before[i].to_bits(), "component {i}");
    }
    assert_ne!(head[1], before[1]);
}

/// Numbers worked out by hand from the formulas that ggml computes: which pairs keep their frequency, which are interpolated,
/// and one of the ramp between.
#[test]
fn stretched_frequencies_are_those_of_ggml() {
    let yarn = |factor: f64, n_ctx_orig: f64| {
        let yarn = Yarn { n_ctx_orig, beta_fast: 32.0, beta_slow: 1.0, ext_factor: 1.0 };
        Stretch { factor, yarn: Some(yarn), magnitude: Stretch::yarn_magnitude(factor, 0.0) }
    };
    // Of heads of 128 and base 1e6, pair 23.6 turns 32 times in 32768 tokens and pair 39.7 once: a ramp from 23 to 40.
    // Of heads of 64 and base 1e4, these are 17.7 and 29.7; in 2048 tokens 8.1 and 20.1.
    type Row<'a> = (f64, f64, usize, f64, &'a [(usize, f64)]);
    let rows: &[Row] = &[
        (
            4.0,
            32768.0,
            128,
            1e6,
            &[(0, 1.0), (23, 1.0), (24, 0.955_882_352_9), (30, 0.691_176_470_6), (40, 0.25), (63, 0.25)],
        ),
        (2.0, 32768.0, 64, 1e4, &[(17, 1.0), (18, 0.961_538_461_5), (29, 0.538_461_538_5), (30, 0.5), (31, 0.5)]),
        (8.0, 2048.0, 64, 1e4, &[(8, 1.0), (9, 0.932_692_307_7), (21, 0.125), (31, 0.125)]),
    ];
    for (factor, n_ctx_orig, n_rot, base, pairs) in rows {
        let stretch = yarn(*factor, *n_ctx_orig);
        let sections = longtake::position::default_sections(Layout::Mrope, *n_rot);
        let plain = Rotary::new(Layout::Mrope, *n_rot, *base, sections).unwrap();
        let rotary = plain.clone().stretched(&stretch).unwrap();
        let pos = Pos { t: 17.5, h: -3.0, w: 4000.25 };
        for (i, want) in *pairs {
            let got = rotary.angle(*i, pos) / plain.angle(*i, pos);
            assert!((got - want).abs() < 1e-9, "factor {factor}, head {n_rot}, pair {i}: {got}, expected {want}");
        }
        let mut table = RotaryTable::default();
        rotary.fill(&[pos], &mut table);
        let (cos, sin) = table.token(0);
        let size = f64::from(cos[5]).hypot(f64::from(sin[5]));
        assert!((size - (1.0 + 0.1 * factor.ln())).abs() < 1e-6, "{size}");
    }
    assert!((Stretch::yarn_magnitude(4.0, 0.0) - 1.138_629_436_1).abs() < 1e-9);
    assert!((Stretch::yarn_magnitude(4.0, 0.707) - 1.036_992_729_9).abs() < 1e-9);
    assert_eq!(Stretch::yarn_magnitude(0.5, 0.0), 1.0);
    let linear = Stretch { factor: 4.0, ..Stretch::NONE };
    for i in 0..64 {
        assert_eq!(linear.of_pair(i, 128, 1e6), 0.25);
        assert_eq!(Stretch::NONE.of_pair(i, 128, 1e6), 1.0);
    }
    let plain = Rotary::new(Layout::Mrope, 64, 1.0, [8, 12, 12]).unwrap();
    assert!(plain.stretched(&yarn(4.0, 32768.0)).is_err(), "a base of 1 has no slow and fast pairs");
}

/// A longer context changes no pair's axis: HoPE's stand still. Where scores are scaled, they are scaled with the rest.
#[test]
fn stretching_keeps_still_pairs_still() {
    let plain = Rotary::new(Layout::Hope, 128, 1e6, [16, 24, 24]).unwrap();
    let linear = plain.clone().stretched(&Stretch { factor: 4.0, ..Stretch::NONE }).unwrap();
    assert_eq!((plain.n_turning(), linear.n_turning()), (48, 48));
    let scaled = plain.clone().stretched(&Stretch { magnitude: 1.25, ..Stretch::NONE }).unwrap();
    assert_eq!(scaled.drivers(), plain.drivers());
    let head: Vec<f32> = (0..128).map(|i| (i as f32 - 60.0) * 0.37).collect();
    let turned = |rotary: &Rotary| {
        let (mut head, mut table) = (head.clone(), RotaryTable::default());
        rotary.fill(&[Pos { t: 4321.75, h: -17.25, w: 6500.5 }], &mut table);
        let (cos, sin) = table.token(0);
        rotate_f32(&mut head, cos, sin);
        head
    };
    for (a, b) in turned(&scaled).iter().zip(turned(&plain)) {
        assert!((a - 1.25 * b).abs() <= 1e-5 * (1.0 + b.abs()), "{a} and {b}");
    }
    assert_eq!(turned(&linear)[48..64], head[48..64]);
}

/// Acceptance 7: scores depend on differences of positions only.
#[test]
fn shifting_every_position_leaves_scores_alone() {
    let q: Vec<f64> = (0..64).map(|i| (i as f64 * 0.71).sin()).collect();
    let k: Vec<f64> = (0..64).map(|i| (i as f64 * 1.37).cos()).collect();
    for layout in Layout::ALL {
        let sections = longtake::position::default_sections(layout, 64);
        let rotary = Rotary::new(layout, 64, 1e4, sections).unwrap();
        let score = |shift: f64| {
            let (mut a, mut b) = (q.clone(), k.clone());
            rotate_f64(&rotary, &mut a, Pos { t: 9.5 + shift, h: 12.25 + shift, w: 8.0 + shift });
            rotate_f64(&rotary, &mut b, Pos { t: 3.0 + shift, h: -1.75 + shift, w: 4.5 + shift });
            a.iter().zip(&b).map(|(x, y)| x * y).sum::<f64>()
        };
        assert!((score(0.0) - score(1000.25)).abs() < 1e-9, "{layout}");
        // A year of video at a thousand steps a second: no f32 could tell these positions apart.
        assert!((score(0.0) - score(3.2e10 + 0.25)).abs() < 1e-4, "{layout}");
    }
}

/// A stream's positions are those of one long video, however much of it was passed over, and neighbours stay apart.
#[test]
fn passed_frames_leave_positions_as_they_would_have_been() {
    for layout in Layout::ALL {
        let (mut whole, mut part) = (Placer::new(layout), Placer::new(layout));
        let (mut all, mut rest) = (Vec::new(), Vec::new());
        for placer in [&mut whole, &mut part] {
            placer.text(3, &mut Vec::new());
            placer.begin_visual(3, 4, Some(0.7)).unwrap();
        }
        whole.frames(50, &mut all);
        part.pass_frames(41).unwrap();
        part.frames(9, &mut rest);
        assert_eq!(all[41 * 12..], rest, "{layout}");
        assert_eq!(whole.next_pos(), part.next_pos(), "{layout}");
        part.pass_frames(1 << 40).unwrap();
        rest.clear();
        part.frames(2, &mut rest);
        assert_ne!(rest[0], rest[12], "{layout}");
        assert!(part.pass_frames(usize::MAX).is_err(), "{layout}");
    }
}

/// Acceptance 8 and 9: text under HoPE is vanilla text, and gamma = delta makes HoPE's and VideoRoPE's ids one.
#[test]
fn hope_agrees_with_its_relatives_where_it_should() {
    let text = [Segment::Text(17)];
    let rope = place_all(Layout::Rope, &text, &[]).unwrap().0;
    assert_eq!(place_all(Layout::Hope, &text, &[0.75]).unwrap().0, rope);
    let mixed =
        [Segment::Text(3), Segment::Video { t: 5, h: 3, w: 4 }, Segment::Text(2), Segment::Image { h: 2, w: 2 }];
    let hope = place_all(Layout::Hope, &mixed, &[2.0]).unwrap();
    let video = place_all(Layout::VideoRope, &mixed, &[]).unwrap();
    assert_eq!((hope.0, hope.1.next_pos()), (video.0, video.1.next_pos()));
}

#[test]
fn senseless_segments_and_scales_are_refused() {
    let video = Segment::Video { t: 2, h: 3, w: 4 };
    for scale in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(place_all(Layout::Hope, &[video], &[scale]).is_err(), "scale {scale}");
    }
    for bad in [
        Segment::Video { t: 0, h: 1, w: 1 },
        Segment::Image { h: 0, w: 3 },
        Segment::Video { t: usize::MAX, h: 3, w: 3 },
        Segment::Text(usize::MAX),
    ] {
        assert!(place_all(Layout::Hope, &[bad], &[]).is_err(), "{bad:?}");
    }
    assert!(place_all(Layout::Hope, &[video, video], &[1.0, 1.0, 1.0]).is_err());
}
