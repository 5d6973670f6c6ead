//! V-NIAH: reuse of the haystack's cache against fresh runs, the model's own arithmetic against a sequence built by hand.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use longtake::cache::KvCache;
use longtake::convert::{ConvertOptions, FileType, convert};
use longtake::drawn::symbols::DrawnVideo;
use longtake::eval::niah::{Needle, Niah, NiahOptions, Trial, Units, drawn_haystack, drawn_needles};
use longtake::gguf::{GgmlType, Gguf};
use longtake::media::Rgb;
use longtake::media::patch::pixel_values;
use longtake::media::resize::bicubic;
use longtake::model::{Batch, Scratch};
use longtake::position::{Segment, place_all};
use longtake::stream::{Engine, Events, MediaOptions, Prompt, Session, SessionOptions, patch_spec};
use longtake::text::RenderOptions;
use longtake::text::message::parse_messages;
use longtake::{Error, ErrorKind};
use serde_json::Value;

use crate::common::golden_families;

const SIZE: (usize, usize) = (56, 84);

fn engine() -> Arc<Engine> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/random_model");
    let open = |name: &str| Arc::new(Gguf::open(&folder.join(name)).unwrap());
    Arc::new(crate::common::engine_of(open("demo.gguf"), Some(open("mmproj-demo.gguf"))).unwrap())
}

fn options(temporal_scale: Option<f64>) -> NiahOptions {
    NiahOptions { n_batch: 37, type_k: GgmlType::F32.into(), type_v: GgmlType::F32.into(), temporal_scale, seed: 3 }
}

fn grid(lengths: &[usize], depths: &[f64], n_needles: usize) -> Vec<Trial> {
    let mut trials = Vec::new();
    for &n in lengths {
        for &depth in depths {
            trials.extend((0..n_needles).map(|needle| Trial { n, depth, needle }));
        }
    }
    trials
}

/// A converted checkpoint of a newer family.
fn later(name: &str) -> Arc<Engine> {
    let dir = tempfile::tempdir().unwrap();
    let mut options = ConvertOptions::new(golden_families().join("checkpoints").join(name), dir.path().join("m.gguf"));
    options.outtype = Some(FileType::from_name("f32").unwrap());
    options.mmproj_outtype = options.outtype;
    let report = convert(&options, &mut ()).unwrap();
    let open = |path: &Path| Arc::new(Gguf::open(path).unwrap());
    Arc::new(crate::common::engine_of(open(&report.text.path), Some(open(&report.mmproj.path))).unwrap())
}

/// Outcomes do not depend on what ran before, nor on a trial that was broken off in between.
#[test]
fn reuse_changes_nothing() {
    check_reuse(&engine(), SIZE, 230);
}

/// Nor where time is told in words, with taps, or with layers that go back only to a few places.
#[test]
fn reuse_changes_nothing_in_stamped_videos() {
    for name in ["q3-a", "q35-a"] {
        check_reuse(&later(name), (64, 96), 40);
    }
}

fn check_reuse(engine: &Arc<Engine>, size: (usize, usize), n_max: usize) {
    // The haystack is shorter than the longest trial and is repeated.
    let haystack = drawn_haystack(engine, 5, size, 20, &mut |_| Ok(())).unwrap();
    let needles = drawn_needles(engine, 6, size, 2, true).unwrap();
    let mut trials = grid(&[1, 7, 30, n_max], &[0.0, 0.35, 1.0], needles.len());
    let mut reused = Niah::new(engine, &haystack, &needles, n_max, options(Some(0.75))).unwrap();
    reused.sort(&mut trials);
    for (k, trial) in trials.iter().enumerate() {
        if k % 3 == 1 {
            let mut steps = 0;
            let stopped = reused.run(*trial, &mut |_| {
                steps += 1;
                if steps > k % 5 { Err(Error::new(ErrorKind::Cancelled, "enough")) } else { Ok(()) }
            });
            assert!(stopped.is_err_and(|err| err.kind() == ErrorKind::Cancelled) || steps <= k % 5, "{trial:?}");
        }
        let mut fresh = Niah::new(engine, &haystack, &needles, trial.n, options(Some(0.75))).unwrap();
        let expected = fresh.run(*trial, &mut |_| Ok(())).unwrap();
        assert_eq!(reused.run(*trial, &mut |_| Ok(())).unwrap(), expected, "{trial:?}");
    }
}

/// The protocol, spelled out: opening, units with the needle before unit depth * n, question, closing; one video segment.
#[test]
fn a_trial_is_the_published_sequence() {
    let engine = engine();
    let (n, at, scale) = (6, 3, 1.25);
    let mut haystack = Units::new(&engine, SIZE).unwrap();
    let video = DrawnVideo::new(5, SIZE, n, 0, None).unwrap();
    let rgb = |v: &DrawnVideo, i| Rgb { width: v.width, height: v.height, data: v.frame(i) };
    let spec = patch_spec(engine.vision.as_ref().unwrap().hparams());
    let tower = engine.vision.as_ref().unwrap();
    let encode = |pair: [&Rgb; 2]| {
        let mut pixels = Vec::new();
        pixel_values(pair, &spec, &mut pixels);
        let rows = tower.encode(&pixels, SIZE.1 / 14, SIZE.0 / 14, None).unwrap();
        rows.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect::<Vec<f32>>()
    };
    let mut rows = Vec::new();
    for pair in 0..n {
        let frames = [rgb(&video, 2 * pair), rgb(&video, 2 * pair + 1)];
        haystack.push_pair(&engine, [&frames[0], &frames[1]]).unwrap();
        rows.push(encode([&frames[0], &frames[1]]));
    }
    let shown = DrawnVideo::new(9, SIZE, 1, 1, None).unwrap();
    let picture = rgb(&shown, 0);
    let mut pictures = Units::new(&engine, SIZE).unwrap();
    pictures.push_pair(&engine, [&picture, &picture]).unwrap();
    rows.insert(at, encode([&picture, &picture]));

    let ids = |text: &str, special| engine.tokenizer.encode(text, special).unwrap();
    let opening = ids("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n", true);
    let (question, told) = ("\nWhat is shown? <|im_end|>", "Yes and");
    let mut after = ids(question, false);
    after.extend(ids("<|im_end|>\n<|im_start|>assistant\n", true));
    let answer = ids(told, false);
    assert!(answer.len() > 1, "the answer must have several tokens");
    let n_embd = engine.text.hparams().n_embd;
    let text = |ids: &[u32]| {
        let mut out = vec![0.0; ids.len() * n_embd];
        engine.text.embed(ids, &mut out).unwrap();
        out
    };
    let tail: Vec<u32> = after.iter().chain(&answer[..answer.len() - 1]).copied().collect();
    let embd = [text(&opening), rows.concat(), text(&tail)].concat();
    let (h, w) = (SIZE.1 / 28, SIZE.0 / 28);
    let segments = [Segment::Text(opening.len()), Segment::Video { t: n + 1, h, w }, Segment::Text(tail.len())];
    let (pos, _) = place_all(engine.text.hparams().layout, &segments, &[scale]).unwrap();
    let shape = engine.cache_shape(pos.len(), (GgmlType::F32.into(), GgmlType::F32.into()));
    let (mut cache, mut scratch) = (KvCache::new(shape).unwrap(), Scratch::new(engine.text.hparams(), pos.len()));
    let batch = Batch { embd: &embd, deep: &[], pos: &pos, n_logits: answer.len() };
    let logits = engine.text.forward(&batch, &mut cache, &mut scratch, None).unwrap();
    let likeliest = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as u32;
    let expected: Vec<u32> = logits.chunks_exact(engine.text.hparams().n_vocab).map(likeliest).collect();

    let run = |answer: String| {
        let mut pictures = Units::new(&engine, SIZE).unwrap();
        pictures.push_pair(&engine, [&picture, &picture]).unwrap();
        let needle = Needle { name: "drawn".into(), pictures, question: question.into(), answer };
        let mut niah = Niah::new(&engine, &haystack, std::slice::from_ref(&needle), n, options(Some(scale))).unwrap();
        niah.run(Trial { n, depth: 0.5, needle: 0 }, &mut |_| Ok(())).unwrap()
    };
    // Told one answer, the model prefers the tokens that it prefers here, and is wrong.
    assert_ne!(expected, answer);
    let outcome = run(told.to_string());
    assert_eq!(outcome.predicted, engine.tokenizer.decode(&expected, false));
    assert!(!outcome.right && outcome.n_tokens == pos.len() + 1);
    // Asked for the first of them, it is right; for another token, wrong.
    let first = engine.tokenizer.decode(&expected[..1], false);
    assert_eq!(ids(&first, false), expected[..1], "a token that is not its own text cannot be asked for: `{first}`");
    assert!(run(first.clone()).right);
    let other = if first == "Y" { "N" } else { "Y" };
    assert!(!run(other.to_string()).right);
}

/// Where time is told in words, a trial is the video of its units as any prompt has it, a frame a second; what is preferred first is
/// what a session prefers behind the question.
#[test]
fn a_stamped_trial_is_a_video_in_a_prompt() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["q3-a", "q35-a"] {
        let engine = later(name);
        let (n, at, size) = (11, 4, (64, 96));
        let video = DrawnVideo::new(5, SIZE, n, 0, None).unwrap();
        let shown = DrawnVideo::new(9, SIZE, 1, 1, None).unwrap();
        let rgb =
            |v: &DrawnVideo, i| bicubic(&Rgb { width: v.width, height: v.height, data: v.frame(i) }, size.1, size.0);
        let (mut haystack, mut pictures) = (Units::new(&engine, size).unwrap(), Units::new(&engine, size).unwrap());
        let mut frames: Vec<[Rgb; 2]> = (0..n).map(|pair| [2 * pair, 2 * pair + 1].map(|i| rgb(&video, i))).collect();
        frames.iter().for_each(|[a, b]| haystack.push_pair(&engine, [a, b]).unwrap());
        let picture = rgb(&shown, 0);
        pictures.push_pair(&engine, [&picture, &picture]).unwrap();
        frames.insert(at, [picture.clone(), picture]);
        let folder = dir.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        for (i, frame) in frames.iter().flatten().enumerate() {
            let picture = image::RgbImage::from_raw(size.0 as u32, size.1 as u32, frame.data.clone()).unwrap();
            picture.save(folder.join(format!("{i:02}.png"))).unwrap();
        }
        let question = "\nWhat is shown?";
        let content = serde_json::json!([
            {"type": "video", "video": folder, "fps": 1.0, "resized_height": size.1, "resized_width": size.0},
            {"type": "text", "text": question},
        ]);
        let messages = serde_json::json!([{"role": "user", "content": content}]).to_string();
        let render = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        let mut prompt =
            Prompt::build(&engine, &parse_messages(&messages).unwrap(), render, &MediaOptions::default()).unwrap();
        let n_prompt = prompt.n_tokens().unwrap();
        let sizes = SessionOptions {
            n_ctx: n_prompt + 8,
            n_batch: 64,
            type_k: GgmlType::F32.into(),
            type_v: GgmlType::F32.into(),
            temporal_scale: None,
        };
        let mut session = Session::new(&engine, sizes).unwrap();
        let (cancel, mut sink) = (AtomicBool::new(false), |_| {});
        session.feed(&mut prompt, &mut Events::new(&mut sink, &cancel)).unwrap();
        session.complete_logits().unwrap();
        let row = session.context().logits();
        let first = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as u32;
        let answer = engine.tokenizer.decode(&[first], false);
        let needle = Needle { name: "drawn".into(), pictures, question: question.into(), answer: answer.clone() };
        let mut niah = Niah::new(&engine, &haystack, std::slice::from_ref(&needle), n, options(None)).unwrap();
        let outcome = niah.run(Trial { n, depth: 0.4, needle: 0 }, &mut |_| Ok(())).unwrap();
        let told = engine.tokenizer.encode(&answer, false).unwrap();
        assert_eq!(outcome.n_tokens, n_prompt + told.len(), "{name}");
        if told == [first] {
            assert!(outcome.right, "{name}: `{}` for `{answer}`", outcome.predicted);
        }
    }
}

/// The user's own haystack and needles: a video file that is shorter than the sweep, pictures of another size.
#[test]
fn a_video_and_a_list_of_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let entry = |i: u8| {
        for (name, color) in [("needle", [200, 30, 30]), ("alike", [30, 30, 200])] {
            let path = dir.path().join(format!("images/{name}{i}.png"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut picture = image::RgbImage::new(70, 90 + u32::from(i));
            picture.pixels_mut().for_each(|p| p.0 = color);
            picture.save(path).unwrap();
        }
        serde_json::json!({
            "path": format!("images/needle{i}.png"), "interrupt_path": format!("images/alike{i}.png"),
            "prompt": "\nFind the frame. What color is it?", "answer": "red"
        })
    };
    let list = dir.path().join("dataset.json");
    std::fs::write(&list, Value::from((0..2).map(entry).collect::<Vec<_>>()).to_string()).unwrap();
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/random_model/demo.mp4");
    for (more, benchmark, n_alike) in [(&[][..], "V-NIAH", 0), (&["--distractors"], "V-NIAH-D", 1)] {
        let out = dir.path().join(benchmark);
        let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
        command.args(["eval", "niah", "--lengths", "3,9,210", "--depths", "0", "--frame", "56x84", "--json"]);
        command.arg("--haystack").arg(&clip).arg("--needles").arg(&list).arg("-o").arg(&out);
        let run = command.args(more).output().unwrap();
        let stderr = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{stderr}");
        // Twelve seconds at one frame a second are six units.
        assert!(stderr.contains("has 6 units and is repeated up to 210"), "{stderr}");
        let summary: Value = serde_json::from_slice(&run.stdout).unwrap();
        assert_eq!((&summary["settings"]["benchmark"], &summary["trials"]), (&benchmark.into(), &6.into()));
        let journal = std::fs::read_to_string(out.join("trials.jsonl")).unwrap();
        let rows: Vec<Value> = journal.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(rows.iter().all(|row| row["expected"] == "red"), "{journal}");
        // Six tokens a unit; the look-alike comes where 200 units fit.
        let tokens = |n: u64| rows.iter().find(|row| row["frames"] == n).unwrap()["tokens"].as_u64().unwrap();
        assert_eq!((tokens(9) - tokens(3), tokens(210) - tokens(9)), (6 * 6, 6 * (201 + n_alike)), "{journal}");
    }
}

/// The program: drawn needles, a stop, a second run that goes on, other settings refused, files written.
#[test]
fn the_program_goes_on_where_it_was_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
        command.args([
            "eval",
            "niah",
            "--lengths",
            "4,12",
            "--depths",
            "0,1",
            "--n-needles",
            "2",
            "--json",
            "--trained",
            "8",
        ]);
        command.arg("-o").arg(&out).args(more).output().unwrap()
    };
    let first = run(&[]);
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let journal = std::fs::read_to_string(out.join("trials.jsonl")).unwrap();
    assert_eq!(journal.lines().count(), 1 + 2 * 2 * 2);
    let summary: Value = serde_json::from_slice(&first.stdout).unwrap();
    // Half a journal, the last line torn.
    let cut = journal.len() / 2;
    std::fs::write(out.join("trials.jsonl"), &journal[..cut]).unwrap();
    let second = run(&[]);
    assert_eq!(serde_json::from_slice::<Value>(&second.stdout).unwrap(), summary);
    let mut lines: Vec<String> =
        std::fs::read_to_string(out.join("trials.jsonl")).unwrap().lines().map(str::to_string).collect();
    let mut before: Vec<String> = journal.lines().map(str::to_string).collect();
    lines.sort();
    before.sort();
    assert_eq!(lines, before);
    let cells: Vec<Value> = serde_json::from_slice(&std::fs::read(out.join("all_accuracies.json")).unwrap()).unwrap();
    assert_eq!(cells.len(), 4);
    let mean = cells.iter().map(|c| c["Score"].as_f64().unwrap()).sum::<f64>() / 4.0;
    assert!((mean - summary["score"].as_f64().unwrap()).abs() < 1e-9);
    assert!(std::fs::read_to_string(out.join("heatmap.svg")).unwrap().contains("Depth Percent"));
    assert_eq!(image::open(out.join("heatmap.png")).unwrap().width(), 2520);
    let other = run(&["--seed", "2"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&other.stderr).contains("seed `1`"));
}

#[test]
fn senseless_requests_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("needles.json");
    std::fs::write(&list, r#"[{"path": "../x.png", "prompt": "?", "answer": "a"}]"#).unwrap();
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/random_model/demo.mp4");
    let (clip, list) = (clip.to_str().unwrap(), list.to_str().unwrap());
    let cases: [(&[&str], &str); 8] = [
        (&["--lengths", "0"], "--lengths"),
        (&["--lengths", "5:9:0"], "--lengths"),
        (&["--lengths", "1:99999999999:1"], "--lengths"),
        (&["--depths", "0.5,nan"], "--depths"),
        (&["--frame", "57x56", "--lengths", "2"], "57x56"),
        (&["--temporal-scale", "-1", "--lengths", "2"], "temporal scale"),
        (&["--haystack", clip], "--needles"),
        (&["--haystack", clip, "--needles", list, "--lengths", "2", "--frame", "56x56"], "leaves the folder"),
    ];
    for (flags, expected) in cases {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
        let out = command.args(["eval", "niah", "-o"]).arg(dir.path().join("out")).args(flags).output().unwrap();
        let message = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && message.contains(expected), "{flags:?}: {message}");
        assert!(!message.contains("panicked"), "{flags:?}: {message}");
    }
}
