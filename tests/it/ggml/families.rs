//! Text models of the newer families, converted here, in llama.cpp: it loads them and answers a text prompt with the tokens of the
//! reference. So keys and names, sums of norms, decays and the order of value heads are what another program expects.

use ggml_sys::{Context, ContextOptions, Logits, Model};
use longtake::convert::{ConvertOptions, FileType, convert};
use longtake::gguf::GgmlType;
use serde_json::Value;

use crate::common::golden_families;

#[test]
fn llama_cpp_answers_as_the_reference_from_our_files() {
    let rows: Value = serde_json::from_str(include_str!("families.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut families = std::collections::BTreeSet::new();
    for (name, row) in rows.as_object().unwrap() {
        let checkpoint = golden_families().join("checkpoints").join(name);
        if !checkpoint.is_dir() {
            continue; // not part of the selection
        }
        let mut options = ConvertOptions::new(checkpoint, dir.path().join(format!("{name}.gguf")));
        options.outtype = Some(FileType::from_name("f32").unwrap());
        let path = convert(&options, &mut ()).unwrap().text.path;
        let model = Model::load(&path, false).unwrap();
        let ids = |key: &str| -> Vec<u32> {
            row[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
        };
        let (prompt, want) = (ids("ids"), ids("generated"));
        let ty = GgmlType::F32.id();
        let n_ctx = prompt.len() + want.len();
        let options = ContextOptions { n_ctx, n_batch: n_ctx, n_threads: 1, flash: false, type_k: ty, type_v: ty };
        let mut context = Context::new(&model, options).unwrap();
        let mut logits = context.forward(&prompt, Logits::Last).unwrap();
        let mut got = Vec::new();
        for _ in 0..want.len() {
            got.push((0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32);
            logits = context.forward(&got[got.len() - 1..], Logits::Last).unwrap();
        }
        assert_eq!(got, want, "{name}");
        families.insert(name.rsplit_once('-').unwrap().0.to_string());
    }
    assert_eq!(families.len(), 3, "a family is missing: {families:?}");
}
