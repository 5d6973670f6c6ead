//! Flipped bits in takes of every structure: refused, or of no consequence.

use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};

use longtake::gguf::Gguf;
use longtake::random::Rng;
use longtake::stream::Take;

use super::count;
use super::takes::{answer, content, engine, of_every_structure};

/// `LONGTAKE_FLIPS` says how many.
#[test]
fn a_flipped_bit_is_refused_or_changes_nothing() {
    let (n, dir, engine) = (count("LONGTAKE_FLIPS", 2000), tempfile::tempdir().unwrap(), engine());
    let cases = of_every_structure(dir.path(), &engine);
    let mut random = Rng(7);
    let mut tally: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for i in 0..n {
        let case = &cases[i % cases.len()];
        // Half of them where everything counts: header, keys, tables, records.
        let dense = case.bytes.len().min(12 << 10);
        let at = if (i / cases.len()).is_multiple_of(2) { random.below(dense) } else { random.below(case.bytes.len()) };
        let bit = random.below(8);
        let mut file = std::fs::File::options().write(true).open(&case.path).unwrap();
        let mut put = |byte: u8| {
            file.seek(SeekFrom::Start(at as u64)).unwrap();
            file.write_all(&[byte]).unwrap();
        };
        put(case.bytes[at] ^ (1 << bit));
        let place = format!("{}: bit {bit} of byte {at}", case.name);
        let what = match Take::open(&case.path, true) {
            Err(err) => {
                assert!(err.to_string().contains(".take"), "{place}: {err}");
                "refused"
            }
            // The last record looks as if it had been cut off: an earlier state, which is gone on with and not asked.
            Ok(take) if take.n_done() < case.n_done => {
                assert!(!take.is_complete(), "{place}");
                "earlier checkpoint"
            }
            Ok(take) => {
                assert!(take.is_complete() == case.is_complete && content(&take) == case.content, "{place}");
                if let Some(want) = &case.answer {
                    assert_eq!(&answer(&engine, &take), want, "{place}");
                }
                "free slot, same content and answer"
            }
        };
        put(case.bytes[at]);
        *tally.entry((case.name.as_str(), what)).or_default() += 1;
    }
    for ((name, what), n) in &tally {
        let _ = writeln!(std::io::stderr(), "{name}: {n} {what}");
    }
    let _ = writeln!(std::io::stderr(), "{n} flips in {} takes, 0 wrong answers", cases.len());
}

/// Free slots are not checked, because nothing reads them before it has written them: whatever they hold.
#[test]
fn what_free_slots_hold_is_never_read() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), engine());
    for case in of_every_structure(dir.path(), &engine).iter().filter(|case| case.is_complete) {
        let take = Take::open(&case.path, true).unwrap();
        let (shape, n_done) = (take.header.shape, take.n_done());
        drop(take);
        let gguf = Gguf::open(&case.path).unwrap();
        let mut bytes = case.bytes.clone();
        for (name, ty) in [("cache.k", shape.type_k), ("cache.v", shape.type_v)] {
            let (start, row) = (gguf.file_offset(gguf.tensor(name).unwrap()) as usize, ty.row_bytes(shape.d).unwrap());
            for head in 0..shape.n_layer * shape.n_head_kv {
                let at = start + (head * shape.n_ctx + n_done) * row;
                // Not a number, in every type of float.
                bytes[at..at + (shape.n_ctx - n_done) * row].fill(0xff);
            }
        }
        drop(gguf);
        std::fs::write(&case.path, bytes).unwrap();
        let take = Take::open(&case.path, true).unwrap();
        assert_eq!(Some(answer(&engine, &take)), case.answer, "{}", case.name);
    }
}
