//! `longtake chat`: a dialogue about pictures and videos.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::Map;

use super::ask::{introduce, open as open_take};
use super::budget::{measure_time, print_time};
use super::flags::{FormFlags, MediaFlags, ModelFlags, SamplingFlags};
use super::out;
use super::progress::{Progress, at_prompt, catch_interrupt, forget_interrupt};
use crate::files::atomic::write_beside;
use crate::media::Grid;
use crate::stream::{
    Budget, Engine, Events, Finish, GenerateOptions, Limits, MediaKind, MediaPlan, Medium, Prompt, Session, Take,
};
use crate::text::message::to_json;
use crate::text::template::RenderOptions;
use crate::text::{Content, Form, MediaSource, Message, Part, Sampler, Source};
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
}

/// Tokens that a question and the template around it take.
const QUESTION: usize = 64;

/// Runs the command.
pub(super) fn run(args: Args) -> Result<()> {
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
    let mut dialogue = Dialogue {
        args: &args,
        form,
        engine: &engine,
        session: begin(&args, &engine, take.as_ref())?,
        take: take.as_ref(),
        messages: Vec::new(),
        waiting: Vec::new(),
        images: Vec::new(),
        videos: Vec::new(),
    };
    dialogue.introduce();
    let media = if dialogue.take.is_none() { "/video FILE, /image FILE, " } else { "" };
    eprintln!("{} | context {} tokens | {media}/help, /quit", engine.name, dialogue.session.n_ctx());
    catch_interrupt()?;
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

/// An empty session, or one that has watched the take.
fn begin(args: &Args, engine: &Arc<Engine>, take: Option<&Take>) -> Result<Session> {
    let hp = engine.text.hparams();
    match take {
        Some(take) => Session::from_take(engine, take),
        None => {
            let scale = args.media.scale(hp.layout)?;
            let options = args.model.compute.session(engine, hp.n_ctx_train, scale)?;
            super::flags::warn_of_length(engine, options.n_ctx);
            Session::new(engine, options)
        }
    }
}

struct Dialogue<'a> {
    args: &'a Args,
    /// The form of every answer.
    form: Option<Form>,
    engine: &'a Arc<Engine>,
    session: Session,
    take: Option<&'a Take>,
    messages: Vec<Message>,
    /// Media given since the last question.
    waiting: Vec<Part>,
    /// All media of the dialogue, planned once; the cache keeps what they became.
    images: Vec<MediaPlan>,
    videos: Vec<MediaPlan>,
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
            b"/help" | b"/?" => match self.take {
                None => eprintln!("{MEDIA_HELP}\n{HELP}"),
                Some(_) => eprintln!("{HELP}"),
            },
            b"/clear" => self.clear()?,
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

    fn clear(&mut self) -> Result<()> {
        match self.take {
            None => self.session.clear(),
            Some(_) => self.session = begin(self.args, self.engine, self.take)?,
        }
        self.introduce();
        Ok(())
    }

    /// What is said before the first question: the system prompt, and the video of a take.
    fn introduce(&mut self) {
        self.waiting.clear();
        self.images.clear();
        self.videos.clear();
        let header = self.take.map(|take| &take.header);
        let system_prompt = header.map_or(&self.args.system_prompt, |header| &header.system_prompt);
        let system = |text: &String| Message::new("system", Content::Text(text.clone()));
        self.messages = system_prompt.iter().map(system).collect();
        if let Some(header) = header {
            let source = MediaSource::Path((&*header.source).into());
            self.waiting.push(Part::Video { source, options: Map::new() });
            self.videos.push(MediaPlan::watched(header));
        }
    }

    fn add_media(&mut self, image: bool, file: &OsStr) -> Result<()> {
        if self.take.is_some() {
            let message = "a talk about a take is about its video alone and takes no other pictures and videos; \
                           `longtake chat` without --take does";
            return Err(Error::bad_input(message));
        }
        let options = self.args.media.options()?;
        let source = Source::from_word(file)?;
        let medium = match image {
            true => Medium::image_from(&source, &options)?,
            false => Medium::video_from(&source, &options)?,
        };
        // What the talk so far, media that wait, the next question and its answer leave of the context. A medium that fits there
        // stays as it is, any other has half of it, so that the talk can go on.
        let n_ctx = self.session.n_ctx();
        let used = self.session.n_past() + self.n_waiting() + self.args.sampling.room(n_ctx) + QUESTION;
        let free = n_ctx.saturating_sub(used);
        let fits =
            medium.shape(self.engine.need_vision()?.hparams(), self.engine.stamp_cost()?, None)?.n_tokens <= free;
        let around = used + if fits { 0 } else { free / 2 };
        let options = self.session.options();
        let budget = Budget::new(self.engine, Limits { n_ctx: Some(n_ctx), ..Limits::default() }, options);
        let (mut plan, mut cost) = budget.fit_one(medium, around)?;
        let Grid { t, .. } = plan.grid;
        eprintln!("{}: {t} steps of {}x{}, {} tokens", plan.label, plan.width, plan.height, plan.n_tokens);
        cost.reduced.iter().for_each(|what| eprintln!("reduced: {what}"));
        if cost.is_long() {
            measure_time(&budget, &mut cost, false)?;
            print_time(&cost);
        }
        // Its faults show now, not with the next question.
        let cancel = catch_interrupt()?;
        plan.load(&|| cancel.load(Ordering::Relaxed))?;
        let options = Map::new();
        if plan.kind == MediaKind::Image {
            self.images.push(plan);
            self.waiting.push(Part::Image { source, options });
        } else {
            self.videos.push(plan);
            self.waiting.push(Part::Video { source: MediaSource::Path(source), options });
        }
        Ok(())
    }

    /// Tokens of the media that wait for the next question: the newest of each kind.
    fn n_waiting(&self) -> usize {
        let of = |plans: &[MediaPlan], n: usize| -> usize {
            let new = plans.iter().rev().take(n).filter(|plan| !plan.is_watched());
            new.map(|plan| plan.n_tokens).sum()
        };
        let n_images = self.waiting.iter().filter(|part| matches!(part, Part::Image { .. })).count();
        of(&self.images, n_images) + of(&self.videos, self.waiting.len() - n_images)
    }

    fn ask(&mut self, question: &str) -> Result<()> {
        let mut parts = std::mem::take(&mut self.waiting);
        parts.push(Part::Text(question.to_string()));
        let n_before = self.messages.len();
        self.messages.push(Message::new("user", Content::Parts(parts)));
        match self.answer() {
            Ok(text) => {
                self.messages.push(Message::new("assistant", Content::Text(text)));
                Ok(())
            }
            Err(err) => {
                // The question did not happen; its media wait for the next one.
                if let Some(Message { content: Content::Parts(mut parts), .. }) = self.messages.drain(n_before..).next()
                {
                    parts.pop();
                    self.waiting = parts;
                }
                Err(err)
            }
        }
    }

    fn answer(&mut self) -> Result<String> {
        let render =
            RenderOptions { add_generation_prompt: true, add_vision_id: false, special: self.args.special, tools: &[] };
        let units = Prompt::units(self.engine, &self.messages, render)?;
        let mut prompt =
            Prompt { units, images: std::mem::take(&mut self.images), videos: std::mem::take(&mut self.videos) };
        let result = self.continue_with(&mut prompt);
        (self.images, self.videos) = (prompt.images, prompt.videos);
        result
    }

    fn continue_with(&mut self, prompt: &mut Prompt) -> Result<String> {
        let mut progress = Progress::new(false);
        let mut sink = |event| progress.event(event);
        let mut events = Events::new(&mut sink, catch_interrupt()?);
        self.session.feed(prompt, &mut events)?;
        let sampling = &self.args.sampling;
        let guide = self.form.as_ref().map(|form| form.guide(&self.engine.tokenizer)).transpose()?;
        let mut sampler = Sampler::new(sampling.options())?.guided(guide);
        let options = GenerateOptions { n_predict: sampling.n_predict(), ignore_eos: sampling.ignore_eos };
        let mut text = String::new();
        let mut on_text = |piece: &str| {
            text.push_str(piece);
            out::piece(piece)
        };
        let (tokens, finish) = self.session.generate(&mut sampler, options, &mut events, &mut on_text)?;
        let _ = out::piece("\n");
        if finish == Finish::Length && tokens.len() < options.n_predict {
            eprintln!("the context of {} tokens is full; /clear begins a new talk", self.session.n_ctx());
        }
        Ok(text)
    }

    /// Writes the conversation as JSON, in the form that `run --messages` reads.
    fn save(&self, path: &Path) -> Result<()> {
        let json = to_json(&self.messages);
        write_beside(path, |file| Ok(file.write_all(json.as_bytes())?))?;
        eprintln!("saved {} messages to {}", self.messages.len(), path.display());
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
