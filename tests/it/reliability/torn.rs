//! Takes of streams after the power went: pages that never reached the disk are zeros, or still what the save before had there, or
//! the end of the file is missing. Whatever is left is refused, or is one of the two saves, whole.
//!
//! A save is written beside the name and brought to disk before the name is given to it, so a disk that does as it is told leaves
//! one of the two. These are disks that do not.

use std::collections::BTreeMap;
use std::io::Write;

use longtake::random::Rng;
use longtake::stream::Take;

use super::count;
use super::takes::{answer, content, engine, of_streams};

/// What disks and file systems write at once.
const PAGES: [usize; 3] = [512, 4096, 65_536];

/// What the pages that were not written are, or that the file ends before them.
const HOW: [&str; 3] = ["zeros", "old pages", "no end"];

/// The file as a power cut leaves it that came while `new` was written over `old`.
fn tear(new: &[u8], old: &[u8], how: &str, page: usize, random: &mut Rng) -> Vec<u8> {
    let mut bytes = new.to_vec();
    if how == "no end" {
        bytes.truncate(random.below(bytes.len()).next_multiple_of(page).min(bytes.len() - 1));
        return bytes;
    }
    // One page; or it and each other one with a chance of one half, or of one third.
    let n_pages = bytes.len().div_ceil(page);
    let (one, many) = (random.below(n_pages), random.below(3));
    for at in 0..n_pages {
        if at == one || many > 0 && random.below(1 + many) == 0 {
            let start = at * page;
            for (i, byte) in bytes.iter_mut().enumerate().skip(start).take(page) {
                *byte = if how == "zeros" { 0 } else { old.get(i).copied().unwrap_or(0) };
            }
        }
    }
    bytes
}

/// `LONGTAKE_TEARS` says how many.
#[test]
fn a_torn_take_of_a_stream_is_refused_or_is_one_of_its_saves() {
    let (n, dir, engine) = (count("LONGTAKE_TEARS", 600), tempfile::tempdir().unwrap(), engine());
    // The same cameras, and the saves some frames earlier.
    let takes = of_streams(dir.path(), &engine, 60, "");
    let before = of_streams(dir.path(), &engine, 48, "-before");
    let mut random = Rng(11);
    let mut tally: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    for i in 0..n {
        let (take, before) = (&takes[i % takes.len()], &before[i % takes.len()]);
        assert_ne!(take.content, before.content);
        let (how, page) = (HOW[random.below(HOW.len())], PAGES[random.below(PAGES.len())]);
        let bytes = tear(&take.bytes, &before.bytes, how, page, &mut random);
        std::fs::write(&take.path, &bytes).unwrap();
        let place = format!("{}, tear {i}: {how} of {page}", take.name);
        let what = match Take::open(&take.path, true) {
            Err(err) => {
                assert!(err.to_string().contains(".take"), "{place}: {err}");
                "refused"
            }
            // An earlier state, which is not asked.
            Ok(now) if !now.is_complete() => {
                assert!(now.n_done() < take.n_done && take.content != content(&now), "{place}");
                "unfinished, which is not asked"
            }
            Ok(now) => {
                let is_old = now.n_done() == before.n_done && content(&now) == before.content;
                let save = if is_old { before } else { take };
                assert!(content(&now) == save.content, "{place}");
                assert_eq!(Some(answer(&engine, &now)), save.answer, "{place}");
                if is_old { "the save before, whole" } else { "the last save, whole" }
            }
        };
        *tally.entry((take.name.as_str(), how, what)).or_default() += 1;
    }
    for ((name, how, what), n) in &tally {
        let _ = writeln!(std::io::stderr(), "{name}: {n} with {how}: {what}");
    }
    let _ = writeln!(std::io::stderr(), "{n} tears, 0 wrong answers");
    for how in HOW {
        assert!(tally.keys().any(|(_, h, what)| *h == how && *what == "refused"), "nothing refused with {how}");
    }
}
