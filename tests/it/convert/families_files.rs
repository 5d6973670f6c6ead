//! Files of the newer families as others see them: smaller ones, what `inspect` says of them, files without our own keys, and what
//! llama.cpp asks for.

use longtake::convert::{ConvertOptions, FileType, QuantizeOptions, quantize};
use longtake::gguf::{GgmlType, Gguf, GgufWriter, Metadata};
use longtake::model::{HParams, LayerKind, VisionHParams};
use longtake::position::Layout;
use serde_json::Value as Json;

use super::families::{folders, wide};
use super::{converted, values};
use crate::common::{golden_experts, golden_families};

#[test]
fn every_file_becomes_smaller_and_what_is_small_stays_wide() {
    for family in ["q25", "q3", "q35"] {
        let dir = &folders(family)[0];
        let out = tempfile::tempdir().unwrap();
        let (text, mmproj) = converted(&ConvertOptions::new(dir, out.path().join("x.gguf")));
        for from in [&text, &mmproj] {
            let to = out.path().join("y.gguf");
            let options = QuantizeOptions::new(from.path(), &to, FileType::from_name("Q4_K_M").unwrap());
            let report = quantize(&options, &mut ()).unwrap();
            assert!(report.bytes_after <= report.bytes_before, "{family}");
            let gguf = Gguf::open(&to).unwrap();
            for info in gguf.tensors() {
                let small =
                    ["norm", "ssm_conv1d", "ssm_a", "ssm_dt", "ssm_alpha", "ssm_beta", "position_embd", "patch_embd"];
                let is_small = small.iter().any(|part| info.name.contains(part)) || info.ne.len() == 1;
                assert!(!is_small || info.ty.block_len() == 1, "{family}: {} is {}", info.name, info.ty);
            }
            let n_packed = gguf.tensors().iter().filter(|info| info.ty.block_len() > 1).count();
            assert!(n_packed > 0, "{family}: no tensor is packed");
            std::fs::remove_file(&to).unwrap();
        }
    }
}

#[test]
fn inspect_says_what_a_file_is_as_a_model() {
    let rows: [(&str, &[&str], &[&str]); 5] = [
        (
            "q3moe",
            &["text model of Qwen3-VL-MoE", "goes through 3 of 8 experts of 32 hidden elements\n", "first 2 layers"],
            &["Qwen3-VL-MoE", "taps behind blocks"],
        ),
        (
            "q35moe",
            &["2 recurrent", "goes through 3 of 8 experts of 32 hidden elements, and one of 40 for all"],
            &[
                "2 frames a second, 4 to 768, of 4096 to 25165824 pixels in all, no more than 12288 tokens; time in words",
            ],
        ),
        (
            "q25",
            &["text model of Qwen2-VL or Qwen2.5-VL", "layers: 3 of attention"],
            &[
                "windows of 4 tokens",
                "blocks 1, 3",
                "videos: 2 frames a second, 4 to 768, of 100352 to 602112 pixels each; time by the clock, 2 positions a second",
            ],
        ),
        (
            "q3",
            &["text model of Qwen3-VL", "first 3 layers"],
            &["Qwen3-VL or Qwen3.5", "32x32 pixels", "24x24 positions", "taps behind blocks 0, 2, 3"],
        ),
        (
            "q35",
            // (2 * 128 * 128 + 3 * (2 * 128 + 256)) * 4 bytes in each of three layers; one head of 256 in the other.
            &["layers: 1 of attention, 3 recurrent", "takes 1024 bytes", "keep 411648 bytes", "of which 64 rotate"],
            &["Qwen3.5"],
        ),
    ];
    for (family, text_says, tower_says) in rows {
        let root = if family.ends_with("moe") { golden_experts() } else { golden_families() };
        let dir = root.join(format!("checkpoints/{family}-a"));
        let out = tempfile::tempdir().unwrap();
        let (text, mmproj) = converted(&ConvertOptions::new(dir, out.path().join("x.gguf")));
        for (gguf, says) in [(text, text_says), (mmproj, tower_says)] {
            let run = |json: bool| {
                let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_longtake"));
                command.arg("inspect").arg(gguf.path()).args(json.then_some("--json"));
                String::from_utf8(command.output().unwrap().stdout).unwrap()
            };
            let told = run(false);
            for want in says {
                assert!(told.contains(want), "{family}: no `{want}` in\n{}", &told[..told.len().min(900)]);
            }
            let json: Json = serde_json::from_str(&run(true)).unwrap();
            assert!(json["model"]["families"].is_array(), "{family}");
            let n_expert = if family.ends_with("moe") { Json::from(8) } else { Json::Null };
            assert_eq!(json["model"]["n_expert"], if json["model"]["kind"] == "text" { n_expert } else { Json::Null });
            if json["model"]["kind"] == "tower" {
                let time = if family == "q25" { "clock" } else { "stamps" };
                assert_eq!(json["model"]["video"]["time"], time, "{family}");
            }
        }
    }
}

/// Experts are packed as one tensor each, routers stay as they are, and each expert has importances of its own.
#[test]
fn experts_become_smaller() {
    let out = tempfile::tempdir().unwrap();
    let dir = golden_experts().join("checkpoints/q35moe-a");
    let (text, _) = converted(&ConvertOptions::new(dir, out.path().join("x.gguf")));
    let name = "blk.1.ffn_down_exps.weight";
    let (n_ff, n) = (32, 8);
    // All that counts of expert e is column e: a column that counts for nothing may become anything.
    let sums = |is_one: bool| {
        let path = out.path().join(format!("{is_one}.im.gguf"));
        let mut meta = Metadata::default();
        meta.set("general.type", "imatrix");
        meta.set("imatrix.datasets", vec!["words.txt".to_string()]);
        let mut writer = GgufWriter::new(meta);
        writer.tensor(format!("{name}.in_sum2"), GgmlType::F32, &[n_ff, n]).unwrap();
        writer.tensor(format!("{name}.counts"), GgmlType::F32, &[1, n]).unwrap();
        let fill = |i: usize, out: &mut Vec<u8>| {
            let sum = |at: usize| if !is_one || at % n_ff == at / n_ff { 1e6f32 } else { 1e-6 };
            let values: Vec<f32> = if i == 0 { (0..n_ff * n).map(sum).collect() } else { vec![1.0; n] };
            values.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
            Ok(())
        };
        writer.write(&path, fill).unwrap();
        path
    };
    let error_of = |imatrix: Option<std::path::PathBuf>| {
        let to = out.path().join("y.gguf");
        let mut options = QuantizeOptions::new(text.path(), &to, FileType::from_name("IQ4_NL").unwrap());
        options.imatrix = imatrix;
        quantize(&options, &mut ()).unwrap();
        let gguf = Gguf::open(&to).unwrap();
        for info in gguf.tensors().iter().filter(|info| info.name.starts_with("blk.")) {
            let is_expert = info.name.contains("_exps");
            assert!(!is_expert || info.ty.block_len() == 32, "{} is {}", info.name, info.ty);
            assert!(!info.name.contains("gate_inp") || info.ty == GgmlType::F32, "{} is {}", info.name, info.ty);
        }
        let (before, after) = (values(&text, name), values(&gguf, name));
        // Of each expert the column with its own number.
        let own = |at: usize| at % n_ff == at / (before.len() / n);
        (0..before.len()).filter(|at| own(*at)).map(|at| (before[at] - after[at]).powi(2)).sum::<f32>()
    };
    let (plain, even, one) = (error_of(None), error_of(Some(sums(false))), error_of(Some(sums(true))));
    assert!(one < 0.7 * even && one < 0.7 * plain, "{plain} {even} {one}");
}

/// Files of other converters lack our keys, and say how layers alternate by an interval.
#[test]
fn files_without_our_keys_are_read_with_what_was_published() {
    for family in ["q25", "q3", "q35"] {
        let dir = golden_families().join(format!("checkpoints/{family}-a"));
        let out = tempfile::tempdir().unwrap();
        let (text, mmproj) = converted(&ConvertOptions::new(dir, out.path().join("x.gguf")));
        let stripped = |gguf: &Gguf, name: &str| {
            let mut meta = Metadata::default();
            let ours = [
                "longtake.",
                "clip.vision.tokens_per_second",
                "clip.vision.window_size",
                "qwen35.attention.recurrent_layers",
            ];
            let kept = gguf.meta().iter().filter(|(key, _)| !ours.iter().any(|ours| key.starts_with(ours)));
            kept.for_each(|(key, value)| meta.set(key, value.clone()));
            let path = out.path().join(name);
            let mut writer = GgufWriter::new(meta);
            gguf.tensors().iter().for_each(|t| writer.tensor(t.name.clone(), t.ty, &t.ne).unwrap());
            let copy = |i: usize, out: &mut Vec<u8>| {
                out.extend_from_slice(gguf.data(&gguf.tensors()[i]));
                Ok(())
            };
            writer.write(&path, copy).unwrap();
            Gguf::open(&path).unwrap()
        };
        let (a, b) = (HParams::from_gguf(&text).unwrap(), HParams::from_gguf(&stripped(&text, "t.gguf")).unwrap());
        assert_eq!((a.kinds, a.n_rot, a.n_deepstack), (b.kinds, b.n_rot, b.n_deepstack), "{family}");
        let (a, b) = (&mmproj, stripped(&mmproj, "v.gguf"));
        let (a, b) = (VisionHParams::from_gguf(a).unwrap(), VisionHParams::from_gguf(&b).unwrap());
        assert_eq!((a.windows, a.taps, a.n_pos_side), (b.windows, b.taps, b.n_pos_side), "{family}");
        assert_eq!(b.tokens_per_second, (family == "q25").then_some(2.0), "{family}");
    }
}

/// What llama.cpp's loaders insist on (`llama-model.cpp`, `models/*.cpp`, `clip.cpp`): every key, and every tensor of a layer with its
/// dimensions by name.
#[test]
fn the_files_hold_exactly_what_llama_cpp_asks_for() {
    let all = ["context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count"];
    let text_keys = [&all[..], &["attention.layer_norm_rms_epsilon", "rope.dimension_sections"]].concat();
    let ssm = ["ssm.conv_kernel", "ssm.inner_size", "ssm.state_size", "ssm.time_step_rank", "ssm.group_count"];
    let tower_keys = [
        "image_size",
        "patch_size",
        "embedding_length",
        "feed_forward_length",
        "block_count",
        "attention.head_count",
        "projection_dim",
        "attention.layer_norm_epsilon",
        "image_mean",
        "image_std",
    ];
    let (qkv, bias) =
        (["attn_q.weight", "attn_k.weight", "attn_v.weight"], ["attn_q.bias", "attn_k.bias", "attn_v.bias"]);
    let (norms, ffn) =
        (["attn_q_norm.weight", "attn_k_norm.weight"], ["ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"]);
    let common = ["attn_norm.weight", "attn_output.weight"];
    let delta = [
        "attn_norm.weight",
        "attn_qkv.weight",
        "attn_gate.weight",
        "ssm_conv1d.weight",
        "ssm_dt.bias",
        "ssm_a",
        "ssm_beta.weight",
        "ssm_alpha.weight",
        "ssm_norm.weight",
        "ssm_out.weight",
        "post_attention_norm.weight",
    ];
    let with_bias = |names: &[&str]| -> Vec<String> {
        names.iter().flat_map(|name| [format!("{name}.weight"), format!("{name}.bias")]).collect()
    };
    let split = with_bias(&["attn_q", "attn_k", "attn_v", "attn_out", "ffn_gate", "ffn_up", "ffn_down"]);
    let fused = with_bias(&["ln1", "ln2", "attn_qkv", "attn_out", "ffn_up", "ffn_down"]);
    for family in ["q25", "q3", "q35"] {
        for dir in folders(family) {
            let (text, mmproj) = wide(&dir, Layout::Mrope);
            let arch = text.meta().need_str("general.architecture").unwrap();
            let extra: &[&str] = if family == "q35" { &ssm } else { &[] };
            for key in text_keys.iter().chain(extra) {
                assert!(text.meta().get(&format!("{arch}.{key}")).is_some(), "{family}: {key}");
            }
            for key in tower_keys {
                assert!(mmproj.meta().get(&format!("clip.vision.{key}")).is_some(), "{family}: {key}");
            }
            let hp = HParams::from_gguf(&text).unwrap();
            let mut want: Vec<String> = vec!["token_embd.weight".into(), "output_norm.weight".into()];
            if text.tensor("output.weight").is_some() {
                want.push("output.weight".into());
            }
            for (il, kind) in hp.kinds.iter().enumerate() {
                let mut names = match (family, kind) {
                    ("q25", _) => [&common[..], &qkv, &bias, &["ffn_norm.weight"]].concat(),
                    ("q3", _) => [&common[..], &qkv, &norms, &["ffn_norm.weight"]].concat(),
                    (_, LayerKind::Attention) => [&common[..], &qkv, &norms, &["post_attention_norm.weight"]].concat(),
                    (_, LayerKind::Recurrent) => delta.to_vec(),
                };
                names.extend(ffn);
                want.extend(names.iter().map(|name| format!("blk.{il}.{name}")));
            }
            check_names(&text, want);

            let tower = VisionHParams::from_gguf(&mmproj).unwrap();
            let mut want = with_bias(&["mm.0", "mm.2"]);
            want.extend(["v.patch_embd.weight", "v.patch_embd.weight.1", "v.post_ln.weight"].map(String::from));
            if family != "q25" {
                want.extend(["v.patch_embd.bias", "v.position_embd.weight", "v.post_ln.bias"].map(String::from));
            }
            for il in 0..tower.n_layer {
                let norms = ["ln1.weight".to_string(), "ln2.weight".to_string()];
                let names = if family == "q25" { [&split[..], &norms].concat() } else { fused.clone() };
                want.extend(names.iter().map(|name| format!("v.blk.{il}.{name}")));
            }
            for tap in &tower.taps {
                want.extend(with_bias(&["norm", "fc1", "fc2"]).iter().map(|name| format!("v.deepstack.{tap}.{name}")));
            }
            check_names(&mmproj, want);
        }
    }
}

fn check_names(gguf: &Gguf, mut want: Vec<String>) {
    let mut got: Vec<String> = gguf.tensors().iter().map(|t| t.name.clone()).collect();
    got.sort();
    want.sort();
    assert_eq!(got, want, "{}", gguf.path().display());
}
