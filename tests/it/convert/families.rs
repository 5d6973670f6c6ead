//! Checkpoints of the newer families: every value is where the format wants it, found on a way of its own from the names,
//! and the keys are those that readers ask for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use longtake::convert::{ConvertOptions, FileType, convert};
use longtake::gguf::{Array, GgmlType, Gguf, Value};
use longtake::position::Layout;
use serde_json::{Value as Json, json};

use super::source::copy_folder;
use super::{checkpoint_tensors, converted, values};
use crate::common::{golden_experts, golden_families};

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The checkpoint folders of a family, at least one: `q3`, `q35`, `q25`.
pub fn folders(family: &str) -> Vec<PathBuf> {
    let dir = golden_families().join("checkpoints");
    let mut found: Vec<PathBuf> = std::fs::read_dir(&dir)
        .unwrap_or_else(|err| panic!("{}: {err}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().rsplit_once('-').unwrap().0 == family)
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no checkpoint of {family}");
    found
}

fn config(dir: &Path) -> Json {
    serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap()
}

/// Converts to F32, so that every value can be compared.
pub fn wide(dir: &Path, layout: Layout) -> (Gguf, Gguf) {
    let out = tempfile::tempdir().unwrap();
    let mut options = ConvertOptions::new(dir, out.path().join("x.gguf"));
    options.outtype = Some(FileType::from_name("f32").unwrap());
    options.layout = layout;
    converted(&options)
}

/// What a name of the file is called in the checkpoint, with the block's number as the checkpoint counts.
fn checkpoint_name(name: &str, family: &str, taps: &[usize]) -> String {
    let tower = if family == "q25" { "visual." } else { "model.visual." };
    let text = if family == "q25" { "model." } else { "model.language_model." };
    let plain: &[(&str, &str)] = &[
        ("token_embd.", "embed_tokens."),
        ("output_norm.", "norm."),
        ("v.position_embd.", "pos_embed."),
        ("v.patch_embd.bias", "patch_embed.proj.bias"),
        ("v.post_ln.", if family == "q25" { "merger.ln_q." } else { "merger.norm." }),
        ("mm.0.", if family == "q25" { "merger.mlp.0." } else { "merger.linear_fc1." }),
        ("mm.2.", if family == "q25" { "merger.mlp.2." } else { "merger.linear_fc2." }),
    ];
    if name == "output.weight" {
        return "lm_head.weight".to_string();
    }
    for (from, to) in plain {
        if let Some(rest) = name.strip_prefix(from) {
            let prefix = if from.starts_with('v') || from.starts_with("mm") { tower } else { text };
            return format!("{prefix}{to}{rest}");
        }
    }
    if let Some(rest) = name.strip_prefix("v.deepstack.") {
        let (block, rest) = rest.split_once('.').unwrap();
        let at = taps.iter().position(|tap| tap.to_string() == block).unwrap();
        return format!("{tower}deepstack_merger_list.{at}.{}", rest.replace("fc", "linear_fc"));
    }
    let (is_tower, rest) = match name.strip_prefix("v.blk.") {
        Some(rest) => (true, rest),
        None => (false, name.strip_prefix("blk.").unwrap_or_else(|| panic!("{name}"))),
    };
    let (block, rest) = rest.split_once('.').unwrap();
    let (part, end) = rest.split_once('.').unwrap_or((rest, ""));
    let inner = match (is_tower, part) {
        (true, "ln1") => "norm1",
        (true, "ln2") => "norm2",
        (true, "attn_qkv") => "attn.qkv",
        (true, "attn_out") => "attn.proj",
        (true, "ffn_up") if family != "q25" => "mlp.linear_fc1",
        (true, "ffn_down") if family != "q25" => "mlp.linear_fc2",
        (_, "ffn_gate") => "mlp.gate_proj",
        (_, "ffn_up") => "mlp.up_proj",
        (_, "ffn_down") => "mlp.down_proj",
        (false, "attn_norm") => "input_layernorm",
        (false, "ffn_norm" | "post_attention_norm") => "post_attention_layernorm",
        (false, "attn_q") => "self_attn.q_proj",
        (false, "attn_k") => "self_attn.k_proj",
        (false, "attn_v") => "self_attn.v_proj",
        (false, "attn_q_norm") => "self_attn.q_norm",
        (false, "attn_k_norm") => "self_attn.k_norm",
        (false, "attn_output") => "self_attn.o_proj",
        (false, "attn_qkv") => "linear_attn.in_proj_qkv",
        (false, "attn_gate") => "linear_attn.in_proj_z",
        (false, "ssm_conv1d") => "linear_attn.conv1d",
        (false, "ssm_dt") => return format!("{text}layers.{block}.linear_attn.dt_bias"),
        (false, "ssm_a") => return format!("{text}layers.{block}.linear_attn.A_log"),
        (false, "ssm_beta") => "linear_attn.in_proj_b",
        (false, "ssm_alpha") => "linear_attn.in_proj_a",
        (false, "ssm_norm") => "linear_attn.norm",
        (false, "ssm_out") => "linear_attn.out_proj",
        _ => panic!("no name in the checkpoint for {name}"),
    };
    let prefix = if is_tower { format!("{tower}blocks.") } else { format!("{text}layers.") };
    format!("{prefix}{block}.{inner}.{end}")
}

/// Value heads as a file orders them: head `j` of the file belongs to key head `j mod n_k`, and is the next one of it.
fn head_of(j: usize, n_k: usize, n_v: usize) -> usize {
    (j % n_k) * (n_v / n_k) + j / n_k
}

/// The values that a tensor of the file must have, from the checkpoint's.
fn expected(name: &str, shape: &[usize], from: &[f32], config: &Json) -> Vec<f32> {
    let number = |key: &str| config["text_config"][key].as_u64().unwrap() as usize;
    let recurrent =
        ["attn_gate", "ssm_", "attn_qkv"].iter().any(|part| name.contains(part)) && name.starts_with("blk.");
    if !recurrent {
        let is_sum = config["model_type"] == "qwen3_5" && name.ends_with("_norm.weight");
        return from.iter().map(|x| if is_sum { x + 1.0 } else { *x }).collect();
    }
    let (n_k, n_v, d) =
        (number("linear_num_key_heads"), number("linear_num_value_heads"), number("linear_key_head_dim"));
    let (rows, columns) = (shape[0], shape[1..].iter().product::<usize>());
    let mut out = vec![f32::NAN; from.len()];
    for r in 0..rows {
        for c in 0..columns {
            let (mut from_r, mut from_c) = (r, c);
            if name.contains("attn_qkv") || name.contains("ssm_conv1d") {
                let first = 2 * n_k * d;
                if r >= first {
                    from_r = first + head_of((r - first) / d, n_k, n_v) * d + (r - first) % d;
                }
            } else if name.contains("attn_gate") {
                from_r = head_of(r / d, n_k, n_v) * d + r % d;
            } else if name.contains("ssm_out") {
                from_c = head_of(c / d, n_k, n_v) * d + c % d;
            } else if !name.contains("ssm_norm") {
                from_r = head_of(r, n_k, n_v);
            }
            let x = from[from_r * columns + from_c];
            out[r * columns + c] = if name.ends_with("ssm_a") { -f64::from(x).exp() as f32 } else { x };
        }
    }
    out
}

/// Takes `name` out of what is left of the checkpoint.
fn take(left: &mut Tensors, name: &str) -> (Vec<usize>, Vec<f32>) {
    left.remove(name).unwrap_or_else(|| panic!("{name} is not in the checkpoint, or was used before"))
}

fn check_every_value(dir: &Path, family: &str, text: &Gguf, mmproj: &Gguf) {
    let config = config(dir);
    let taps: Vec<usize> = config["vision_config"]["deepstack_visual_indexes"]
        .as_array()
        .map(|list| list.iter().map(|i| i.as_u64().unwrap() as usize).collect())
        .unwrap_or_default();
    let mut left = checkpoint_tensors(dir);
    left.retain(|name, _| !name.starts_with("mtp."));
    let tower = if family == "q25" { "visual" } else { "model.visual" };
    for info in text.tensors().iter().chain(mmproj.tensors()) {
        let gguf = if text.tensor(&info.name).is_some() { text } else { mmproj };
        let name = info.name.as_str();
        let got = values(gguf, name);
        // Frames of the patch kernel.
        if name.starts_with("v.patch_embd.weight") {
            let (shape, from) = &left[&format!("{tower}.patch_embed.proj.weight")];
            let (k, frame) = (usize::from(name.ends_with(".1")), shape[3] * shape[4]);
            assert_eq!(info.ne, [shape[4], shape[3], shape[1], shape[0]], "{name}");
            let mut want = Vec::new();
            for at in 0..shape[0] * shape[1] {
                want.extend_from_slice(&from[(2 * at + k) * frame..][..frame]);
            }
            assert!(got == want, "{}: {name} differs", dir.display());
            continue;
        }
        // Thirds of what is fused in the checkpoint.
        let third = ["attn_q.", "attn_k.", "attn_v."].iter().position(|part| name.contains(part));
        if let (Some(third), true) = (third, name.starts_with("v.")) {
            let (block, end) = name.strip_prefix("v.blk.").unwrap().split_once('.').unwrap();
            let (_, end) = end.split_once('.').unwrap();
            let (_, from) = &left[&format!("{tower}.blocks.{block}.attn.qkv.{end}")];
            let n = from.len() / 3;
            assert!(got == from[third * n..][..n], "{}: {name} differs", dir.display());
            continue;
        }
        let (shape, from) = take(&mut left, &checkpoint_name(name, family, &taps));
        let want_ne: Vec<usize> = shape.iter().rev().copied().collect();
        let want_ne = if name.contains("ssm_conv1d") { vec![want_ne[0], want_ne[2]] } else { want_ne };
        assert_eq!(info.ne, want_ne, "{name}");
        let want = expected(name, &shape, &from, &config);
        assert!(got == want, "{}: {name} differs", dir.display());
    }
    left.retain(|name, _| {
        !(name.ends_with("patch_embed.proj.weight") || (family == "q25" && name.contains("attn.qkv")))
    });
    assert!(left.is_empty(), "left over: {:?}", left.keys());
}

#[test]
fn every_value_of_every_checkpoint_is_in_its_place() {
    for family in ["q25", "q3", "q35"] {
        for dir in folders(family) {
            let (text, mmproj) = wide(&dir, Layout::Mrope);
            check_every_value(&dir, family, &text, &mmproj);
        }
    }
}

fn bools(list: &[bool]) -> Value {
    Array::Bool(list.to_vec()).into()
}

/// What the file says of the key, compared.
fn check_keys(gguf: &Gguf, want: &[(&str, Value)]) {
    for (key, value) in want {
        assert_eq!(gguf.meta().get(key), Some(value), "{key}");
    }
}

fn number(config: &Json, path: &str) -> u32 {
    config.pointer(path).and_then(Json::as_u64).unwrap_or_else(|| panic!("{path}")) as u32
}

#[test]
fn keys_of_qwen2_5_vl() {
    for dir in folders("q25") {
        let config = config(&dir);
        let (text, mmproj) = wide(&dir, Layout::Mrope);
        let vision = |key: &str| number(&config, &format!("/vision_config/{key}"));
        let period = config["vision_config"]["fullatt_block_indexes"][0].as_u64().unwrap() as u32 + 1;
        check_keys(
            &mmproj,
            &[
                ("clip.projector_type", "qwen2.5vl_merger".into()),
                ("clip.use_silu", true.into()),
                ("clip.vision.n_wa_pattern", period.into()),
                ("clip.vision.window_size", vision("window_size").into()),
                ("clip.vision.tokens_per_second", (vision("tokens_per_second") as f32).into()),
                ("clip.vision.feed_forward_length", vision("intermediate_size").into()),
                ("clip.vision.embedding_length", vision("hidden_size").into()),
                ("clip.vision.projection_dim", number(&config, "/hidden_size").into()),
            ],
        );
        assert!(mmproj.meta().get("clip.vision.wa_layer_indexes").is_none());
        check_keys(&text, &[("general.architecture", "qwen2vl".into()), ("tokenizer.ggml.pre", "qwen2".into())]);
    }
}

#[test]
fn keys_of_qwen3_vl() {
    for dir in folders("q3") {
        let config = config(&dir);
        let (text, mmproj) = wide(&dir, Layout::Mrope);
        let taps = config["vision_config"]["deepstack_visual_indexes"].as_array().unwrap();
        let depth = number(&config, "/vision_config/depth");
        let is_tap: Vec<bool> = (0..depth).map(|i| taps.contains(&json!(i))).collect();
        let side = f64::from(number(&config, "/vision_config/num_position_embeddings")).sqrt() as u32;
        check_keys(
            &mmproj,
            &[
                ("clip.projector_type", "qwen3vl_merger".into()),
                ("clip.use_gelu", true.into()),
                ("clip.vision.is_deepstack_layers", bools(&is_tap)),
                ("clip.vision.image_size", (side * 16).into()),
                ("clip.vision.spatial_merge_size", 2u32.into()),
                ("clip.vision.image_mean", vec![0.5f32; 3].into()),
                ("longtake.video.longest_edge", video_edge(&dir, "longest_edge").into()),
                ("longtake.video.shortest_edge", video_edge(&dir, "shortest_edge").into()),
            ],
        );
        let head = number(&config, "/text_config/head_dim");
        check_keys(
            &text,
            &[
                ("general.architecture", "qwen3vl".into()),
                ("qwen3vl.attention.key_length", head.into()),
                ("qwen3vl.attention.value_length", head.into()),
                ("qwen3vl.n_deepstack_layers", (taps.len() as u32).into()),
                ("qwen3vl.rope.freq_base", 5e6f32.into()),
                ("tokenizer.ggml.pre", "qwen2".into()),
            ],
        );
    }
}

fn video_edge(dir: &Path, edge: &str) -> u32 {
    let json: Json =
        serde_json::from_slice(&std::fs::read(dir.join("video_preprocessor_config.json")).unwrap()).unwrap();
    number(&json, &format!("/size/{edge}"))
}

#[test]
fn keys_of_qwen3_5() {
    for dir in folders("q35") {
        let config = config(&dir);
        let (text, mmproj) = wide(&dir, Layout::Mrope);
        let of_text = |key: &str| number(&config, &format!("/text_config/{key}"));
        let part = config["text_config"]["rope_parameters"]["partial_rotary_factor"].as_f64().unwrap();
        let types = config["text_config"]["layer_types"].as_array().unwrap();
        let recurrent: Vec<bool> = types.iter().map(|ty| ty == "linear_attention").collect();
        check_keys(
            &text,
            &[
                ("general.architecture", "qwen35".into()),
                ("qwen35.block_count", of_text("num_hidden_layers").into()),
                ("qwen35.ssm.conv_kernel", 4u32.into()),
                ("qwen35.ssm.state_size", of_text("linear_key_head_dim").into()),
                ("qwen35.ssm.group_count", of_text("linear_num_key_heads").into()),
                ("qwen35.ssm.time_step_rank", of_text("linear_num_value_heads").into()),
                (
                    "qwen35.ssm.inner_size",
                    (of_text("linear_num_value_heads") * of_text("linear_value_head_dim")).into(),
                ),
                ("qwen35.attention.recurrent_layers", bools(&recurrent)),
                ("qwen35.rope.dimension_count", ((f64::from(of_text("head_dim")) * part) as u32).into()),
                ("tokenizer.ggml.pre", "qwen35".into()),
            ],
        );
        let depth = number(&config, "/vision_config/depth") as usize;
        check_keys(
            &mmproj,
            &[
                ("clip.projector_type", "qwen3vl_merger".into()),
                ("clip.vision.is_deepstack_layers", bools(&vec![false; depth])),
            ],
        );
        assert!(text.meta().get("qwen35.n_deepstack_layers").is_none());
    }
}

#[test]
fn hope_gets_names_of_its_own_and_layouts_of_other_families_are_refused() {
    let rows = [("q25", "qwen2vl-hope", "hope"), ("q3", "qwen3vl-hope", "hope-i"), ("q35", "qwen35-hope", "hope-i")];
    for (family, want, layout) in rows {
        let dir = &folders(family)[0];
        let (text, _) = wide(dir, Layout::Hope);
        check_keys(&text, &[("general.architecture", want.into()), (&format!("{want}.rope.layout"), layout.into())]);
        assert!(text.meta().get(&format!("{want}.block_count")).is_some());
        let out = tempfile::tempdir().unwrap();
        let mut options = ConvertOptions::new(dir, out.path().join("x.gguf"));
        options.layout = Layout::VideoRope;
        match convert(&options, &mut ()) {
            Ok(_) => assert_eq!(family, "q25"),
            Err(err) => assert!(family != "q25" && err.to_string().contains("videorope"), "{err}"),
        }
    }
}

/// A copy of a checkpoint whose configuration is bent.
fn bent(family: &str, bend: impl Fn(&mut Json)) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("model");
    copy_folder(&folders(family)[0], &dir);
    let mut config = config(&dir);
    bend(&mut config);
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    (folder, dir)
}

fn refusal(family: &str, bend: impl Fn(&mut Json)) -> String {
    let (folder, dir) = bent(family, bend);
    convert(&ConvertOptions::new(&dir, folder.path().join("x.gguf")), &mut ()).unwrap_err().to_string()
}

#[test]
fn flat_configurations_are_read_like_nested_ones() {
    for family in ["q3", "q35"] {
        let (_folder, dir) = bent(family, |config| {
            let text = config["text_config"].take();
            let map = config.as_object_mut().unwrap();
            map.remove("text_config");
            let own: Vec<String> = map.keys().cloned().collect();
            text.as_object().unwrap().iter().filter(|(key, _)| !own.contains(key)).for_each(|(key, value)| {
                map.insert(key.clone(), value.clone());
            });
        });
        let (flat, _) = wide(&dir, Layout::Mrope);
        let (nested, _) = wide(&folders(family)[0], Layout::Mrope);
        let keys = |gguf: &Gguf| -> Vec<(String, Value)> {
            let kept = gguf.meta().iter().filter(|(key, _)| *key != "general.name");
            kept.map(|(key, value)| (key.to_string(), value.clone())).collect()
        };
        assert_eq!(keys(&flat), keys(&nested));
    }
    // The text model of a newer save of Qwen2.5-VL is nested.
    let (_folder, dir) = bent("q25", |config| {
        let mut text = config.clone();
        let map = text.as_object_mut().unwrap();
        map.remove("vision_config");
        let names: Vec<String> =
            map.keys().filter(|key| *key != "model_type" && *key != "architectures").cloned().collect();
        names.iter().for_each(|key| drop(config.as_object_mut().unwrap().remove(key)));
        config["text_config"] = text;
    });
    let (nested, _) = wide(&dir, Layout::Mrope);
    check_keys(&nested, &[("qwen2vl.rope.freq_base", 1e6f32.into())]);
}

#[test]
fn an_irregular_choice_of_full_blocks_is_written_as_a_list() {
    let (_folder, dir) = bent("q25", |config| {
        config["vision_config"]["fullatt_block_indexes"] = json!([0, 3]);
        config["vision_config"].as_object_mut().unwrap().remove("tokens_per_second");
    });
    let (_, mmproj) = wide(&dir, Layout::Mrope);
    check_keys(
        &mmproj,
        &[
            ("clip.vision.wa_layer_indexes", vec![0i32, 3].into()),
            // The configuration class's default, as the reference reads such a file.
            ("clip.vision.tokens_per_second", 4.0f32.into()),
        ],
    );
    assert!(mmproj.meta().get("clip.vision.n_wa_pattern").is_none());
}

#[test]
fn an_interval_stands_in_for_layers_that_are_not_listed() {
    let (_folder, dir) = bent("q35", |config| {
        config["text_config"].as_object_mut().unwrap().remove("layer_types");
    });
    let (text, _) = wide(&dir, Layout::Mrope);
    check_keys(&text, &[("qwen35.attention.recurrent_layers", bools(&[true, true, true, false]))]);
}

#[test]
fn what_contradicts_itself_is_refused_by_name() {
    let of_text = |config: &mut Json, key: &str, value: Json| config["text_config"][key] = value;
    type Row = (&'static str, Box<dyn Fn(&mut Json)>, &'static str);
    let rows: Vec<Row> = vec![
        ("q35", Box::new(move |c| of_text(c, "layer_types", json!(["linear_attention"]))), "layer_types"),
        (
            "q35",
            Box::new(move |c| of_text(c, "layer_types", json!(["a", "full_attention", "b", "c"]))),
            "linear_attention",
        ),
        ("q35", Box::new(move |c| of_text(c, "layer_types", json!(vec!["full_attention"; 4]))), "linear_attn.A_log"),
        ("q35", Box::new(move |c| of_text(c, "attn_output_gate", json!(false))), "attn_output_gate"),
        ("q35", Box::new(move |c| of_text(c, "linear_num_key_heads", json!(3))), "n_dt / n_group"),
        ("q35", Box::new(move |c| of_text(c, "linear_value_head_dim", json!(64))), "in_proj_qkv"),
        (
            "q35",
            Box::new(|c| c["text_config"]["rope_parameters"]["partial_rotary_factor"] = json!(0.5)),
            "mrope_section",
        ),
        ("q35", Box::new(|c| c["vision_config"]["deepstack_visual_indexes"] = json!([1])), "deepstack_visual_indexes"),
        ("q3", Box::new(|c| c["vision_config"]["deepstack_visual_indexes"] = json!([0, 2, 9])), "`9`"),
        ("q3", Box::new(|c| c["vision_config"]["deepstack_visual_indexes"] = json!([0, 2])), "deepstack_merger_list.2"),
        ("q3", Box::new(|c| c["vision_config"]["num_position_embeddings"] = json!(577)), "no square"),
        ("q3", Box::new(|c| c["text_config"]["rope_scaling"]["mrope_interleaved"] = json!(false)), "mrope_interleaved"),
        ("q25", Box::new(|c| c["vision_config"]["hidden_act"] = json!("quick_gelu")), "hidden_act"),
        ("q25", Box::new(|c| c["vision_config"]["tokens_per_second"] = json!(0)), "tokens_per_second"),
    ];
    for (family, bend, want) in rows {
        let err = refusal(family, bend);
        assert!(err.contains(want), "{want}: {err}");
    }
}

#[test]
fn sixteen_bits_stay_and_small_tensors_are_wide() {
    for dir in folders("q35") {
        let out = tempfile::tempdir().unwrap();
        let (text, mmproj) = converted(&ConvertOptions::new(&dir, out.path().join("x.gguf")));
        for info in text.tensors().iter().chain(mmproj.tensors()) {
            let name = info.name.as_str();
            let is_wide = ["norm", "ssm_conv1d", "ssm_a", "ssm_dt", ".bias", "position_embd", ".ln", "post_ln"]
                .iter()
                .any(|part| name.contains(part))
                && !name.contains("ssm_alpha");
            if is_wide {
                assert_eq!(info.ty, GgmlType::F32, "{name}");
            } else if !name.contains("patch_embd") {
                assert!(matches!(info.ty, GgmlType::F16 | GgmlType::BF16), "{name} is {}", info.ty);
            }
        }
    }
}

/// Experts: gates and ups apart, matrices with outputs as rows however they were stored, routers and shared experts by name.
#[test]
fn experts_are_where_the_format_wants_them() {
    for (name, architecture) in [("q3moe-a", "qwen3vlmoe"), ("q35moe-a", "qwen35moe")] {
        let dir = golden_experts().join("checkpoints").join(name);
        let (config, left) = (config(&dir), checkpoint_tensors(&dir));
        let (text, _) = wide(&dir, Layout::Mrope);
        let of_text = |key: &str| number(&config, &format!("/text_config/{key}"));
        let (n, n_ff, n_embd) = (of_text("num_experts"), of_text("moe_intermediate_size"), of_text("hidden_size"));
        check_keys(
            &text,
            &[
                ("general.architecture", architecture.into()),
                (&format!("{architecture}.expert_count"), n.into()),
                (&format!("{architecture}.expert_used_count"), of_text("num_experts_per_tok").into()),
                (&format!("{architecture}.expert_feed_forward_length"), n_ff.into()),
            ],
        );
        let [n, n_ff, n_embd] = [n, n_ff, n_embd].map(|n| n as usize);
        let is_turned = architecture == "qwen3vlmoe";
        for il in 0..of_text("num_hidden_layers") {
            let source = |part: &str| &left[&format!("model.language_model.layers.{il}.mlp.{part}")].1;
            let file = |part: &str| {
                let name = format!("blk.{il}.{part}.weight");
                (text.tensor(&name).unwrap_or_else(|| panic!("{name}")).ne.clone(), values(&text, &name))
            };
            // Element (row, column) of an expert's matrix with so many rows and columns.
            let at = |all: &[f32], e: usize, (rows, columns): (usize, usize), (r, c): (usize, usize)| {
                all[e * rows * columns + if is_turned { c * rows + r } else { r * columns + c }]
            };
            let (both, down) = (source("experts.gate_up_proj"), source("experts.down_proj"));
            for (part, first) in [("ffn_gate_exps", 0), ("ffn_up_exps", n_ff)] {
                let (ne, got) = file(part);
                assert_eq!(ne, [n_embd, n_ff, n], "{name} {part}");
                for (i, x) in got.iter().enumerate() {
                    let (e, r, c) = (i / (n_ff * n_embd), i / n_embd % n_ff, i % n_embd);
                    assert_eq!(*x, at(both, e, (2 * n_ff, n_embd), (first + r, c)), "{name} {part} ({e}, {r}, {c})");
                }
            }
            let (ne, got) = file("ffn_down_exps");
            assert_eq!(ne, [n_ff, n_embd, n], "{name}");
            for (i, x) in got.iter().enumerate() {
                let (e, r, c) = (i / (n_ff * n_embd), i / n_ff % n_embd, i % n_ff);
                assert_eq!(*x, at(down, e, (n_embd, n_ff), (r, c)), "{name} ffn_down_exps ({e}, {r}, {c})");
            }
            assert!(file("ffn_gate_inp").1 == *source("gate.weight"), "{name}");
            if !is_turned {
                for (part, from) in [
                    ("ffn_gate_inp_shexp", "shared_expert_gate"),
                    ("ffn_gate_shexp", "shared_expert.gate_proj"),
                    ("ffn_up_shexp", "shared_expert.up_proj"),
                    ("ffn_down_shexp", "shared_expert.down_proj"),
                ] {
                    assert!(file(part).1 == *source(&format!("{from}.weight")), "{name} {part}");
                }
            }
        }
    }
}
