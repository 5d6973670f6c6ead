//! Takes of streams after the power went: pages that never reached the disk are zeros, or still what an earlier save had there, or
//! the end of the file is missing. Whatever is left is refused, or is the take.

use std::collections::BTreeMap;
use std::io::Write;

use longtake::random::Rng;
use longtake::stream::Take;

use super::flips::{Case, answer, cases, content, engine};
use super::{SMALL, count, said, stream, with_model};

/// What disks and file systems write at once.
const PAGES: [usize; 3] = [512, 4096, 65_536];

/// `LONGTAKE_TEARS` says how many.
#[test]
fn a_torn_take_of_a_stream_is_refused_or_changes_nothing() {
    let (n, dir, engine) = (count("LONGTAKE_TEARS", 600), tempfile::tempdir().unwrap(), engine());
    let cases: Vec<Case> =
        cases(dir.path(), &engine).into_iter().filter(|case| case.name.starts_with("stream")).collect();
    assert_eq!(cases.len(), 2);
    // The save before: the same camera, some frames earlier.
    let flags: [&[&str]; 2] =
        [&["--reserve", "100", "-c", "800"], &["--reserve", "60", "-c", "200", "--when-full", "forget"]];
    let before = flags.map(|flags| {
        let mut command = with_model(dir.path(), &["watch", "-", "-o", "before", "-q", "--again", "-b", "32"]);
        command.args(flags).args(SMALL).stdin(std::fs::File::open(stream(dir.path(), 48)).unwrap());
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", said(&done));
        std::fs::read(dir.path().join("before")).unwrap()
    });
    let mut random = Rng(11);
    let mut tally: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    for i in 0..n {
        let (case, before) = (&cases[i % 2], &before[i % 2]);
        let mut bytes = case.bytes.clone();
        let page = PAGES[random.below(PAGES.len())];
        let how = ["zeros", "old pages", "no end"][random.below(3)];
        if how == "no end" {
            bytes.truncate(random.below(bytes.len()).next_multiple_of(page).min(bytes.len() - 1));
        } else {
            // One page, or every other one, as several disks or a cache that was half written back leave them.
            let n_pages = bytes.len().div_ceil(page);
            let (first, share) = (random.below(n_pages), random.below(3));
            for at in (0..n_pages).filter(|at| *at == first || share > 0 && random.below(1 + share) == 0) {
                let range = at * page..((at + 1) * page).min(bytes.len());
                for (k, byte) in bytes[range.clone()].iter_mut().enumerate() {
                    *byte = if how == "zeros" { 0 } else { before.get(range.start + k).copied().unwrap_or(0) };
                }
            }
        }
        std::fs::write(&case.path, &bytes).unwrap();
        let place = format!("{}, tear {i}: {how} of {page}", case.name);
        let what = match Take::open(&case.path, true) {
            Err(err) => {
                assert!(err.to_string().contains(".take"), "{place}: {err}");
                "refused"
            }
            Ok(take) if !take.is_complete() => "cut off, which is not asked",
            Ok(take) if how == "old pages" && content(&take) != case.content => {
                // All that counts is old: then it is the save before, whole.
                assert!(bytes.iter().zip(before).filter(|(a, b)| a != b).count() < page, "{place}");
                "the save before"
            }
            Ok(take) => {
                assert_eq!(content(&take), case.content, "{place}");
                assert_eq!(Some(answer(&engine, &take)), case.answer, "{place}");
                "only free slots, same content and answer"
            }
        };
        *tally.entry((case.name.as_str(), how, what)).or_default() += 1;
    }
    for ((name, how, what), n) in &tally {
        let _ = writeln!(std::io::stderr(), "{name}: {n} with {how}: {what}");
    }
    assert!(tally.keys().any(|(_, how, what)| *how == "old pages" && *what == "refused"), "{tally:?}");
}
