//! Models with recurrent layers, from their prompts to their takes: where a conversation goes back to, and what a stop leaves.

use std::path::Path;
use std::sync::Arc;

use longtake::cache::KvCache;
use longtake::convert::{ConvertOptions, FileType, OutputFile, convert};
use longtake::gguf::{GgmlType, Gguf};
use longtake::stream::{Engine, IfExists, Session, Take, Watch};

use crate::common::golden_families;
use crate::take::{answer, asset, begin_as, content, media, request, watch_some};

/// Three recurrent layers and one of attention.
fn engine(dir: &Path) -> Arc<Engine> {
    converted(dir, "q35-a")
}

fn converted(dir: &Path, name: &str) -> Arc<Engine> {
    let input = golden_families().join("checkpoints").join(name);
    let mut options = ConvertOptions::new(input, dir.join(format!("{name}.gguf")));
    options.outtype = Some(FileType::from_name("f32").unwrap());
    options.mmproj_outtype = options.outtype;
    let report = convert(&options, &mut ()).unwrap();
    let open = |file: &OutputFile| Arc::new(Gguf::open(&file.path).unwrap());
    Arc::new(crate::common::engine_of(open(&report.text), Some(open(&report.mmproj))).unwrap())
}

fn watch(engine: &Arc<Engine>, path: &Path) -> Watch {
    begin_as(engine, &request(&asset("demo.mp4"), &media(), GgmlType::F16), (path, IfExists::Refuse)).unwrap()
}

/// Everything that a cache holds: rows, and bits of states.
fn all(cache: &KvCache) -> (Vec<u8>, Vec<u32>) {
    (content(cache), cache.states().unwrap().iter().map(|x| x.to_bits()).collect())
}

/// Whether what a take holds ends between the first and the last token of a stamp.
fn ends_inside_a_stamp(take: &Take) -> bool {
    let (header, text) = (&take.header, take.header.text.as_ref().unwrap());
    let mut at = header.before.len();
    text.lead.iter().enumerate().any(|(pair, lead)| {
        let begin = at;
        at += text.n_tokens(pair, header.grid[1] * header.grid[2]);
        begin < take.n_done() && take.n_done() < begin + lead.len()
    })
}

#[test]
fn stopped_anywhere_a_take_ends_with_the_same_rows_and_states() {
    let dir = tempfile::tempdir().unwrap();
    // Without recurrent layers there are rows alone.
    for name in ["q35-a", "q3-a"] {
        check_stops(&dir.path().join(name), name);
    }
}

fn check_stops(dir: &Path, name: &str) {
    std::fs::create_dir(dir).unwrap();
    let (engine, video, media, mut n_inside) = (converted(dir, name), asset("demo.mp4"), media(), 0);
    let mut request = request(&video, &media, GgmlType::F16);
    // Steps after which stamps are cut.
    request.options.n_batch = if name == "q35-a" { 37 } else { 11 };
    let begin = |path: &Path| begin_as(&engine, &request, (path, IfExists::Refuse)).unwrap();
    let whole = dir.join("whole.take");
    assert!(watch_some(&mut begin(&whole), usize::MAX));
    let take = Take::open(&whole, true).unwrap();
    assert!(take.is_complete());
    let want = all(&take.cache().unwrap());
    assert!(want.1.iter().any(|bits| *bits != 0) == (name == "q35-a"));
    for at_once in [1, 2] {
        let path = dir.join(format!("{at_once}.take"));
        let mut is_done = watch_some(&mut begin(&path), at_once);
        let mut n_stops = 0;
        while !is_done {
            let part = Take::open(&path, true).unwrap();
            assert!(part.n_done() > 0 && !part.is_complete());
            n_stops += 1;
            n_inside += usize::from(ends_inside_a_stamp(&part));
            is_done = watch_some(&mut Watch::resume(&engine, &request, part).unwrap(), at_once);
        }
        assert!(n_stops > 0, "never stopped every {at_once} steps");
        let got = all(&Take::open(&path, true).unwrap().cache().unwrap());
        assert!(got == want, "{name}, stopped every {at_once} steps");
    }
    assert!(n_inside > 0, "{name}: never stopped inside a stamp");
}

#[test]
fn questions_to_one_take_do_not_see_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path());
    let path = dir.path().join("a.take");
    assert!(watch_some(&mut watch(&engine, &path), usize::MAX));
    let take = Take::open(&path, true).unwrap();
    let questions = ["What is this?", "And how many frames were there before the first one, roughly?", "Why?"];
    let fresh: Vec<_> =
        questions.map(|text| answer(&engine, &mut Session::from_take(&engine, &take).unwrap(), &take, text)).into();
    let mut session = Session::from_take(&engine, &take).unwrap();
    for i in [0, 1, 2, 1, 1, 0] {
        assert_eq!(answer(&engine, &mut session, &take, questions[i]), fresh[i], "question {i}");
    }
    // The take is read no more than once: each question begins where it ends.
    assert!(session.cache().place_before(take.n_done()) == take.n_done());
}

#[test]
fn damaged_states_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path());
    let path = dir.path().join("a.take");
    assert!(watch_some(&mut watch(&engine, &path), usize::MAX));
    let (n, at) = {
        let take = Take::open(&path, true).unwrap();
        let file = Gguf::open(&path).unwrap();
        let states = file.tensor("cache.states").unwrap();
        (
            take.n_checkpoints(),
            file.file_offset(states) as usize + states.n_bytes / 2 * ((take.n_checkpoints() - 1) % 2),
        )
    };
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[at + 100] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    let error = Take::open(&path, true).err().expect("damage").to_string();
    assert!(error.contains("recurrent states") && error.contains("damaged"), "{n} checkpoints: {error}");
}
