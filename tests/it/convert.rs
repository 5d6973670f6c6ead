//! Tests of the room `convert`: here checkpoints that convert, in the modules those that must not, interrupted writes,
//! and quantization.

mod families;
mod families_files;
mod faults;
mod interrupted;
mod quantize;
mod outputs;
mod recipes;
mod settings;
mod source;

use std::collections::BTreeMap;
use std::path::Path;

use longtake::convert::{ConvertOptions, FileType, convert};
use longtake::gguf::{Array, GgmlType, Gguf, Metadata, Value};
use longtake::position::Layout;
use longtake::tensor::dequantize_row;
use safetensors::{Dtype, SafeTensors};
use serde_json::json;
use source::{Source, hf_name, judge};

use crate::common::golden;

/// Converts with `options` into a fresh folder and opens both files.
fn converted(options: &ConvertOptions) -> (Gguf, Gguf) {
    let report = convert(options, &mut ()).unwrap_or_else(|err| panic!("{err}"));
    (Gguf::open(&report.text.path).unwrap(), Gguf::open(&report.mmproj.path).unwrap())
}

fn values(gguf: &Gguf, name: &str) -> Vec<f32> {
    let info = gguf.tensor(name).unwrap_or_else(|| panic!("{name} is missing"));
    let mut out = vec![0.0; info.n_elements()];
    dequantize_row(info.ty, gguf.data(info), &mut out).unwrap();
    out
}

/// Every tensor of a checkpoint folder by its published name: shape and values.
fn checkpoint_tensors(dir: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|end| end != "safetensors") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            let halves = || view.data().as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
            let values: Vec<f32> = match view.dtype() {
                Dtype::F32 => view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
                Dtype::F16 => halves().map(|b| half::f16::from_bits(b).to_f32()).collect(),
                Dtype::BF16 => halves().map(|b| half::bf16::from_bits(b).to_f32()).collect(),
                other => panic!("{name} is {other}"),
            };
            all.insert(name.to_string(), (view.shape().to_vec(), values));
        }
    }
    all
}

/// Every value of the checkpoint stands where it belongs, and nothing else is in the files.
fn check_values(dir: &Path, text: &Gguf, mmproj: &Gguf) {
    let mut left = checkpoint_tensors(dir);
    let n_source: usize = left.values().map(|(_, values)| values.len()).sum();
    let n_written: usize = text.tensors().iter().chain(mmproj.tensors()).map(|t| t.n_elements()).sum();
    assert_eq!(n_written, n_source);
    for gguf in [text, mmproj] {
        for info in gguf.tensors() {
            let Some(name) = hf_name(&info.name) else { continue };
            let (shape, want) = left.remove(&name).unwrap_or_else(|| panic!("{name} is not in the checkpoint"));
            assert_eq!(info.ne.iter().rev().copied().collect::<Vec<_>>(), shape, "{name}");
            assert!(values(gguf, &info.name) == want, "{name} differs");
        }
    }
    let (shape, want) = left.remove("visual.patch_embed.proj.weight").unwrap();
    let (frame, n_row) = (shape[3] * shape[4], shape[1] * shape[3] * shape[4]);
    for (k, name) in ["v.patch_embd.weight", "v.patch_embd.weight.1"].into_iter().enumerate() {
        let got = values(mmproj, name);
        assert_eq!(mmproj.tensor(name).unwrap().ne, [shape[4], shape[3], shape[1], shape[0]]);
        for (i, x) in got.iter().enumerate() {
            let (row, channel, at) = (i / n_row, i % n_row / frame, i % frame);
            assert_eq!(*x, want[((row * shape[1] + channel) * 2 + k) * frame + at], "{name} {i}");
        }
    }
    for (name, (shape, want)) in left {
        let (block, end) =
            name.strip_prefix("visual.blocks.").unwrap().split_once(".attn.qkv.").expect("only qkv is left");
        let got = ["q", "k", "v"].map(|part| values(mmproj, &format!("v.blk.{block}.attn_{part}.{end}"))).concat();
        assert_eq!(got.len(), shape.iter().product::<usize>());
        assert!(got == want, "{name} differs");
    }
}

/// Everything of the golden pair is in ours, byte for byte; beyond that ours has `extra` keys.
fn check_against_judge(text: &Gguf, mmproj: &Gguf) {
    let (want_text, want_mmproj) = judge();
    let pairs = [
        (text, want_text, vec![]),
        (mmproj, want_mmproj, vec!["clip.vision.image_max_pixels", "clip.vision.image_min_pixels"]),
    ];
    for (got, want, extra) in pairs {
        for (key, value) in want.meta().iter() {
            assert_eq!(got.meta().get(key), Some(value), "{key}");
        }
        let is_new = |key: &&str| want.meta().get(key).is_none() && !key.starts_with("tokenizer.");
        let mut new: Vec<&str> = got.meta().iter().map(|(key, _)| key).filter(is_new).collect();
        new.sort_unstable();
        let mut extra = extra;
        extra.extend(["general.name", "general.quantization_version", "general.size_label"]);
        extra.retain(|key| want.meta().get(key).is_none());
        extra.sort_unstable();
        assert_eq!(new, extra);
        assert_eq!(got.tensors().len(), want.tensors().len());
        for info in want.tensors() {
            let ours = got.tensor(&info.name).unwrap_or_else(|| panic!("{} is missing", info.name));
            assert_eq!((ours.ty, &ours.ne), (info.ty, &info.ne), "{}", info.name);
            assert!(got.data(ours) == want.data(info), "{} differs", info.name);
        }
    }
}

#[test]
fn shards_of_halves_become_f32_without_losing_a_bit() {
    let dir = golden().join("checkpoints/tiny-b");
    let out = tempfile::tempdir().unwrap();
    let mut options = ConvertOptions::new(&dir, out.path().join("b.gguf"));
    options.outtype = Some(FileType::from_name("f32").unwrap());
    let (text, mmproj) = converted(&options);
    assert!(mmproj.path().ends_with("mmproj-b.gguf"));
    for gguf in [&text, &mmproj] {
        assert!(gguf.tensors().iter().all(|t| t.ty == GgmlType::F32));
        assert_eq!(gguf.meta().uint("general.file_type").unwrap(), Some(0));
    }
    check_values(&dir, &text, &mmproj);
}

#[test]
fn keys_of_an_untied_checkpoint() {
    let out = tempfile::tempdir().unwrap();
    let mut options = ConvertOptions::new(golden().join("checkpoints/tiny-b"), out.path().join("b.gguf"));
    options.model_name = Some("A name".to_string());
    let (text, mmproj) = converted(&options);
    let f32s = |v: &[f32]| Value::from(v.to_vec());
    let rows: Vec<(&str, Value)> = vec![
        ("general.architecture", "qwen2vl".into()),
        ("general.type", "model".into()),
        ("general.name", "A name".into()),
        ("general.size_label", "1.5M".into()),
        ("general.file_type", 1u32.into()),
        ("general.quantization_version", 2u32.into()),
        ("qwen2vl.block_count", 3u32.into()),
        ("qwen2vl.context_length", 32768u32.into()),
        ("qwen2vl.embedding_length", 192u32.into()),
        ("qwen2vl.feed_forward_length", 416u32.into()),
        ("qwen2vl.attention.head_count", 3u32.into()),
        ("qwen2vl.attention.head_count_kv", 1u32.into()),
        ("qwen2vl.rope.freq_base", 100.0f32.into()),
        ("qwen2vl.attention.layer_norm_rms_epsilon", 1e-6f32.into()),
        ("qwen2vl.rope.dimension_sections", vec![8i32, 12, 12, 0].into()),
    ];
    let keys: Vec<(&str, Value)> = text
        .meta()
        .iter()
        .filter(|(key, _)| !key.starts_with("tokenizer."))
        .map(|(key, value)| (key, value.clone()))
        .collect();
    assert_eq!(keys, rows);
    assert_eq!(text.meta().need_strings("tokenizer.ggml.tokens").unwrap().len(), 1314);
    let rows: Vec<(&str, Value)> = vec![
        ("general.architecture", "clip".into()),
        ("general.type", "mmproj".into()),
        ("clip.has_vision_encoder", true.into()),
        ("clip.projector_type", "qwen2vl_merger".into()),
        ("clip.vision.attention.layer_norm_epsilon", 1e-6f32.into()),
        ("clip.vision.image_size", 560u32.into()),
        ("general.name", "A name".into()),
        ("general.size_label", "414K".into()),
        ("general.file_type", 1u32.into()),
        ("general.quantization_version", 2u32.into()),
        ("clip.vision.projection_dim", 192u32.into()),
        ("clip.vision.block_count", 2u32.into()),
        ("clip.vision.embedding_length", 80u32.into()),
        ("clip.vision.feed_forward_length", 192u32.into()),
        ("clip.vision.attention.head_count", 5u32.into()),
        ("clip.vision.patch_size", 14u32.into()),
        ("clip.vision.image_mean", f32s(&[0.48145466, 0.4578275, 0.40821073])),
        ("clip.vision.image_std", f32s(&[0.26862954, 0.261_302_6, 0.275_777_1])),
        ("clip.vision.image_min_pixels", 3136u32.into()),
        ("clip.vision.image_max_pixels", 50176u32.into()),
    ];
    let keys: BTreeMap<&str, &Value> = mmproj.meta().iter().collect();
    for (key, value) in &rows {
        assert_eq!(keys.get(key), Some(&value), "{key}");
    }
    assert_eq!(keys.len(), rows.len());
    // Stored in halves: matrices and patch kernels stay F16, vectors are F32.
    for info in text.tensors().iter().chain(mmproj.tensors()) {
        assert_eq!(info.ty, if info.ne.len() > 1 { GgmlType::F16 } else { GgmlType::F32 }, "{}", info.name);
    }
}

#[test]
fn a_rebuilt_checkpoint_gives_the_golden_pair() {
    let folder = Source::tiny_c().write();
    let (text, mmproj) = converted(&ConvertOptions::new(&folder.dir, folder.beside("c.gguf")));
    check_against_judge(&text, &mmproj);
    check_values(&folder.dir, &text, &mmproj);
}

#[test]
fn newer_saves_have_other_prefixes_and_nested_settings() {
    for (text_prefix, vision_prefix) in
        [("model.language_model.", "model.visual."), ("language_model.model.", "visual.")]
    {
        let mut source = Source::tiny_c();
        for t in &mut source.tensors {
            t.name = match t.name.strip_prefix("visual.") {
                Some(rest) => format!("{vision_prefix}{rest}"),
                None => format!("{text_prefix}{}", t.name.strip_prefix("model.").unwrap()),
            };
        }
        let mut config = source.config.clone();
        let mut nested = serde_json::Map::new();
        let top =
            ["architectures", "model_type", "vision_config", "tie_word_embeddings", "bos_token_id", "eos_token_id"];
        let map = config.as_object_mut().unwrap();
        for key in map.keys().cloned().collect::<Vec<_>>() {
            if !top.contains(&key.as_str()) {
                nested.insert(key.clone(), map.remove(&key).unwrap());
            }
        }
        let sections = nested.remove("rope_scaling").unwrap()["mrope_section"].clone();
        let theta = nested.remove("rope_theta").unwrap();
        nested.insert(
            "rope_parameters".to_string(),
            json!({"rope_type": "default", "mrope_section": sections, "rope_theta": theta}),
        );
        map.insert("text_config".to_string(), nested.into());
        // Trimmed vision settings: what is left out has the standard value.
        let vision = map["vision_config"].as_object_mut().unwrap();
        for key in ["mlp_ratio", "in_chans", "patch_size", "spatial_merge_size", "temporal_patch_size"] {
            vision.remove(key);
        }
        source.config = config;
        source.preprocessor = json!({
            "size": {"shortest_edge": 3136, "longest_edge": 12845056},
            "image_mean": source.preprocessor["image_mean"],
            "image_std": source.preprocessor["image_std"],
        });
        let folder = source.write();
        let (text, mmproj) = converted(&ConvertOptions::new(&folder.dir, folder.beside("c.gguf")));
        check_against_judge(&text, &mmproj);
    }
}

#[test]
fn every_golden_checkpoint_keeps_its_values() {
    for name in ["tiny-a", "tiny-b", "tiny-c"] {
        let dir = golden().join("checkpoints").join(name);
        if !dir.is_dir() {
            eprintln!("{name} is not in {}: skipped", golden().display());
            continue;
        }
        let out = tempfile::tempdir().unwrap();
        let (text, mmproj) = converted(&ConvertOptions::new(&dir, out.path()));
        check_values(&dir, &text, &mmproj);
        if name == "tiny-c" {
            check_against_judge(&text, &mmproj);
        }
        let encoding = match name {
            "tiny-a" => "F32",
            "tiny-b" => "F16",
            _ => "BF16",
        };
        assert!(text.path().ends_with(format!("{name}-{encoding}.gguf")), "{}", text.path().display());
        assert!(mmproj.path().ends_with(format!("mmproj-{name}-{encoding}.gguf")), "{}", mmproj.path().display());
    }
}

#[test]
fn the_same_checkpoint_gives_the_same_bytes() {
    let folder = Source::tiny_c().write();
    let mut options = ConvertOptions::new(&folder.dir, folder.beside("1.gguf"));
    options.outtype = Some(FileType::from_name("q8_0").unwrap());
    let bytes = |options: &ConvertOptions| {
        let report = convert(options, &mut ()).unwrap();
        [report.text.path, report.mmproj.path].map(|path| std::fs::read(path).unwrap())
    };
    let first = bytes(&options);
    options.output = folder.beside("2.gguf");
    assert!(bytes(&options) == first);
    // Once more over the files that are there.
    assert!(bytes(&options) == first);
    assert_eq!(folder.names_beside(), ["1.gguf", "2.gguf", "mmproj-1.gguf", "mmproj-2.gguf"]);
}

#[test]
fn other_layouts_get_their_own_architecture() {
    let folder = Source::tiny_c().write();
    let keys_of = |layout: Layout, scale: Option<f64>| -> (Metadata, String) {
        let mut options = ConvertOptions::new(&folder.dir, folder.beside("c.gguf"));
        (options.layout, options.temporal_scale) = (layout, scale);
        let (text, mmproj) = converted(&options);
        assert_eq!(mmproj.meta().need_str("general.architecture").unwrap(), "clip");
        let arch = text.meta().need_str("general.architecture").unwrap().to_string();
        assert_eq!(text.meta().need_uint(&format!("{arch}.block_count")).unwrap(), 2);
        (text.meta().clone(), arch)
    };
    let rows = [
        (Layout::Mrope, None, "qwen2vl", None),
        (Layout::Rope, None, "qwen2vl-rope", None),
        (Layout::Tad, None, "qwen2vl-tad", None),
        (Layout::VideoRope, None, "qwen2vl-videorope", Some(2.0)),
        (Layout::Hope, None, "qwen2vl-hope", Some(1.0)),
        (Layout::Hope, Some(0.75), "qwen2vl-hope", Some(0.75)),
        (Layout::HopeX, None, "qwen2vl-hopex", Some(1.0)),
    ];
    for (layout, asked, want_arch, want_scale) in rows {
        let (meta, arch) = keys_of(layout, asked);
        assert_eq!(arch, want_arch);
        let named = meta.str(&format!("{arch}.rope.layout")).unwrap();
        assert_eq!(named, (layout != Layout::Mrope).then_some(layout.name()));
        assert_eq!(meta.float(&format!("{arch}.rope.temporal_scale")).unwrap(), want_scale, "{arch}");
        let sections = meta.ints(&format!("{arch}.rope.dimension_sections")).unwrap().unwrap();
        assert_eq!(sections, if layout == Layout::HopeX { [32, 16, 16, 0] } else { [16, 24, 24, 0] });
        let foreign = |key: &str| key.starts_with("qwen2vl") && !key.starts_with(&format!("{arch}."));
        assert_eq!(meta.iter().find(|(key, _)| foreign(key)), None);
    }
    let mut options = ConvertOptions::new(&folder.dir, folder.beside("c.gguf"));
    options.temporal_scale = Some(1.0);
    assert!(convert(&options, &mut ()).unwrap_err().to_string().contains("mrope"));
    options.layout = Layout::Hope;
    for scale in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300] {
        options.temporal_scale = Some(scale);
        assert!(convert(&options, &mut ()).is_err(), "{scale}");
    }
}

#[test]
fn quantized_while_converting_is_the_same_as_afterwards() {
    let folder = Source::tiny_c().write();
    let plain = converted(&ConvertOptions::new(&folder.dir, folder.beside("c.gguf")));
    for name in ["Q8_0", "Q4_K_M", "IQ4_XS"] {
        let file_type = FileType::from_name(name).unwrap();
        let mut options = ConvertOptions::new(&folder.dir, folder.beside("q.gguf"));
        options.outtype = Some(file_type);
        let (text, mmproj) = converted(&options);
        assert_eq!(mmproj.meta().uint("general.file_type").unwrap(), Some(32), "the projector stays at 16 bits");
        let later = folder.beside("later.gguf");
        let options = longtake::convert::QuantizeOptions::new(plain.0.path(), &later, file_type);
        longtake::convert::quantize(&options, &mut ()).unwrap();
        let later = Gguf::open(&later).unwrap();
        assert_eq!(later.meta(), text.meta());
        assert_eq!(later.tensors(), text.tensors());
        for info in later.tensors() {
            assert!(later.data(info) == text.data(text.tensor(&info.name).unwrap()), "{}", info.name);
        }
    }
}

#[test]
fn a_projector_in_blocks_falls_back_where_rows_do_not_divide() {
    let out = tempfile::tempdir().unwrap();
    let mut options = ConvertOptions::new(golden().join("checkpoints/tiny-b"), out.path().join("b.gguf"));
    options.mmproj_outtype = Some(FileType::from_name("q8_0").unwrap());
    let (_, mmproj) = converted(&options);
    let ty = |name: &str| mmproj.tensor(name).unwrap().ty;
    assert_eq!(ty("v.blk.0.attn_q.weight"), GgmlType::F16, "80 columns");
    assert_eq!(ty("v.blk.0.ffn_down.weight"), GgmlType::Q8_0, "320 columns");
    assert_eq!(ty("mm.0.weight"), GgmlType::Q8_0);
    assert_eq!(ty("v.patch_embd.weight"), GgmlType::F32);
    assert_eq!(ty("v.patch_embd.weight.1"), GgmlType::F32);
    options.mmproj_outtype = Some(FileType::from_name("q4_0").unwrap());
    assert!(convert(&options, &mut ()).unwrap_err().to_string().contains("Q8_0"));
}

#[test]
fn a_tied_checkpoint_with_a_copy_of_the_head_leaves_it_out_and_says_so() {
    struct Notes(Vec<String>);
    impl longtake::convert::Progress for Notes {
        fn note(&mut self, message: &str) {
            self.0.push(message.to_string());
        }
    }
    let mut source = Source::tiny_c();
    let mut head = source.tensor("model.embed_tokens.weight").clone();
    head.name = "lm_head.weight".to_string();
    source.tensors.push(head);
    // A buffer that savers sometimes keep.
    let mut buffer = source.tensor("model.norm.weight").clone();
    buffer.name = "model.layers.1.self_attn.rotary_emb.inv_freq".to_string();
    source.tensors.push(buffer);
    let folder = source.write();
    let mut notes = Notes(Vec::new());
    let report = convert(&ConvertOptions::new(&folder.dir, folder.beside("c.gguf")), &mut notes).unwrap();
    assert_eq!(notes.0.len(), 1);
    assert!(notes.0[0].contains("`lm_head.weight`"), "{}", notes.0[0]);
    let text = Gguf::open(&report.text.path).unwrap();
    check_against_judge(&text, &Gguf::open(&report.mmproj.path).unwrap());
    // Untied, the same head is used.
    source.config["tie_word_embeddings"] = false.into();
    let folder = source.write();
    let (text, _) = converted(&ConvertOptions::new(&folder.dir, folder.beside("c.gguf")));
    assert!(values(&text, "output.weight") == values(&text, "token_embd.weight"));
}

#[test]
fn a_family_file_of_the_user_replaces_the_built_in_one() {
    let shipped = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/converters/qwen2_vl.toml")).unwrap();
    let mut source = Source::tiny_c();
    source.config["model_type"] = "my_vl".into();
    source.config["architectures"] = json!(["MyVL"]);
    source.config["n_floors"] = source.config["num_hidden_layers"].clone();
    source.tensor("model.norm.weight").name = "model.last_norm.weight".to_string();
    let folder = source.write();
    let mut options = ConvertOptions::new(&folder.dir, folder.beside("c.gguf"));
    let err = convert(&options, &mut ()).unwrap_err().to_string();
    assert!(err.contains("`my_vl`") && err.contains("qwen2_vl") && err.contains("--family"), "{err}");

    let mine = shipped
        .replace("model_type = [\"qwen2_vl\"]", "model_type = [\"my_vl\"]")
        .replace("from = [\"num_hidden_layers\", ", "from = [\"n_floors\", ")
        .replace("hf = \"norm.weight\"", "hf = \"last_norm.weight\"");
    let path = folder.beside("mine.toml");
    std::fs::write(&path, &mine).unwrap();
    options.family = Some(path.clone());
    let (text, mmproj) = converted(&options);
    check_against_judge(&text, &mmproj);

    // A family for something else, and faulty ones: the file and the field are named.
    std::fs::write(&path, &shipped).unwrap();
    let err = convert(&options, &mut ()).unwrap_err().to_string();
    assert!(err.contains("mine.toml") && err.contains("my_vl"), "{err}");
    for (from, to, want) in [
        ("min = 1\n", "min = \"one\"\n", "min"),
        ("type = \"u32\"", "type = \"u31\"", "u31"),
        ("[text]", "[text", "["),
        ("gguf = \"output_norm.weight\"", "", "gguf"),
    ] {
        std::fs::write(&path, mine.replacen(from, to, 1)).unwrap();
        let err = convert(&options, &mut ()).unwrap_err().to_string();
        assert!(err.contains("mine.toml") && err.contains(want), "{to}: {err}");
    }
    options.family = Some(folder.beside("absent.toml"));
    assert!(convert(&options, &mut ()).unwrap_err().to_string().contains("absent.toml"));
}

#[test]
fn settings_without_a_preprocessor_file_are_the_standard_ones() {
    let folder = Source::tiny_c().write();
    std::fs::remove_file(folder.dir.join("preprocessor_config.json")).unwrap();
    let (_, mmproj) = converted(&ConvertOptions::new(&folder.dir, folder.beside("c.gguf")));
    assert_eq!(mmproj.meta().get("clip.vision.image_min_pixels"), None);
    let mean = mmproj.meta().get("clip.vision.image_mean");
    assert_eq!(mean, Some(&Value::Array(Array::F32(vec![0.48145466, 0.4578275, 0.40821073]))));
}
