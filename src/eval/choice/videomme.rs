//! Video-MME: 900 videos, three questions each, four options with their letters.

use super::table::Row;
use super::{Item, Words, check, option_of};
use crate::Result;

pub(super) const FIELDS: &[&str] = &[
    "videoID",
    "video_id",
    "question_id",
    "duration",
    "domain",
    "sub_category",
    "task_type",
    "question",
    "options",
    "answer",
];

pub(super) fn words() -> Words {
    Words {
        before:
            "Choose the best answer to the following multiple-choice question about the video. Reply with the letter \
                 of the right option only (A, B, C or D)."
                .to_string(),
        after: "\nAnswer with the option's letter from the given choices directly.".to_string(),
    }
}

pub(super) fn item(row: &Row) -> Result<Item> {
    let video = row.need_text(&["videoID", "video_id"])?;
    let answer = match row.text("answer")? {
        None => None,
        Some(letter) => {
            Some(option_of(&letter).ok_or_else(|| row.wrong("answer", format!("is `{letter}`, expected a letter")))?)
        }
    };
    let mut groups = Vec::new();
    for kind in ["duration", "domain", "sub_category", "task_type"] {
        if let Some(name) = row.text(kind)? {
            groups.push((kind, name));
        }
    }
    let item = Item {
        id: row.need_text(&["question_id"])?,
        subtitles: Some(format!("{video}.srt")),
        video,
        question: row.need_text(&["question"])?,
        options: row.texts("options")?.unwrap_or_default(),
        answer,
        groups,
    };
    check(item, row)
}

/// Instruction, question, options one per line, and the words after; each on a line of its own.
pub(super) fn prompt(item: &Item, words: &Words, subtitles: Option<&str>) -> String {
    let subtitles =
        subtitles.map_or(String::new(), |lines| format!("The subtitles of the video are listed below:\n{lines}\n"));
    format!("{subtitles}{}\n{}\n{}\n{}", words.before, item.question, item.options.join("\n"), words.after)
}
