//! Where other programs do otherwise than the models were trained, and versions of the reference otherwise than each other: each is a
//! test of its own here. `L` are llama.cpp's, `T` those between versions of transformers.
//!
//! | row | what is otherwise there | what is right | test |
//! | --- | --- | --- | --- |
//! | L1 | a stamp every 5 s, behind the frame that it is of; the first frame stands alone | a stamp before each pair | `stamps::l1_stamps_stand_before_their_pairs` |
//! | L2 | every pair of a Qwen2-VL video is a block, and moves the cursor by its larger side | one block, one later each pair | `position_families::l2_a_video_is_one_block` |
//! | L3 | no time in Qwen2.5-VL's positions | ids by seconds | `stamps::l3_time_goes_by_the_clock` |
//! | L4 | pairs 61 and 62 of Qwen3-VL's heads do not rotate | they go with time | `position_families::l4_every_pair_rotates`, `spec_switches::text::l4_all_64_pairs_of_qwen3_vl_rotate` |
//! | L5 | mergers with GELU by tanh | by erf | `spec_switches::vit::l5_the_gelu_of_mergers_is_erf` |
//! | L6 | pictures padded with black | stretched | `media::families::l6_pictures_are_stretched` |
//! | L7 | 8 to 4096 tokens a picture, sizes in f32 | the processor's limits, f64, halves to even | `media::families::l7_golden_sizes_of_pictures` |
//! | L8 | no bound on frames or their sizes | one for all frames together | `media::families::l8_golden_sizes_of_videos` |
//! | L9 | windows by a mask of all patches with all | runs of rows, no mask | `spec_switches::vit::l9_windows_need_no_mask` |
//! | T1 | text behind a video overlaps its times (from 5.3 on) | behind the last time | `position_families::t1_text_goes_on_behind_the_last_time_of_a_video` |
//! | T2 | seconds between pairs cut to whole ones (until 5.3) | f32 | `position_families::t2_seconds_between_pairs_are_not_whole` |
//! | T3 | constant time, rows out of order, pictures with time (5.3) | rows in order, one time a picture | `position_families::t3_rows_are_in_order_and_pictures_have_one_time` |
//! | T4 | generation drops the seconds between pairs (before 4.57) | positions behind them | `families_run::t4_generation_keeps_the_seconds_between_pairs` |
//! | T5 | pairs of stamped videos in one block (5.3) | a block each | `position_families::t5_pairs_of_interleaved_layouts_are_blocks` |
//! | T6 | the template's vision markers stay around a stamped video (from 5.12 on) | replaced, as released; kept on demand | `stamps::t6_golden_expansions` |
//! | T7 | frames at a constant step or spread, by who takes them | as each family's processor | `media::families::t7_golden_frames_and_stamps` |

/// Every row of the table names a test that is there.
#[test]
fn every_deviation_has_its_test() {
    let sources = [
        ("families_run", include_str!("families_run.rs")),
        ("media::families", include_str!("media/families.rs")),
        ("position_families", include_str!("position_families.rs")),
        ("spec_switches::text", include_str!("spec_switches/text.rs")),
        ("spec_switches::vit", include_str!("spec_switches/vit.rs")),
        ("stamps", include_str!("stamps.rs")),
    ];
    let rows = include_str!("deviations.rs").lines().filter_map(|line| line.strip_prefix("//! | "));
    let mut seen = Vec::new();
    for row in rows.filter(|row| !row.starts_with("row") && !row.starts_with("---")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        for name in cells[3].split('`').skip(1).step_by(2) {
            let (module, test) = name.rsplit_once("::").unwrap();
            let (_, source) = sources.iter().find(|(known, _)| *known == module).unwrap_or_else(|| panic!("{module}"));
            assert!(source.contains(&format!("#[test]\nfn {test}() {{")), "{name} is not there");
            assert!(test.starts_with(&format!("{}_", cells[0].to_lowercase())), "{name} is not of {}", cells[0]);
        }
        seen.push(cells[0]);
    }
    let want: Vec<String> = (1..=9).map(|i| format!("L{i}")).chain((1..=7).map(|i| format!("T{i}"))).collect();
    assert_eq!(seen, want);
}
