//! A take that the first version of the format was written in, asked today: see `tests/old_takes/make.sh`.

use std::path::Path;

use longtake::stream::Take;
use serde_json::Value;

use super::cli::{ok, text};

#[test]
fn a_take_of_the_first_version_is_answered_from_with_the_same_tokens() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (kept, dir) = (root.join("tests/old_takes/version1.take"), tempfile::tempdir().unwrap());
    // Asking locks a take.
    let take = dir.path().join("version1.take");
    std::fs::copy(&kept, &take).unwrap();
    let shown: Value = serde_json::from_str(&ok(&["inspect", "--json", text(&take)])).unwrap();
    assert_eq!(shown["metadata"]["take.version"]["value"], 1, "{shown}");

    // The embedded model of that time.
    let model = root.join("tests/old_takes/symbols.gguf");
    let questions = ["What shape is shown?", "What color is shown?", "What is shown?"];
    let mut words = vec!["ask", text(&take), "-m", text(&model), "--json", "-n", "6", "--ignore-eos"];
    words.extend(questions);
    let said = ok(&words);
    let wanted = std::fs::read_to_string(root.join("tests/old_takes/version1.jsonl")).unwrap();
    let answers = |text: &str| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
    let (said, wanted) = (answers(&said), answers(&wanted));
    assert_eq!((said.len(), wanted.len()), (questions.len(), questions.len()));
    for ((said, wanted), question) in said.iter().zip(&wanted).zip(questions) {
        assert_eq!((&said["text"], &said["tokens"]), (&wanted["text"], &wanted["tokens"]), "{question}");
    }
    assert!(std::fs::read(&take).unwrap() == std::fs::read(&kept).unwrap(), "a question changed its take");
    assert!(Take::open(&take, true).unwrap().is_complete());
}
