//! The program as a user meets it: goldens through the command line, the demo, a dialogue, and bad input of every kind.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use longtake::kernels::supported;
use longtake::position::Layout;
use serde_json::{Value, json};

use crate::common::{Arrays, golden, golden_json, max_abs_diff};

fn longtake(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_longtake")).args(args).stdin(Stdio::null()).output().unwrap()
}

/// Runs and expects success; returns stdout.
pub fn ok(args: &[&str]) -> String {
    let out = longtake(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A converted checkpoint in `dir`.
fn converted(dir: &Path, checkpoint: &str, layout: Layout, outtype: &str) -> PathBuf {
    let out = dir.join(format!("{checkpoint}-{layout}-{outtype}.gguf"));
    if !out.exists() {
        let input = golden().join("checkpoints").join(checkpoint);
        ok(&["convert", text(&input), "-o", text(&out), "--outtype", outtype, "--rope", layout.name()]);
    }
    out
}

fn save_png(path: &Path, h: usize, w: usize, rgb: &[u8]) {
    image::save_buffer(path, rgb, w as u32, h as u32, image::ExtendedColorType::Rgb8).unwrap();
}

/// Writes the media of a golden case as pictures and returns its messages with their paths filled in.
pub fn messages_of(dir: &Path, name: &str, entry: &Value, inputs: &Arrays) -> Value {
    let mut messages = entry["messages"].clone();
    let mut item = 0;
    for message in messages.as_array_mut().unwrap() {
        for part in message["content"].as_array_mut().into_iter().flatten() {
            let kind = part["type"].as_str().unwrap().to_string();
            if kind == "text" {
                continue;
            }
            let array = format!("rgb_{item}_{kind}");
            let (shape, data) = (inputs.shape(&array), inputs.u8(&array));
            let (h, w) = (shape[shape.len() - 3], shape[shape.len() - 2]);
            let mut path = dir.join(format!("{name}-{item}"));
            if kind == "image" {
                path.set_extension("png");
                save_png(&path, h, w, &data);
            } else {
                std::fs::create_dir_all(&path).unwrap();
                for (i, frame) in data.chunks_exact(h * w * 3).enumerate() {
                    save_png(&path.join(format!("{i}.png")), h, w, frame);
                }
            }
            part[kind.as_str()] = json!(text(&path));
            item += 1;
        }
    }
    messages
}

/// Every golden case and variant of the checkpoints at hand: pictures on disk, `--messages`, `--dump`, all arrays compared.
#[test]
fn goldens_come_out_of_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut n_runs = 0;
    for checkpoint in ["tiny-a", "tiny-b", "tiny-c"] {
        if !golden().join("checkpoints").join(checkpoint).is_dir() {
            eprintln!(
                "skipped: checkpoints/{checkpoint} is not in the committed selection, set LONGTAKE_GOLDEN to a whole set"
            );
            continue;
        }
        let index = golden_json(&format!("model/{checkpoint}/index.json"));
        let pixels = golden_json(&format!("checkpoints/{checkpoint}/preprocessor_config.json"));
        let (min, max) = (pixels["min_pixels"].to_string(), pixels["max_pixels"].to_string());
        for (name, entry) in index["cases"].as_object().unwrap() {
            let inputs = Arrays::open(&format!("model/{checkpoint}/{name}.inputs.safetensors"));
            let messages = messages_of(dir.path(), &format!("{checkpoint}-{name}"), entry, &inputs);
            let conversation = dir.path().join("messages.json");
            std::fs::write(&conversation, messages.to_string()).unwrap();
            for (label, info) in entry["variants"].as_object().unwrap() {
                let layout = Layout::from_name(info["variant"].as_str().unwrap()).unwrap();
                let model = converted(dir.path(), checkpoint, layout, "f32");
                let (dump, scale) = (dir.path().join("dump.safetensors"), info["scale"].to_string());
                let mut args =
                    vec!["run", "-m", text(&model), "--messages", text(&conversation), "--dump", text(&dump)];
                args.extend([
                    "--min-pixels",
                    &min,
                    "--max-pixels",
                    &max,
                    "-n",
                    "16",
                    "--temp",
                    "0",
                    "--ignore-eos",
                    "--json",
                ]);
                if layout.uses_temporal_scale() {
                    args.extend(["--temporal-scale", &scale]);
                }
                let answer: Value = serde_json::from_str(&ok(&args)).unwrap();
                let id = format!("{checkpoint}/{name}.{label}");
                let safe = info["safe_steps"].as_u64().unwrap() as usize;
                if safe == 16 {
                    assert_eq!(answer["text"], info["text"], "{id}");
                }
                let wanted = Arrays::open(&format!("model/{checkpoint}/{name}.{label}.safetensors"));
                compare(&id, &Arrays::at(&dump), &[&inputs, &wanted], safe);
                n_runs += 1;
            }
        }
    }
    assert!(n_runs > 0, "no checkpoint to run");
    println!("{n_runs} runs");
}

fn compare(id: &str, got: &Arrays, wanted: &[&Arrays], safe_steps: usize) {
    for (arrays, name) in wanted.iter().flat_map(|a| a.names().into_iter().map(move |n| (a, n))) {
        if name.starts_with("rgb_") {
            continue;
        }
        assert_eq!(got.shape(&name), arrays.shape(&name), "{id}: shape of {name}");
        let last = ["generated_margins", "logits_after_generated"].contains(&name.as_str());
        match name.as_str() {
            "input_ids" | "image_grid_thw" | "video_grid_thw" => {
                assert_eq!(got.i64(&name), arrays.i64(&name), "{id}: {name}")
            }
            "generated" => assert_eq!(got.i64(&name)[..safe_steps], arrays.i64(&name)[..safe_steps], "{id}: {name}"),
            _ if last && safe_steps < 16 => {}
            _ => {
                let (diff, tolerance) = (
                    max_abs_diff(&got.f32(&name), &arrays.f32(&name)),
                    if name == "position_ids" { 1e-4 } else { 2e-3 },
                );
                assert!(diff <= tolerance, "{id}: {name} off by {diff}");
            }
        }
    }
}

/// A real H.264 file goes in, the tokens that its frames call for come out: the same as from the frames as pictures.
#[test]
fn an_mp4_gives_what_its_frames_give() {
    let dir = tempfile::tempdir().unwrap();
    let model = converted(dir.path(), "tiny-b", Layout::Hope, "f32");
    let video = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/media/high_b.mp4");
    let mut source = longtake::media::open_video(&video).unwrap();
    let info = source.info().clone();
    let frames = longtake::media::sample::frame_indices(
        info.n_frames,
        info.fps,
        &Default::default(),
        &longtake::model::family::VideoRules::of(longtake::model::family::QWEN2_VL.video),
    )
    .unwrap();
    let folder = dir.path().join("frames");
    std::fs::create_dir(&folder).unwrap();
    for (i, index) in frames.iter().enumerate() {
        let rgb = source.frame(*index).unwrap();
        save_png(&folder.join(format!("{i:03}.png")), rgb.height, rgb.width, &rgb.data);
    }
    let run_with = |source: &Path, flags: &[&str]| {
        let args = ["run", "-m", text(&model), "--video", text(source), "-p", "What is it?", "-n", "8", "--ignore-eos"];
        let more = ["--json", "--min-pixels", "3136", "--max-pixels", "20000"];
        let answer: Value = serde_json::from_str(&ok(&[&args[..], &more[..], flags].concat())).unwrap();
        (answer["tokens"].clone(), answer["usage"].clone(), answer["media"][0]["grid_thw"].clone())
    };
    let run = |source: &Path| run_with(source, &[]);
    let from_file = run(&video);
    assert_eq!(from_file, run_with(&video, &["--safe-decode"]));
    for command in [&["run"][..], &["watch"], &["plan"], &["chat"], &["eval", "videomme"], &["eval", "niah"]] {
        assert!(ok(&[command, &["--help"]].concat()).contains("--safe-decode"), "{command:?}");
    }
    let planned = longtake(&["plan", "-m", text(&model), "--safe-decode", text(&video)]);
    let planned = String::from_utf8(planned.stderr).unwrap();
    assert!(planned.contains("(mp4/h264 (built-in, in a child process))"), "{planned}");
    assert_eq!(from_file, run(&folder));
    assert_eq!(from_file.2[0].as_u64().unwrap() as usize, frames.len() / 2);
}

#[test]
fn parts_keep_the_order_of_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let model = converted(dir.path(), "tiny-b", Layout::Mrope, "f32");
    let picture = dir.path().join("p.png");
    save_png(&picture, 28, 28, &[128; 28 * 28 * 3]);
    let ids = |parts: &[&str]| {
        let dump = dir.path().join("order.safetensors");
        ok(&[&["run", "-m", text(&model), "-n", "1", "--dump", text(&dump)], parts].concat());
        Arrays::at(&dump).i64("input_ids")
    };
    let before = ids(&["--image", text(&picture), "-p", "after"]);
    let after = ids(&["-p", "after", "--image", text(&picture)]);
    assert_ne!(before, after);
    let (mut sorted_before, mut sorted_after) = (before.clone(), after.clone());
    sorted_before.sort_unstable();
    sorted_after.sort_unstable();
    assert_eq!(sorted_before, sorted_after);
}

#[test]
fn the_demo_finds_what_it_hid() {
    let dir = tempfile::tempdir().unwrap();
    let demo = |seed: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
        command.args(["demo", "--json", "--seed", seed]).args(more).current_dir(dir.path()).stdin(Stdio::null());
        let out = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "seed {seed}: {stderr}");
        assert!(stderr.contains("h264 (built-in)"), "seed {seed}: {stderr}");
        (serde_json::from_slice::<Value>(&out.stdout).unwrap(), stderr)
    };
    // Several times the length of the videos that the model was trained with, in tokens.
    let mut wrong = Vec::new();
    for seed in 1..=20 {
        let (answer, _) = demo(&seed.to_string(), &["--tokens", "1152"]);
        assert_eq!(answer["media"][0]["frames"].as_array().unwrap().len(), 16, "every frame is looked at");
        assert_eq!(answer["symbols"].as_array().unwrap().len(), 1);
        if answer["correct"] != true {
            wrong.push(answer);
        }
    }
    assert!(wrong.len() <= 1, "of 20 answers wrong: {wrong:?}");
    // The video is kept where it is wanted, and another question is not judged.
    let (answer, stderr) =
        demo("3", &["--tokens", "288", "-o", "kept.mp4", "-p", "Which color is shown?", "--depth", "1"]);
    assert!(dir.path().join("kept.mp4").exists() && answer["correct"].is_null());
    assert!(stderr.contains("frame pair 2 of 2"), "{stderr}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left behind");
}

#[test]
fn a_dialogue_with_a_video() {
    let dir = tempfile::tempdir().unwrap();
    let model = converted(dir.path(), "tiny-b", Layout::Hope, "f32");
    let (folder, saved) = (dir.path().join("clip"), dir.path().join("talk.json"));
    std::fs::create_dir(&folder).unwrap();
    for i in 0..4u8 {
        save_png(&folder.join(format!("{i}.png")), 56, 56, &[i * 60; 56 * 56 * 3]);
    }
    let lines = format!(
        "/video {}\nWhat is it?\nAnd then?\n/save {}\n/nonsense\n/clear\nHello\n/quit\n",
        text(&folder),
        text(&saved)
    );
    let mut child = Command::new(env!("CARGO_BIN_EXE_longtake"))
        .args(["chat", "-m", text(&model), "-c", "400", "-n", "5", "--min-pixels", "3136", "--max-pixels", "3136"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{stderr}");
    assert!(stderr.contains("/nonsense is not known"), "{stderr}");
    let talk: Value = serde_json::from_str(&std::fs::read_to_string(&saved).unwrap()).unwrap();
    let roles: Vec<&str> = talk.as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
    // What was saved is a conversation that `run` takes: its first answer comes out again.
    let first = dir.path().join("first.json");
    std::fs::write(&first, json!([talk[0]]).to_string()).unwrap();
    let args = [
        "run",
        "-m",
        text(&model),
        "--messages",
        text(&first),
        "-n",
        "5",
        "--min-pixels",
        "3136",
        "--max-pixels",
        "3136",
        "-q",
        "--json",
    ];
    let again: Value = serde_json::from_str(&ok(&args)).unwrap();
    assert_eq!(again["text"], talk[1]["content"]);
}

#[test]
fn analyze_prints_the_golden_positions_and_rotations() {
    let cases = golden_json("positions.json");
    for case in cases["cases"].as_array().unwrap().iter().step_by(5) {
        let mut args = vec![
            "analyze".into(),
            "positions".into(),
            "--json".into(),
            "--layout".into(),
            case["variant"].as_str().unwrap().to_string(),
        ];
        for s in case["segments"].as_array().unwrap() {
            let m = &s["merged"];
            args.extend([
                "--segment".to_string(),
                match s["type"].as_str().unwrap() {
                    "text" => format!("text:{}", s["len"]),
                    "image" => format!("image:{}x{}", m[1], m[2]),
                    _ => format!("video:{}x{}x{}", m[0], m[1], m[2]),
                },
            ]);
        }
        for gamma in case["gammas"].as_array().into_iter().flatten() {
            args.extend(["--temporal-scale".to_string(), gamma.to_string()]);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let got: Value = serde_json::from_str(&ok(&args)).unwrap();
        for key in ["t", "h", "w", "next_pos", "decode_step"] {
            let numbers = |v: &Value| match v {
                Value::Array(list) => list.iter().map(|x| x.as_f64().unwrap()).collect(),
                one => vec![one.as_f64().unwrap()],
            };
            assert_eq!(numbers(&got[key]), numbers(&case[key]), "{} {key}", case["id"]);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let vector = dir.path().join("v.json");
    for case in golden_json("rotation.json")["cases"].as_array().unwrap().iter().step_by(9) {
        std::fs::write(&vector, case["q"].to_string()).unwrap();
        let (p, s) = (&case["pos"], &case["section"]);
        let (pos, sections) = (format!("{},{},{}", p[0], p[1], p[2]), format!("{},{},{}", s[0], s[1], s[2]));
        let (d, base) = (case["head_dim"].to_string(), case["base"].to_string());
        let args = ["analyze", "rotate", "--json", "--layout", case["variant"].as_str().unwrap(), "--head-dim", &d];
        let more = ["--rope-base", &base, "--pos", &pos, "--sections", &sections, "--vector", text(&vector)];
        let got: Value = serde_json::from_str(&ok(&[&args[..], &more[..]].concat())).unwrap();
        let largest = [0, 1, 2].map(|i| p[i].as_f64().unwrap().abs()).into_iter().fold(0.0, f64::max);
        for (key, golden, tolerance) in
            [("f64", "out_f64", 1e-11 * (1.0 + largest)), ("f32", "out_f32", 2.0 * (1e-6 + 3e-7 * largest))]
        {
            for (a, b) in got[key].as_array().unwrap().iter().zip(case[golden].as_array().unwrap()) {
                assert!((a.as_f64().unwrap() - b.as_f64().unwrap()).abs() <= tolerance, "{} {key}", case["id"]);
            }
        }
    }
}

#[test]
fn bench_prints_its_rows_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let model = converted(dir.path(), "tiny-b", Layout::Mrope, "f32");
    let args = [
        "bench",
        "-m",
        text(&model),
        "-p",
        "20",
        "-n",
        "3",
        "-d",
        "0,70",
        "-r",
        "2",
        "-e",
        "112x56",
        "-ctk",
        "q8_0",
        "-o",
    ];
    let video = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/random_model/demo.mp4");
    let rows: Value = serde_json::from_str(&ok(&[&args[..], &["json", "--video", video]].concat())).unwrap();
    let mut tests: Vec<&str> = rows.as_array().unwrap().iter().map(|r| r["test"].as_str().unwrap()).collect();
    assert!(tests.pop().unwrap().starts_with("video demo.mp4 "), "{rows}");
    assert_eq!(tests, ["pp20", "tg3", "pp20 @ d70", "tg3 @ d70", "encode 112x56"]);
    assert!(rows.as_array().unwrap().iter().all(|r| r["avg_ts"].as_f64().unwrap() > 0.0));
    assert_eq!(ok(&[&args[..], &["md"]].concat()).lines().count(), 2 + tests.len());
    assert_eq!(ok(&[&args[..], &["csv"]].concat()).lines().count(), 1 + tests.len());
}

/// Bad input of every kind: one line that names the culprit, the right exit code, nothing on stdout, never a panic.
#[test]
fn bad_input_gives_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let model = converted(dir.path(), "tiny-b", Layout::Mrope, "f32");
    let (m, missing) = (text(&model), dir.path().join("missing.mp4"));
    let mmproj = dir.path().join(format!("mmproj-{}", model.file_name().unwrap().to_str().unwrap()));
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let whole = std::fs::read(&model).unwrap();
    let cut = file("cut.gguf", &whole[..whole.len() / 2]);
    let empty = file("empty.gguf", b"");
    let not_gguf = file("text.gguf", b"this is no model");
    let noise =
        file("noise.mp4", &(0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>());
    let mut fake = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom".to_vec();
    fake.extend([0u8; 64]);
    let fake = file("fake.mp4", &fake);
    let picture = dir.path().join("wide.png");
    save_png(&picture, 1, 1000, &[0; 3000]);
    let small = dir.path().join("small.png");
    save_png(&small, 28, 28, &[0; 28 * 28 * 3]);
    let clip = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/random_model/demo.mp4");
    let broken_json = file("broken.json", b"[{\"role\": ");
    let wrong_json = file("wrong.json", b"[{\"role\":\"user\",\"content\":[{\"type\":\"smell\"}]}]");
    let empty_folder = dir.path().join("none");
    std::fs::create_dir(&empty_folder).unwrap();
    let other = converted(dir.path(), "tiny-b", Layout::Hope, "f16");
    let checkpoint = dir.path().join("checkpoint");
    std::fs::create_dir(&checkpoint).unwrap();
    file("checkpoint/config.json", b"{\"model_type\": \"qwen2_vl\"}");
    file("checkpoint/model.safetensors", &[&2u64.to_le_bytes()[..], b"{}"].concat());
    let pointer = file("pointer.gguf", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n");
    let zip = file("model.zip", b"PK\x03\x04rest");
    let tiny_c = golden().join("gguf_models/mmproj-tiny-c.gguf");
    let run =
        |more: &[&str]| [&["run", "-m", m, "-n", "1"], more].concat().into_iter().map(String::from).collect::<Vec<_>>();
    let raw = |args: &[&str]| args.iter().map(|a| a.to_string()).collect::<Vec<_>>();
    let rows: Vec<(Vec<String>, i32, &str)> = vec![
        (raw(&["run", "-m", text(&missing), "-p", "x"]), 1, "missing.mp4"),
        (raw(&["run", "-m", text(&empty), "-p", "x"]), 1, "empty.gguf"),
        (raw(&["run", "-m", text(&not_gguf), "-p", "x"]), 1, "magic"),
        (raw(&["run", "-m", text(&cut), "-p", "x"]), 1, "cut.gguf"),
        (raw(&["run", "-m", text(&mmproj), "-p", "x"]), 1, "projector"),
        (raw(&["run", "-m", text(dir.path()), "-p", "x"]), 2, "is a folder, expected a GGUF file; it holds "),
        (raw(&["run", "-m", text(&checkpoint), "-p", "x"]), 2, "longtake convert"),
        (raw(&["run", "-m", text(&empty_folder), "-p", "x"]), 2, "without GGUF files"),
        (raw(&["run", "-m", text(&checkpoint.join("model.safetensors")), "-p", "x"]), 1, "a safetensors file"),
        (raw(&["run", "-m", text(&checkpoint.join("config.json")), "-p", "x"]), 1, "a JSON file"),
        (raw(&["run", "-m", text(&pointer), "-p", "x"]), 1, "git lfs pull"),
        (raw(&["run", "-m", text(&zip), "-p", "x"]), 1, "a zip archive"),
        (raw(&["run", "-m", text(&clip), "-p", "x"]), 1, "--video"),
        (raw(&["run", "-m", text(&small), "-p", "x"]), 1, "--image"),
        (raw(&["inspect", text(&checkpoint)]), 2, "longtake convert"),
        (raw(&["run", "-m", m, "--mmproj", text(&other), "--image", text(&small)]), 1, "projector"),
        (raw(&["run", "-m", m, "--mmproj", text(&tiny_c), "--image", text(&small)]), 1, "`256`"),
        (raw(&["run", "-m", m, "--no-mmproj", "--image", text(&small)]), 2, "mmproj"),
        (raw(&["run", "-m", m]), 2, "nothing to answer"),
        (raw(&["run", "-m", m, "-p", "x", "--no-such-flag"]), 2, "--no-such-flag"),
        (raw(&["nonsense"]), 2, "nonsense"),
        (run(&["--video", text(&missing)]), 1, "missing.mp4"),
        (run(&["--video", text(&noise)]), 1, "noise.mp4"),
        (run(&["--video", text(&fake)]), 1, "fake.mp4"),
        (run(&["--video", text(&empty_folder)]), 2, "no images"),
        (run(&["--image", text(&noise)]), 1, "noise.mp4"),
        (run(&["--image", text(&picture)]), 2, "aspect ratio"),
        (run(&["--messages", text(&broken_json)]), 2, "broken.json"),
        (run(&["--messages", text(&wrong_json)]), 2, "smell"),
        (run(&["-p", "x", "-ctk", "q9_9"]), 2, "q9_9"),
        (run(&["-p", "x", "--temp", "NaN"]), 2, "temp"),
        (run(&["-p", "x", "--top-p", "2"]), 2, "top_p"),
        (run(&["-p", "x", "-t", "99999"]), 2, "99999"),
        (run(&["-p", "x", "-c", "3"]), 1, "`3`"),
        (run(&["-p", "x", "-c", "99999999999"]), 1, "99999999999"),
        (run(&["-p", "x", "-b", "0"]), 2, "batch"),
        (run(&["-p", "x", "--temporal-scale", "-1"]), 2, "-1"),
        (run(&["--image", text(&small), "--min-pixels", "99999999999999999999"]), 2, "min-pixels"),
        (run(&["--video", text(&small)]), 2, "still image"),
        (run(&["--video", text(&clip), "--fps", "0"]), 2, "fps"),
        (run(&["--video", text(&clip), "--start", "9", "--end", "3"]), 2, "video_start"),
        (run(&["-f", text(&noise)]), 2, "UTF-8"),
        (run(&["-p", "x", "--dump", "/nonexistent/folder/x.safetensors"]), 1, "/nonexistent"),
        (raw(&["convert", text(&missing), "-o", text(&dir.path().join("o.gguf"))]), 1, "missing.mp4"),
        (raw(&["convert", text(&empty_folder), "-o", text(&dir.path().join("o.gguf"))]), 2, "config.json"),
        (raw(&["quantize", m, text(&dir.path().join("o.gguf")), "Q9_X"]), 2, "Q9_X"),
        (raw(&["quantize", m, m, "Q8_0"]), 2, ""),
        (raw(&["inspect", text(&not_gguf)]), 1, "magic"),
        (raw(&["analyze", "positions", "--layout", "alibi", "--segment", "text:3"]), 2, "alibi"),
        (raw(&["analyze", "positions", "--layout", "hope", "--segment", "video:0x3x3"]), 2, "frame"),
        (raw(&["analyze", "rotate", "--layout", "hope", "--pos", "1,2", "--vector", text(&broken_json)]), 2, "1,2"),
    ];
    for (args, code, word) in rows {
        let out = longtake(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains("error"), "{args:?}: {stderr}");
        assert!(stderr.contains(word), "{args:?} should name {word}: {stderr}");
        assert!(!stderr.contains("panicked") && !stderr.contains("RUST_BACKTRACE"), "{args:?}: {stderr}");
        assert!(out.stdout.is_empty() || args.contains(&"--dump".to_string()), "{args:?} wrote to stdout");
        println!("{code}  {}", stderr.lines().find(|l| l.starts_with("error")).unwrap_or_default());
    }
    assert!(!dir.path().join("o.gguf").exists());
}

/// Runs `inspect --cpu` with variables of its own: nothing that the machine says may change its meaning.
fn inspect_cpu(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
    command.args(["inspect", "--cpu"]).args(args).stdin(Stdio::null());
    command.env_remove("LONGTAKE_KERNELS").envs(variables.iter().copied());
    command.output().unwrap()
}

#[test]
fn inspect_cpu_says_what_can_run_and_why_it_was_chosen() {
    let out = inspect_cpu(&["--json"], &[]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["arch"], std::env::consts::ARCH);
    let has = |name: &Value| report["features"][name.as_str().unwrap()].as_bool().expect("the feature is in the list");
    let kernels = report["kernels"].as_array().unwrap();
    for table in kernels {
        let needs = table["needs"].as_array().unwrap();
        let missing: Vec<&Value> = needs.iter().filter(|name| !has(name)).collect();
        assert_eq!(table["missing"].as_array().unwrap().iter().collect::<Vec<_>>(), missing, "{table}");
    }
    let runs = |table: &&Value| table["missing"].as_array().unwrap().is_empty();
    let runnable: Vec<&str> = kernels.iter().filter(runs).map(|table| table["name"].as_str().unwrap()).collect();
    assert_eq!(runnable, supported().iter().map(|table| table.name).collect::<Vec<_>>());
    assert_eq!(report["chosen"], **runnable.last().unwrap());
    assert_eq!(report["why"], "the fastest that can run here");
    let available = std::thread::available_parallelism().unwrap().get();
    assert_eq!(report["threads"]["default"], available);

    let text = String::from_utf8(inspect_cpu(&[], &[]).stdout).unwrap();
    for table in kernels {
        let name = table["name"].as_str().unwrap();
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
        assert_eq!(line.contains("can run, needs"), runs(&table), "{line}");
        for feature in table["missing"].as_array().unwrap() {
            assert!(line.contains("this CPU has no") && line.contains(feature.as_str().unwrap()), "{line}");
        }
    }
    assert!(text.contains(&format!("chosen    {}: the fastest", runnable.last().unwrap())), "{text}");
    assert!(text.contains(&format!("threads   {available}: ")), "{text}");
}

#[test]
fn inspect_cpu_tells_what_the_variable_decides() {
    let out = inspect_cpu(&[], &[("LONGTAKE_KERNELS", "SCALAR")]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("chosen    scalar: LONGTAKE_KERNELS is `SCALAR`"), "{text}");

    // The report comes all the same, for that is what it is for.
    let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
    for wanted in [foreign, "fast"] {
        let out = inspect_cpu(&["--json"], &[("LONGTAKE_KERNELS", wanted)]);
        let (report, err) =
            (serde_json::from_slice::<Value>(&out.stdout).unwrap(), String::from_utf8_lossy(&out.stderr));
        assert_eq!((out.status.code(), &report["chosen"]), (Some(2), &Value::Null));
        assert!(err.contains(&format!("`{wanted}` is no table of this build; expected one of scalar")), "{err}");
    }
    for table in serde_json::from_slice::<Value>(&inspect_cpu(&["--json"], &[]).stdout).unwrap()["kernels"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|table| !table["missing"].as_array().unwrap().is_empty())
    {
        let out = inspect_cpu(&[], &[("LONGTAKE_KERNELS", table["name"].as_str().unwrap())]);
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(2) && err.contains("cannot run here, this CPU has no"), "{err}");
    }
    assert_eq!(longtake(&["inspect", "--cpu", "model.gguf"]).status.code(), Some(2));
}

/// Layers on a GPU are a wish that a machine without one does not grant, and says so.
#[test]
fn layers_on_a_gpu_that_is_not_there_are_computed_by_the_cpu() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/random_model/demo.gguf");
    let listed = longtake(&["inspect", "--gpus"]);
    assert_eq!(longtake(&["inspect", "--cards"]), listed, "the flag's name before this one");
    if listed.status.success() {
        eprintln!("skipped: this machine has a GPU");
        return;
    }
    let reason = String::from_utf8_lossy(&listed.stderr).into_owned();
    let missing = if cfg!(feature = "cuda") { "driver" } else { "this binary has no CUDA" };
    assert!(reason.contains(missing), "{reason}");
    let ask = |ngl: &str| longtake(&["run", "-m", text(&demo), "-p", "hello", "-n", "3", "-ngl", ngl]);
    let (with, without) = (ask("all"), ask("0"));
    assert!(with.status.success() && with.stdout == without.stdout, "{}", String::from_utf8_lossy(&with.stderr));
    let warning = if cfg!(feature = "cuda") { "no layers on a GPU" } else { "this binary has no CUDA" };
    let warned = |out: &Output| String::from_utf8_lossy(&out.stderr).contains(warning);
    assert!(warned(&with) && !warned(&without));
    let wrong = ask("most");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("`most` is neither a number of layers nor `all`"));
}
