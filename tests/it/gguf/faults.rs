//! What a reader of files from anywhere must survive: one test per point of the fault checklist, then random damage.

use std::io::Write;

use longtake::ErrorKind;
use longtake::gguf::*;
use proptest::prelude::*;

use super::build::{Build, array, string};
use crate::common::golden;

const U8: u32 = 0;
const U32: u32 = 4;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const U64: u32 = 10;
const F64: u32 = 12;

/// Refused with a message that holds `reason`.
#[track_caller]
fn refused(bytes: Vec<u8>, reason: &str) {
    match Gguf::from_vec("test", bytes) {
        Ok(_) => panic!("accepted, expected `{reason}`"),
        Err(err) => assert!(err.to_string().contains(reason), "`{err}`, expected `{reason}`"),
    }
}

#[track_caller]
fn accepted(bytes: Vec<u8>) -> Gguf {
    Gguf::from_vec("test", bytes).unwrap()
}

/// One F32 tensor of 8 elements after whatever `build` holds.
fn with_tensor(build: Build) -> Vec<u8> {
    build.tensor("t", &[8], 0, 0).data(32).bytes()
}

fn mixed() -> Vec<u8> {
    std::fs::read(golden().join("gguf/mixed.gguf")).unwrap()
}

/// Where the last byte of the last tensor ends.
fn end_of_data(bytes: &[u8]) -> usize {
    let tables = parse::parse(bytes).unwrap();
    let last = tables.tensors.last().unwrap();
    (tables.data_start + last.offset) as usize + last.n_bytes
}

#[test]
fn fault_01_no_magic() {
    for bytes in [&b""[..], b"G", b"GGU", b"GGUX", b"FUGG", b"PK\x03\x04", &[0; 100]] {
        refused(bytes.to_vec(), "expected the magic `GGUF`");
    }
}

#[test]
fn fault_02_every_prefix_is_refused() {
    let whole = mixed();
    let end = end_of_data(&whole);
    for n in 0..end {
        let err = Gguf::from_vec("test", whole[..n].to_vec()).expect_err(&format!("prefix of {n} bytes"));
        assert_eq!(err.kind(), ErrorKind::Format, "prefix of {n} bytes: {err}");
    }
    // Padding after the last tensor is not data, and llama.cpp does not ask for it either.
    for n in end..=whole.len() {
        accepted(whole[..n].to_vec());
    }
}

#[test]
fn fault_03_versions() {
    for version in [0, 1, 4, 99, 0xffff, u32::MAX] {
        let bytes = with_tensor(Build { version: Some(version), ..Build::new() });
        refused(bytes, &format!("version `{version}` is not supported"));
    }
    for version in [1u32, 2, 3] {
        let bytes = with_tensor(Build { version: Some(version.swap_bytes()), ..Build::new() });
        refused(bytes, &format!("big-endian file of version `{version}`"));
    }
    for version in [2, 3] {
        let gguf = accepted(with_tensor(Build { version: Some(version), ..Build::new() }));
        assert_eq!(gguf.version(), version);
    }
}

#[test]
fn fault_04_counts_beyond_the_file() {
    for n in [1 << 63, u64::MAX, 1 << 32, limits::MAX_KEYS, 3] {
        refused(Build { n_keys: Some(n), ..Build::new() }.bytes(), &format!("`{n}` metadata keys"));
        refused(with_tensor(Build { n_keys: Some(n), ..Build::new() }), "key");
    }
    for n in [1 << 63, u64::MAX, 1 << 32, limits::MAX_TENSORS, 3] {
        refused(Build { n_tensors: Some(n), ..Build::new() }.bytes(), &format!("`{n}` tensors"));
        refused(with_tensor(Build { n_tensors: Some(n), ..Build::new() }), "tensor");
    }
}

#[test]
fn fault_05_string_lengths() {
    for n in [100u64, 1 << 40, u64::MAX - 7, u64::MAX] {
        let long = [&n.to_le_bytes()[..], b"abc"].concat();
        refused(with_tensor(Build::new().key("k", STRING, &long)), "key `k`: file ends inside a string");
        let element = array(STRING, 2, &[string("x"), long.clone()].concat());
        refused(with_tensor(Build::new().key("k", ARRAY, &element)), "key `k`: element 1: file ends inside a string");
        let key = [&n.to_le_bytes()[..], &[b'k'; 12]].concat();
        let file = [Build { n_keys: Some(1), ..Build::new() }.bytes(), key].concat();
        refused(file, "key number 0: file ends inside a key");
        refused(Build::new().raw_tensor([&n.to_le_bytes()[..], &[b't'; 40]].concat()).bytes(), "tensor number 0");
    }
}

/// The file of `head` followed by a hole, so that it is large without taking room on disk or in memory.
fn sparse(head: &[u8], len: u64) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(head).unwrap();
    file.as_file().set_len(len).unwrap();
    file
}

#[test]
fn fault_05_caps_hold_even_if_the_file_is_long_enough() {
    let cut = |bytes: Vec<u8>, n: usize| bytes[..n].to_vec();
    let string_of = |n: u64| Build::new().key("k", STRING, &n.to_le_bytes()).bytes();
    let doubles = |n: u64| Build::new().key("k", ARRAY, &array(F64, n, &[])).bytes();
    let long_key = Build::new().key("k", STRING, b"").bytes();
    let long_key = [cut(long_key, 24), (limits::MAX_KEY + 1).to_le_bytes().to_vec()].concat();
    for (head, reason) in [
        (string_of(limits::MAX_STRING + 1), "a string has `67108865` bytes, at most 67108864"),
        (doubles(limits::MAX_ARRAY + 1), "`33554433` array elements, at most 33554432"),
        (doubles(limits::MAX_ARRAY), "makes the header longer than 268435456 bytes"),
        (long_key, "a key has `65536` bytes, at most 65535"),
    ] {
        let file = sparse(&head, 1 << 30);
        let err = Gguf::open(file.path()).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Limit, "{err}");
        assert!(err.to_string().contains(reason), "{err}, expected {reason}");
    }
}

#[test]
fn fault_06_arrays() {
    for n in [1u64 << 61, (1 << 61) + 1, u64::MAX, 1000] {
        let reason = format!("key `k`: `{n}` array elements");
        for ty in [U8, U64, BOOL, STRING] {
            refused(Build::new().key("k", ARRAY, &array(ty, n, &[0; 24])).bytes(), &reason);
        }
    }
    let mut nested = array(U8, 0, &[]);
    for _ in 0..1000 {
        nested = array(ARRAY, 1, &nested);
    }
    refused(with_tensor(Build::new().key("k", ARRAY, &nested)), "key `k`: array of arrays");
    refused(with_tensor(Build::new().key("k", ARRAY, &array(13, 0, &[]))), "value type id `13`");
    let gguf = accepted(with_tensor(Build::new().key("k", ARRAY, &array(STRING, 0, &[]))));
    assert_eq!(gguf.meta().get("k"), Some(&Value::Array(Array::String(Vec::new()))));
}

#[test]
fn fault_07_keys() {
    let one = 1u32.to_le_bytes();
    refused(with_tensor(Build::new().key("", U32, &one)), "key ``: expected a key that is not empty");
    refused(with_tensor(Build::new().key("a\0b", U32, &one)), "holds no NUL");
    refused(with_tensor(Build::new().key(b"a\xffb", U32, &one)), "a key is not UTF-8 at byte 33");
    refused(with_tensor(Build::new().key([b'k'; 65_536], U32, &one)), "a key has `65536` bytes");
    refused(with_tensor(Build::new().key("k", U32, &one).key("k", U32, &one)), "key `k`: occurs twice");
    refused(with_tensor(Build::new().key("k", STRING, &string(b"\xc0\x80"))), "key `k`: a string is not UTF-8");
    let gguf = accepted(with_tensor(Build::new().key([b'k'; 65_535], U32, &one)));
    assert_eq!(gguf.meta().uint(&"k".repeat(65_535)).unwrap(), Some(1));
    // What a hostile key shows to a terminal is harmless and short.
    let err = Gguf::from_vec("test", with_tensor(Build::new().key("\x1b[2J".repeat(1000), 99, &[]))).unwrap_err();
    assert!(!err.to_string().contains('\x1b') && err.to_string().len() < 1000, "{err:?}");
}

#[test]
fn fault_08_unknown_ids() {
    for byte in [2, 128, 255] {
        let reason = format!("key `k`: bool byte `{byte}`, expected 0 or 1");
        refused(with_tensor(Build::new().key("k", BOOL, &[byte])), &reason);
        refused(with_tensor(Build::new().key("k", ARRAY, &array(BOOL, 3, &[0, 1, byte]))), &reason);
    }
    for id in [13, 77, u32::MAX] {
        refused(with_tensor(Build::new().key("k", id, &[0; 8])), &format!("key `k`: value type id `{id}`"));
    }
    for id in [4, 5, 31, 32, 33, 36, 37, 38, 43, 1000, u32::MAX] {
        let bytes = Build::new().tensor("t", &[256], id, 0).data(4096).bytes();
        refused(bytes, &format!("tensor `t`: tensor type id `{id}`"));
    }
}

#[test]
fn fault_09_alignment() {
    let with = |alignment: u32| Build {
        alignment: Some(alignment.clamp(1, 1 << 20) as usize),
        ..Build::new().key("general.alignment", U32, &alignment.to_le_bytes())
    };
    for alignment in [0, 1, 2, 4, 3, 12, 48, 33, 1 << 25, 1 << 31, u32::MAX] {
        refused(
            with_tensor(with(alignment)),
            &format!("key `general.alignment` is `{alignment}`, expected a power of two"),
        );
    }
    for (ty, name, value) in [
        (5, "i32", 32i32.to_le_bytes().to_vec()),
        (U64, "u64", 32u64.to_le_bytes().to_vec()),
        (6, "f32", 32f32.to_le_bytes().to_vec()),
        (STRING, "string", string("32")),
        (ARRAY, "array of u32", array(U32, 1, &32u32.to_le_bytes())),
    ] {
        let reason = format!("key `general.alignment` is `{name}`, expected u32");
        refused(with_tensor(Build::new().key("general.alignment", ty, &value)), &reason);
    }
    for alignment in [8, 32, 64, 4096] {
        let gguf = accepted(with_tensor(with(alignment)));
        assert_eq!(gguf.alignment(), u64::from(alignment));
        assert_eq!(gguf.data(&gguf.tensors()[0]), [0x3c; 32]);
    }
}

#[test]
fn fault_10_dimensions() {
    for n_dims in [0u32, 5, 9, u32::MAX] {
        let record = [&string("t")[..], &n_dims.to_le_bytes(), &[1; 60]].concat();
        refused(Build::new().raw_tensor(record).bytes(), &format!("tensor `t`: `{n_dims}` dimensions"));
    }
    let shape = |ne: &[u64]| Build::new().tensor("t", ne, 0, 0).data(256).bytes();
    for (ne, at) in [(&[0][..], 0), (&[8, 0], 1), (&[0, 0, 0, 0], 0), (&[1, 1, 1, 0], 3)] {
        refused(shape(ne), &format!("tensor `t`: dimension `{at}` of shape `{ne:?}` is 0"));
    }
    let max = i64::MAX as u64;
    for ne in [
        &[max, 2][..],
        &[2, max],
        &[u64::MAX],
        &[1 << 63],
        &[1 << 32, 1 << 32],
        &[1 << 16, 1 << 16, 1 << 16, 1 << 16],
        &[u64::MAX, u64::MAX, u64::MAX, u64::MAX],
        &[max],     // fits as a count, not as bytes
        &[1 << 61], // the same, by one
    ] {
        refused(shape(ne), "tensor `t`: size of shape");
    }
    // The largest size that does not overflow is simply not in the file; adding padding or the data start must not wrap.
    for ne in [(1 << 61) - 1, (1 << 61) - 8] {
        refused(shape(&[ne]), "tensor `t`: offset `0`");
    }
}

#[test]
fn fault_11_rows_of_broken_blocks() {
    for (ty, block) in [(2u32, 32u64), (8, 32), (12, 256), (14, 256), (20, 32), (23, 256), (39, 32)] {
        for n in [1, block - 1, block + 1] {
            let bytes = Build::new().tensor("t", &[n, block], ty, 0).data(1 << 17).bytes();
            refused(bytes, &format!("tensor `t`: row length `{n}` is not a whole number"));
        }
        accepted(Build::new().tensor("t", &[block], ty, 0).data(256).bytes());
    }
}

#[test]
fn fault_12_offsets() {
    // Two tensors of 40 bytes each: the second belongs at 64.
    let second =
        |offset: u64| Build::new().tensor("a", &[10], 0, 0).tensor("b", &[10], 0, offset).data(64 + 40).bytes();
    accepted(second(64));
    for offset in [1, 63, 65, 72] {
        refused(second(offset), &format!("tensor `b`: offset `{offset}` is not aligned"));
    }
    refused(second(32), "tensor `b`: offset `32` overlaps the tensor before it, expected `64`");
    refused(second(0), "tensor `b`: offset `0` overlaps the tensor before it");
    refused(second(96), "tensor `b`: offset `96` with `40` bytes lies past the end of the file");
    for offset in [1 << 40, 1 << 63, u64::MAX - 31, u64::MAX - 63] {
        refused(second(offset), &format!("tensor `b`: offset `{offset}` with `40` bytes lies past the end"));
    }
    let gap = Build::new().tensor("a", &[10], 0, 0).tensor("b", &[10], 0, 96).data(96 + 40);
    refused(gap.bytes(), "tensor `b`: offset `96` leaves a gap, expected `64`");
    refused(Build::new().tensor("a", &[8], 0, 32).data(64).bytes(), "leaves a gap, expected `0`");
    let backwards = Build::new().tensor("a", &[8], 0, 32).tensor("b", &[8], 0, 0).data(64);
    refused(backwards.bytes(), "expected `0`");
    // One byte short of the last tensor.
    let mut short = second(64);
    short.pop();
    refused(short, "tensor `b`: offset `64` with `40` bytes lies past the end");
}

#[test]
fn fault_13_tensor_names() {
    let named = |name: &[u8]| Build::new().tensor(name, &[8], 0, 0).data(32).bytes();
    refused(named(b""), "tensor number 0: tensor name is empty");
    refused(named(&[b'n'; 64]), "a tensor name has `64` bytes, at most 63");
    refused(named(b"a\0b"), "holds NUL");
    refused(named(b"\xff"), "a tensor name is not UTF-8");
    assert!(accepted(named(&[b'n'; 63])).tensor(&"n".repeat(63)).is_some());
    let twice = Build::new().tensor("a", &[8], 0, 0).tensor("a", &[8], 0, 32).data(64);
    refused(twice.bytes(), "tensor `a`: occurs twice");
}

#[test]
fn fault_14_a_file_that_changes_while_it_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, mixed()).unwrap();
    let mapped = Gguf::open(&path).unwrap();
    let read = Gguf::open_with(&path, GgufOptions { mmap: false }).unwrap();
    let last = mapped.tensors().last().unwrap().clone();
    let content = read.data(&last).to_vec();

    // Renaming another file over it changes nothing for those who have it open.
    longtake::files::atomic::write_beside(&path, |w| Ok(w.write_all(b"GGUF")?)).unwrap();
    mapped.check_unchanged().unwrap();
    assert_eq!(mapped.data(&last), content);
    assert!(Gguf::open(&path).is_err());

    // Cutting it short is noticed before anybody touches the lost pages, and does not concern a file that was read.
    std::fs::write(&path, mixed()).unwrap();
    let mapped = Gguf::open(&path).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
    let err = mapped.check_unchanged().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Io);
    assert!(err.to_string().contains("m.gguf: size changed from 8576 to `100` bytes"), "{err}");
    read.check_unchanged().unwrap();
    assert_eq!(read.data(&last), content);
}

#[test]
fn what_is_not_a_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for mmap in [true, false] {
        let err = Gguf::open_with(dir.path(), GgufOptions { mmap }).unwrap_err();
        assert!(err.to_string().contains("is a folder without GGUF files"), "{err}");
        let err = Gguf::open_with(&dir.path().join("none.gguf"), GgufOptions { mmap }).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::NotFound);
        assert!(err.to_string().contains("none.gguf"), "{err}");
    }
}

/// Claims of a few bytes must not cost memory: each of these files is opened by a process that may use 400 MiB of address
/// space. Reserving for the claim before checking it would abort that process.
#[test]
#[cfg(target_os = "linux")]
fn claims_cost_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let claims = [
        Build { n_keys: Some(limits::MAX_KEYS), ..Build::new() }.bytes(),
        Build { n_keys: Some(u64::MAX), ..Build::new() }.bytes(),
        Build { n_tensors: Some(limits::MAX_TENSORS), ..Build::new() }.bytes(),
        Build { n_tensors: Some(1 << 40), ..Build::new() }.bytes(),
        Build::new().key("k", ARRAY, &array(STRING, limits::MAX_ARRAY, &[0; 64])).bytes(),
        Build::new().key("k", ARRAY, &array(F64, limits::MAX_ARRAY, &[0; 64])).bytes(),
        Build::new().key("k", ARRAY, &array(U8, 1 << 40, &[0; 64])).bytes(),
        Build::new().key("k", STRING, &(1u64 << 40).to_le_bytes()).bytes(),
        Build::new().tensor("t", &[1 << 40], 0, 0).data(64).bytes(),
    ];
    for (i, bytes) in claims.iter().enumerate() {
        let path = dir.path().join(format!("{i}.gguf"));
        std::fs::write(&path, bytes).unwrap();
        let out = std::process::Command::new("sh")
            .args(["-c", "ulimit -v 409600; exec \"$0\" inspect \"$1\""])
            .arg(env!("CARGO_BIN_EXE_longtake"))
            .arg(&path)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "claim {i}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "claim {i}: {stderr}");
    }
}

#[test]
fn every_single_byte_damage_is_survived() {
    let whole = mixed();
    let front = parse::parse(&whole).unwrap().data_start as usize;
    let mut n_refused = 0;
    for at in 0..front {
        for byte in [0, 1, 0x7f, 0x80, 0xff, whole[at] ^ 1] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            n_refused += usize::from(survive(bytes));
        }
    }
    assert!(n_refused > front, "only {n_refused} damaged files were refused");
}

/// Opens damaged bytes and touches all that they promise; whether they were refused.
fn survive(bytes: Vec<u8>) -> bool {
    match Gguf::from_vec("damaged", bytes) {
        Ok(gguf) => {
            for tensor in gguf.tensors() {
                assert_eq!(gguf.data(tensor).len(), tensor.n_bytes);
                assert_eq!(tensor.ty.row_bytes(tensor.n_cols()).unwrap() * tensor.n_rows(), tensor.n_bytes);
            }
            false
        }
        Err(err) => {
            let text = err.to_string();
            assert!(text.starts_with("damaged: ") && text.len() < 1000, "{text}");
            true
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_damage_is_survived(
        flips in prop::collection::vec((0usize..2560, any::<u8>()), 1..24),
        cut in prop::option::of(0usize..8576),
    ) {
        let mut bytes = mixed();
        for (at, byte) in flips {
            bytes[at] = byte;
        }
        bytes.truncate(cut.unwrap_or(bytes.len()));
        survive(bytes);
    }

    /// Lengths, counts, dimensions and offsets are 8 bytes: put extreme ones everywhere.
    #[test]
    fn extreme_numbers_are_survived(
        at in 8usize..2552,
        n in prop::sample::select(vec![0, 1, 31, 63, 64, 65, 1 << 16, 1 << 20, 1 << 31, 1 << 32, 1 << 61, i64::MAX as u64, 1 << 63, u64::MAX - 31, u64::MAX]),
    ) {
        let mut bytes = mixed();
        bytes[at..at + 8].copy_from_slice(&n.to_le_bytes());
        survive(bytes);
    }

    #[test]
    fn noise_is_survived(noise in prop::collection::vec(any::<u8>(), 0..600)) {
        survive([&b"GGUF\x03\0\0\0"[..], &noise].concat());
    }
}
