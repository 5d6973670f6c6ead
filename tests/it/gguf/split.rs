//! Split models: `NAME-00001-of-0000N.gguf` and what can be wrong with a set of them (fault 21 of the checklist).

use std::path::{Path, PathBuf};

use longtake::ErrorKind;
use longtake::gguf::*;

/// Writes shard `no` of `count`, from 0, with one F32 tensor of 8 elements per name, each filled with its number.
fn shard(dir: &Path, no: u16, count: u16, n_total: i32, tensors: &[(&str, f32)], change: impl FnOnce(&mut Metadata)) -> PathBuf {
    let mut meta = Metadata::default();
    if no == 0 {
        meta.set("general.architecture", "qwen2vl");
        meta.set("general.name", "split");
    }
    meta.set("split.no", no);
    meta.set("split.count", count);
    meta.set("split.tensors.count", n_total);
    change(&mut meta);
    let mut writer = GgufWriter::new(meta);
    for (name, _) in tensors {
        writer.tensor(*name, GgmlType::F32, &[8]).unwrap();
    }
    let path = dir.join(format!("m-{:05}-of-{count:05}.gguf", no + 1));
    let fill = |i: usize, buf: &mut Vec<u8>| {
        buf.extend([tensors[i].1; 8].iter().flat_map(|x| x.to_le_bytes()));
        Ok(())
    };
    writer.write(&path, fill).unwrap();
    path
}

/// Three shards with 2, 1 and 2 tensors; `change` may spoil the keys of one.
fn three(dir: &Path, spoil: usize, change: impl Fn(&mut Metadata)) -> PathBuf {
    let change = |no: usize| move |meta: &mut Metadata, change: &dyn Fn(&mut Metadata)| if no == spoil { change(meta) };
    let _ = &change;
    unimplemented!("{dir:?}")
}
