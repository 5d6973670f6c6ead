//! Settings of the image processor and of foreign quantization, as savers of different years leave them.

use longtake::convert::{ConvertOptions, Progress, convert};
use longtake::gguf::{Gguf, Metadata};
use safetensors::Dtype;
use serde_json::{Value as Json, json};

use super::source::{Folder, Source, Tensor};

struct Notes(Vec<String>);

impl Progress for Notes {
    fn note(&mut self, message: &str) {
        self.0.push(message.to_string());
    }
}

/// The projector's keys, and what was noted.
fn converted(folder: &Folder) -> (Metadata, String) {
    let mut notes = Notes(Vec::new());
    let report = convert(&ConvertOptions::new(&folder.dir, folder.beside("c.gguf")), &mut notes).unwrap();
    (Gguf::open(&report.mmproj.path).unwrap().meta().clone(), notes.0.join("\n"))
}

/// tiny-c with these processor files and no other.
fn with_files(files: &[(&str, Json)]) -> Folder {
    let folder = Source::tiny_c().write();
    std::fs::remove_file(folder.dir.join("preprocessor_config.json")).unwrap();
    files.iter().for_each(|(name, json)| folder.write(name, json.to_string()));
    folder
}

fn pixels(meta: &Metadata) -> [Option<u64>; 2] {
    ["min", "max"].map(|end| meta.uint(&format!("clip.vision.image_{end}_pixels")).unwrap())
}

#[test]
fn the_image_processor_is_found_wherever_it_was_saved() {
    let half = json!([0.5, 0.5, 0.5]);
    let image = json!({
        "image_mean": half, "image_std": half, "image_processor_type": "Qwen2VLImageProcessor",
        "size": {"shortest_edge": 3136, "longest_edge": 200704},
    });
    let quarter = json!({"image_mean": [0.25, 0.25, 0.25], "image_std": half, "min_pixels": 784, "max_pixels": 50176});
    let no_edges = json!({"image_mean": half, "image_std": half, "size": {"height": 336, "width": 336}});
    let video = json!({"image_mean": [0.48, 0.45, 0.4], "size": {"shortest_edge": 3136, "longest_edge": 12845056}});
    let all = [Some(3136), Some(200704)];
    let (v5, v4) = ("processor_config.json", "preprocessor_config.json");
    type Row<'a> = (&'a str, Vec<(&'a str, Json)>, Option<f32>, [Option<u64>; 2], &'a [&'a str]);
    let rows: Vec<Row> = vec![
        ("nested", vec![(v5, json!({"image_processor": image}))], Some(0.5), all, &[]),
        ("flat", vec![(v5, image.clone())], Some(0.5), all, &[]),
        ("one file nested in the old name", vec![(v4, json!({"image_processor": image}))], Some(0.5), all, &[]),
        (
            "with a video processor that differs",
            vec![(v5, json!({"image_processor": image, "video_processor": video}))],
            Some(0.5),
            all,
            &["the video processor differs in image_mean, max pixels", "--max-pixels"],
        ),
        (
            "a video processor in a file of its own",
            vec![(v4, quarter.clone()), ("video_preprocessor_config.json", video.clone())],
            Some(0.25),
            [Some(784), Some(50176)],
            &["the video processor differs in image_mean, min pixels, max pixels"],
        ),
        (
            "limits by their older names",
            vec![(
                v5,
                json!({"image_processor": {"image_mean": half, "image_std": half, "max_pixels": 50176,
                "size": {"shortest_edge": 784, "longest_edge": 200704}}}),
            )],
            Some(0.5),
            [Some(784), Some(50176)],
            &[],
        ),
        (
            "limits inside of size",
            vec![(
                v4,
                json!({"image_mean": half, "image_std": half, "size": {"min_pixels": 784, "max_pixels": 50176}}),
            )],
            Some(0.5),
            [Some(784), Some(50176)],
            &[],
        ),
        (
            "height and width",
            vec![(v5, json!({"image_processor": no_edges}))],
            Some(0.5),
            [None, None],
            &["processor_config.json: image_processor: `size` is `{\"height\":336,\"width\":336}`", "not used"],
        ),
        (
            "both files, which differ: the one that transformers 5 writes and reads first",
            vec![(v5, json!({"image_processor": image})), (v4, quarter.clone())],
            Some(0.5),
            all,
            &["preprocessor_config.json differs in image_mean, min pixels, max pixels", "processor_config.json"],
        ),
        (
            "both files, which agree",
            vec![(v5, json!({"image_processor": image})), (v4, image.clone())],
            Some(0.5),
            all,
            &[],
        ),
        (
            "a processor file of version 4, which says nothing about pictures",
            vec![(v5, json!({"processor_class": "Qwen2VLProcessor", "chat_template": "x"})), (v4, quarter)],
            Some(0.25),
            [Some(784), Some(50176)],
            &[],
        ),
        ("null", vec![(v5, json!({"image_processor": null})), (v4, image)], Some(0.5), all, &[]),
        (
            "a processor without pictures",
            vec![(v5, json!({"processor_class": "Qwen2VLProcessor"}))],
            None,
            [None, None],
            &["preprocessor_config.json is absent and processor_config.json has no image processor"],
        ),
        ("nothing", vec![], None, [None, None], &["preprocessor_config.json and processor_config.json are absent"]),
    ];
    for (what, files, mean, limits, wanted) in rows {
        let (meta, notes) = converted(&with_files(&files));
        let means = meta.floats("clip.vision.image_mean").unwrap().unwrap();
        let mean = mean.map_or([0.48145466f32, 0.4578275, 0.40821073], |x| [x; 3]);
        assert_eq!(means, mean.map(f64::from), "{what}");
        assert_eq!(pixels(&meta), limits, "{what}");
        assert_eq!(notes.is_empty(), wanted.is_empty(), "{what}: {notes}");
        wanted.iter().for_each(|want| assert!(notes.contains(want), "{what}: no `{want}` in: {notes}"));
    }
}

#[test]
fn a_faulty_image_processor_is_named_with_its_place() {
    let nested = |image: Json| json!({"image_processor": image});
    let rows = [
        (nested(json!([1])), "processor_config.json: `image_processor` is not an object"),
        (nested(json!({"image_mean": [0.5]})), "processor_config.json: image_processor: `image_mean` has `1` entries"),
        (nested(json!({"size": {"longest_edge": 0}})), "processor_config.json: image_processor: `size.longest_edge`"),
        (nested(json!({"do_normalize": false})), "processor_config.json: image_processor: `do_normalize` is `false`"),
        (json!([1]), "processor_config.json: expected a JSON object"),
        (json!({"image_processor": {}, "video_processor": 7}), "`video_processor` is not an object"),
    ];
    for (json, want) in rows {
        let folder = with_files(&[("processor_config.json", json)]);
        let err = convert(&ConvertOptions::new(&folder.dir, folder.beside("c.gguf")), &mut ()).unwrap_err().to_string();
        assert!(err.contains(want), "no `{want}` in: {err}");
        assert!(folder.names_beside().is_empty());
    }
}

/// tiny-c with one matrix replaced by what a quantizer makes of it.
fn packed(config: Json, parts: &[(&str, Dtype)]) -> Folder {
    let mut source = Source::tiny_c();
    if !config.is_null() {
        source.config["quantization_config"] = config;
    }
    let stem = "model.layers.1.mlp.up_proj";
    source.tensors.retain(|t| t.name != format!("{stem}.weight"));
    for (end, dtype) in parts {
        let data = vec![0; 256 * 8 * dtype.bitsize() / 8];
        source.tensors.push(Tensor { name: format!("{stem}{end}"), dtype: *dtype, shape: vec![256, 8], data });
    }
    source.write()
}

#[test]
fn packed_weights_are_refused_by_the_name_of_their_method() {
    let int4 = [(".qweight", Dtype::I32), (".qzeros", Dtype::I32), (".scales", Dtype::F16)];
    type Row<'a> = (Json, &'a [(&'a str, Dtype)], &'a str);
    let rows: Vec<Row> = vec![
        (json!({"quant_method": "awq", "bits": 4}), &int4, "`awq, 4 bits`"),
        (json!({"quant_method": "gptq", "bits": 8, "desc_act": false}), &int4, "`gptq, 8 bits`"),
        (json!(null), &int4, "`gptq or awq`"),
        (
            json!({"load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}),
            &[(".weight", Dtype::U8), (".weight.absmax", Dtype::U8)],
            "`bitsandbytes, 4 bits`",
        ),
        (
            json!({"quant_method": "bitsandbytes", "load_in_8bit": true}),
            &[(".weight", Dtype::I8), (".SCB", Dtype::F32)],
            "`bitsandbytes, 8 bits`",
        ),
        (json!({"quant_method": "fp8"}), &[(".weight", Dtype::F8_E4M3), (".weight_scale_inv", Dtype::F32)], "`fp8`"),
        (json!(null), &[(".weight", Dtype::F8_E4M3)], "`fp8`"),
        (
            json!({"quant_method": "compressed-tensors", "format": "pack-quantized"}),
            &[(".weight_packed", Dtype::I32), (".weight_scale", Dtype::BF16)],
            "`compressed-tensors, pack-quantized`",
        ),
    ];
    for (config, parts, want) in rows {
        let folder = packed(config, parts);
        let err = convert(&ConvertOptions::new(&folder.dir, folder.beside("c.gguf")), &mut ()).unwrap_err().to_string();
        for want in [want, "model.layers.1.mlp.up_proj", "--outtype Q4_K_M"] {
            assert!(err.contains(want), "no `{want}` in: {err}");
        }
        assert!(folder.names_beside().is_empty());
    }
}

#[test]
fn float_weights_with_a_quantization_that_is_over_are_converted_with_a_note() {
    for (place, config) in [
        ("quantization_config", json!({"quant_method": "awq", "bits": 4})),
        ("compression_config", json!({"quant_method": "compressed-tensors"})),
        ("quantization_config", json!({"load_in_8bit": true})),
    ] {
        let mut source = Source::tiny_c();
        source.config[place] = config;
        let (_, notes) = converted(&source.write());
        assert!(notes.contains(&format!("config.json: `{place}` speaks of")) && notes.contains("floats"), "{notes}");
    }
    let mut source = Source::tiny_c();
    source.config["quantization_config"] = Json::Null;
    assert_eq!(converted(&source.write()).1, "");
}
