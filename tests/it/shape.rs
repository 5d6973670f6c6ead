//! What media become, as arithmetic: over any sizes, options and shares, without a file.

use longtake::media::sample::SampleOptions;
use longtake::model::VisionHParams;
use longtake::model::family::QWEN2_VL;
use longtake::stream::shape::highest;
use longtake::stream::{Known, MediaOptions, Shape};
use proptest::prelude::*;

fn hparams(patch_size: usize, merge: usize) -> VisionHParams {
    VisionHParams {
        family: &QWEN2_VL,
        spec: QWEN2_VL.vit,
        n_layer: 1,
        n_embd: 16,
        n_head: 2,
        n_ff: 32,
        n_embd_out: 16,
        patch_size,
        merge,
        eps: 1e-6,
        windows: None,
        taps: Vec::new(),
        n_pos_side: 0,
        video: longtake::model::family::VideoRules::of(QWEN2_VL.video),
        tokens_per_second: None,
        image_mean: [0.5; 3],
        image_std: [0.5; 3],
        image_min_pixels: None,
        image_max_pixels: None,
    }
}

fn known() -> impl Strategy<Value = Known> {
    let side = || prop_oneof![1usize..64, 1usize..5000, 1usize..65_536];
    let picture = (side(), side()).prop_map(|(height, width)| Known::Picture { height, width });
    let frames = prop_oneof![1usize..8, 1usize..200_000];
    let video = (frames, 0.1f64..240.0, side(), side(), any::<bool>());
    let video = video.prop_map(|(n_frames, fps, height, width, is_list)| Known::Video {
        n_frames: if is_list { n_frames.min(5000) } else { n_frames },
        fps,
        height,
        width,
        is_list,
    });
    prop_oneof![picture, video]
}

fn options() -> impl Strategy<Value = MediaOptions> {
    let pixels = || prop::option::weighted(0.3, 1u64..20_000_000);
    let frames = || prop::option::weighted(0.2, 2usize..3000);
    let exact = prop::option::weighted(0.1, (1usize..3000, 1usize..3000));
    let fps = prop::option::weighted(0.3, 0.05f64..30.0);
    (pixels(), pixels(), pixels(), frames(), frames(), frames(), exact, fps).prop_map(
        |(min_pixels, max_pixels, total_pixels, nframes, min_frames, max_frames, exact, fps)| MediaOptions {
            sample: SampleOptions {
                fps: fps.filter(|_| nframes.is_none()),
                nframes,
                min_frames,
                max_frames,
                min_pixels,
                max_pixels,
                total_pixels,
                resized_height: exact.map(|(h, _)| h),
                resized_width: exact.map(|(_, w)| w),
                ..SampleOptions::default()
            },
            ..MediaOptions::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// A share never makes an error of what is none, never more tokens than there are without it, never more than it says
    /// unless that is the least there is; and a larger one never means fewer tokens.
    #[test]
    fn a_share_bounds_what_a_medium_takes(known in known(), options in options(), merge in 1usize..3, shares in prop::collection::vec(0usize..70_000, 6)) {
        let hp = hparams(14, merge);
        let Ok(wish) = Shape::of(&known, &options, &hp, None, None) else {
            for share in shares {
                prop_assert!(Shape::of(&known, &options, &hp, None, Some(share)).is_err());
            }
            return Ok(());
        };
        let mut shares = shares;
        shares.extend([0, wish.n_tokens / 2, wish.n_tokens]);
        shares.sort_unstable();
        let of = |share| Shape::of(&known, &options, &hp, None, Some(share));
        let least = of(0).unwrap();
        let mut before = least.n_tokens;
        for share in shares {
            let shape = of(share).unwrap();
            prop_assert!(shape.n_tokens >= before && shape.n_tokens <= wish.n_tokens, "{shape:?} of {wish:?}, {before} before");
            prop_assert!(shape.n_tokens <= share.max(least.n_tokens), "{shape:?} with {share}");
            prop_assert!(shape.n_frames <= wish.n_frames && shape.last == wish.last);
            prop_assert!(shape.n_frames == wish.n_frames || options.sample.nframes.is_none());
            prop_assert_eq!(shape.n_tokens, shape.grid.n_tokens(merge));
            before = shape.n_tokens;
        }
        prop_assert_eq!(of(wish.n_tokens.max(1 << 40)).unwrap(), wish);
    }

    /// Whatever levels fit: the result does, there is one if the least fits, more that fit never make it lower, and the
    /// questions are few.
    #[test]
    fn the_search_needs_no_order(top in 0usize..200_000, fitting in prop::collection::btree_set(0usize..200_000, 0..40), more in prop::collection::btree_set(0usize..200_000, 0..40), below in prop::option::of(0usize..200_000)) {
        let mut n_asked = 0;
        let mut ask = |sets: &[&std::collections::BTreeSet<usize>]| {
            highest(top, |level| {
                n_asked += 1;
                Ok(below.is_some_and(|below| level <= below) || sets.iter().any(|set| set.contains(&level)))
            }).unwrap()
        };
        let found = ask(&[&fitting]);
        prop_assert!(found.is_none_or(|level| below.is_some_and(|b| level <= b) || fitting.contains(&level)));
        prop_assert!(found.is_some() || !(fitting.contains(&0) || below.is_some()));
        // Where everything below a level fits, the highest of those is found, or a higher one.
        prop_assert!(below.is_none_or(|below| found.unwrap() >= below.min(top)));
        prop_assert!(ask(&[&fitting, &more]) >= found);
        prop_assert!(n_asked <= 2 * (64 * 18 + top / 64 + 2), "{n_asked} questions of {top}");
    }
}

/// Equal shares: who needs less keeps all of it, the others get as much as each other.
#[test]
fn a_level_is_fair() {
    let hp = hparams(14, 2);
    let options = MediaOptions::default();
    let of = |known: &Known, share| Shape::of(known, &options, &hp, None, share).unwrap().n_tokens;
    let photo = Known::Picture { height: 3024, width: 4032 };
    let icon = Known::Picture { height: 224, width: 224 };
    let film = Known::Video { n_frames: 90_000, fps: 25.0, height: 1080, width: 1920, is_list: false };
    assert_eq!((of(&photo, None), of(&icon, None)), (15_552, 64));
    for level in [8000, 2000, 500] {
        assert_eq!(of(&icon, Some(level)), 64);
        for known in [photo, film] {
            let n = of(&known, Some(level));
            assert!(n <= level && n * 10 >= level * 8, "{n} of {level}");
        }
    }
}
