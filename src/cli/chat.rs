//! `longtake chat`: a dialogue about pictures and videos.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use serde_json::Map;

use super::ask::{introduce, open as open_take};
use super::budget::{measure_time, print_time};
use super::flags::{MediaFlags, ModelFlags, SamplingFlags};
use super::progress::{Progress, catch_interrupt};
use super::run::print_piece;
use crate::files::atomic::write_beside;
use crate::media::Grid;
use crate::stream::{
    Budget, Engine, Events, GenerateOptions, Limits, MediaKind, MediaPlan, Medium, Prompt, Session, Take,
};
use crate::text::message::to_json;
use crate::text::template::RenderOptions;
use crate::text::{Content, MediaSource, Message, Part, Sampler};
use crate::{ErrorKind, Result};

/// Talk about pictures and videos: /video FILE, /image FILE, /clear, /save FILE, /quit.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlags,
    /// Talk about the video of a take, which need not be read again.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["system_prompt", "ctx_size", "cache_type_k", "cache_type_v"])]
    take: Option<PathBuf>,
    /// System prompt [short: -sys]
    #[arg(long, value_name = "TEXT")]
    system_prompt: Option<String>,
    #[command(flatten)]
    media: MediaFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
}

/// Tokens that a question and the template around it take.
const QUESTION: usize = 64;

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let (take, engine) = match &args.take {
        None => (None, args.model.load(true)?),
        Some(take) => {
            args.model.compute.start()?;
            let (take, mut engine) = open_take(take, args.model.model.as_deref(), !args.model.no_mmap)?;
            args.model.compute.offload(&mut engine)?;
            introduce(&take);
            (Some(take), engine)
        }
    };
    let mut dialogue = Dialogue {
        args: &args,
        engine: &engine,
        session: begin(&args, &engine, take.as_ref())?,
        take: take.as_ref(),
        messages: Vec::new(),
        waiting: Vec::new(),
        images: Vec::new(),
        videos: Vec::new(),
    };
    dialogue.introduce();
    eprintln!(
        "{} | context {} tokens | /video FILE, /image FILE, /clear, /save FILE, /quit",
        engine.name,
        dialogue.session.n_ctx()
    );
    let interactive = std::io::stdin().is_terminal();
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if interactive {
            eprint!("> ");
            std::io::stderr().flush()?;
        }
        let Some(line) = lines.next() else { return Ok(()) };
        match dialogue.line(line?.trim()) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // A bad file or a full context ends the turn, not the talk.
            Err(err) if interactive && err.kind() != ErrorKind::Cancelled => eprintln!("error: {err}"),
            Err(err) => return Err(err),
        }
    }
}

/// An empty session, or one that has watched the take.
fn begin<'e>(args: &Args, engine: &'e Engine, take: Option<&Take>) -> Result<Session<'e>> {
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
    engine: &'a Engine,
    session: Session<'a>,
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
    fn line(&mut self, line: &str) -> Result<bool> {
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match command {
            "" => {}
            "/quit" | "/exit" => return Ok(true),
            "/clear" => self.clear()?,
            "/save" if !rest.is_empty() => self.save(&PathBuf::from(rest))?,
            "/image" | "/video" if !rest.is_empty() => self.add_media(command == "/image", rest)?,
            "/image" | "/video" | "/save" => eprintln!("{command} needs a file"),
            _ if command.starts_with('/') && !command[1..].contains('/') => {
                eprintln!("{command} is not known: /video, /image, /clear, /save, /quit")
            }
            _ => self.ask(line)?,
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
        let system = |text: &String| Message { role: "system".to_string(), content: Content::Text(text.clone()) };
        self.messages = system_prompt.iter().map(system).collect();
        if let Some(header) = header {
            let source = MediaSource::Path(header.source.clone());
            self.waiting.push(Part::Video { source, options: Map::new() });
            self.videos.push(MediaPlan::watched(header));
        }
    }

    fn add_media(&mut self, image: bool, source: &str) -> Result<()> {
        let options = self.args.media.options();
        let source = source.to_string();
        let medium = match image {
            true => Medium::image(source.as_ref(), &options)?,
            false => Medium::video(source.as_ref(), &options)?,
        };
        // What the talk so far, media that wait, the next question and its answer leave of the context. A medium that fits there
        // stays as it is, any other has half of it, so that the talk can go on.
        let n_ctx = self.session.n_ctx();
        let used = self.session.n_past() + self.n_waiting() + self.args.sampling.room(n_ctx) + QUESTION;
        let free = n_ctx.saturating_sub(used);
        let fits = medium.shape(self.engine.need_vision()?.hparams(), None)?.n_tokens <= free;
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
        self.messages.push(Message { role: "user".to_string(), content: Content::Parts(parts) });
        match self.answer() {
            Ok(text) => {
                self.messages.push(Message { role: "assistant".to_string(), content: Content::Text(text) });
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
        let render = RenderOptions { add_generation_prompt: true, add_vision_id: false };
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
        self.session.feed(prompt, &mut events, None)?;
        let sampling = &self.args.sampling;
        let mut sampler = Sampler::new(sampling.options())?;
        let options = GenerateOptions { n_predict: sampling.n_predict(), ignore_eos: sampling.ignore_eos };
        let mut text = String::new();
        let mut on_text = |piece: &str| {
            text.push_str(piece);
            print_piece(piece)
        };
        self.session.generate(&mut sampler, options, &mut events, None, &mut on_text)?;
        let _ = print_piece("\n");
        Ok(text)
    }

    /// Writes the conversation as JSON, in the form that `run --messages` reads.
    fn save(&self, path: &std::path::Path) -> Result<()> {
        let json = to_json(&self.messages);
        write_beside(path, |file| Ok(file.write_all(json.as_bytes())?))?;
        eprintln!("saved {} messages to {}", self.messages.len(), path.display());
        Ok(())
    }
}
