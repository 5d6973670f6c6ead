//! How much of its cache an answer could leave unread: what was left out is within what was proven, for models with rows alone and
//! for such with states beside them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use longtake::cache::skip::Bound;
use longtake::position::Layout;
use longtake::stream::{Engine, Events, SkipOptions, Skips, skips};

use crate::common::{engine_of, family_models, golden_families};
use crate::endless::options;
use crate::golden_families::{Pair, convert_checkpoint};

fn measure(engine: &Arc<Engine>, what: SkipOptions) -> longtake::Result<Skips> {
    let (mut sink, go_on) = (|_| {}, AtomicBool::new(false));
    let mut prompt = crate::stream::prompt(engine, &["What was shown, and when?"], 12, None);
    prompt.tell_time(&engine.tokenizer)?;
    skips(engine, prompt, options(64, 16), what, &mut Events::new(&mut sink, &go_on))
}

#[test]
fn what_is_left_out_is_within_what_was_proven() {
    let dir = tempfile::tempdir().unwrap();
    let (name, _) = family_models().into_iter().find(|(_, index)| index["family"] == "qwen3_5").unwrap();
    let Pair { text, mmproj } = convert_checkpoint(&golden_families(), dir.path(), &name, Layout::MropeI);
    let recurrent = Arc::new(engine_of(text, Some(mmproj)).unwrap());
    for (name, engine) in [("demo", crate::stream::engine()), ("recurrent", recurrent)] {
        for (block, limit) in [(1, 0.5), (7, 0.2), (16, 1e-4)] {
            let found = measure(&engine, SkipOptions { block, limit, n_predict: 3 }).unwrap();
            assert!(found.n_keys > 40 && found.n_still <= found.d, "{name}: {found:?}");
            assert_eq!(found.rows.iter().map(|row| row.bound).collect::<Vec<_>>(), Bound::ALL);
            for row in &found.rows {
                // Both are sums of the same exponentials in other orders.
                assert!(
                    row.dropped <= row.proven * (1.0 + 1e-9) && row.proven <= limit,
                    "{name}, blocks of {block}: {row:?}"
                );
                assert!(0.0 < row.read && row.read <= row.read_together && row.read_together <= 1.0, "{name}: {row:?}");
                assert!(row.read_least <= row.read_together, "{name}: {row:?}");
            }
            let [simple, both, mass] = found.rows[..] else { panic!("three bounds") };
            assert!(mass.read <= both.read && both.read <= simple.read, "{name}: {found:?}");
        }
        let mass = measure(&engine, SkipOptions { block: 1, limit: 0.5, n_predict: 1 }).unwrap().rows[2];
        assert!(mass.read < 0.9, "{name}: half of the attention is in fewer keys: {mass:?}");
    }
}

#[test]
fn nothing_to_measure_is_refused() {
    let engine = crate::stream::engine();
    for (block, limit, n_predict) in [(0, 0.1, 1), (4, 0.1, 0), (4, 1.0, 1), (4, f64::NAN, 1), (4, -0.1, 1)] {
        let error = measure(&engine, SkipOptions { block, limit, n_predict }).unwrap_err().to_string();
        assert!(error.contains("expected some tokens and keys, and a share below 1"), "{error}");
    }
}
