//! `--where`: where a model looked while it answered, in words, numbers and as a picture.

use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser};
use serde_json::Value;

use crate::api::{Chat, MAX_DRAWN};
use crate::files::atomic::{check_output, write_beside};
use crate::stream::Looked;
use crate::{Error, Result};

/// Whether and how it is told.
#[derive(clap::Args, Default)]
pub(super) struct WhereFlags {
    /// Tell where the model looked while it answered: the times of videos, and the pictures, to which most attention of the answer's
    /// tokens went; with a name, also as a picture of frames over a timeline (in a talk, of the last answer).
    #[arg(long = "where", value_name = "STRIP.png", num_args = 0..=1, value_parser = PathBufValueParser::new().try_map(png))]
    looks: Option<Option<PathBuf>>,
}

/// The name of a picture: what follows the flag by mistake has another.
fn png(path: PathBuf) -> std::result::Result<PathBuf, String> {
    match path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
        true => Ok(path),
        false => {
            Err("expected a name that ends in .png; put --where behind everything else to have no picture".to_string())
        }
    }
}

impl WhereFlags {
    /// Whether it is found out.
    pub(super) fn is_wanted(&self) -> bool {
        self.looks.is_some()
    }

    /// Whether it becomes a picture.
    pub(super) fn has_strip(&self) -> bool {
        self.looks.as_ref().is_some_and(Option::is_some)
    }

    /// # Errors
    /// A picture that could not be written.
    pub(super) fn check(&self) -> Result<()> {
        self.looks.iter().flatten().try_for_each(|path| check_output(path))
    }

    /// Tells on stderr, unless `quiet`, and writes the picture. Returns the numbers.
    ///
    /// # Errors
    /// A picture that cannot be made or written.
    pub(super) fn tell(&self, chat: &Chat, looked: Option<&Looked>, quiet: bool) -> Result<Option<Value>> {
        if !self.is_wanted() {
            return Ok(None);
        }
        let Some(looked) = looked else {
            if !quiet {
                eprintln!("where: the answer has no token that looked anywhere");
            }
            return Ok(None);
        };
        if !quiet {
            eprintln!("where: {looked}");
        }
        // In a talk, pictures and videos may come with a later question.
        if let Some(path) = self.looks.iter().flatten().next().filter(|_| !looked.media.is_empty()) {
            let strip = chat.strip(looked)?;
            strip.missing.iter().for_each(|why| eprintln!("warning: {}: drawn without frames: {why}", path.display()));
            write_beside(path, |file| Ok(file.write_all(&strip.png)?))?;
        }
        Ok(Some(looked.to_json()))
    }

    /// # Errors
    /// A picture of an answer about so many pictures and videos, where that is not drawn.
    pub(super) fn check_media(&self, n: usize) -> Result<()> {
        if self.has_strip() && !(1..=MAX_DRAWN).contains(&n) {
            let message =
                format!("--where with a picture is of 1 to {MAX_DRAWN} pictures and videos, and there are `{n}`");
            return Err(Error::bad_input(message));
        }
        Ok(())
    }

    /// # Errors
    /// A picture where there are `n` answers.
    pub(super) fn check_answers(&self, n: usize) -> Result<()> {
        if n > 1 && self.has_strip() {
            let message =
                format!("--where with a picture is of one answer, and there are `{n}` questions; ask one of them");
            return Err(Error::bad_input(message));
        }
        Ok(())
    }
}
