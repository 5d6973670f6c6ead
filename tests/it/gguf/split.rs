//! Split models: `NAME-00001-of-0000N.gguf` and what can be wrong with a set of them (fault 21 of the checklist).

use std::path::{Path, PathBuf};

use longtake::ErrorKind;
use longtake::gguf::*;

/// What one file of a split model says and holds; tests spoil one field at a time.
#[derive(Clone)]
struct Part {
    /// As in the file name, from 1.
    name_no: u64,
    name_count: u64,
    keys: Vec<(&'static str, Value)>,
    /// F32 tensors of 8 elements, each filled with its number.
    tensors: Vec<(&'static str, f32)>,
}

/// Three files with 2, 0 and 3 tensors, as a splitter writes them: the first carries all keys.
fn three() -> [Part; 3] {
    let part = |no: u16, tensors: &[(&'static str, f32)]| Part {
        name_no: u64::from(no) + 1,
        name_count: 3,
        keys: vec![("split.no", no.into()), ("split.count", 3u16.into()), ("split.tensors.count", 5i32.into())],
        tensors: tensors.to_vec(),
    };
    let mut parts = [part(0, &[("a", 1.0), ("b", 2.0)]), part(1, &[]), part(2, &[("c", 3.0), ("d", 4.0), ("e", 5.0)])];
    parts[0].keys.insert(0, ("general.architecture", "qwen2vl".into()));
    parts
}

impl Part {
    fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.keys.retain(|(k, _)| *k != key);
        self.keys.push((key, value.into()));
    }

    fn write(&self, dir: &Path) -> PathBuf {
        let path = dir.join(format!("m-{:05}-of-{:05}.gguf", self.name_no, self.name_count));
        self.write_as(&path);
        path
    }

    fn write_as(&self, path: &Path) {
        let mut meta = Metadata::default();
        self.keys.iter().for_each(|(key, value)| meta.set(*key, value.clone()));
        let mut writer = GgufWriter::new(meta);
        self.tensors.iter().for_each(|(name, _)| writer.tensor(*name, GgmlType::F32, &[8]).unwrap());
        let fill = |i: usize, buf: &mut Vec<u8>| {
            buf.extend([self.tensors[i].1; 8].iter().flat_map(|x| x.to_le_bytes()));
            Ok(())
        };
        writer.write(path, fill).unwrap();
    }
}

/// Writes the parts after `spoil` has had them, opens the first, and expects an error that names `file` and holds
/// `reason`.
#[track_caller]
fn refused(spoil: impl FnOnce(&mut [Part; 3]), file: &str, reason: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mut parts = three();
    spoil(&mut parts);
    let paths = parts.each_ref().map(|part| part.write(dir.path()));
    let err = Gguf::open(&paths[0]).unwrap_err().to_string();
    let file = dir.path().join(file).display().to_string();
    assert!(err.starts_with(&file) && err.contains(reason), "`{err}`, expected `{file}` and `{reason}`");
}

#[test]
fn a_split_model_opens_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let paths = three().map(|part| part.write(dir.path()));
    for mmap in [true, false] {
        let gguf = Gguf::open_with(&paths[0], GgufOptions { mmap }).unwrap();
        let names: Vec<(&str, usize)> = gguf.tensors().iter().map(|t| (t.name.as_str(), t.shard)).collect();
        assert_eq!(names, [("a", 0), ("b", 0), ("c", 2), ("d", 2), ("e", 2)]);
        for (name, want) in [("a", 1f32), ("b", 2.0), ("c", 3.0), ("d", 4.0), ("e", 5.0)] {
            assert_eq!(gguf.data(gguf.tensor(name).unwrap()), want.to_le_bytes().repeat(8), "{name}");
        }
        assert_eq!(gguf.meta().need_str("general.architecture").unwrap(), "qwen2vl");
        assert_eq!(gguf.files().map(|f| f.0.to_path_buf()).collect::<Vec<_>>(), paths);
        let n_bytes: u64 = paths.iter().map(|path| path.metadata().unwrap().len()).sum();
        assert_eq!(gguf.file_bytes(), n_bytes);
        gguf.check_unchanged().unwrap();
    }
}

#[test]
fn each_part_may_have_its_own_alignment() {
    let dir = tempfile::tempdir().unwrap();
    let mut parts = three();
    parts[2].set("general.alignment", 256u32);
    let paths = parts.map(|part| part.write(dir.path()));
    let gguf = Gguf::open(&paths[0]).unwrap();
    assert_eq!(gguf.data(gguf.tensor("e").unwrap()), 5f32.to_le_bytes().repeat(8));
    assert_eq!(gguf.tensor("e").unwrap().offset, 512);
}

#[test]
fn fault_21_missing_part() {
    let dir = tempfile::tempdir().unwrap();
    let paths = three().map(|part| part.write(dir.path()));
    std::fs::remove_file(&paths[1]).unwrap();
    let err = Gguf::open(&paths[0]).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
    assert!(err.to_string().contains("m-00002-of-00003.gguf"), "{err}");
}

#[test]
fn fault_21_a_later_part_names_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let paths = three().map(|part| part.write(dir.path()));
    let err = Gguf::open(&paths[2]).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::BadInput);
    assert!(err.to_string().contains("part `3` of 3"), "{err}");
    assert!(err.to_string().contains(&paths[0].display().to_string()), "{err}");
}

#[test]
fn fault_21_wrong_order() {
    let swap = |parts: &mut [Part; 3]| {
        parts[1].name_no = 3;
        parts[2].name_no = 2;
    };
    refused(swap, "m-00002-of-00003.gguf", "key `split.no` is `2`, expected 1");
    refused(|parts| parts[0].set("split.no", 1u16), "m-00001-of-00003.gguf", "key `split.no` is `1`, expected 0");
}

#[test]
fn fault_21_counts_disagree() {
    refused(|p| p[0].set("split.count", 4u16), "m-00001-of-00003.gguf", "`4` and the file name says 3 files");
    refused(|p| p[0].set("split.count", 0u16), "m-00001-of-00003.gguf", "`0` and the file name says 3 files");
    refused(|p| p[1].set("split.count", 2u16), "m-00002-of-00003.gguf", "key `split.count` is `2`");
    refused(|p| p[2].set("split.tensors.count", 6i32), "m-00003-of-00003.gguf", "the first part says 5");
    let all = |p: &mut [Part; 3]| p.iter_mut().for_each(|part| part.set("split.tensors.count", 6i32));
    refused(all, "m-00001-of-00003.gguf", "key `split.tensors.count` is `6`, the 3 files hold 5");
    refused(|p| p[1].keys.clear(), "m-00002-of-00003.gguf", "key `split.no` is missing");
    refused(|p| p[0].keys.clear(), "m-00001-of-00003.gguf", "key `split.count` is absent");
    refused(|p| p[0].set("split.count", "3"), "m-00001-of-00003.gguf", "key `split.count` is `string`");
}

#[test]
fn fault_21_mixed_models() {
    let other = |p: &mut [Part; 3]| p[2].set("general.architecture", "llama");
    refused(other, "m-00003-of-00003.gguf", "key `general.architecture` differs");
    let twice = |p: &mut [Part; 3]| p[2].tensors[1].0 = "b";
    refused(twice, "m-00003-of-00003.gguf", "tensor `b` is already in");
}

#[test]
fn fault_21_too_many_parts() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = three()[0].clone();
    first.name_count = 2000;
    first.set("split.count", 2000u16);
    let err = Gguf::open(&first.write(dir.path())).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Limit, "{err}");
}

#[test]
fn fault_21_a_part_under_another_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    three()[0].write_as(&path);
    let err = Gguf::open(&path).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Mismatch);
    assert!(err.to_string().contains("key `split.count` is `3` and the file name says 1 files"), "{err}");
    let err = Gguf::from_vec("memory", std::fs::read(&path).unwrap()).unwrap_err();
    assert!(err.to_string().contains("part of a model split into `3` files"), "{err}");
}

#[test]
fn models_in_one_file_may_carry_split_keys() {
    let dir = tempfile::tempdir().unwrap();
    let mut part = three()[0].clone();
    // Merging tools leave a count of 0 behind; a splitter that made one file writes 1.
    for count in [0u16, 1] {
        part.set("split.count", count);
        let path = dir.path().join("merged.gguf");
        part.write_as(&path);
        assert_eq!(Gguf::open(&path).unwrap().tensors().len(), 2);
        part.write_as(&dir.path().join("m-00001-of-00001.gguf"));
        assert_eq!(Gguf::open(&dir.path().join("m-00001-of-00001.gguf")).unwrap().tensors().len(), 2);
    }
}
