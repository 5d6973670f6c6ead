//! The writer: same content, same bytes; complete or not there at all.

use std::collections::BTreeSet;
use std::path::Path;

use longtake::gguf::*;
use longtake::{Error, ErrorKind};
use proptest::prelude::*;

use crate::common::golden;

/// A writer with the content of `gguf`, and the function that fills it.
fn rewrite(gguf: &Gguf) -> GgufWriter {
    let mut writer = GgufWriter::new(gguf.meta().clone());
    for tensor in gguf.tensors() {
        writer.tensor(&tensor.name, tensor.ty, &tensor.ne).unwrap();
    }
    writer
}

/// `fill` for [`GgufWriter`]: the tensors of `gguf` as they are.
fn data_of(gguf: &Gguf) -> impl FnMut(usize, &mut Vec<u8>) -> longtake::Result<()> {
    |i, buf| {
        buf.extend(gguf.data(&gguf.tensors()[i]));
        Ok(())
    }
}

#[test]
fn writing_what_was_read_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["mixed.gguf", "align64.gguf"] {
        let original = golden().join("gguf").join(name);
        let gguf = Gguf::open(&original).unwrap();
        let path = dir.path().join(name);
        for _ in 0..2 {
            rewrite(&gguf).write(&path, data_of(&gguf)).unwrap();
            assert!(std::fs::read(&path).unwrap() == std::fs::read(&original).unwrap(), "{name}");
        }
        assert!(rewrite(&gguf).to_bytes(data_of(&gguf)).unwrap() == std::fs::read(&original).unwrap(), "{name}");
        assert_eq!(rewrite(&gguf).file_bytes().unwrap(), gguf.file_bytes());
        let again = Gguf::open(&path).unwrap();
        assert_eq!(again.meta(), gguf.meta());
        assert_eq!(again.tensors(), gguf.tensors());
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}
