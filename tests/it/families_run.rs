//! The newer families from end to end: checkpoints converted, frames on disk, and the arrays of a run beside the goldens; a video
//! that was watched answers as one that is read.

use std::path::{Path, PathBuf};

use longtake::Longtake;
use longtake::model::LayerKind;
use longtake::position::Layout;
use serde_json::Value;

use crate::cli::{messages_of, ok, text};
use crate::common::{Arrays, families_json, family_models, golden_families, max_abs_diff};

/// A converted checkpoint in `dir`.
fn converted(dir: &Path, checkpoint: &str, layout: &str) -> PathBuf {
    let out = dir.join(format!("{checkpoint}-{layout}.gguf"));
    if !out.exists() {
        let input = golden_families().join("checkpoints").join(checkpoint);
        ok(&["convert", text(&input), "-o", text(&out), "--outtype", "f32", "--rope", layout]);
    }
    out
}

/// The layout of a variant as `convert` is told.
fn rope(family: &str, variant: &str) -> &'static str {
    match (variant, family) {
        ("published", "qwen2_5_vl") => "mrope",
        ("published", _) => "mrope-i",
        ("hope_i", _) => "hope-i",
        (other, _) => Layout::from_name(other).unwrap().name(),
    }
}

/// Every case and variant of the checkpoints at hand: tokens of both forms, positions, pixels, what the tower gives, logits, and
/// the greedy tokens where they are sure.
#[test]
fn goldens_of_the_families_come_out_of_the_command_line() {
    let (dir, mut n_runs) = (tempfile::tempdir().unwrap(), 0);
    for (checkpoint, index) in family_models() {
        let family = index["family"].as_str().unwrap();
        for (name, entry) in index["cases"].as_object().unwrap() {
            let inputs = Arrays::at(&golden_families().join(format!("model/{checkpoint}/{name}.inputs.safetensors")));
            let messages = messages_of(dir.path(), &format!("{checkpoint}-{name}"), entry, &inputs);
            let conversation = dir.path().join("messages.json");
            std::fs::write(&conversation, messages.to_string()).unwrap();
            for (label, info) in entry["variants"].as_object().unwrap() {
                let id = format!("{checkpoint}/{name}.{label}");
                let layout = rope(family, info["variant"].as_str().unwrap());
                let model = converted(dir.path(), &checkpoint, layout);
                let (dump, scale) = (dir.path().join("dump.safetensors"), info["scale"].to_string());
                let mut args =
                    vec!["run", "-m", text(&model), "--messages", text(&conversation), "--dump", text(&dump)];
                args.extend(["-n", "16", "--temp", "0", "--ignore-eos", "--json", "--where"]);
                if Layout::from_name(layout).unwrap().uses_temporal_scale() {
                    args.extend(["--temporal-scale", &scale]);
                }
                let is_b = info["form"] == "b";
                if is_b {
                    args.push("--keep-markers");
                }
                let answer: Value = serde_json::from_str(&ok(&args)).unwrap();
                // Where it looks is told of every family, of the layers that have attention.
                let looked = &answer["where"];
                let layers = Longtake::open(&model).unwrap().engine().text.hparams().kinds.clone();
                let n_layers = layers.iter().filter(|kind| **kind == LayerKind::Attention).count();
                let shares = looked["shares"].as_object().unwrap().values().map(|v| v.as_f64().unwrap());
                assert!((shares.sum::<f64>() - 1.0).abs() < 1e-9, "{id}: {looked}");
                assert!(looked["tokens"] == 16 && looked["layers"] == n_layers, "{id}: {looked}");
                let safe = info["safe_steps"].as_u64().unwrap() as usize;
                if safe == 16 {
                    assert_eq!(answer["text"], info["text"], "{id}");
                }
                let golden = golden_families().join(format!("model/{checkpoint}/{name}.{label}.safetensors"));
                let (got, wanted) = (Arrays::at(&dump), Arrays::at(&golden));
                let ids = if is_b { "input_ids_b" } else { "input_ids" };
                assert_eq!(got.i64("input_ids"), inputs.i64(ids), "{id}");
                assert_eq!(got.f32("position_ids"), wanted.f32("position_ids"), "{id}");
                assert_eq!(got.f32("generated_positions"), wanted.f32("generated_positions"), "{id}");
                let arrays = |kind: &str| [format!("{kind}_pixel_values"), format!("{kind}_vit_output")];
                for array in ["image", "video"].iter().flat_map(|kind| arrays(kind)) {
                    if inputs.has(&array) {
                        let diff = max_abs_diff(&got.f32(&array), &inputs.f32(&array));
                        let most = if array.ends_with("values") { 1e-5 } else { 2e-3 };
                        assert!(diff <= most, "{id}: {array} off by {diff}");
                    }
                }
                let diff = max_abs_diff(&got.f32("logits_last4"), &wanted.f32("logits_last4"));
                assert!(diff <= 2e-3, "{id}: logits off by {diff}");
                assert_eq!(got.i64("generated")[..safe], wanted.i64("generated")[..safe], "{id}");
                n_runs += 1;
            }
        }
    }
    assert!(n_runs >= 7, "{n_runs} runs");
}

/// A take answers as a run over the same frames, whatever is asked, and holds the words around the pairs.
#[test]
fn a_watched_video_answers_as_one_that_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for (checkpoint, index) in family_models() {
        let Some(entry) = index["cases"].get("video") else { continue };
        let inputs = Arrays::at(&golden_families().join(format!("model/{checkpoint}/video.inputs.safetensors")));
        let name = format!("{checkpoint}-video");
        messages_of(dir.path(), &name, entry, &inputs);
        let (frames, take) = (dir.path().join(format!("{name}-0")), dir.path().join(format!("{checkpoint}.take")));
        let layout = if checkpoint.starts_with("q25") { "mrope" } else { "mrope-i" };
        let model = converted(dir.path(), &checkpoint, layout);
        for keep in [None, Some("--keep-markers")] {
            let mut media = vec!["--fps", "2.4"];
            media.extend(keep);
            let watch = ["watch", "-m", text(&model), text(&frames), "-o", text(&take), "--again", "-q"];
            ok(&[&watch[..], &media].concat());
            let ask = ["-n", "8", "--temp", "0", "--ignore-eos", "-q"];
            let asked = ok(&[&["ask", text(&take), "Who is it?"][..], &ask].concat());
            let run = ["run", "-m", text(&model), "--video", text(&frames), "-p", "Who is it?"];
            let read = ok(&[&run[..], &ask, &media].concat());
            assert_eq!(asked, read, "{checkpoint} {keep:?}");
        }
    }
}

/// Table 3.2, T4: what is generated stands behind a video whose pairs are as far apart as its frame rate says, whatever it is.
#[test]
fn t4_generation_keeps_the_seconds_between_pairs() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, index) = family_models().into_iter().find(|(name, _)| name.starts_with("q25")).unwrap();
    let inputs = Arrays::at(&golden_families().join(format!("model/{checkpoint}/video.inputs.safetensors")));
    messages_of(dir.path(), "t4", &index["cases"]["video"], &inputs);
    let (frames, dump) = (dir.path().join("t4-0"), dir.path().join("dump.safetensors"));
    let model = converted(dir.path(), &checkpoint, "mrope");
    let config = families_json(&format!("checkpoints/{checkpoint}/config.json"));
    let (pad, mut behind) = (config["video_token_id"].as_i64().unwrap(), Vec::new());
    for fps in ["0.5", "0.7", "2.4"] {
        let args = ["run", "-m", text(&model), "--video", text(&frames), "--fps", fps, "-p", "What?", "-n", "4", "-q"];
        ok(&[&args[..], &["--temp", "0", "--ignore-eos", "--dump", text(&dump)]].concat());
        let got = Arrays::at(&dump);
        let (ids, pos) = (got.i64("input_ids"), got.f32("position_ids"));
        let times: Vec<f32> = (0..ids.len()).filter(|i| ids[*i] == pad).map(|i| pos[i]).collect();
        // Seven pairs of 14 frames, two ids a second.
        let seconds = 2.0 / fps.parse::<f32>().unwrap();
        let want: Vec<f32> = (0..7).map(|f| (f as f32 * seconds * 2.0).floor()).collect();
        let mut seen: Vec<f32> = times.iter().map(|t| t - times[0]).collect();
        seen.dedup();
        assert_eq!(seen, want, "{fps} frames a second");
        let last = pos.iter().copied().fold(f32::MIN, f32::max);
        let generated = got.f32("generated_positions");
        assert_eq!(generated[..4], [1.0, 2.0, 3.0, 4.0].map(|n| last + n), "{fps} frames a second");
        behind.push(generated[0]);
    }
    assert!(behind[0] > behind[1] && behind[1] > behind[2], "{behind:?}");
}
