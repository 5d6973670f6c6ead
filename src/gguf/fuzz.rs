//! GGUF files from bytes, for `crate::fuzzing`.

use std::collections::HashSet;
use std::path::Path;

use super::parse::{parse, parse_front};
use super::{GgufWriter, Metadata, split};
use crate::fuzzing;

/// Tables of a file: ranges, typed keys, split names, and the writer as the reader's inverse.
pub(crate) fn file(bytes: &[u8]) {
    let Ok(tables) = parse(bytes) else { return };
    let (mut end, mut names) = (0u64, HashSet::new());
    for tensor in &tables.tensors {
        assert!(tensor.offset >= end, "`{}` overlaps the tensor before it", tensor.name);
        assert!(tensor.offset.is_multiple_of(tables.alignment), "`{}` is not aligned", tensor.name);
        end = tensor.offset + tensor.n_bytes as u64;
        assert!(tables.data_start + end <= bytes.len() as u64, "`{}` lies outside the file", tensor.name);
        assert!(names.insert(&tensor.name), "`{}` occurs twice", tensor.name);
        assert_eq!(tensor.n_elements(), tensor.n_cols() * tensor.n_rows());
    }
    keys(&tables.meta);

    let mut writer = GgufWriter::new(tables.meta.clone());
    for tensor in &tables.tensors {
        writer.tensor(tensor.name.as_str(), tensor.ty, &tensor.ne).expect("what was read can be written");
    }
    let front = writer.front().expect("what was read can be written");
    assert_eq!(front.len() as u64, tables.data_start);
    // All but the version is the file's; what it pads with is its own business.
    let n_front = front.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1).max(8);
    assert!(front[8..n_front] == bytes[8..n_front], "the writer gives another file");
    let again =
        parse_front(&front, writer.file_bytes().expect("it was written")).expect("what was written can be read");
    assert_eq!((again.tensors, again.meta.len()), (tables.tensors, tables.meta.len()));
}

/// Every typed getter on every key.
fn keys(meta: &Metadata) {
    for (key, _) in meta.iter().take(64) {
        let got = [
            meta.str(key).is_ok(),
            meta.uint(key).is_ok(),
            meta.float(key).is_ok(),
            meta.bool(key).is_ok(),
            meta.strings(key).is_ok(),
            meta.ints(key).is_ok(),
            meta.floats(key).is_ok(),
        ];
        // An unsigned integer is also a float and a list of one, unless it is beyond them.
        assert!(got.iter().filter(|ok| **ok).count() <= 3, "key `{key}` has too many types");
    }
    for name in ["m.gguf", "m-00001-of-00001.gguf", "m-00001-of-00003.gguf", "m-00002-of-00003.gguf"] {
        if let Ok(n) = split::n_shards(Path::new(name), meta) {
            assert!((1..=super::limits::MAX_SHARDS).contains(&n));
            let _ = split::check_shard(n - 1, meta, meta);
        }
    }
}

pub(crate) fn file_seeds() -> Vec<Vec<u8>> {
    let mut seeds = fuzzing::files("gguf", &[".gguf"]);
    seeds.extend(fuzzing::files("gguf/broken", &[".gguf"]));
    seeds.extend([2, 3].map(|n| split_seed(n).expect("a seed that makes sense")));
    seeds
}

fn split_seed(n: u16) -> crate::Result<Vec<u8>> {
    let mut meta = Metadata::default();
    meta.set(split::NO_KEY, 0u16);
    meta.set(split::COUNT_KEY, n);
    meta.set(split::TENSORS_KEY, 7i32);
    meta.set("general.alignment", 64u32);
    meta.set("names", vec!["a", "", "bc"]);
    let mut writer = GgufWriter::new(meta);
    writer.tensor("a", super::GgmlType::F32, &[3, 2])?;
    writer.tensor("b", super::GgmlType::Q8_0, &[32])?;
    writer.to_bytes(|i, out| {
        out.resize([24, 34][i], 1);
        Ok(())
    })
}
