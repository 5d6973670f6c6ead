//! Evaluation: the collections from folder to score, needles in drawn video, and the theory on the command line.

mod choice;
mod hostile;
mod niah;
mod theory;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

pub fn longtake(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_longtake")).args(args).stdin(Stdio::null()).output().unwrap()
}

pub fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A column of a table.
pub enum Column {
    Text(&'static str, Vec<String>),
    /// Bytes that do not say they are text.
    Bytes(&'static str, Vec<Vec<u8>>),
    Int(&'static str, Vec<i64>),
    List(&'static str, Vec<Vec<String>>),
}

pub fn texts(name: &'static str, values: &[&str]) -> Column {
    Column::Text(name, values.iter().map(|v| v.to_string()).collect())
}

/// A parquet file of these columns.
pub fn parquet_of(columns: &[Column], compression: Compression) -> Vec<u8> {
    let field = |column: &Column| match column {
        Column::Text(name, _) => format!("optional binary {name} (UTF8);"),
        Column::Bytes(name, _) => format!("optional binary {name};"),
        Column::Int(name, _) => format!("optional int64 {name};"),
        Column::List(name, _) => {
            format!("optional group {name} (LIST) {{ repeated group list {{ optional binary element (UTF8); }} }}")
        }
    };
    let fields: String = columns.iter().map(field).collect();
    let schema = Arc::new(parse_message_type(&format!("message table {{ {fields} }}")).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for column in columns {
        let mut out = group.next_column().unwrap().unwrap();
        let strings = |values: &[String]| values.iter().map(|v| ByteArray::from(v.as_str())).collect::<Vec<_>>();
        match column {
            Column::Text(_, values) => {
                out.typed::<ByteArrayType>().write_batch(&strings(values), Some(&vec![1; values.len()]), None).unwrap();
            }
            Column::Bytes(_, values) => {
                let arrays: Vec<ByteArray> = values.iter().map(|v| ByteArray::from(v.clone())).collect();
                out.typed::<ByteArrayType>().write_batch(&arrays, Some(&vec![1; values.len()]), None).unwrap();
            }
            Column::Int(_, values) => {
                out.typed::<Int64Type>().write_batch(values, Some(&vec![1; values.len()]), None).unwrap();
            }
            Column::List(_, lists) => {
                let (mut defs, mut reps) = (Vec::new(), Vec::new());
                for list in lists {
                    // 1: an empty list; 3: an item.
                    defs.extend(if list.is_empty() { vec![1] } else { vec![3; list.len()] });
                    reps.extend((0..list.len().max(1)).map(|i| i16::from(i > 0)));
                }
                let values = strings(&lists.concat());
                out.typed::<ByteArrayType>().write_batch(&values, Some(&defs), Some(&reps)).unwrap();
            }
        }
        out.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}
