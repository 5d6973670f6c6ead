//! Folders that nobody should trust: each is one clear error, and nothing is read from outside.

use std::io::Write as _;
use std::path::Path;

use longtake::ErrorKind;
use longtake::eval::choice::table::{Row, parse};
use longtake::eval::choice::{Collection, CollectionOptions, Task};
use parquet::basic::{Compression, ZstdLevel};
use serde_json::{Value, json};

use super::{Column, longtake, parquet_of, stderr, text, texts};

const FIELDS: &[&str] = &["id", "options", "n"];

fn question() -> Value {
    json!({
        "videoID": "v", "question_id": "q", "question": "What?", "options": ["A. x", "B. y"], "answer": "A",
        "duration": "short",
    })
}

/// The error of a Video-MME folder with this annotation file.
fn refused(name: &str, bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(name), bytes).unwrap();
    let options = CollectionOptions { split: "test".to_string(), annotations: Vec::new() };
    let err = Collection::open(Task::VideoMme, dir.path(), &options).err().map(|err| err.to_string());
    let err = err
        .unwrap_or_else(|| panic!("{name} was accepted: {}", String::from_utf8_lossy(&bytes[..bytes.len().min(200)])));
    assert!(err.contains(name) || err.contains("question id"), "the file is named: {err}");
    err
}

/// The question with one field changed.
fn with(field: &str, value: Value) -> Vec<u8> {
    let mut row = question();
    row[field] = value;
    json!([row]).to_string().into_bytes()
}

#[test]
fn questions_that_make_no_sense_are_named_by_row_and_field() {
    let rows = [
        (with("answer", json!("C")), "option `2`"),
        (with("answer", json!("AB")), "`answer`"),
        (with("answer", json!(["A"])), "`answer`"),
        (with("options", json!([])), "`0` options"),
        (with("options", json!(vec!["x"; 27])), "`27` options"),
        (with("options", json!("not a list")), "`options`"),
        (with("options", json!([["nested"]])), "`options`"),
        (with("options", json!(5)), "`options`"),
        (with("question", Value::Null), "`question`"),
        (with("question", json!(true)), "`question`"),
        (with("question_id", json!("")), "`question_id`"),
        (with("question", json!("x".repeat(1 << 17))), "bytes"),
        (with("videoID", json!("../../etc/passwd")), "`video`"),
        (with("videoID", json!("/etc/passwd")), "`video`"),
        (with("videoID", json!("a\\..\\b")), "`video`"),
        (with("videoID", json!("a\0")), "`video`"),
        (with("videoID", json!("")), "`video`"),
        (with("videoID", json!("x".repeat(5000))), "`video`"),
    ];
    for (bytes, want) in rows {
        let err = refused("test.json", &bytes);
        assert!(err.contains(want) && err.contains("row 1"), "{want}: {err}");
    }
    let twice = json!([question(), question()]).to_string();
    assert!(refused("test.json", twice.as_bytes()).contains("`q` is there twice"));
}

#[test]
fn malformed_json_and_tsv_are_refused() {
    let deep = |open: &str, n: usize| open.repeat(n).into_bytes();
    let nested = format!("[{{\"question\": {}1{}}}]", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let unread = format!("[{{\"other\": {}1{}}}]", "[".repeat(1_000_000), "]".repeat(1_000_000));
    for (name, bytes) in [
        ("test.json", Vec::new()),
        ("test.json", deep("[", 1_000_000)),
        ("test.json", deep("{\"a\":", 1_000_000)),
        ("test.json", nested.into_bytes()),
        ("test.json", unread.into_bytes()),
        ("test.json", b"{}".to_vec()),
        ("test.json", b"[1]".to_vec()),
        ("test.json", b"[]".to_vec()),
        ("test.json", b"[{}] x".to_vec()),
        ("test.json", b"[{\"answer\":\"A\",\"answer\":\"B\"}]".to_vec()),
        ("test.json", b"[{\"question\":\"\xFF\xFE\"}]".to_vec()),
        ("test.json", b"[{\"question\":\"\\ud800\"}]".to_vec()),
        ("test.json", b"[{\"question\":1e999}]".to_vec()),
        ("test.json", format!("[{}]", vec!["{}"; 200_000].join(",")).into_bytes()),
        ("test.json", format!("[{{\"options\":[{}]}}]", vec!["0"; 3_000_000].join(",")).into_bytes()),
        ("test.jsonl", b"{}\n{".to_vec()),
        ("test.tsv", b"question\tanswer\nonly one\n".to_vec()),
        ("test.tsv", b"question\n\xFF\n".to_vec()),
    ] {
        refused(name, &bytes);
    }
}

fn table() -> Vec<Column> {
    vec![
        texts("id", &["a", "b", "c"]),
        Column::List("options", vec![vec!["x".into(), "y".into()], vec![], vec!["z".into()]]),
        Column::Int("n", vec![1, 2, 3]),
    ]
}

fn parsed(bytes: &[u8]) -> longtake::Result<Vec<Row>> {
    parse(Path::new("t.parquet"), bytes.to_vec(), FIELDS)
}

#[test]
fn a_truncated_or_flipped_table_is_an_error_or_other_rows_but_nothing_worse() {
    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(ZstdLevel::default())] {
        let bytes = parquet_of(&table(), compression);
        let whole = parsed(&bytes).unwrap();
        assert_eq!(whole.len(), 3);
        assert_eq!(whole[0].texts("options").unwrap(), Some(vec!["x".to_string(), "y".to_string()]));
        assert_eq!(whole[1].texts("options").unwrap(), Some(Vec::new()));
        assert_eq!(whole[2].number("n").unwrap(), Some(3.0));
        for cut in 0..bytes.len() {
            let err = parsed(&bytes[..cut]).unwrap_err();
            assert!(err.to_string().contains("t.parquet"), "cut at {cut}: {err}");
        }
        let mut n_refused = 0;
        for at in 0..bytes.len() {
            for value in [0x00, 0x7F, 0xFF, bytes[at] ^ 1] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                n_refused += usize::from(parsed(&bytes).is_err());
            }
        }
        assert!(n_refused > 0);
    }
}

#[test]
fn columns_of_wrong_types_are_refused_by_name() {
    let not_text = parquet_of(&[Column::Bytes("id", vec![vec![0xFF, 0xFE]])], Compression::SNAPPY);
    let err = parsed(&not_text).unwrap_err().to_string();
    assert!(err.contains("column `id`") && err.contains("UTF-8"), "{err}");
    let rows = parsed(&parquet_of(&[Column::Int("options", vec![7])], Compression::SNAPPY)).unwrap();
    let err = rows[0].texts("options").unwrap_err().to_string();
    assert!(err.contains("row 1") && err.contains("`options`: is a number"), "{err}");
}

/// A footer in Thrift's compact protocol: schema elements, row count, no row groups.
fn file_with_footer(footer: &[u8], declared: u32) -> Vec<u8> {
    [b"PAR1", footer, &declared.to_le_bytes(), b"PAR1"].concat()
}

#[test]
fn declared_sizes_are_checked_before_anything_is_reserved() {
    let refused = |bytes: &[u8]| {
        let err = parsed(bytes).unwrap_err();
        assert!(matches!(err.kind(), ErrorKind::Limit | ErrorKind::Format), "{err}");
        err.to_string()
    };
    assert!(refused(b"PAR1PAR1").contains("PAR1"));
    assert!(refused(&file_with_footer(&[0], u32::MAX)).contains("footer"));
    // Field 2, a list of structs: one schema element whose field 5, the number of children, is 2^31 - 1.
    let children = [0x29, 0x1C, 0x55, 0xFE, 0xFF, 0xFF, 0xFF, 0x0F, 0x00, 0x00];
    assert!(refused(&file_with_footer(&children, children.len() as u32)).contains("children"));
    // A schema nested 100000 deep: each element has one child.
    let n = 100_000u32;
    let mut deep = vec![0x29, 0xFC, (n & 0x7F) as u8 | 0x80, (n >> 7 & 0x7F) as u8 | 0x80, (n >> 14) as u8];
    (0..n).for_each(|_| deep.extend([0x55, 0x02, 0x00]));
    deep.push(0);
    assert!(refused(&file_with_footer(&deep, deep.len() as u32)).contains("schema"));
    // Structs inside structs without end.
    let nested = vec![0x1C; 1 << 20];
    assert!(refused(&file_with_footer(&nested, nested.len() as u32)).contains("nested"));

    // A page header that declares two gigabytes: found behind the type of the first page and changed.
    let bytes = parquet_of(&[texts("id", &["a"; 40])], Compression::ZSTD(ZstdLevel::default()));
    assert_eq!(bytes[4..7], [0x15, 0x04, 0x15], "a dictionary page, then its size");
    let size = bytes[7..].iter().position(|b| b & 0x80 == 0).unwrap() + 1;
    let mut huge = bytes[..7].to_vec();
    huge.extend([0xFE, 0xFF, 0xFF, 0xFF, 0x0F]);
    huge.extend(&bytes[7 + size..]);
    assert!(refused(&huge).contains("2147483647"));
}

#[test]
fn the_program_says_what_is_wrong_with_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/random_model/demo.gguf");
    let eval = |flags: &[&str]| {
        let out = longtake(&[&["eval", "videomme", text(dir.path()), "-m", model], flags].concat());
        (out.status.code(), stderr(&out))
    };
    let (code, err) = eval(&[]);
    assert!(code == Some(2) && err.contains("no annotation file"), "{err}");
    let mut file = std::fs::File::create(dir.path().join("test.json")).unwrap();
    file.write_all(&with("answer", json!("Z"))).unwrap();
    let (code, err) = eval(&[]);
    assert!(code == Some(1) && err.contains("test.json: row 1: field `answer`"), "{err}");
    let (code, err) = eval(&["--context", "7k"]);
    assert!(code == Some(2) && err.contains("`7k`"), "{err}");
    let (code, err) = eval(&["--annotations", "nowhere.json"]);
    assert!(code == Some(1) && err.contains("nowhere.json"), "{err}");
    let out = longtake(&["eval", "mlvu", text(dir.path()), "-m", model, "--subtitles"]);
    assert_eq!(out.status.code(), Some(2), "{}", stderr(&out));
}
