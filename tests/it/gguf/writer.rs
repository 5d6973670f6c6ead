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

/// What is in a folder.
fn names(dir: &Path) -> BTreeSet<String> {
    std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// Two F32 tensors of 8 elements.
fn two() -> GgufWriter {
    let mut writer = GgufWriter::new(Metadata::default());
    writer.tensor("a", GgmlType::F32, &[8]).unwrap();
    writer.tensor("b", GgmlType::F32, &[4, 2]).unwrap();
    writer
}

#[test]
fn an_error_in_the_middle_leaves_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let fail_at = |at: usize| {
        two().write(&path, |i, buf| {
            assert!(buf.is_empty());
            buf.resize(32, 7);
            if i == at { Err(Error::limit("no more")) } else { Ok(()) }
        })
    };
    for at in [0, 1] {
        let err = fail_at(at).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Limit);
        let tensor = ["`a`", "`b`"][at];
        assert_eq!(err.to_string(), format!("{}: tensor {tensor}: no more", path.display()));
        assert_eq!(names(dir.path()), BTreeSet::new());
    }
    fail_at(2).unwrap();
    let before = std::fs::read(&path).unwrap();
    fail_at(1).unwrap_err();
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(names(dir.path()).len(), 1);
}

#[test]
fn a_panic_in_the_middle_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let fill = |i: usize, buf: &mut Vec<u8>| {
        assert!(i == 0, "on purpose");
        buf.resize(32, 0);
        Ok(())
    };
    let caught = std::panic::catch_unwind(|| two().write(&path, fill));
    assert!(caught.is_err());
    assert_eq!(names(dir.path()), BTreeSet::new());
}

/// The kill test: a child process is killed at many moments of writing; the final name never holds half a file, and the
/// next write clears what the dead left.
#[test]
#[cfg(unix)]
fn a_kill_leaves_the_old_file_and_its_remains_go_with_the_next_write() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let mut n_left_behind = 0;
    for round in 0..20u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "gguf::writer::child_that_writes_for_ever", "--ignored"])
            .env("LONGTAKE_TEST_WRITE_TO", &path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Wait until it has begun, then let it come to a different point each time.
        let is_new =
            |n: &String| n.ends_with(longtake::files::atomic::TEMP_SUFFIX) && n.contains(&format!(".{}-", child.id()));
        let start = Instant::now();
        while !names(dir.path()).iter().any(is_new) {
            assert!(start.elapsed() < Duration::from_secs(60), "the child never began to write");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(3 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        if path.exists() {
            let gguf = Gguf::open(&path).unwrap();
            let data = gguf.data(&gguf.tensors()[0]);
            assert!(data.iter().all(|b| *b == data[0]), "round {round}");
        }
        // A dead writer leaves one temporary at most: the next one clears it.
        let left = names(dir.path()).iter().filter(|n| n.ends_with(longtake::files::atomic::TEMP_SUFFIX)).count();
        assert!(left <= 1, "round {round}: {left} temporaries");
        n_left_behind += left;
    }
    assert!(path.exists(), "no round got as far as a first file");
    assert!(n_left_behind > 0, "no round was killed in the middle of writing");
    two()
        .write(&path, |_, buf| {
            buf.resize(32, 0);
            Ok(())
        })
        .unwrap();
    assert_eq!(names(dir.path()), BTreeSet::from(["m.gguf".to_string()]));
}

/// Fault 25: a disk that is full, played by a limit on the size of a file.
#[test]
#[cfg(unix)]
fn a_full_disk_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = std::process::Command::new("sh")
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 1000; exec \"$0\" --exact gguf::writer::child_that_writes_for_ever --ignored",
        ])
        .arg(std::env::current_exe().unwrap())
        .env("LONGTAKE_TEST_WRITE_TO", dir.path().join("m.gguf"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && text.contains("m.gguf: "), "{text}");
    assert_eq!(names(dir.path()), BTreeSet::new());
}

#[test]
#[ignore = "not a test: the process that the kill test kills"]
fn child_that_writes_for_ever() {
    let Some(path) = std::env::var_os("LONGTAKE_TEST_WRITE_TO") else { return };
    for round in 0u8.. {
        let mut writer = GgufWriter::new(Metadata::default());
        writer.tensor("t", GgmlType::I8, &[4 << 20]).unwrap();
        let fill = |_: usize, buf: &mut Vec<u8>| {
            buf.resize(4 << 20, round);
            Ok(())
        };
        writer.write(Path::new(&path), fill).unwrap();
        if round == u8::MAX {
            break;
        }
    }
}

/// A file can be opened the moment it appears, also while other threads start processes (which for a moment hold copies
/// of all handles, and so of the writer's lock).
#[test]
fn a_new_file_opens_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let fill = |_: usize, buf: &mut Vec<u8>| {
        buf.resize(32, 0);
        Ok(())
    };
    two().write(&path, fill).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (0..60).for_each(|_| two().write(&path, fill).unwrap()));
        let starter = scope.spawn(move || {
            while !writer.is_finished() {
                start_a_process();
            }
        });
        while !starter.is_finished() {
            Gguf::open(&path).unwrap();
        }
    });
}

/// Starts a process that ends at once.
fn start_a_process() {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_longtake")).arg("--version").output().unwrap();
    assert!(out.status.success());
}

#[test]
fn data_of_another_length_is_refused() {
    for n in [0, 31, 33, 64] {
        let err = two().to_bytes(|_, buf| {
            buf.resize(n, 0);
            Ok(())
        });
        let err = err.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Mismatch);
        assert_eq!(err.message(), format!("filled with `{n}` bytes, expected 32"));
    }
}

#[test]
fn alignment_is_as_asked() {
    for alignment in [8u32, 32, 64, 4096] {
        let mut meta = Metadata::default();
        meta.set("general.alignment", alignment);
        let mut writer = GgufWriter::new(meta);
        for (i, n) in [1usize, 3, 2].into_iter().enumerate() {
            writer.tensor(format!("t{i}"), GgmlType::F32, &[n]).unwrap();
        }
        let fill = |i: usize, buf: &mut Vec<u8>| {
            buf.resize([4, 12, 8][i], 1 + i as u8);
            Ok(())
        };
        let bytes = writer.to_bytes(fill).unwrap();
        assert!(bytes.len().is_multiple_of(alignment as usize));
        let gguf = Gguf::from_vec("m", bytes).unwrap();
        assert_eq!(gguf.alignment(), u64::from(alignment));
        for (i, tensor) in gguf.tensors().iter().enumerate() {
            let data = gguf.data(tensor);
            assert!(tensor.offset.is_multiple_of(u64::from(alignment)));
            assert_eq!(data.as_ptr().align_offset(alignment.min(64) as usize), 0, "in memory, too");
            assert!(data.iter().all(|b| *b == 1 + i as u8));
        }
    }
}

#[test]
fn no_tensors_and_no_keys_are_fine() {
    let bytes = GgufWriter::new(Metadata::default()).to_bytes(|_, _| unreachable!()).unwrap();
    let gguf = Gguf::from_vec("m", bytes).unwrap();
    assert!(gguf.meta().is_empty() && gguf.tensors().is_empty());
}

#[test]
fn bad_declarations_are_refused() {
    let declare = |name: &str, ty, ne: &[usize]| two().tensor(name, ty, ne).unwrap_err().to_string();
    for (err, reason) in [
        (declare("", GgmlType::F32, &[1]), "tensor name is empty"),
        (declare(&"n".repeat(64), GgmlType::F32, &[1]), "at most 63"),
        (declare("a\0", GgmlType::F32, &[1]), "NUL"),
        (declare("a", GgmlType::F32, &[1]), "tensor `a`: is declared twice"),
        (declare("c", GgmlType::F32, &[]), "`0` dimensions"),
        (declare("c", GgmlType::F32, &[1; 5]), "`5` dimensions"),
        (declare("c", GgmlType::F32, &[4, 0]), "dimension `1`"),
        (declare("c", GgmlType::Q4_K, &[128]), "not a whole number"),
        (declare("c", GgmlType::F32, &[usize::MAX, 2]), "overflows"),
    ] {
        assert!(err.contains(reason), "`{err}`, expected `{reason}`");
    }
}

/// What the reader would refuse is not written, and no file appears.
#[test]
fn bad_metadata_is_refused_before_writing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    for (key, value, reason) in [
        ("general.alignment", Value::U64(32), "expected u32"),
        ("general.alignment", Value::U32(24), "power of two"),
        ("", Value::U32(1), "not empty"),
        ("a\0", Value::U32(1), "no NUL"),
    ] {
        let mut meta = Metadata::default();
        meta.set(key, value);
        let err = GgufWriter::new(meta).write(&path, |_, _| Ok(())).unwrap_err().to_string();
        assert!(err.contains(reason) && err.contains("m.gguf"), "`{err}`, expected `{reason}`");
        assert_eq!(names(dir.path()), BTreeSet::new());
    }
    let mut meta = Metadata::default();
    meta.set("k".repeat(65_536), 1u32);
    assert!(GgufWriter::new(meta).to_bytes(|_, _| Ok(())).is_err());
}

#[test]
fn a_folder_that_is_not_there_is_an_error_with_the_path() {
    let err = two().write(Path::new("no/such/folder/m.gguf"), |_, _| unreachable!()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
    assert!(err.to_string().contains("no/such/folder/m.gguf"), "{err}");
}

fn any_value() -> impl Strategy<Value = Value> {
    use prop::collection::vec;
    prop_oneof![
        any::<u8>().prop_map(Value::from),
        any::<i16>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        (-1e30f32..1e30).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        vec(any::<i8>(), 0..9).prop_map(Value::from),
        vec(any::<u16>(), 0..9).prop_map(Value::from),
        vec(any::<i64>(), 0..9).prop_map(Value::from),
        vec(any::<bool>(), 0..9).prop_map(Value::from),
        vec(any::<String>(), 0..9).prop_map(Value::from),
        vec(-1e300f64..1e300, 0..9).prop_map(Value::from),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_is_read_again(
        pairs in prop::collection::vec(("[a-z.]{1,20}", any_value()), 0..8),
        alignment in prop::sample::select(vec![8u32, 32, 64, 128]),
        shapes in prop::collection::vec(
            (prop::sample::select(vec![GgmlType::F32, GgmlType::F16, GgmlType::Q8_0, GgmlType::Q6_K, GgmlType::I8]),
             prop::collection::vec(1usize..4, 1..=4)),
            0..6,
        ),
    ) {
        let mut meta = Metadata::default();
        for (key, value) in pairs {
            meta.set(key, value);
        }
        meta.set("general.alignment", alignment);
        let mut writer = GgufWriter::new(meta.clone());
        let mut want = Vec::new();
        for (i, (ty, mut ne)) in shapes.into_iter().enumerate() {
            ne[0] *= ty.block_len();
            writer.tensor(format!("t{i}"), ty, &ne).unwrap();
            let n_bytes = ty.row_bytes(ne[0]).unwrap() * ne[1..].iter().product::<usize>();
            want.push((format!("t{i}"), ty, ne, vec![i as u8 + 1; n_bytes]));
        }
        let fill = |i: usize, buf: &mut Vec<u8>| { buf.extend(&want[i].3); Ok(()) };
        let bytes = writer.to_bytes(fill).unwrap();
        prop_assert_eq!(&bytes, &writer.to_bytes(fill).unwrap());
        prop_assert_eq!(bytes.len() as u64, writer.file_bytes().unwrap());
        let gguf = Gguf::from_vec("m", bytes).unwrap();
        prop_assert_eq!(gguf.meta(), &meta);
        prop_assert_eq!(gguf.tensors().len(), want.len());
        for (tensor, (name, ty, ne, data)) in gguf.tensors().iter().zip(&want) {
            prop_assert_eq!((&tensor.name, tensor.ty, &tensor.ne), (name, *ty, ne));
            prop_assert_eq!(gguf.data(tensor), data.as_slice());
        }
    }
}
