//! LongVideoBench: up to five options, by index; the key of the test part is not published.

use super::table::Row;
use super::{Item, Words, check, letter_of};
use crate::Result;

pub(super) const FIELDS: &[&str] = &[
    "id",
    "video_id",
    "video_path",
    "subtitle_path",
    "question",
    "candidates",
    "option0",
    "option1",
    "option2",
    "option3",
    "option4",
    "correct_choice",
    "duration_group",
    "question_category",
    "topic_category",
    "level",
];

pub(super) fn words() -> Words {
    Words {
        before: String::new(),
        after: "Answer with the option's letter from the given choices directly.\n".to_string(),
    }
}

pub(super) fn item(row: &Row) -> Result<Item> {
    let options = match row.texts("candidates")? {
        Some(candidates) => candidates,
        None => {
            // Columns of their own, filled up with `N/A`.
            let mut options = Vec::new();
            for field in ["option0", "option1", "option2", "option3", "option4"] {
                options.extend(row.text(field)?.filter(|option| option != "N/A"));
            }
            options
        }
    };
    let answer = match row.number("correct_choice")? {
        // The test part says -1 where it says anything.
        None | Some(-1.0) => None,
        Some(index) if index >= 0.0 && index.fract() == 0.0 && index < 1e6 => Some(index as usize),
        Some(index) => return Err(row.wrong("correct_choice", format!("is `{index}`, expected an index"))),
    };
    let mut groups = Vec::new();
    for kind in ["duration_group", "question_category", "topic_category", "level"] {
        if let Some(name) = row.text(kind)? {
            groups.push((kind, name));
        }
    }
    let item = Item {
        id: row.need_text(&["id"])?,
        video: row.need_text(&["video_path", "video_id"])?,
        question: row.need_text(&["question"])?,
        options,
        answer,
        groups,
        subtitles: row.text("subtitle_path")?,
    };
    check(item, row)
}

/// Question, options with letters, and the words after.
pub(super) fn prompt(item: &Item, words: &Words) -> String {
    let options: Vec<String> =
        item.options.iter().enumerate().map(|(i, option)| format!("{}. {option}", letter_of(i))).collect();
    format!("{}{}\n{}\n{}", words.before, item.question, options.join("\n"), words.after)
}
