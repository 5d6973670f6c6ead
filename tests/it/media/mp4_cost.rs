//! What an MP4 index may cost: time and memory are linear in the size of the file, whatever its boxes say.

use std::time::{Duration, Instant};

use longtake::ErrorKind;
use longtake::media::limits::{MAX_FRAMES, MAX_MP4_BOXES};
use longtake::media::video::open_video_with;

use super::boxes::{be, mp4_box, patch, replace, with_moov};
use super::image_file::{assert_clean, media_bytes};

/// Opens the file and decodes a little; returns the message of the error, if it is one.
fn cost(what: &str, bytes: &[u8]) -> Option<longtake::Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cost.mp4");
    std::fs::write(&path, bytes).unwrap();
    let started = Instant::now();
    let result = open_video_with(&path, None).and_then(|mut source| {
        let last = source.info().n_frames - 1;
        source.frame(0)?;
        source.frame(last.min(20)).map(|_| ())
    });
    let took = started.elapsed();
    // An optimised build needs well below a second for each.
    assert!(took < Duration::from_secs(12), "{what}: {took:?}");
    if let Err(err) = &result {
        assert_clean(err);
    }
    result.err()
}

const STBL: [&[u8; 4]; 4] = [b"trak", b"mdia", b"minf", b"stbl"];

fn with_table(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    with_moov(&media_bytes("baseline.mp4"), |moov| {
        replace(moov, &[STBL[0], STBL[1], STBL[2], STBL[3], name], &mp4_box(name, content));
    })
}

/// Fault M1: defaults for 180,000 tracks and as many fragments; each box is looked at a constant number of times.
#[test]
fn many_small_boxes_are_read_once() {
    let trex: Vec<u8> = (0..180_000u32).flat_map(|id| mp4_box(b"trex", &be(&[0, id + 100, 1, 0, 0, 0]))).collect();
    let tfhd = mp4_box(b"tfhd", &be(&[0, 1]));
    let fragments: [(&str, Vec<u8>); 5] = [
        ("empty moof", mp4_box(b"moof", &[])),
        ("moof of one box", mp4_box(b"moof", &mp4_box(b"traf", &[]))),
        ("moof of this track", mp4_box(b"moof", &mp4_box(b"traf", &tfhd))),
        (
            "moof with an empty run",
            mp4_box(b"moof", &mp4_box(b"traf", &[tfhd.clone(), mp4_box(b"trun", &be(&[0, 0]))].concat())),
        ),
        ("free", mp4_box(b"free", &[])),
    ];
    for (what, fragment) in fragments {
        let mut bytes = with_moov(&media_bytes("baseline.mp4"), |moov| moov.extend(mp4_box(b"mvex", &trex)));
        bytes.extend(fragment.repeat(180_000));
        assert!(cost(what, &bytes).is_none(), "{what}: the frames of the index are there all the same");
    }
    // One fragment of many parts, and parts of many runs.
    let trafs = mp4_box(b"traf", &tfhd).repeat(300_000);
    let truns = mp4_box(b"trun", &be(&[0, 0])).repeat(400_000);
    for content in [trafs, mp4_box(b"traf", &[tfhd, truns].concat())] {
        let mut bytes = media_bytes("baseline.mp4");
        bytes.extend(mp4_box(b"moof", &content));
        assert!(cost("one moof", &bytes).is_none());
    }
    // Tracks, and boxes around the one that is looked for.
    for (what, junk) in [("trak", mp4_box(b"trak", &[])), ("udta", mp4_box(b"udta", &[]))] {
        let bytes = with_moov(&media_bytes("baseline.mp4"), |moov| {
            *moov = [junk.repeat(400_000), std::mem::take(moov)].concat();
        });
        assert!(cost(what, &bytes).is_none());
    }
    // More boxes than any recorder writes are refused.
    let mut bytes = media_bytes("baseline.mp4");
    bytes.extend(mp4_box(b"free", &[]).repeat(MAX_MP4_BOXES));
    assert_eq!(cost("boxes", &bytes).unwrap().kind(), ErrorKind::Limit);
}

/// Tables that promise more than there is, lead backwards, repeat, or count without end.
#[test]
fn absurd_tables_are_linear() {
    let many = 8_000_000u32;
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("sizes of one byte", with_table(b"stsz", &be(&[0, 1, many]))),
        ("sizes without end", with_table(b"stsz", &be(&[0, 7, u32::MAX]))),
        ("zero sizes", with_table(b"stsz", &[be(&[0, 0, 2_000_000]), vec![0; 8_000_000]].concat())),
        ("one chunk of everything", with_table(b"stsc", &be(&[0, 1, 1, u32::MAX, 1]))),
        ("empty chunks", with_table(b"stsc", &be(&[0, 1, 1, 0, 1]))),
        (
            "chunks backwards",
            with_table(
                b"stsc",
                &[be(&[0, 300_000]), (0..300_000u32).rev().flat_map(|i| be(&[i, 1, 1])).collect()].concat(),
            ),
        ),
        ("chunks again and again", with_table(b"stsc", &[be(&[0, 300_000]), be(&[1, 1, 1]).repeat(300_000)].concat())),
        ("durations of nothing", with_table(b"stts", &[be(&[0, 500_000]), be(&[0, 9]).repeat(500_000)].concat())),
        ("durations at their largest", with_table(b"stts", &be(&[0, 1, u32::MAX, u32::MAX]))),
        (
            "key frames backwards",
            with_table(b"stss", &[be(&[0, 500_000]), (0..500_000u32).rev().flat_map(|i| be(&[i])).collect()].concat()),
        ),
        ("one offset for all", with_table(b"stco", &[be(&[0, 500_000]), be(&[48]).repeat(500_000)].concat())),
    ];
    for (what, bytes) in rows {
        cost(what, &bytes);
    }
    // Shifts below zero, in a box that this file lacks.
    let bytes = with_moov(&media_bytes("baseline.mp4"), |moov| {
        let stts = &[STBL[0], STBL[1], STBL[2], STBL[3], b"stts"];
        let ctts = mp4_box(b"ctts", &[be(&[1 << 24, 400_000]), be(&[1, 0x8000_0000]).repeat(400_000)].concat());
        let with = [mp4_box(b"stts", &be(&[0, 1, 12, 1])), ctts].concat();
        replace(moov, stts, &with);
    });
    cost("shifts below zero", &bytes);
    // Edit lists as long as the file.
    for (what, edit) in [("edits", [1, 0, 1 << 16]), ("pauses", [1, u32::MAX, 1 << 16]), ("nothing", [0, 0, 1 << 16])] {
        let bytes = with_moov(&media_bytes("baseline.mp4"), |moov| {
            let elst = mp4_box(b"elst", &[be(&[0, 500_000]), be(&edit).repeat(500_000)].concat());
            replace(moov, &[b"trak", b"edts"], &mp4_box(b"edts", &elst));
        });
        cost(what, &bytes);
    }
}

/// A run may count to four billion in twenty bytes.
#[test]
fn runs_of_fragments_are_bounded() {
    let fragments = media_bytes("fragments.mp4");
    for (flags, count, size) in [(0, u32::MAX, 1), (0, MAX_FRAMES as u32, 0), (0x200, u32::MAX, 0), (0, 3_000_000, 1)] {
        let tfhd = mp4_box(b"tfhd", &be(&[0x10, 1, size]));
        let trun = mp4_box(b"trun", &be(&[flags, count]));
        let mut bytes = fragments.clone();
        bytes.extend(mp4_box(b"moof", &mp4_box(b"traf", &[tfhd, trun.repeat(1000)].concat())));
        cost("run", &bytes);
    }
}

/// What is kept of a frame is larger than the least frame: the file bounds how many there may be.
#[test]
fn a_small_file_cannot_ask_for_much_memory() {
    let mut bytes = with_moov(&media_bytes("baseline.mp4"), |moov| {
        let stbl = [STBL[0], STBL[1], STBL[2], STBL[3]];
        let table = |name: &'static [u8; 4]| [stbl[0], stbl[1], stbl[2], stbl[3], name];
        replace(moov, &table(b"stsz"), &mp4_box(b"stsz", &be(&[0, 1, 4_000_000])));
        patch(moov, &table(b"stsc"), 8, &[1, 4_000_000, 1]);
    });
    bytes.extend(mp4_box(b"mdat", &vec![7; 4_500_000]));
    let err = cost("frames of one byte", &bytes).unwrap();
    assert_eq!(err.kind(), ErrorKind::Limit, "{err}");
    assert!(err.to_string().contains("frames in a file of"), "{err}");
}
