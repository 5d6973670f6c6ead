//! Checkpoints from bytes, for `crate::fuzzing`: headers of weights, configurations, tokenizers, families, importances.

use std::path::Path;
use std::sync::LazyLock;

use serde_json::json;

use super::family::Family;
use super::hf_tokenizer::{Vocabulary, parse_tokenizer};
use super::imatrix::Imatrix;
use super::preprocessor::ProcessorFiles;
use super::safetensors::read_header;
use super::values::{Configs, Values};
use crate::fuzzing::{self, Sparse};
use crate::gguf::{GgmlType, Gguf, GgufWriter, Metadata};

/// The header of a safetensors file whose data are zeros.
pub(crate) fn header(input: &[u8]) {
    let Some(mut file) = Sparse::new(input) else { return };
    let n_file = file.len();
    let Ok(tensors) = read_header(&mut file) else { return };
    let mut end = tensors.first().map_or(n_file, |tensor| tensor.offset);
    for tensor in &tensors {
        assert_eq!(tensor.offset, end, "`{}` leaves a gap or overlaps", tensor.name);
        end += tensor.n_bytes;
        let n: usize = tensor.shape.iter().product();
        assert_eq!((n * tensor.dtype.bitsize()) as u64, tensor.n_bytes * 8, "`{}` has another size", tensor.name);
    }
    assert_eq!(end, n_file, "bytes that belong to no tensor");
}

pub(crate) fn header_seeds() -> Vec<Vec<u8>> {
    let tables = [
        r#"{}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[2,2],"data_offsets":[8,16]}}  "#,
        r#"{"__metadata__":{"format":"pt","x":"\u00e9"},"b":{"data_offsets":[8,12],"dtype":"U8","shape":[1,4,1]},"a":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}"#,
        r#"{"e":{"dtype":"F16","shape":[0,4],"data_offsets":[0,0]},"f":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[0,3]}}"#,
    ];
    let sizes = [0, 16, 12, 3];
    let small = tables.iter().zip(sizes).map(|(table, n)| {
        let mut file = (table.len() as u64).to_le_bytes().to_vec();
        file.extend(table.as_bytes());
        file.resize(file.len() + n, 0);
        file
    });
    let golden = ["model/tiny-b/text.inputs.safetensors", "model/tiny-c/text.inputs.safetensors"].map(fuzzing::file);
    small.chain(golden).map(|file| Sparse::input(&file)).collect()
}

/// A family description.
pub(crate) fn family(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(family) = Family::parse(text) else { return };
    let configs = Configs { config: golden_config().clone(), preprocessor: None, video_preprocessor: None };
    if let Ok(values) = Values::read(&family, &configs) {
        for group in [&family.text, &family.mmproj] {
            for expr in group.tensors.iter().flat_map(|rule| &rule.shape) {
                let _ = expr.eval(|name| values.uint(name).ok().map(|n| n as u64));
            }
        }
    }
}

pub(crate) fn family_seeds() -> Vec<Vec<u8>> {
    vec![
        include_bytes!("../../converters/qwen2_vl.toml").to_vec(),
        include_bytes!("../../converters/qwen3_5.toml").to_vec(),
        include_bytes!("../../converters/qwen3_5_moe.toml").to_vec(),
    ]
}

fn golden_config() -> &'static serde_json::Value {
    static CONFIG: LazyLock<serde_json::Value> = LazyLock::new(|| {
        serde_json::from_slice(&fuzzing::file("checkpoints/tiny-b/config.json")).expect("golden data is JSON")
    });
    &CONFIG
}

/// The configuration of a checkpoint, read as the built-in family says.
pub(crate) fn config(input: &[u8]) {
    static FAMILY: LazyLock<Family> =
        LazyLock::new(|| Family::built_in(Some("qwen2_vl"), &[]).expect("a family that is built in"));
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(input) else { return };
    let (config, preprocessor) = match json {
        serde_json::Value::Array(mut both) if both.len() == 2 => (both.remove(0), Some(both.remove(0))),
        config => (config, None),
    };
    let files = ProcessorFiles { processor: None, preprocessor, video: None };
    let Ok(chosen) = files.choose() else { return };
    let configs = Configs { config, preprocessor: chosen.image, video_preprocessor: chosen.video };
    let Ok(values) = Values::read(&FAMILY, &configs) else { return };
    let (n_head, n_embd_head) = (values.uint("n_head"), values.uint("n_embd_head"));
    assert!(n_head.is_ok_and(|n| n > 0) && n_embd_head.is_ok_and(|n| n > 0 && n.is_multiple_of(2)));
}

pub(crate) fn config_seeds() -> Vec<Vec<u8>> {
    let preprocessor = fuzzing::file("checkpoints/tiny-b/preprocessor_config.json");
    let preprocessor: serde_json::Value = serde_json::from_slice(&preprocessor).expect("golden data is JSON");
    vec![golden_config().to_string().into(), json!([golden_config(), preprocessor]).to_string().into()]
}

/// A `tokenizer.json`.
pub(crate) fn tokenizer(input: &[u8]) {
    const N_VOCAB: usize = 1024;
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok((file, _)) = parse_tokenizer(text) else { return };
    let Ok(vocabulary) = Vocabulary::new(&file, N_VOCAB) else { return };
    assert_eq!((vocabulary.tokens.len(), vocabulary.types.len()), (N_VOCAB, N_VOCAB));
    assert!(vocabulary.types.iter().all(|kind| (1..=5).contains(kind)));
}

pub(crate) fn tokenizer_seeds() -> Vec<Vec<u8>> {
    // The golden one with few tokens and merges: what a fuzzer can take apart.
    let json = fuzzing::file("checkpoints/tiny-b/tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&json).expect("golden data is JSON");
    let strings = {
        let mut json = json.clone();
        json["model"]["merges"] = json!(["a b", "Ġ a"]);
        json["model"]["vocab"] = json!({ "a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġa": 4 });
        json["added_tokens"] =
            json!([{ "id": 5, "content": "<|im_end|>", "special": true }, { "id": 6, "content": "<t>" }]);
        json.to_string()
    };
    json["model"]["merges"] = json!([["a", "b"], ["Ġ", "a"]]);
    json["model"]["vocab"] = json!({ "a": 0, "b": 1 });
    json["added_tokens"] = json!([]);
    vec![strings.into(), json.to_string().into()]
}

/// An importance matrix.
pub(crate) fn imatrix(input: &[u8]) {
    let Some(file) = Sparse::new(input) else { return };
    let Ok(gguf) = Gguf::from_vec("fuzz", file.to_vec()) else { return };
    let Ok(imatrix) = Imatrix::read(&gguf, Path::new("fuzz")) else { return };
    assert!(imatrix.len() > 0);
    for sums in gguf.tensors() {
        let Some(name) = sums.name.strip_suffix(".in_sum2") else { continue };
        let weights =
            imatrix.get(name, &[sums.n_cols(), 1, sums.n_rows()]).expect("the width fits").expect("it was read");
        assert!(weights.iter().all(|w| *w >= 0.0), "a weight is negative or no number");
    }
}

pub(crate) fn imatrix_seeds() -> Vec<Vec<u8>> {
    let mut meta = Metadata::default();
    meta.set("general.type", "imatrix");
    meta.set("imatrix.datasets", vec!["a.txt"]);
    meta.set("imatrix.chunk_count", 3u32);
    let mut writer = GgufWriter::new(meta);
    // The last one is of three experts.
    let sizes = [[4, 1], [1, 1], [2, 1], [1, 1], [2, 3], [1, 3]];
    for (name, ne) in ["a.in_sum2", "a.counts", "b.in_sum2", "b.counts", "c.in_sum2", "c.counts"].iter().zip(&sizes) {
        writer.tensor(*name, GgmlType::F32, ne).expect("a seed that makes sense");
    }
    let fill = |i: usize, out: &mut Vec<u8>| {
        (0..sizes[i][0] * sizes[i][1]).for_each(|x| out.extend((x as f32 * 0.5).to_le_bytes()));
        Ok(())
    };
    vec![Sparse::input(&writer.to_bytes(fill).expect("a seed that makes sense"))]
}
