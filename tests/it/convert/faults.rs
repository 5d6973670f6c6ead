//! Checkpoints that must be refused, with one error that names what is wrong, and nothing written. The numbers are those
//! of the fault checklist.

use longtake::convert::{ConvertOptions, FileType, convert};
use longtake::{Error, ErrorKind};
use safetensors::Dtype;
use serde_json::{Value as Json, json};

use super::source::{Folder, Source, Tensor};

/// Converts and expects an error; nothing may be left beside the checkpoint.
fn refused(folder: &Folder) -> Error {
    let before = folder.names_beside();
    let err = match convert(&ConvertOptions::new(&folder.dir, folder.beside("out.gguf")), &mut ()) {
        Ok(_) => panic!("the checkpoint was converted"),
        Err(err) => err,
    };
    assert_eq!(folder.names_beside(), before, "{err}");
    err
}

fn expect(folder: &Folder, wanted: &[&str]) {
    let err = refused(folder).to_string();
    for want in wanted {
        assert!(err.contains(want), "no `{want}` in: {err}");
    }
}

#[test]
fn item_15_unknown_missing_and_misshaped_tensors_are_listed_at_once() {
    let mut source = Source::tiny_c();
    source.tensor("model.layers.0.mlp.up_proj.weight").name = "model.layers.0.mlp.side_proj.weight".to_string();
    source.tensor("visual.merger.mlp.2.bias").name = "visual.merger.mlp.3.bias".to_string();
    source.tensor("model.layers.1.self_attn.k_proj.bias").name = "model.layers.2.self_attn.k_proj.bias".to_string();
    source.tensor("model.norm.weight").shape = vec![128, 2];
    source.tensor("model.layers.1.mlp.down_proj.weight").shape = vec![512, 256];
    let typed = source.tensor("visual.blocks.1.norm2.weight");
    typed.dtype = Dtype::I16;
    let mut twice = source.tensor("model.layers.0.input_layernorm.weight").clone();
    twice.name = "model.language_model.layers.0.input_layernorm.weight".to_string();
    source.tensors.push(twice);
    let folder = source.write();
    expect(
        &folder,
        &[
            "3 unknown",
            "`model.layers.0.mlp.side_proj.weight`",
            "`visual.merger.mlp.3.bias`",
            "`model.layers.2.self_attn.k_proj.bias`",
            "3 missing",
            "`model.layers.0.mlp.up_proj.weight`",
            "`visual.merger.mlp.2.bias`",
            "`model.layers.1.self_attn.k_proj.bias`",
            "2 of another shape",
            "`model.norm.weight` is [128, 2], expected [256]",
            "`model.layers.1.mlp.down_proj.weight` is [512, 256], expected [256, 512]",
            "`visual.blocks.1.norm2.weight` is I16",
            "1 for one place twice",
            "`model.language_model.layers.0.input_layernorm.weight`",
        ],
    );
}

#[test]
fn item_15_an_untied_checkpoint_needs_its_head() {
    let mut source = Source::tiny_c();
    source.config["tie_word_embeddings"] = false.into();
    expect(&source.write(), &["1 missing", "`lm_head.weight`"]);
}

#[test]
fn item_16_hostile_settings_are_named() {
    let rows: Vec<(&str, Json, &str)> = vec![
        ("num_attention_heads", json!(0), "expected 1 to"),
        ("num_attention_heads", json!(3), "not a multiple"),
        ("num_key_value_heads", json!(0), "expected 1 to"),
        ("num_attention_heads", json!(256), "rope sections"),
        ("num_hidden_layers", json!(1_000_000_000), "expected 1 to 512"),
        ("num_hidden_layers", json!(u64::MAX), "whole number"),
        ("num_hidden_layers", json!(-1), "whole number"),
        ("num_hidden_layers", json!("2"), "whole number"),
        ("num_hidden_layers", json!(1.5), "whole number"),
        ("num_hidden_layers", json!(null), "is missing"),
        ("num_hidden_layers", json!([[[]]]), "whole number"),
        ("hidden_size", json!(4294967295u32), "expected 2 to"),
        ("rms_norm_eps", json!(0), "expected"),
        ("rms_norm_eps", json!(-1e-6), "expected"),
        ("rms_norm_eps", json!("NaN"), "a number"),
        ("rope_theta", json!(0), "expected 1 to"),
        ("rope_theta", json!(1e300), "a number"),
        ("vocab_size", json!(0), "expected 1 to"),
        ("rope_scaling", json!({"type": "mrope", "mrope_section": [16, 24, 25]}), "sum"),
        ("rope_scaling", json!({"type": "mrope", "mrope_section": [-16, 40, 40]}), "expected 0 to"),
        ("rope_scaling", json!({"type": "mrope", "mrope_section": [64]}), "entries"),
        ("rope_scaling", json!({"type": "yarn", "mrope_section": [16, 24, 24]}), "\"yarn\""),
        ("hidden_act", json!("gelu"), "\"gelu\""),
        ("use_sliding_window", json!(true), "use_sliding_window"),
        ("vision_config", json!({"depth": 2, "embed_dim": 128, "num_heads": 4, "spatial_merge_size": 4}), "merge_size"),
        ("vision_config", json!({"depth": 2, "embed_dim": 128, "num_heads": 4, "temporal_patch_size": 1}), "temporal"),
        ("vision_config", json!({"depth": 2, "embed_dim": 128, "num_heads": 0}), "num_heads"),
        ("vision_config", json!({"depth": 2, "embed_dim": 128, "num_heads": 4, "patch_size": 0}), "patch_size"),
    ];
    for (key, value, want) in rows {
        let mut source = Source::tiny_c();
        // The weights are never reached: one file with one tensor is enough.
        source.tensors.truncate(1);
        source.config[key] = value.clone();
        let err = refused(&source.write());
        let text = err.to_string();
        assert!(text.contains(want) && text.contains("config.json"), "{key} = {value}: {text}");
    }
    let mut source = Source::tiny_c();
    source.tensors.truncate(1);
    source.config["hidden_act"] = "relu".into();
    source.config["num_hidden_layers"] = 0.into();
    source.preprocessor["image_std"] = json!([0.0, 0.5, 0.5]);
    expect(
        &source.write(),
        &["3 configuration values", "relu", "num_hidden_layers", "preprocessor_config.json: `image_std`"],
    );
}

#[test]
fn item_21_shards_that_are_missing_or_hold_something_else() {
    let source = Source::tiny_c();
    let (folder, _) = source.write_shards();
    std::fs::remove_file(folder.dir.join("model-00002-of-00002.safetensors")).unwrap();
    expect(&folder, &["model-00002-of-00002.safetensors"]);

    let (folder, mut index) = source.write_shards();
    let name = source.tensors[0].name.clone();
    index["weight_map"][&name] = "model-00002-of-00002.safetensors".into();
    index["weight_map"]["model.extra"] = "model-00001-of-00002.safetensors".into();
    index["weight_map"].as_object_mut().unwrap().remove(&source.tensors[1].name);
    folder.write("model.safetensors.index.json", index.to_string());
    let first = "model-00001-of-00002.safetensors";
    expect(
        &folder,
        &[
            "index.json",
            &format!("`{name}` is in `{first}`"),
            "`model.extra` is not in",
            &format!("`{}` in", source.tensors[1].name),
        ],
    );

    // The same tensor in both files.
    let (folder, _) = source.write_shards();
    let second = folder.dir.join("model-00002-of-00002.safetensors");
    std::fs::copy(folder.dir.join(first), second).unwrap();
    expect(&folder, &["is in `model-00001-of-00002.safetensors` and in"]);

    for (index, want) in [
        (json!({"metadata": {}}), "weight_map"),
        (json!({"weight_map": {"a": 1}}), "file name"),
        (json!({"weight_map": {"a": "pytorch_model.bin"}}), "not a .safetensors"),
        (json!([]), "object"),
    ] {
        let (folder, _) = source.write_shards();
        folder.write("model.safetensors.index.json", index.to_string());
        expect(&folder, &["index.json", want]);
    }
}

#[test]
fn item_22_broken_weight_files_are_refused() {
    let good = {
        let folder = Source::tiny_c().write();
        std::fs::read(folder.dir.join("model.safetensors")).unwrap()
    };
    let n_header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let with_length = |n: u64| [&n.to_le_bytes()[..], &good[8..]].concat();
    let with_header =
        |header: String| [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &good[8 + n_header..]].concat();
    let header = || -> Json { serde_json::from_slice(&good[8..8 + n_header]).unwrap() };
    let norm = "model.norm.weight";
    let bent = |f: &dyn Fn(&mut Json)| {
        let mut h = header();
        f(&mut h);
        with_header(h.to_string())
    };
    let text = String::from_utf8(good[8..8 + n_header].to_vec()).unwrap();
    let rows: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "`0` bytes"),
        ("seven bytes", good[..7].to_vec(), "`7` bytes"),
        ("header of 2^64 - 1", with_length(u64::MAX), "exceeds 100000000"),
        ("header just above the cap", with_length(100_000_001), "exceeds 100000000"),
        ("header past the end", with_length(99_999_999), "exceeds the file's"),
        ("cut header", good[..n_header / 2].to_vec(), "exceeds the file's"),
        ("cut data", good[..good.len() - 1].to_vec(), "cover"),
        ("trailing byte", [&good[..], b"x"].concat(), "cover"),
        ("no object", with_header("[]".to_string()), "start"),
        ("no JSON", with_header(format!("{{{}", "[".repeat(1000))), "header"),
        ("not UTF-8", with_header("{\"a\":\"\u{0}".to_string()), "header"),
        ("overlap", bent(&|h| h[norm]["data_offsets"] = json!([0, 512])), "offset"),
        ("reversed", bent(&|h| h[norm]["data_offsets"] = json!([512, 0])), "offset"),
        ("hole", bent(&|h| drop(h.as_object_mut().unwrap().remove(norm))), "offset"),
        ("shape overflow", bent(&|h| h[norm]["shape"] = json!([u64::MAX, 2])), "overflow"),
        ("other size", bent(&|h| h[norm]["shape"] = json!([257])), "shape"),
        ("unknown type", bent(&|h| h[norm]["dtype"] = json!("F31")), "F31"),
        ("no type", bent(&|h| drop(h[norm].as_object_mut().unwrap().remove("dtype"))), "dtype"),
        ("key twice", with_header(format!("{{\"{norm}\":{},{}", header()[norm], &text[1..])), "stands twice"),
    ];
    for (what, bytes, want) in rows {
        let mut source = Source::tiny_c();
        source.tensors.truncate(1);
        let folder = source.write();
        folder.write("model.safetensors", &bytes);
        let err = refused(&folder).to_string();
        assert!(err.contains(want) && err.contains("model.safetensors"), "{what}: {err}");
    }
}

#[test]
fn item_23_an_index_cannot_lead_out_of_the_folder() {
    let source = Source::tiny_c();
    for name in [
        "../model.safetensors",
        "/etc/model.safetensors",
        "a/../../b.safetensors",
        "sub/x.safetensors",
        "..\\x.safetensors",
        "C:x.safetensors",
        "a\0b.safetensors",
        ".safetensors/",
    ] {
        let (folder, mut index) = source.write_shards();
        std::fs::copy(folder.dir.join("model-00001-of-00002.safetensors"), folder.beside("model.safetensors")).unwrap();
        index["weight_map"][&source.tensors[0].name] = name.into();
        folder.write("model.safetensors.index.json", index.to_string());
        let err = refused(&folder).to_string();
        assert!(err.contains("index.json"), "{name:?}: {err}");
        assert!(err.contains("leads out of the folder") || name.ends_with('/'), "{name:?}: {err}");
    }
}

#[cfg(unix)]
#[test]
fn item_23_links_cannot_lead_out_of_the_folder() {
    use std::os::unix::fs::symlink;
    let source = Source::tiny_c();
    for name in ["model-00001-of-00002.safetensors", "config.json", "model.safetensors.index.json", "tokenizer.json"] {
        let (folder, _) = source.write_shards();
        let outside = folder.beside("outside");
        std::fs::rename(folder.dir.join(name), &outside).unwrap();
        symlink(&outside, folder.dir.join(name)).unwrap();
        expect(&folder, &[name, "link", "cp -rL"]);
    }
    // Links within the folder are fine; links in a circle are not.
    let (folder, _) = source.write_shards();
    let (name, inside) = ("model-00001-of-00002.safetensors", folder.dir.join("blob"));
    std::fs::rename(folder.dir.join(name), &inside).unwrap();
    symlink("blob", folder.dir.join(name)).unwrap();
    convert(&ConvertOptions::new(&folder.dir, folder.beside("fine.gguf")), &mut ()).unwrap();
    std::fs::remove_file(&inside).unwrap();
    symlink(name, &inside).unwrap();
    expect(&folder, &[name]);
    // Something that would never end is not opened.
    std::fs::remove_file(folder.dir.join(name)).unwrap();
    std::fs::create_dir(folder.dir.join(name)).unwrap();
    expect(&folder, &[name, "regular file"]);
}

#[test]
fn item_24_pickled_weights_are_refused_with_the_reason() {
    for name in ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "consolidated.00.pth"] {
        let folder = Source::tiny_c().write();
        std::fs::rename(folder.dir.join("model.safetensors"), folder.dir.join(name)).unwrap();
        folder.write("training_args.bin", "x");
        let err = refused(&folder);
        assert_eq!(err.kind(), ErrorKind::Unsupported);
        let text = err.to_string();
        assert!(text.contains(name) && text.contains("pickle") && text.contains("safetensors"), "{text}");
    }
    let folder = Source::tiny_c().write();
    std::fs::rename(folder.dir.join("model.safetensors"), folder.dir.join("adapter_model.safetensors")).unwrap();
    expect(&folder, &["adapter"]);
    std::fs::remove_file(folder.dir.join("adapter_model.safetensors")).unwrap();
    expect(&folder, &["neither"]);
}

#[test]
fn folders_that_are_no_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let run = |input: &std::path::Path| {
        convert(&ConvertOptions::new(input, dir.path().join("out.gguf")), &mut ()).unwrap_err()
    };
    assert_eq!(run(&dir.path().join("absent")).kind(), ErrorKind::NotFound);
    assert!(run(dir.path()).to_string().contains("config.json"));
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(run(&file).to_string().contains("folder"));
    for (config, want) in [("", "EOF"), ("[1]", "object"), ("{", "EOF"), (&"[".repeat(100_000), "recursion")] {
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let err = run(dir.path()).to_string();
        assert!(err.contains("config.json") && err.contains(want), "{err}");
    }
    let huge = std::fs::File::create(dir.path().join("config.json")).unwrap();
    huge.set_len(1 << 40).unwrap();
    let err = run(dir.path());
    assert_eq!(err.kind(), ErrorKind::Limit, "{err}");
}

#[test]
fn numbers_that_do_not_fit_are_named_with_tensor_and_index() {
    // BF16 bits of infinity, NaN, and 1e6, which a half cannot hold.
    for (bits, outtype, want) in [(0x7f80u16, "auto", "inf"), (0x7fc0, "q8_0", "NaN"), (0x4974, "f16", "999424")] {
        let mut source = Source::tiny_c();
        let Tensor { data, .. } = source.tensor("model.layers.1.mlp.up_proj.weight");
        data[2 * 777..][..2].copy_from_slice(&bits.to_le_bytes());
        let folder = source.write();
        let mut options = ConvertOptions::new(&folder.dir, folder.beside("out.gguf"));
        options.outtype = FileType::from_name(outtype).ok();
        let err = convert(&options, &mut ()).unwrap_err().to_string();
        for part in ["model.layers.1.mlp.up_proj.weight", "777", want] {
            assert!(err.contains(part), "{part}: {err}");
        }
        assert!(folder.names_beside().is_empty());
    }
}

#[test]
fn outputs_that_would_destroy_something_are_refused() {
    let folder = Source::tiny_c().write();
    let precious = folder.beside("notes.txt");
    std::fs::write(&precious, "precious").unwrap();
    let err = convert(&ConvertOptions::new(&folder.dir, &precious), &mut ()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::BadInput);
    let mut options = ConvertOptions::new(&folder.dir, folder.beside("a.gguf"));
    options.mmproj_output = Some(precious.clone());
    assert!(convert(&options, &mut ()).is_err());
    options.mmproj_output = Some(folder.beside("tiny-c/../a.gguf"));
    let err = convert(&options, &mut ()).unwrap_err().to_string();
    assert!(err.contains("both"), "{err}");
    options.mmproj_output = Some(folder.beside("notes.txt/m.gguf"));
    assert!(convert(&options, &mut ()).unwrap_err().to_string().contains("notes.txt"));
    assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
    assert_eq!(folder.names_beside(), ["notes.txt"]);
}
