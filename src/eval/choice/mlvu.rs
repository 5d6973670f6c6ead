//! MLVU: multiple-choice tasks about long videos, each in a file and a folder of its own; or one table with a letter as the key.

use super::table::Row;
use super::{Item, Words, check, letter_of, option_of};
use crate::Result;

pub(super) const FIELDS: &[&str] =
    &["video", "video_name", "question", "candidates", "answer", "question_type", "task_type", "question_id"];

/// Tasks that want free text; they are left out.
const FREE_TEXT: [&str; 2] = ["subPlot", "summary"];

pub(super) fn words() -> Words {
    Words { before: "\n".to_string(), after: "\nOnly give the best option.\n\nBest option: (".to_string() }
}

/// The question of a row, or nothing if it wants free text. `file` is the name of the row's file without extension, `index` its
/// number there: together they are the id where there is no other.
pub(super) fn item(row: &Row, file: &str, index: usize) -> Result<Option<Item>> {
    let kind = row.need_text(&["task_type", "question_type"])?;
    if FREE_TEXT.contains(&kind.as_str()) {
        return Ok(None);
    }
    let id = row.text("question_id")?;
    let question = row.need_text(&["question"])?;
    let candidates = row.texts("candidates")?.unwrap_or_default();
    // In the tables of one file the question shows its options already.
    let embedded = question.contains("(A)");
    let question = if embedded {
        question
    } else {
        let options: Vec<String> =
            candidates.iter().enumerate().map(|(i, option)| format!("({}) {option}", letter_of(i))).collect();
        format!("{question}\n{}", options.join("\n"))
    };
    let options = if candidates.is_empty() {
        (0..super::MAX_OPTIONS)
            .take_while(|i| question.contains(&format!("({})", letter_of(*i))))
            .map(|i| letter_of(i).to_string())
            .collect()
    } else {
        candidates
    };
    let answer = match row.text("answer")? {
        None => None,
        Some(text) => {
            let found = options.iter().position(|option| option.trim() == text.trim()).or_else(|| option_of(&text));
            Some(found.ok_or_else(|| row.wrong("answer", "is neither one of the candidates nor a letter"))?)
        }
    };
    let video = row.need_text(&["video_name", "video"])?;
    let item = Item {
        id: id.unwrap_or_else(|| format!("{file}-{index}")),
        // Each task of the many-file form has its own folder of videos; a table names files only.
        video,
        question,
        options,
        answer,
        groups: vec![("task_type", kind)],
        subtitles: None,
    };
    check(item, row).map(Some)
}

/// The question with its options, between the words.
pub(super) fn prompt(item: &Item, words: &Words) -> String {
    format!("{}{}{}", words.before, item.question, words.after)
}
