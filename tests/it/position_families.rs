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

/// Table 3.2, T2 and T4: time between pairs is a number with a fraction; above 2 frames a second it is not 0.
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
