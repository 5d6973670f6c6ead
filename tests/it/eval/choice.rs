//! Collections from folder to score: fixed responses with scores computed by hand, then a model from end to end.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use longtake::eval::choice::{
    Collection, CollectionOptions, Log, Report, Response, RunOptions, Step, Tally, Task, run,
};
use longtake::gguf::GgmlType;
use longtake::stream::{EngineOptions, Event, MediaOptions, MmprojChoice, SessionOptions};
use parquet::basic::{Compression, ZstdLevel};
use serde_json::{Value, json};

use super::{Column, longtake, parquet_of, stderr, text, texts};
use crate::common::golden;
use crate::endless::y4m;

fn open(task: Task, root: &Path) -> longtake::Result<Collection> {
    let options = CollectionOptions { split: task.default_split().to_string(), annotations: Vec::new() };
    Collection::open(task, root, &options)
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn responses(said: &[(&str, &str)]) -> HashMap<String, Response> {
    said.iter().map(|(id, text)| (id.to_string(), Response { text: text.to_string() })).collect()
}

fn tally(n: usize, right: usize) -> Tally {
    Tally { n, right }
}

/// Two videos with three questions each; all keys are `B`.
fn video_mme() -> Vec<Column> {
    let ids: Vec<String> = (0..6).map(|i| format!("q{i}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let options = ["A. red", "B. green", "C. blue", "D. none"].map(str::to_string).to_vec();
    vec![
        texts("video_id", &["001", "001", "001", "002", "002", "002"]),
        texts("duration", &["short", "short", "short", "long", "long", "long"]),
        texts("domain", &["Knowledge"; 6]),
        texts("videoID", &["clip-a", "clip-a", "clip-a", "clip-b", "clip-b", "clip-b"]),
        texts("question_id", &ids),
        texts("task_type", &["Counting", "Counting", "OCR", "OCR", "OCR", "OCR"]),
        texts("question", &["Which colour?", "Which one?", "What?", "Which colour?", "Which one?", "What?"]),
        Column::List("options", vec![options; 6]),
        texts("answer", &["B"; 6]),
    ]
}

/// The same rows as maps.
fn as_rows(columns: &[Column], n: usize) -> Vec<Value> {
    let cell = |column: &Column, i: usize| match column {
        Column::Text(name, values) => (name.to_string(), json!(values[i])),
        Column::Int(name, values) => (name.to_string(), json!(values[i])),
        Column::List(name, values) => (name.to_string(), json!(values[i])),
        Column::Bytes(..) => unreachable!(),
    };
    (0..n).map(|i| columns.iter().map(|column| cell(column, i)).collect::<serde_json::Map<_, _>>().into()).collect()
}

#[test]
fn every_format_holds_the_same_questions() {
    let columns = video_mme();
    let rows = as_rows(&columns, 6);
    let names: Vec<&String> = rows[0].as_object().unwrap().keys().collect();
    let cell = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_string);
    let line = |row: &Value| names.iter().map(|name| cell(&row[*name])).collect::<Vec<_>>().join("\t");
    let header = names.iter().map(|n| n.as_str()).collect::<Vec<_>>().join("\t");
    let tsv = format!("{header}\n{}\n", rows.iter().map(line).collect::<Vec<_>>().join("\r\n"));
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let files: [(&str, Vec<u8>); 6] = [
        ("videomme/test-00000-of-00001.parquet", parquet_of(&columns, Compression::SNAPPY)),
        ("videomme/test-00000-of-00001.parquet", parquet_of(&columns, zstd)),
        ("test.parquet", parquet_of(&columns, Compression::UNCOMPRESSED)),
        ("videomme.json", json!(rows).to_string().into_bytes()),
        ("test.jsonl", rows.iter().map(|row| format!("{row}\n\n")).collect::<String>().into_bytes()),
        ("Video-MME.tsv", tsv.into_bytes()),
    ];
    let mut want = None;
    for (name, bytes) in files {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join(name), bytes);
        let got = open(Task::VideoMme, dir.path()).unwrap_or_else(|err| panic!("{name}: {err}")).items;
        assert_eq!(got.len(), 6);
        assert_eq!((got[4].id.as_str(), got[4].video.as_str(), got[4].letter()), ("q4", "clip-b", Some('B')));
        assert_eq!(got[0].options[2], "C. blue");
        assert_eq!(*want.get_or_insert_with(|| got.clone()), got, "{name}");
    }
}

#[test]
fn video_mme_is_scored_as_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("test.parquet"), parquet_of(&video_mme(), Compression::SNAPPY));
    let items = open(Task::VideoMme, dir.path()).unwrap().items;
    let said = [
        ("q0", "B"),
        ("q1", "The best answer is B."),
        ("q2", "C"),
        ("q3", "Best answer: B"),
        ("q4", "yes"),
        ("q5", ""),
    ];
    let report = Report::new(Task::VideoMme, &items, &responses(&said), 0);
    // q0, q1 and q3 are right; q2 is not; q4 and q5 have no letter.
    assert_eq!(report.all, tally(6, 3));
    assert_eq!(report.score, 0.5);
    assert_eq!(report.groups["duration"]["short"], tally(3, 2));
    assert_eq!(report.groups["duration"]["long"], tally(3, 1));
    assert_eq!(report.groups["domain"]["Knowledge"], tally(6, 3));
    assert_eq!(report.groups["task_type"]["Counting"], tally(2, 2));
    assert_eq!(report.groups["task_type"]["OCR"], tally(4, 1));
    assert_eq!((report.n_without_letter, report.n_guessed), (2, 0));
    // `Best answer: B` is B to the harness too, by luck: the capital of `Best`.
    assert_eq!(report.harness_score, 0.5);
    let half = Report::new(Task::VideoMme, &items, &responses(&said[..1]), 0);
    assert_eq!((half.all, half.n_responses), (tally(1, 1), 1), "what was not asked does not count");

    let prompt = Task::VideoMme.prompt(&items[0], &Task::VideoMme.words(), Some("Hello"));
    let lines: Vec<&str> = prompt.lines().collect();
    assert_eq!(lines[1], "Hello");
    assert_eq!(lines[3..8], ["Which colour?", "A. red", "B. green", "C. blue", "D. none"]);
    assert_eq!(lines[8..], ["", "Answer with the option's letter from the given choices directly."]);
}

#[test]
fn longvideobench_is_scored_as_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let row = |id: &str, choice: i64, duration: i64, category: &str| {
        json!({
            "id": id, "video_id": "v", "video_path": "v.mp4", "question": "Who?", "candidates": ["a", "b", "c", "d", "e"],
            "correct_choice": choice, "duration_group": duration, "question_category": category, "position": [1, [2], {}],
            "subtitle_path": "v_en.json", "level": "L1-Perception", "view_count": 7,
        })
    };
    let rows =
        [row("a_0", 4, 15, "S2E"), row("a_1", 0, 15, "E3E"), row("a_2", 1, 3600, "E3E"), row("a_3", 2, 60, "SSS")];
    write(&dir.path().join("lvb_val.json"), json!(rows).to_string());
    write(&dir.path().join("lvb_test_wo_gt.json"), "[]");
    let items = open(Task::LongVideoBench, dir.path()).unwrap().items;
    let said = [("a_0", "E"), ("a_1", "(A)"), ("a_2", "C"), ("a_3", "C. the dog")];
    let report = Report::new(Task::LongVideoBench, &items, &responses(&said), 0);
    assert_eq!((report.all, report.score), (tally(4, 3), 0.75));
    assert_eq!(report.groups["duration_group"]["15"], tally(2, 2));
    assert_eq!(report.groups["duration_group"]["3600"], tally(1, 0));
    assert_eq!(report.groups["question_category"]["E3E"], tally(2, 1));
    let prompt = Task::LongVideoBench.prompt(&items[0], &Task::LongVideoBench.words(), None);
    let after = "Answer with the option's letter from the given choices directly.\n";
    assert_eq!(prompt, format!("Who?\nA. a\nB. b\nC. c\nD. d\nE. e\n{after}"));

    // Guessed letters: drawn, counted, the same every time for one seed.
    let said = [("a_0", "no idea"), ("a_1", "no idea"), ("a_2", ""), ("a_3", "?")];
    let guess = |seed| Report::new(Task::LongVideoBench, &items, &responses(&said), seed);
    assert_eq!(guess(3), guess(3));
    assert_eq!((guess(3).n_guessed, guess(3).n_without_letter), (4, 0));

    // The table of the same collection has options in columns, and the test part no key.
    let columns = [
        texts("id", &["x"]),
        texts("video_path", &["v.mp4"]),
        texts("question", &["Who?"]),
        texts("option0", &["a"]),
        texts("option1", &["b"]),
        texts("option2", &["N/A"]),
        Column::Int("correct_choice", vec![-1]),
        Column::Int("duration_group", vec![600]),
    ];
    write(&dir.path().join("data/validation-00000-of-00001.parquet"), parquet_of(&columns, Compression::SNAPPY));
    std::fs::remove_file(dir.path().join("lvb_val.json")).unwrap();
    let items = open(Task::LongVideoBench, dir.path()).unwrap().items;
    assert_eq!((items[0].options.len(), items[0].answer), (2, None));
    let report = Report::new(Task::LongVideoBench, &items, &responses(&[("x", "A")]), 0);
    assert_eq!((report.all, report.n_without_key, report.score), (tally(0, 0), 1, 0.0));
}

/// MLVU as published: a file a task, its videos in a folder of the same name.
fn mlvu(root: &Path) {
    let row = |kind: &str, question: &str, answer: &str| {
        json!({
            "video": "v 1.mp4", "duration": 9.5, "question": question, "candidates": ["cat", "dog", "3", "4"],
            "answer": answer, "question_type": kind,
        })
    };
    write(
        &root.join("json/1_plotQA.json"),
        json!([row("plotQA", "p0", "dog"), row("plotQA", "p1", "cat"), row("plotQA", "p2", "4")]).to_string(),
    );
    write(&root.join("json/4_count.json"), json!([row("count", "How many?", "3")]).to_string());
    write(
        &root.join("json/9_summary.json"),
        json!([{ "question_type": "summary", "question": "Sum up." }]).to_string(),
    );
}

#[test]
fn mlvu_is_the_mean_over_tasks() {
    let dir = tempfile::tempdir().unwrap();
    mlvu(dir.path());
    let items = open(Task::Mlvu, dir.path()).unwrap().items;
    let ids: Vec<&str> = items.iter().map(|item| item.id.as_str()).collect();
    assert_eq!(ids, ["1_plotQA-0", "1_plotQA-1", "1_plotQA-2", "4_count-0"]);
    assert_eq!(items[0].video, "1_plotQA/v 1.mp4");
    let said = [("1_plotQA-0", "B) dog"), ("1_plotQA-1", "A. cat"), ("1_plotQA-2", "B"), ("4_count-0", "C")];
    let report = Report::new(Task::Mlvu, &items, &responses(&said), 0);
    // plotQA: two of three; count: one of one. The mean over tasks is 5/6, over questions it would be 3/4.
    assert_eq!(report.groups["task_type"]["plotQA"], tally(3, 2));
    assert!((report.score - 5.0 / 6.0).abs() < 1e-12, "{}", report.score);
    // `A. cat` is no letter to the harness.
    assert!((report.harness_score - 2.0 / 3.0).abs() < 1e-12, "{}", report.harness_score);
    let prompt = Task::Mlvu.prompt(&items[0], &Task::Mlvu.words(), None);
    assert_eq!(prompt, "\np0\n(A) cat\n(B) dog\n(C) 3\n(D) 4\nOnly give the best option.\n\nBest option: (");

    // One table: options inside the question, letters as keys.
    let columns = [
        texts("video_name", &["x.mp4"]),
        texts("question", &["Who?\n(A) cat\n(B) dog\n(C) cow"]),
        texts("answer", &["C"]),
        texts("task_type", &["ego"]),
        texts("question_id", &["EG_0"]),
    ];
    let table = tempfile::tempdir().unwrap();
    write(&table.path().join("mlvu/dev-00000-of-00001.parquet"), parquet_of(&columns, Compression::SNAPPY));
    let items = open(Task::Mlvu, table.path()).unwrap().items;
    assert_eq!((items[0].options.len(), items[0].answer, items[0].video.as_str()), (3, Some(2), "x.mp4"));
    let prompt = Task::Mlvu.prompt(&items[0], &Task::Mlvu.words(), None);
    assert_eq!(prompt, "\nWho?\n(A) cat\n(B) dog\n(C) cow\nOnly give the best option.\n\nBest option: (");
}

fn model(name: &str) -> PathBuf {
    golden().join("gguf_models").join(name)
}

/// Video-MME with two clips of its own; `clip-b` in another container, in capitals.
fn folder(root: &Path) {
    write(&root.join("videomme/test-00000-of-00001.parquet"), parquet_of(&video_mme(), Compression::SNAPPY));
    write(&root.join("data/clip-a.y4m"), y4m(2, 0..6));
    write(&root.join("data/clip-b.Y4M"), y4m(2, 6..10));
    write(&root.join("subtitle/clip-a.srt"), "1\n00:00:00,000 --> 00:00:09,000\n<font color=\"white\">Hi</font>\n");
}

/// The flags that make frames small enough for a test.
const SMALL: [&str; 6] = ["--min-pixels", "3136", "--max-pixels", "4704", "-n", "4"];

fn evaluate(root: &Path, out: &Path, flags: &[&str]) -> std::process::Output {
    let (text_model, mmproj) = (model("tiny-c.gguf"), model("mmproj-tiny-c.gguf"));
    let args = ["eval", "videomme", text(root), "-m", text(&text_model), "--mmproj", text(&mmproj), "-o", text(out)];
    longtake(&[&args[..], &SMALL, &["--json"], flags].concat())
}

/// A results file without the times that each answer took.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let parse = |line: &str| {
        let mut value: Value = serde_json::from_str(line).unwrap();
        value.as_object_mut().unwrap().remove("seconds");
        value
    };
    text.lines().map(parse).collect()
}

#[test]
fn a_model_answers_a_folder_and_goes_on_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path());
    let out = dir.path().join("results.jsonl");
    let first = evaluate(dir.path(), &out, &[]);
    assert!(first.status.success(), "{}", stderr(&first));
    let summary: Value = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!(
        (&summary["n_questions"], &summary["n_answered"], &summary["n_missing"]),
        (&json!(6), &json!(6), &json!(0))
    );
    let whole = lines(&out);
    assert_eq!(whole.len(), 7);
    assert_eq!(whole[0]["settings"]["task"], "videomme");
    assert_eq!((&whole[0]["settings"]["fps"], &whole[0]["settings"]["max_frames"]), (&json!(2.0), &json!(56)));
    let right = whole[1..].iter().filter(|line| line["right"] == true).count();
    assert_eq!(summary["overall"]["right"], json!(right), "the summary is the sum of the lines");

    // A run that a kill left in the middle of a line.
    let bytes = std::fs::read(&out).unwrap();
    let ends: Vec<usize> = (0..bytes.len()).filter(|i| bytes[*i] == b'\n').collect();
    std::fs::write(&out, &bytes[..ends[2] + 20]).unwrap();
    let again = evaluate(dir.path(), &out, &[]);
    assert!(again.status.success(), "{}", stderr(&again));
    let summary: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!((&summary["n_before"], &summary["n_answered"]), (&json!(2), &json!(4)));
    assert_eq!(lines(&out), whole);

    // Other settings are refused, by name, and nothing is lost.
    let before = std::fs::read(&out).unwrap();
    for (flags, name) in [
        (&["--subtitles"][..], "subtitles"),
        (&["--context", "16k"], "max_frames"),
        (&["-ctk", "q8_0"], "cache_k"),
        (&["--post-prompt", "Letter?"], "post_prompt"),
    ] {
        let other = evaluate(dir.path(), &out, flags);
        assert_eq!(other.status.code(), Some(1), "{flags:?}");
        assert!(stderr(&other).contains(name), "{flags:?}: {}", stderr(&other));
    }
    assert_eq!(std::fs::read(&out).unwrap(), before);

    // Subtitles lengthen the prompt where there are any.
    let with = dir.path().join("with-subtitles.jsonl");
    let run = evaluate(dir.path(), &with, &["--subtitles"]);
    assert!(run.status.success(), "{}", stderr(&run));
    let with = lines(&with);
    let n_prompt = |lines: &[Value], i: usize| lines[i]["n_prompt"].as_u64().unwrap();
    assert!(n_prompt(&with, 1) > n_prompt(&whole, 1) && n_prompt(&with, 4) == n_prompt(&whole, 4));
}

#[test]
fn missing_and_broken_videos_are_counted_and_the_rest_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path());
    std::fs::remove_file(dir.path().join("data/clip-b.Y4M")).unwrap();
    let out = dir.path().join("results.jsonl");
    let run = evaluate(dir.path(), &out, &[]);
    assert!(run.status.success(), "{}", stderr(&run));
    let summary: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!((&summary["n_missing"], &summary["n_answered"]), (&json!(3), &json!(3)));
    assert!(stderr(&run).contains("3 questions skipped"), "{}", stderr(&run));

    // It comes back broken: its questions fail, then it is repaired, and only they are asked.
    let whole = y4m(2, 6..10);
    write(&dir.path().join("data/clip-b.y4m"), &whole[..40]);
    let run = evaluate(dir.path(), &out, &[]);
    assert_eq!(run.status.code(), Some(1));
    let summary: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!((&summary["n_failed"], &summary["n_before"]), (&json!(3), &json!(3)));
    assert!(stderr(&run).contains("question q3 failed"), "{}", stderr(&run));
    write(&dir.path().join("data/clip-b.y4m"), &whole);
    let run = evaluate(dir.path(), &out, &["--limit", "4"]);
    assert!(run.status.success(), "{}", stderr(&run));
    let summary: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(
        (&summary["n_answered"], &summary["n_before"], &summary["n_questions"]),
        (&json!(1), &json!(3), &json!(4))
    );
}

#[test]
fn the_questions_of_one_video_share_its_cache() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path());
    let options = EngineOptions {
        model: model("tiny-c.gguf"),
        mmproj: MmprojChoice::Path(model("mmproj-tiny-c.gguf")),
        mmap: true,
    };
    let engine = Arc::new(crate::common::engine(&options).unwrap());
    let mut media = MediaOptions::default();
    (media.sample.min_pixels, media.sample.max_pixels) = (Some(3136), Some(4704));
    let ty = GgmlType::F16;
    let session = SessionOptions { n_ctx: 0, n_batch: 64, type_k: ty.into(), type_v: ty.into(), temporal_scale: None };
    let words = Task::VideoMme.words();
    let options = RunOptions { media, session, n_predict: 2, words, subtitles: false, limit: None, seed: 0 };
    let mut collection = open(Task::VideoMme, dir.path()).unwrap();
    let mut log = Log::open(&dir.path().join("r.jsonl"), &Default::default()).unwrap();
    let (mut encoded, mut prompts) = (0, Vec::new());
    run(&engine, &mut collection, &options, &mut log, &AtomicBool::new(false), &mut |step| match step {
        Step::Session(Event::Encoded { .. }) => encoded += 1,
        Step::Session(Event::PromptStart { n_tokens, cached }) => prompts.push((n_tokens, cached)),
        _ => {}
    })
    .unwrap();
    // Six frames, then four, in pairs: each goes through the tower once, not three times.
    assert_eq!(encoded, 3 + 2);
    assert_eq!(prompts.len(), 6);
    for (i, (n_tokens, cached)) in prompts.iter().enumerate() {
        let shares = cached * 2 > *n_tokens;
        assert_eq!(shares, i % 3 != 0, "question {i}: {cached} of {n_tokens} tokens");
    }
}
