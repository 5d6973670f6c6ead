//! Positions of the newer families against the goldens: interleaved tables, a block for each stamped pair, time by the clock.

use longtake::position::{
    Clock, Driver, Layout, Pace, Placer, Pos, Rotary, RotaryTable, Segment, drivers, place_all, rotate_f32, rotate_f64,
};
use serde_json::Value;

use crate::common::{Arrays, families_json, family_models, golden_families};

fn sizes(v: &Value) -> Vec<usize> {
    v.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect()
}

/// The layout and temporal scale of a golden variant of a family.
fn layout_of(family: &str, variant: &str) -> Layout {
    match (variant, family) {
        ("published", "qwen2_5_vl") => Layout::Mrope,
        ("published", _) => Layout::MropeI,
        ("hope_i", _) => Layout::HopeI,
        (other, _) => Layout::from_name(other).unwrap(),
    }
}

/// Places a prompt whose ids are expanded: text one token at a time, media by their runs of pads. Qwen2.5-VL has one run a
/// video, the newer families one a pair.
fn placed(layout: Layout, scale: f64, ids: &[i64], pads: [i64; 2], entry: &Value) -> (Vec<Pos>, Placer) {
    let (mut placer, mut pos) = (Placer::new(layout), Vec::new());
    let (mut images, mut videos) = (0, 0);
    let tps = entry["tokens_per_second"].as_f64();
    let mut at = 0;
    while at < ids.len() {
        let Some(kind) = pads.iter().position(|pad| *pad == ids[at]) else {
            placer.text(1, &mut pos);
            at += 1;
            continue;
        };
        let run = ids[at..].iter().take_while(|id| **id == ids[at]).count();
        let (grids, next) = if kind == 0 { ("image_grid_thw", &mut images) } else { ("video_grid_thw", &mut videos) };
        // A video in several runs stays the same one until its pairs are used up.
        let list: Vec<Vec<usize>> = entry[grids].as_array().unwrap().iter().map(sizes).collect();
        let (mut seen, mut item) = (*next, 0);
        while seen >= if kind == 1 && tps.is_none() { list[item][0] } else { 1 } {
            seen -= if kind == 1 && tps.is_none() { list[item][0] } else { 1 };
            item += 1;
        }
        let (h, w) = (list[item][1] / 2, list[item][2] / 2);
        let clock = tps.filter(|_| kind == 1).map(|ids_per_second| Clock {
            seconds_per_pair: entry["second_per_grid"][item].as_f64().unwrap(),
            ids_per_second,
        });
        placer.begin_visual(h, w, Pace { scale: Some(scale), clock }).unwrap();
        placer.frames(run / (h * w), &mut pos);
        placer.end_visual();
        *next += 1;
        at += run;
    }
    (pos, placer)
}

#[test]
fn golden_positions_of_the_families_are_exact() {
    let mut n = 0;
    for (model, index) in family_models() {
        let config = families_json(&format!("checkpoints/{model}/config.json"));
        let family = index["family"].as_str().unwrap();
        let pads = ["image_token_id", "video_token_id"].map(|key| config[key].as_i64().unwrap());
        for (case, entry) in index["cases"].as_object().unwrap() {
            let mut entry = entry.clone();
            entry["tokens_per_second"] = config["vision_config"]["tokens_per_second"].clone();
            let inputs = Arrays::at(&golden_families().join(format!("model/{model}/{case}.inputs.safetensors")));
            for (name, run) in entry["variants"].as_object().unwrap() {
                let layout = layout_of(family, run["variant"].as_str().unwrap());
                let ids = inputs.i64(if run["form"] == "b" { "input_ids_b" } else { "input_ids" });
                let (pos, placer) = placed(layout, run["scale"].as_f64().unwrap(), &ids, pads, &entry);
                let golden = Arrays::at(&golden_families().join(format!("model/{model}/{case}.{name}.safetensors")));
                let want = golden.f32("position_ids");
                let axes = [|p: &Pos| p.t as f32, |p: &Pos| p.h as f32, |p: &Pos| p.w as f32];
                let got: Vec<f32> = axes.iter().flat_map(|axis| pos.iter().map(axis)).collect();
                assert_eq!(got, want, "{model} {case} {name}");
                assert_eq!(placer.next_pos(), run["next_position"].as_f64().unwrap(), "{model} {case} {name}");
                let generated: Vec<f32> = (0..16).map(|i| (placer.next_pos() + f64::from(i)) as f32).collect();
                assert_eq!(generated, golden.f32("generated_positions"), "{model} {case} {name}");
                n += 1;
            }
        }
    }
    assert!(n >= 9, "{n} cases");
}

/// Products in f32, as the reference rounds them; f64 puts some pairs on the other side of a whole number.
#[test]
fn golden_absolute_times_are_exact() {
    let rows = families_json("preprocess/absolute_time.json");
    let mut differs = 0;
    for row in rows.as_array().unwrap() {
        let (fps, tps) = (row["fps"].as_f64().unwrap(), row["tokens_per_second"].as_f64().unwrap());
        let clock = Clock { seconds_per_pair: 2.0 / fps, ids_per_second: tps };
        let want: Vec<f64> = row["t"].as_array().unwrap().iter().map(|t| t.as_f64().unwrap()).collect();
        let (mut placer, mut pos) = (Placer::new(Layout::Mrope), Vec::new());
        placer.text(3, &mut pos);
        pos.clear();
        placer.begin_visual(1, 1, Pace { scale: None, clock: Some(clock) }).unwrap();
        placer.frames(want.len(), &mut pos);
        let got: Vec<f64> = pos.iter().map(|p| p.t - 3.0).collect();
        assert_eq!(got, want, "{fps} frames a second, {tps} ids");
        assert_eq!(placer.next_pos(), pos[pos.len() - 1].t + 1.0);
        differs += usize::from((0..want.len()).any(|f| (f as f64 * (2.0 / fps) * tps).floor() != want[f]));
    }
    assert!(differs > 0, "the goldens tell f32 from f64");
}

/// Table 3.1, L2: a video of Qwen2-VL is one block, each pair one later than the one before, in the rows and columns of the
/// first; where every pair is a block of its own, the third would stand 6 later.
#[test]
fn l2_a_video_is_one_block() {
    let (mut placer, mut pos) = (Placer::new(Layout::Mrope), Vec::new());
    placer.text(5, &mut pos);
    placer.begin_visual(2, 3, Pace::default()).unwrap();
    placer.frames(3, &mut pos);
    placer.end_visual();
    for (i, pos) in pos[5..].iter().enumerate() {
        let [f, y, x] = [i / 6, i / 3 % 2, i % 3].map(|n| (5 + n) as f64);
        assert_eq!(*pos, Pos { t: f, h: y, w: x }, "token {i}");
    }
    assert_eq!(placer.next_pos(), 8.0);
}

/// Table 3.2, T1: with more pairs than rows and columns, text after a video stands behind its last time, not among its times.
#[test]
fn t1_text_goes_on_behind_the_last_time_of_a_video() {
    let clock = Clock { seconds_per_pair: 1.0, ids_per_second: 2.0 };
    for (pace, want) in [(Pace::default(), 384.0), (Pace { scale: None, clock: Some(clock) }, 767.0)] {
        let (mut placer, mut pos) = (Placer::new(Layout::Mrope), Vec::new());
        placer.begin_visual(9, 16, pace).unwrap();
        placer.frames(384, &mut pos);
        placer.end_visual();
        assert_eq!(placer.next_pos(), want);
    }
}

/// Table 3.2, T2: time between pairs is a number with a fraction; above 2 frames a second it is not 0.
#[test]
fn t2_seconds_between_pairs_are_not_whole() {
    let (mut placer, mut pos) = (Placer::new(Layout::Mrope), Vec::new());
    let clock = Clock { seconds_per_pair: 0.5, ids_per_second: 2.0 };
    placer.begin_visual(1, 1, Pace { scale: None, clock: Some(clock) }).unwrap();
    placer.frames(4, &mut pos);
    assert_eq!(pos.iter().map(|p| p.t).collect::<Vec<_>>(), [0.0, 1.0, 2.0, 3.0]);
}

/// Table 3.2, T3: rows and columns of a video of several pairs are in order, and a picture has no time of its own.
#[test]
fn t3_rows_are_in_order_and_pictures_have_one_time() {
    let (mut placer, mut pos) = (Placer::new(Layout::Mrope), Vec::new());
    let clock = Clock { seconds_per_pair: 2.0, ids_per_second: 2.0 };
    placer.begin_visual(2, 1, Pace { scale: None, clock: Some(clock) }).unwrap();
    placer.frames(2, &mut pos);
    placer.begin_visual(2, 1, Pace::default()).unwrap();
    placer.frames(1, &mut pos);
    let rows: Vec<_> = pos.iter().map(|p| (p.t, p.h)).collect();
    assert_eq!(rows, [(0.0, 0.0), (0.0, 1.0), (4.0, 0.0), (4.0, 1.0), (5.0, 5.0), (5.0, 6.0)]);
}

/// Table 3.2, T5: every pair of a stamped video is a block of its own, and the cursor moves by its larger side.
#[test]
fn t5_pairs_of_interleaved_layouts_are_blocks() {
    for layout in [Layout::MropeI, Layout::HopeI] {
        let (video, _) = place_all(layout, &[Segment::Text(1), Segment::Video { t: 2, h: 2, w: 3 }], &[]).unwrap();
        let pairs = [Segment::Text(1), Segment::Image { h: 2, w: 3 }, Segment::Image { h: 2, w: 3 }, Segment::Text(1)];
        let (images, _) = place_all(layout, &pairs, &[]).unwrap();
        assert_eq!(video, images[..13]);
        assert_eq!(images[13], Pos::all(7.0));
    }
}

/// Families.md 2.1: the table of [24, 20, 20] and of [11, 11, 10].
#[test]
fn interleaved_tables_are_the_published_ones() {
    let expected = |sections: [usize; 3]| -> String {
        let axis = |i: usize| match i % 3 {
            1 if i < 3 * sections[1] => 'h',
            2 if i < 3 * sections[2] => 'w',
            _ => 't',
        };
        (0..sections.iter().sum()).map(axis).collect()
    };
    for (sections, n_rot) in [([24, 20, 20], 128), ([11, 11, 10], 64), ([8, 4, 4], 32), ([4, 2, 2], 16)] {
        let name = |layout| drivers(layout, sections, n_rot).unwrap().into_iter().map(Driver::name).collect::<String>();
        assert_eq!(name(Layout::MropeI), expected(sections));
        assert_eq!(name(Layout::HopeI), expected(sections).replace('t', "0"));
    }
    let published = drivers(Layout::MropeI, [24, 20, 20], 128).unwrap();
    assert!(published[60..].iter().all(|driver| *driver == Driver::T));
    assert_eq!((published[58], published[59]), (Driver::H, Driver::W));
}

/// Table 3.1, L4: pairs 61 and 62 of [24, 20, 20] rotate with time like all others of t.
#[test]
fn l4_every_pair_rotates() {
    let rotary = Rotary::new(Layout::MropeI, 128, 5e6, [24, 20, 20]).unwrap();
    let pos = Pos::all(65536.0);
    for i in 0..64 {
        let theta = 5e6f64.powf(-2.0 * i as f64 / 128.0);
        assert_eq!(rotary.angle(i, pos), 65536.0 * theta, "pair {i}");
    }
    assert!(rotary.angle(61, pos) > 0.026 && rotary.angle(62, pos) > 0.02);
}

/// Pairs of zero frequency between others: a cosine of 1 and a sine of 0, to the bit, so that a rotation leaves them as they are.
#[test]
fn zero_pairs_between_others_stand_still() {
    let rotary = Rotary::new(Layout::HopeI, 128, 5e6, [24, 20, 20]).unwrap();
    assert_eq!(rotary.n_turning(), 60);
    let mut table = RotaryTable::default();
    rotary.fill(&[Pos { t: 1234.5, h: -17.0, w: 65000.0 }], &mut table);
    let (cos, sin) = table.token(0);
    let mut head: Vec<f32> = (0..128).map(|i| (i as f32 - 60.0) * 0.37).collect();
    let before = head.clone();
    rotate_f32(&mut head, cos, sin);
    for (i, driver) in rotary.drivers().iter().enumerate() {
        if *driver == Driver::ZERO {
            assert!(i >= 60 || (cos[i].to_bits(), sin[i].to_bits()) == (1f32.to_bits(), 0f32.to_bits()), "pair {i}");
            assert_eq!((head[i], head[i + 64]), (before[i], before[i + 64]), "pair {i}");
        } else {
            assert_ne!(head[i], before[i], "pair {i}");
        }
    }
}

/// Qwen3.5: of a head of 256 the first 64 dimensions rotate, in pairs (i, i + 32), by frequencies of 64.
#[test]
fn partial_rotary_leaves_the_rest_of_a_head() {
    let rotary = Rotary::new(Layout::MropeI, 64, 1e7, [11, 11, 10]).unwrap();
    assert_eq!((rotary.n_pair(), rotary.n_turning()), (32, 32));
    let mut head: Vec<f64> = (0..256).map(|i| f64::from(i) - 100.0).collect();
    let before = head.clone();
    rotate_f64(&rotary, &mut head, Pos { t: 5.0, h: 7.0, w: 11.0 });
    assert_eq!(head[64..], before[64..]);
    let theta = 1e7f64.powf(-2.0 / 64.0);
    let (s, c) = (7.0 * theta).sin_cos();
    assert_eq!(head[1], before[1] * c - before[33] * s);
    assert_eq!(head[33], before[33] * c + before[1] * s);
}

#[test]
fn clocks_that_do_not_run_are_refused() {
    for (seconds_per_pair, ids_per_second) in
        [(0.0, 2.0), (1.0, 0.0), (f64::NAN, 2.0), (1.0, f64::INFINITY), (-1.0, 2.0)]
    {
        let pace = Pace { scale: None, clock: Some(Clock { seconds_per_pair, ids_per_second }) };
        assert!(Placer::new(Layout::Mrope).begin_visual(1, 1, pace).is_err());
    }
}

/// What a pair is driven by at a position, over its frequency.
fn driven(layout: Layout, pair: usize, pos: Pos) -> f64 {
    let [t, h, w] = drivers(layout, longtake::position::default_sections(layout, 128), 128).unwrap()[pair]
        .weights()
        .unwrap()
        .map(f64::from);
    t * pos.t + h * pos.h + w * pos.w
}

/// The positions of text, a video of T x H x W, and where text goes on.
fn around(layout: Layout, n: usize, [t, h, w]: [usize; 3]) -> (Vec<Pos>, f64) {
    let (pos, placer) = place_all(layout, &[Segment::Text(n), Segment::Video { t, h, w }], &[]).unwrap();
    (pos[n..].to_vec(), placer.next_pos())
}

/// VRoPE: sums and differences of rows and columns, each from its own corner.
#[test]
fn vrope_is_its_formula() {
    let (s, [n_t, n_h, n_w]) = (5, [2, 3, 4]);
    let (pos, next) = around(Layout::VRope, s, [n_t, n_h, n_w]);
    for (i, pos) in pos.iter().enumerate() {
        let (f, y, x) = (i / (n_h * n_w), i / n_w % n_h, i % n_w);
        let base = (s + f * (n_h + n_w - 1)) as f64;
        let want = [y + x, y + (n_w - 1 - x), (n_h - 1 - y) + x, (n_h - 1 - y) + (n_w - 1 - x)];
        for pair in 0..64 {
            assert_eq!(driven(Layout::VRope, pair, *pos), base + want[pair % 4] as f64, "pair {pair} of ({f},{y},{x})");
        }
    }
    assert_eq!(next, (s + n_t * (n_h + n_w - 1)) as f64);
    assert!((0..64).all(|pair| driven(Layout::VRope, pair, Pos::all(17.0)) == 17.0), "words have one id");
}

/// V2PE: a block of n visual tokens takes 16 steps, ids are last + 16 (j + 1) / n.
#[test]
fn v2pe_is_its_formula() {
    let (pos, next) = around(Layout::V2pe, 5, [3, 2, 4]);
    for (i, pos) in pos.iter().enumerate() {
        let last = (5 - 1 + i / 8 * 16) as f64;
        assert_eq!(*pos, Pos::all(last + 16.0 * (i % 8 + 1) as f64 / 8.0), "token {i}");
    }
    assert_eq!(next, (5 - 1 + 3 * 16 + 1) as f64);
}

/// MM-RoPE: T, T, H, W, H, W, H, W, in steps of 4, 8 and 8.
#[test]
fn mm_rope_is_its_formula() {
    let (pos, next) = around(Layout::MmRope, 2, [3, 2, 4]);
    for (i, pos) in pos.iter().enumerate() {
        let (f, y, x) = ((i / 8) as f64, (i / 4 % 2) as f64, (i % 4) as f64);
        assert_eq!(*pos, Pos { t: 2.0 + 4.0 * f, h: 2.0 + 8.0 * y, w: 2.0 + 8.0 * x });
    }
    assert_eq!(next, 2.0 + 24.0 + 1.0);
    let names: String = drivers(Layout::MmRope, [16, 24, 24], 128).unwrap().into_iter().map(Driver::name).collect();
    assert_eq!(names, "tthwhwhw".repeat(8));
}

/// MRoPE-I with spatial reset: rows and columns from 0; the word behind a block stands at s + max(T, H, W).
#[test]
fn spatial_reset_is_its_formula() {
    let (pos, next) = around(Layout::MropeIReset, 7, [2, 2, 3]);
    for (i, pos) in pos.iter().enumerate() {
        let (f, y, x) = (i / 6, i / 3 % 2, i % 3);
        assert_eq!(*pos, Pos { t: (7 + 3 * f) as f64, h: y as f64, w: x as f64 });
    }
    assert_eq!(next, 13.0);
}

/// Circle-RoPE: every visual token is on a circle of radius 10 in the plane across (1, 1, 1), about its block's start.
#[test]
fn circle_rope_is_its_formula() {
    use std::f64::consts::TAU;
    let (s, [n_t, n_h, n_w]) = (4, [2, 2, 3]);
    let (pos, next) = around(Layout::CircleRope, s, [n_t, n_h, n_w]);
    let angle = |y: usize, x: usize| (y as f64 - 0.5).atan2(x as f64 - 1.0);
    let all: Vec<f64> = (0..6).map(|cell| angle(cell / 3, cell % 3)).collect();
    let (least, most) = all.iter().fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
    let mut largest = f64::MIN;
    for (i, pos) in pos.iter().enumerate() {
        let (f, cell) = (i / 6, i % 6);
        let phi = 0.5 * (all[cell] - least) / (most - least) * TAU + 0.5 * cell as f64 / 6.0 * TAU;
        let (x, y) = (10.0 * phi.cos(), 10.0 * phi.sin());
        let (u, v) = ([-1.0, 1.0, 0.0].map(|c: f64| c / 2f64.sqrt()), [-1.0, -1.0, 2.0].map(|c: f64| c / 6f64.sqrt()));
        let base = (s + f) as f64;
        for (axis, got) in [(0, pos.w), (1, pos.h), (2, pos.t)] {
            let want = base + x * u[axis] + y * v[axis];
            assert!((got - want).abs() < 1e-12, "token {i}, axis {axis}: {got} instead of {want}");
            largest = largest.max(want);
        }
        // As far from a word before it, whatever its place.
        let (dt, dh, dw) = (pos.t - base, pos.h - base, pos.w - base);
        assert!((dt * dt + dh * dh + dw * dw - 100.0).abs() < 1e-9 && (dt + dh + dw).abs() < 1e-9);
    }
    assert!((next - (largest + 1.0)).abs() < 1e-12);
}

/// HoPE and VideoRoPE as Multimodal-RoPEs have them: h on odd pairs below 48, w on even ones from 2 to 46, the others nothing or time;
/// ids along the diagonal, and a pair in a block of its own has no use for a temporal scale.
#[test]
fn hope_of_multimodal_ropes_is_its_formula() {
    for (layout, rest, step) in [(Layout::HopeM, "0", 1.0), (Layout::VideoRopeM, "t", 2.0)] {
        let table = drivers(layout, [16, 24, 24], 128).unwrap();
        for (i, driver) in table.iter().enumerate() {
            let want = match i {
                0 | 48.. => rest,
                i if i % 2 == 1 => "h",
                _ => "w",
            };
            assert_eq!(driver.name(), want, "pair {i} of {layout}");
        }
        let (s, [n_t, n_h, n_w]) = (5, [3, 2, 4]);
        let (pos, next) = around(layout, s, [n_t, n_h, n_w]);
        for (i, pos) in pos.iter().enumerate() {
            let (f, y, x) = ((i / (n_h * n_w)) as f64, (i / n_w % n_h) as f64, (i % n_w) as f64);
            let t = s as f64 + step * f;
            assert_eq!(*pos, Pos { t, h: t + y, w: t + x - 1.0 }, "token {i} of {layout}");
        }
        assert_eq!(next, s as f64 + step * (n_t - 1) as f64 + 1.0);
        // Blocks of one pair, as where time is told in words.
        let blocks = [Segment::Video { t: 1, h: n_h, w: n_w }; 2];
        let [slow, fast] = [0.5, 3.0].map(|scale| place_all(layout, &blocks, &[scale]).unwrap().0);
        assert_eq!(slow, fast);
    }
}
