//! Annotation files and subtitles from bytes, for `crate::fuzzing`.

use std::path::Path;

use serde_json::json;

use super::subtitles::{at_times, parse_srt};
use super::table::{Cell, MAX_ROWS, Row, parse};
use crate::fuzzing::choice;

const FIELDS: &[&str] = &["question", "options", "n"];

/// JSON, JSON lines or TSV, by the first byte.
pub(crate) fn tables(input: &[u8]) {
    let Some((kind, bytes)) = choice(input) else { return };
    let name = ["t.json", "t.jsonl", "t.tsv"][usize::from(kind) % 3];
    if let Ok(rows) = parse(Path::new(name), bytes.to_vec(), FIELDS) {
        check(&rows, bytes.len());
    }
}

/// A table in parquet.
pub(crate) fn parquet(input: &[u8]) {
    if let Ok(rows) = parse(Path::new("t.parquet"), input.to_vec(), FIELDS) {
        check(&rows, usize::MAX);
    }
}

/// What the typed getters say of every row, and that no more text came out than went in.
fn check(rows: &[Row], n_input: usize) {
    assert!(rows.len() <= MAX_ROWS);
    let mut n_text = 0;
    for row in rows {
        for (name, cell) in &row.cells {
            assert!(FIELDS.contains(&name.as_str()));
            n_text += match cell {
                Cell::Text(text) => text.len(),
                _ => 0,
            };
            let _ = (row.text(name), row.texts(name));
            if let Ok(Some(number)) = row.number(name) {
                assert!(number.is_finite());
            }
        }
    }
    assert!(n_text <= n_input, "more text than input");
}

pub(crate) fn table_seeds() -> Vec<Vec<u8>> {
    let row = json!({ "question": "What?", "options": ["A. x", 2, null], "n": 1.5, "other": { "a": [[]] } });
    let more = json!({ "question": null, "options": "[\"A\", \"B\"]", "n": "7" });
    let rows = [
        format!("\0{}", json!([row, more])),
        format!("\u{1}{row}\n\n{more}\n"),
        "\u{2}question\toptions\tn\nWhat?\t[\"a\"]\t3\n\nx\t\t-1e9\r\n".to_string(),
    ];
    rows.map(String::into_bytes).into()
}

pub(crate) fn parquet_seeds() -> Vec<Vec<u8>> {
    use parquet::basic::{Compression, ZstdLevel};
    use parquet::file::properties::WriterProperties;
    let zstd = Compression::ZSTD(ZstdLevel::try_new(1).expect("a level that exists"));
    let codecs = [Compression::UNCOMPRESSED, Compression::SNAPPY, zstd];
    let seeds = codecs.into_iter().flat_map(|codec| {
        [true, false].map(|dictionary| {
            let properties = WriterProperties::builder().set_compression(codec).set_dictionary_enabled(dictionary);
            parquet_seed(properties.build()).expect("a seed that makes sense")
        })
    });
    seeds.collect()
}

fn parquet_seed(properties: parquet::file::properties::WriterProperties) -> parquet::errors::Result<Vec<u8>> {
    use std::sync::Arc;

    use parquet::data_type::{ByteArray, ByteArrayType, DoubleType};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    let schema = "message m { required binary question (UTF8); optional group options (LIST) { repeated group list \
                  { optional binary element (UTF8); } } optional double n; }";
    let mut out = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut out, Arc::new(parse_message_type(schema)?), Arc::new(properties))?;
    let mut group = writer.next_row_group()?;
    let text = |texts: &[&str]| texts.iter().map(|t| ByteArray::from(*t)).collect::<Vec<_>>();
    if let Some(mut column) = group.next_column()? {
        column.typed::<ByteArrayType>().write_batch(&text(&["What?", "What?", "Who?"]), None, None)?;
        column.close()?;
    }
    if let Some(mut column) = group.next_column()? {
        let (defs, reps) = ([3, 3, 0, 1], [0, 1, 0, 0]);
        column.typed::<ByteArrayType>().write_batch(&text(&["A", "B"]), Some(&defs), Some(&reps))?;
        column.close()?;
    }
    if let Some(mut column) = group.next_column()? {
        column.typed::<DoubleType>().write_batch(&[1.5], Some(&[0, 1, 0]), None)?;
        column.close()?;
    }
    group.close()?;
    writer.close()?;
    Ok(out)
}

/// A subtitle file, and what is on screen.
pub(crate) fn subtitles(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(lines) = parse_srt(text) else { return };
    let mut n_text = 0;
    for line in &lines {
        assert!(line.start >= 0.0 && line.start.is_finite() && line.end >= 0.0 && line.end.is_finite());
        assert!(!line.text.is_empty());
        n_text += line.text.len();
    }
    assert!(n_text <= text.len());
    if let Ok(shown) = at_times(&lines, &[0.0, 1.0, 3600.5]) {
        assert!(shown.len() <= n_text + lines.len());
    }
}

pub(crate) fn subtitle_seeds() -> Vec<Vec<u8>> {
    let rows = [
        "\u{feff}1\r\n00:00:01,000 --> 00:00:02,500\r\n<font color=\"white\">Hello</font>\r\n\r\n",
        "2\n00:00:03.000 --> 00:00:04.000\n<i>two</i>\nrows < 3\n\n3\nno range\n\n4\n1:00:00,000 --> 1:00:01,000\nlate",
    ];
    rows.map(|row| row.as_bytes().to_vec()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_tables() {
        for seed in parquet_seeds() {
            let rows = parse(Path::new("t.parquet"), seed, FIELDS).unwrap();
            assert_eq!(rows.len(), 3);
            assert_eq!(rows[0].texts("options").unwrap().unwrap(), ["A", "B"]);
            assert_eq!(rows[1].number("n").unwrap(), Some(1.5));
        }
    }
}
