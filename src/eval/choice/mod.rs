//! Multiple-choice benchmarks over local folders: Video-MME, LongVideoBench, MLVU.
//! In: a folder in a published layout, an engine. Out: one line per answered question, and scores as the published
//! harness computes them.
//! Start reading at [`Collection::open`], then [`run()`]; [`Report::new`] scores responses and knows no model.
//! One file per collection says which fields it reads and how it asks; [`table`] reads annotation files.
//! On purpose absent here: downloads, judging by another model.

mod folder;
mod letter;
mod log;
mod longvideobench;
mod mlvu;
#[cfg_attr(not(feature = "bench-data"), path = "no_parquet.rs")]
mod parquet_file;
mod run;
mod score;
mod subtitles;
pub mod table;
mod videomme;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

pub use folder::{Collection, CollectionOptions};
pub use letter::{Picked, pick};
pub use log::{Log, Response};
pub use run::{Outcome, RunOptions, Step, run};
pub use score::{Report, Tally};

use crate::{Error, Result};

/// Most options of a question.
pub const MAX_OPTIONS: usize = 26;
/// Longest question, option or id, in bytes.
pub const MAX_TEXT: usize = 1 << 16;

/// A collection of questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    VideoMme,
    LongVideoBench,
    Mlvu,
}

impl Task {
    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Task::VideoMme => "videomme",
            Task::LongVideoBench => "longvideobench",
            Task::Mlvu => "mlvu",
        }
    }

    /// Tokens of an answer at most.
    pub fn n_predict(self) -> usize {
        if self == Task::LongVideoBench { 32 } else { 16 }
    }

    /// The part of the collection that is read unless another is asked for.
    pub fn default_split(self) -> &'static str {
        match self {
            Task::VideoMme => "test",
            Task::LongVideoBench => "val",
            Task::Mlvu => "dev",
        }
    }

    /// The words around a question.
    pub fn words(self) -> Words {
        match self {
            Task::VideoMme => videomme::words(),
            Task::LongVideoBench => longvideobench::words(),
            Task::Mlvu => mlvu::words(),
        }
    }

    /// What is asked, after the video. `subtitles` are lines of text, where the collection has them in its prompt.
    pub fn prompt(self, item: &Item, words: &Words, subtitles: Option<&str>) -> String {
        match self {
            Task::VideoMme => videomme::prompt(item, words, subtitles),
            Task::LongVideoBench => longvideobench::prompt(item, words),
            Task::Mlvu => mlvu::prompt(item, words),
        }
    }
}

/// The words before and after a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    pub before: String,
    pub after: String,
}

/// A question.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    pub id: String,
    /// The video's file as the annotation names it, with or without extension, below a folder of videos.
    pub video: String,
    pub question: String,
    /// As they are shown, with their letters where the collection has them there already.
    pub options: Vec<String>,
    /// Which option is right; nothing where the key is not published.
    pub answer: Option<usize>,
    /// What scores are grouped by: kind and name.
    pub groups: Vec<(&'static str, String)>,
    /// The subtitles' file.
    pub subtitles: Option<String>,
}

impl Item {
    /// The letter of the right option.
    pub fn letter(&self) -> Option<char> {
        self.answer.map(letter_of)
    }
}

/// A, B, C, …
pub fn letter_of(option: usize) -> char {
    char::from(b'A' + option.min(25) as u8)
}

/// Which option a letter names.
fn option_of(letter: &str) -> Option<usize> {
    let mut chars = letter.trim().chars();
    let first = chars.next().filter(|c| chars.next().is_none() && c.is_ascii_alphabetic())?;
    Some((first.to_ascii_uppercase() as u8 - b'A') as usize)
}

/// Refuses what makes no sense in any collection.
fn check(item: Item, row: &table::Row) -> Result<Item> {
    let texts = [&item.id, &item.question, &item.video].into_iter().chain(&item.options);
    for text in texts {
        if text.len() > MAX_TEXT {
            return Err(
                Error::limit(format!("a text of `{}` bytes, at most {MAX_TEXT}", text.len())).at(row.place.clone())
            );
        }
    }
    if item.id.is_empty() {
        return Err(row.wrong("question_id", "is empty"));
    }
    if item.options.is_empty() || item.options.len() > MAX_OPTIONS {
        let message = format!("`{}` options, expected 1 to {MAX_OPTIONS}", item.options.len());
        return Err(row.wrong("options", message));
    }
    if let Some(answer) = item.answer.filter(|answer| *answer >= item.options.len()) {
        return Err(row.wrong("answer", format!("names option `{answer}`, there are {}", item.options.len())));
    }
    folder::check_name(&item.video).map_err(|err| row.wrong("video", err.message()))?;
    if let Some(name) = &item.subtitles {
        folder::check_name(name).map_err(|err| row.wrong("subtitles", err.message()))?;
    }
    Ok(item)
}
