//! `longtake chat`: a dialogue about pictures and videos.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Map;

use super::ask::{introduce, open as open_take};
use super::budget::{BudgetFlags, measuring, print_time};
use super::flags::{FormFlags, MediaFlags, ModelFlags, SamplingFlags, warn_of_length};
use super::looked::WhereFlags;
use super::out;
use super::progress::{Progress, at_prompt, catch_interrupt, forget_interrupt};
use super::run::{Request, print};
use crate::api::{Cancel, Chat, ChatOptions, Longtake, PlannedMedium};
use crate::files::atomic::write_beside;
use crate::stream::Finish;
use crate::text::message::to_json;
use crate::text::{MediaSource, Part, Source};
use crate::{Error, ErrorKind, Result};

/// Talk about pictures and videos: /video FILE, /image FILE, /clear, /save FILE, /help, /quit.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelFlags,
    /// Talk about the video of a take, and nothing else; it need not be read again.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["system_prompt", "ctx_size", "cache_type_k", "cache_type_v"])]
    take: Option<PathBuf>,
    /// System prompt [short: -sys]
    #[arg(long, value_name = "TEXT")]
    system_prompt: Option<String>,
    /// Let control tokens in questions be tokens (`<|box_start|>`, …) instead of text.
    #[arg(long)]
    special: bool,
    #[command(flatten)]
    media: MediaFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
    #[command(flatten)]
    form: FormFlags,
    #[command(flatten)]
    looks: WhereFlags,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<()> {
    args.looks.check()?;
    let (take, engine) = match &args.take {
        None => (None, args.model.load(true)?),
        Some(take) => {
            args.model.compute.start()?;
            let (take, mut engine) = open_take(take, args.model.model.as_deref(), !args.model.no_mmap)?;
            args.model.compute.offload(&mut engine)?;
            introduce(&take);
            (Some(take), Arc::new(engine))
        }
    };
    let form = args.form.read(&engine, args.sampling.ignore_eos)?;
    let request = Request {
        compute: &args.model.compute,
        media: &args.media,
        budget: &BudgetFlags::default(),
        sampling: &args.sampling,
        form: form.as_ref(),
        looks: &args.looks,
        add_vision_id: false,
        special: args.special,
        json: false,
        quiet: false,
        dump: None,
    };
    let n_ctx = match args.model.compute.ctx_size {
        0 => engine.text.hparams().n_ctx_train,
        given => given,
    };
    let options = ChatOptions { room: Some(args.sampling.room(n_ctx)), ..request.options(request.sizes(&engine)?)? };
    let longtake = Longtake::from_engine(Arc::clone(&engine));
    let is_about_take = take.is_some();
    let chat = match take {
        Some(take) => longtake.chat_about_open(take)?,
        None => {
            warn_of_length(&engine, n_ctx);
            args.system_prompt.iter().fold(longtake.chat(), |chat, text| chat.system(text))
        }
    };
    let mut progress = Progress::new(false);
    let chat = chat.on_event(move |event| progress.event(event)).cancelled_by(Cancel::from_static(catch_interrupt()?));
    let mut dialogue = Dialogue { args: &args, chat: chat.options(options.clone()), options, is_about_take };
    let media = if is_about_take { "" } else { "/video FILE, /image FILE, " };
    eprintln!("{} | context {} tokens | {media}/help, /quit", engine.name, dialogue.chat.start()?);
    let interactive = std::io::stdin().is_terminal();
    let mut n_failed = 0;
    loop {
        let line = if interactive { at_prompt(read_line) } else { read_line() };
        let Some(line) = line? else { break };
        match dialogue.line(&line) {
            Ok(true) => break,
            Ok(false) => {}
            Err(err) if err.kind() == ErrorKind::Cancelled && interactive => {
                forget_interrupt();
                eprintln!("\nstopped; the question is forgotten, its pictures and videos are kept for the next one");
            }
            Err(err) if err.kind() == ErrorKind::Cancelled => return Err(err),
            // A bad file or a full context ends the turn, not the talk.
            Err(err) => {
                n_failed += 1;
                eprintln!("error: {err}");
                if err.kind() == ErrorKind::Limit {
                    eprintln!("/clear begins a new talk");
                }
            }
        }
        // Nobody reads what is said.
        out::check()?;
    }
    match n_failed {
        // A person has seen it; a script sees the exit code.
        n if n > 0 && !interactive => Err(Error::format(format!("{n} of the lines failed"))),
        _ => Ok(()),
    }
}

/// Longest line, in bytes.
const MAX_LINE: u64 = 4 << 20;

/// The next line of standard input without what ends it; `None` at the end.
///
/// # Errors
/// `Limit` for a longer line; what the system says.
fn read_line() -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    std::io::stdin().lock().take(MAX_LINE + 1).read_until(b'\n', &mut line)?;
    if line.len() as u64 > MAX_LINE {
        return Err(Error::limit(format!("a line of more than {MAX_LINE} bytes")));
    }
    if line.is_empty() {
        return Ok(None);
    }
    let end = line.iter().rposition(|b| !b.is_ascii_whitespace()).map_or(0, |at| at + 1);
    line.truncate(end);
    Ok(Some(line))
}

/// What a person means who types, pastes or drags a file's name: the file of just that name if there is one; otherwise
/// quotes around it go, and so do backslashes before spaces and other signs, where the system has them for that.
fn file_named(word: OsString) -> OsString {
    let Some(text) = word.to_str().filter(|_| !Path::new(&word).exists()) else { return word };
    let quoted = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    if let Some(inner) = quoted('\'') {
        // A shell's way to have a quote within quotes.
        return inner.replace("'\\''", "'").into();
    }
    let (inner, escapes) = quoted('"').map_or((text, None), |inner| (inner, Some(['"', '\\', '$', '`'])));
    if cfg!(windows) {
        return inner.into();
    }
    let mut plain = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match chars.clone().next().filter(|next| c == '\\' && escapes.is_none_or(|all| all.contains(next))) {
            Some(next) => {
                plain.push(next);
                chars.next();
            }
            None => plain.push(c),
        }
    }
    plain.into()
}

/// Bytes of a line as the system has names.
fn word(bytes: &[u8]) -> OsString {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        OsStr::from_bytes(bytes).to_os_string()
    }
    #[cfg(not(unix))]
    {
        String::from_utf8_lossy(bytes).into_owned().into()
    }
}

const MEDIA_HELP: &str = "\
/video FILE  a video, or a folder of frames, for the next question
/image FILE  a picture for the next question";
const HELP: &str = "\
/clear       forget everything and begin a new talk
/save FILE   write the talk as JSON, which `run --messages` reads
/help        this
/quit        leave, as Ctrl-D does; Ctrl-C stops an answer
anything else is a question; FILE may be quoted, dragged here or a file: URL";

struct Dialogue<'a> {
    args: &'a Args,
    chat: Chat,
    options: ChatOptions,
    is_about_take: bool,
}

impl Dialogue<'_> {
    /// Handles a line; true ends the dialogue.
    fn line(&mut self, line: &[u8]) -> Result<bool> {
        let line = line.trim_ascii();
        let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
        let (command, rest) = (&line[..end], line[end..].trim_ascii());
        let file = || file_named(word(rest));
        match command {
            b"" => {}
            b"/quit" | b"/exit" => return Ok(true),
            b"/help" | b"/?" if self.is_about_take => eprintln!("{HELP}"),
            b"/help" | b"/?" => eprintln!("{MEDIA_HELP}\n{HELP}"),
            b"/clear" => self.chat.clear()?,
            b"/save" if !rest.is_empty() => self.save(&PathBuf::from(file()))?,
            b"/image" | b"/video" if !rest.is_empty() => self.add_media(command == b"/image", &file())?,
            b"/image" | b"/video" | b"/save" => eprintln!("{} needs a file", String::from_utf8_lossy(command)),
            [b'/', name @ ..] if !name.contains(&b'/') => {
                eprintln!("{} is not known; /help tells what is", String::from_utf8_lossy(command))
            }
            _ => {
                let question = std::str::from_utf8(line).map_err(|_| Error::bad_input("the question is not UTF-8"))?;
                self.ask(question.strip_prefix('\u{feff}').unwrap_or(question))?
            }
        }
        Ok(false)
    }

    fn add_media(&mut self, is_image: bool, file: &OsStr) -> Result<()> {
        if self.is_about_take {
            let message = "a talk about a take is about its video alone and takes no other pictures and videos; \
                           `longtake chat` without --take does";
            return Err(Error::bad_input(message));
        }
        let (source, options) = (Source::from_word(file)?, Map::new());
        self.chat.add(match is_image {
            true => Part::Image { source, options },
            false => Part::Video { source: MediaSource::Path(source), options },
        })?;
        // Its faults show now, not with the next question.
        for (medium, mut cost) in self.chat.load()? {
            let PlannedMedium { label, width, height, n_tokens, .. } = &medium;
            eprintln!("{label}: {} steps of {width}x{height}, {n_tokens} tokens", medium.n_pairs());
            cost.reduced.iter().for_each(|what| eprintln!("reduced: {what}"));
            if cost.is_long() {
                measuring(false, || self.chat.time(&mut cost))?;
                print_time(&cost);
            }
        }
        Ok(())
    }

    fn ask(&mut self, question: &str) -> Result<()> {
        // Every question has dice of its own.
        self.options.sampling = self.args.sampling.options();
        self.chat.set_options(self.options.clone())?;
        let mut answer = self.chat.ask(question)?;
        let printed = print(&mut answer, false);
        let is_full = answer.finish() == Some(Finish::Length) && answer.tokens().len() < self.options.max_tokens;
        let looked = answer.looked();
        drop(answer);
        if let Err(error) = printed {
            // The question did not happen; its media wait for the next one.
            self.chat.take_back()?;
            return Err(error);
        }
        self.args.looks.tell(&self.chat, looked.as_ref(), false)?;
        if is_full {
            eprintln!("the context of {} tokens is full; /clear begins a new talk", self.chat.start()?);
        }
        Ok(())
    }

    /// Writes the conversation as JSON, in the form that `run --messages` reads.
    fn save(&self, path: &Path) -> Result<()> {
        let messages = self.chat.messages()?;
        let json = to_json(&messages);
        write_beside(path, |file| Ok(file.write_all(json.as_bytes())?))?;
        eprintln!("saved {} messages to {}", messages.len(), path.display());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_people_give_them() {
        for (typed, want) in [
            ("a.mp4", "a.mp4"),
            ("'/a b/c.mp4'", "/a b/c.mp4"),
            ("\"/a b/c.mp4\"", "/a b/c.mp4"),
            ("'it'\\''s.mp4'", "it's.mp4"),
            ("a b.mp4", "a b.mp4"),
            ("'half", "'half"),
            ("file:///a%20b", "file:///a%20b"),
        ] {
            assert_eq!(file_named(typed.into()), OsString::from(want), "{typed}");
        }
        if cfg!(not(windows)) {
            for (typed, want) in [
                ("/a\\ b/c\\(1\\).mp4", "/a b/c(1).mp4"),
                ("\"a \\\"b\\\" \\c\"", "a \"b\" \\c"),
                ("it\\'s\\\\x", "it's\\x"),
                ("end\\", "end\\"),
            ] {
                assert_eq!(file_named(typed.into()), OsString::from(want), "{typed}");
            }
        }
        // A file of just that name is meant, however odd.
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("'odd'");
        std::fs::write(&odd, "x").unwrap();
        let typed = odd.into_os_string();
        assert_eq!(file_named(typed.clone()), typed);
    }
}
