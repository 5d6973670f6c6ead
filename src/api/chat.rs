//! A talk: turns with media, planned within limits, read into one session, answered.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::Map;

use super::answer::{Answer, Cancel, Usage};
use super::frames::{Frames, FramesFile};
use super::options::ChatOptions;
use crate::stream::{
    Budget, Cost, Engine, Event, Events, Generation, Hold, Ledger, Limits, MediaKind, MediaPlan, Medium, Prompt,
    Session, SessionOptions, Take,
};
use crate::text::template::RenderOptions;
use crate::text::{Content, MediaSource, Message, Part, Sampler, Source};
use crate::{Error, ErrorKind, Result};

/// Tokens that a question and the template around it take, where media are planned before it is known.
const QUESTION: usize = 64;

/// A talk. Media and words that are given become part of the next question; answers become part of the talk.
pub struct Chat {
    home: Arc<Home>,
}

/// Where a talk is while nobody answers.
pub(super) struct Home {
    talk: Mutex<Option<Box<Talk>>>,
    /// The first thing that was wrong with what was given.
    fault: Mutex<Option<Error>>,
    pub cancel: Cancel,
}

impl Home {
    fn take(&self) -> Result<Box<Talk>> {
        let talk = self.talk.lock().unwrap_or_else(PoisonError::into_inner).take();
        talk.ok_or_else(|| Error::busy("the talk has an answer that is not over; read it to its end or drop it"))
    }

    /// The fault, which is told once.
    fn fault(&self) -> Result<()> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    pub(super) fn put(&self, talk: Box<Talk>) {
        *self.talk.lock().unwrap_or_else(PoisonError::into_inner) = Some(talk);
    }
}

/// Where events go.
type Sink = Box<dyn FnMut(Event) + Send>;

/// What a talk consists of.
pub(super) struct Talk {
    engine: Arc<Engine>,
    options: ChatOptions,
    messages: Vec<Message>,
    /// Given since the last question.
    waiting: Vec<Part>,
    session: Option<Session>,
    /// All media that were planned; the cache keeps what they became.
    images: Vec<MediaPlan>,
    videos: Vec<MediaPlan>,
    sink: Sink,
    /// What the session may take of the memory of all talks, once there is one.
    hold: Option<Hold>,
    ledger: Arc<Ledger>,
    /// Frames that came from memory, for as long as they may be read.
    frames: Vec<FramesFile>,
}

/// What the next question will take.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Plan {
    /// Tokens, bytes and, where time is limited or asked for, seconds; and what was reduced to fit.
    pub cost: Cost,
    /// In the order of the talk.
    pub media: Vec<PlannedMedium>,
}

/// A picture or video as it will be read.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PlannedMedium {
    /// Whether it is a picture or a video.
    pub kind: MediaKind,
    /// Where it comes from, for people.
    pub label: String,
    /// Width of every frame after resizing, in pixels.
    pub width: usize,
    /// Their height.
    pub height: usize,
    /// Frames taken.
    pub n_frames: usize,
    /// Tokens that they become in the context.
    pub n_tokens: usize,
}

impl PlannedMedium {
    fn of(plan: &MediaPlan) -> PlannedMedium {
        let MediaPlan { kind, width, height, n_tokens, .. } = *plan;
        PlannedMedium { kind, label: plan.label.clone(), width, height, n_frames: plan.frames.len(), n_tokens }
    }
}

impl Chat {
    pub(super) fn new(engine: &Arc<Engine>, ledger: &Arc<Ledger>) -> Chat {
        Chat::of(Talk {
            engine: Arc::clone(engine),
            options: ChatOptions::default(),
            messages: Vec::new(),
            waiting: Vec::new(),
            session: None,
            images: Vec::new(),
            videos: Vec::new(),
            sink: Box::new(|_| {}),
            hold: None,
            ledger: Arc::clone(ledger),
            frames: Vec::new(),
        })
    }

    /// A talk about the video of a complete take.
    pub(super) fn about((engine, ledger): (&Arc<Engine>, &Arc<Ledger>), take: &Take) -> Result<Chat> {
        if !take.is_complete() {
            let message = format!(
                "is not complete: {} of {} tokens are in it; watch the video again to go on",
                take.n_done(),
                take.header.n_tokens()
            );
            return Err(Error::bad_input(message).at(take.path().display().to_string()));
        }
        let chat = Chat::new(engine, ledger);
        let mut talk = chat.home.take()?;
        let session = Session::from_take(engine, take)?;
        let limits = Limits { n_ctx: Some(session.n_ctx()), memory: ledger.limit(None, None), time: None };
        let (_, cost) = Budget::new(engine, limits, session.options()).fit(Vec::new(), 0)?;
        ledger.hold(&mut talk.hold, &cost)?;
        talk.session = Some(session);
        let source = MediaSource::Path((&*take.header.source).into());
        talk.waiting.push(Part::Video { source, options: Map::new() });
        talk.videos.push(MediaPlan::watched(&take.header));
        talk.messages.extend(take.header.system_prompt.as_deref().map(|text| message("system", text)));
        chat.home.put(talk);
        Ok(chat)
    }

    fn of(talk: Talk) -> Chat {
        let (talk, fault) = (Mutex::new(Some(Box::new(talk))), Mutex::new(None));
        Chat { home: Arc::new(Home { talk, fault, cancel: Cancel::new() }) }
    }

    /// Changes the talk; what cannot be is told by [`Chat::check`] or the next question.
    fn with(self, change: impl FnOnce(&mut Talk) -> Result<()>) -> Chat {
        let changed = self.home.take().and_then(|mut talk| {
            let changed = change(&mut talk);
            self.home.put(talk);
            changed
        });
        if let Err(error) = changed {
            self.home.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
        self
    }

    /// Whether everything that was given so far can be part of the next question, which would tell the same: media are not opened.
    ///
    /// # Errors
    /// What was wrong first; the next question then goes without it.
    pub fn check(&mut self) -> Result<()> {
        self.home.fault()
    }

    /// Holds the talk this way. The context's size, its types and steps hold from the first question on.
    #[must_use]
    pub fn options(self, options: ChatOptions) -> Chat {
        self.with(|talk| {
            options.check()?;
            talk.options = options;
            Ok(())
        })
    }

    /// Begins with a system prompt; comes before all else.
    #[must_use]
    pub fn system(self, text: impl AsRef<str>) -> Chat {
        self.with(|talk| {
            if !talk.messages.is_empty() {
                return Err(Error::bad_input("a system prompt comes before all else, and there is one in a take"));
            }
            talk.messages.push(message("system", text.as_ref()));
            Ok(())
        })
    }

    /// Adds a video to the next question: a file, a folder of frames, or a `data:` URL.
    #[must_use]
    pub fn video(self, source: impl Into<PathBuf>) -> Chat {
        self.with(|talk| {
            let source = MediaSource::Path(Source::from_word(source.into().as_os_str())?);
            talk.waiting.push(Part::Video { source, options: Map::new() });
            Ok(())
        })
    }

    /// Adds frames from memory as a video.
    #[must_use]
    pub fn frames(self, frames: Frames) -> Chat {
        self.with(|talk| {
            let file = frames.finish()?;
            let source = MediaSource::Path(Source::Path(file.path().to_path_buf()));
            talk.waiting.push(Part::Video { source, options: Map::new() });
            talk.frames.push(file);
            Ok(())
        })
    }

    /// Adds a picture likewise.
    #[must_use]
    pub fn picture(self, source: impl Into<PathBuf>) -> Chat {
        self.with(|talk| {
            let source = Source::from_word(source.into().as_os_str())?;
            talk.waiting.push(Part::Image { source, options: Map::new() });
            Ok(())
        })
    }

    /// Adds words between media.
    #[must_use]
    pub fn text(self, text: impl Into<String>) -> Chat {
        self.with(|talk| {
            talk.waiting.push(Part::Text(text.into()));
            Ok(())
        })
    }

    /// Sends what happens while questions are read to `sink`.
    #[must_use]
    pub fn on_event(self, sink: impl FnMut(Event) + Send + 'static) -> Chat {
        self.with(|talk| {
            talk.sink = Box::new(sink);
            Ok(())
        })
    }

    /// The handle that stops the talk, for other threads.
    pub fn cancel(&self) -> Cancel {
        self.home.cancel.clone()
    }

    /// What the next question will take, without reading any of it. `question` may be empty.
    ///
    /// # Errors
    /// What [`Chat::ask`] would say of the media and limits.
    pub fn plan(&mut self, question: impl Into<String>) -> Result<Plan> {
        let mut talk = self.home.take()?;
        let planned = self.home.fault().and_then(|()| talk.plan(question.into()));
        self.home.put(talk);
        planned
    }

    /// Reads what was given and the question, and begins to answer. Reading takes as long as it takes: events tell of it, and
    /// [`Chat::cancel`] stops it; then the question did not happen, and what was given waits for the next one.
    ///
    /// # Errors
    /// Media that cannot be read, limits that they do not fit, cancellation; an answer of this talk that is not over (`Busy`).
    pub fn ask(&mut self, question: impl Into<String>) -> Result<Answer> {
        let mut talk = self.home.take()?;
        match self.home.fault().and_then(|()| talk.begin(question.into(), &self.home.cancel)) {
            Ok((generating, usage)) => Ok(Answer::new(talk, Arc::clone(&self.home), generating, usage)),
            Err(error) => {
                self.home.put(talk);
                Err(error)
            }
        }
    }
}

fn message(role: &str, text: &str) -> Message {
    Message::new(role, Content::Text(text.to_string()))
}

impl Talk {
    /// The session and where events go, once something was read.
    pub(super) fn speaking(&mut self) -> Option<(&mut Session, &mut dyn FnMut(Event))> {
        Some((self.session.as_mut()?, &mut *self.sink))
    }

    /// An answer was given.
    pub(super) fn answered(&mut self, text: &str) {
        self.messages.push(message("assistant", text));
    }

    fn render(&self) -> RenderOptions<'static> {
        let ChatOptions { add_vision_id, special, .. } = self.options;
        RenderOptions { add_generation_prompt: true, add_vision_id, special, tools: &[] }
    }

    /// Slots for what is not media or words of the first question.
    fn around(&self) -> usize {
        self.options.room() + if self.options.ctx_size.is_none() { self.options.reserve } else { 0 }
    }

    fn budget(&self) -> Budget {
        let limits = Limits { memory: self.memory(), ..self.options.limits() };
        Budget::new(&self.engine, limits, self.options.session(&self.engine))
    }

    /// Bytes that the talk may take, weights included.
    fn memory(&self) -> Option<u64> {
        self.ledger.limit(self.hold.as_ref(), self.options.max_memory)
    }

    /// A medium as it will be read; frames from memory are named as such.
    fn planned(&self, plan: &MediaPlan) -> PlannedMedium {
        let own = self.frames.iter().find(|file| file.path().as_os_str() == &*plan.label);
        let planned = PlannedMedium::of(plan);
        PlannedMedium { label: own.map_or(planned.label, FramesFile::label), ..planned }
    }

    /// The conversation with the question in it.
    fn asked(&self, question: &str) -> Vec<Message> {
        let mut parts = self.waiting.clone();
        parts.push(Part::Text(question.to_string()));
        let turn = Message::new("user", Content::Parts(parts));
        self.messages.iter().cloned().chain([turn]).collect()
    }

    fn plan(&mut self, question: String) -> Result<Plan> {
        let messages = self.asked(&question);
        let (media, mut cost) = match &self.session {
            None => {
                let (prompt, mut cost) =
                    self.budget().fit_prompt(&messages, self.render(), &self.options.media, self.around())?;
                let media = prompt.media_in_order().into_iter().map(|plan| self.planned(plan)).collect();
                if self.options.max_time.is_some() || cost.is_long() {
                    self.budget().time(&mut cost)?;
                }
                (media, cost)
            }
            Some(session) => {
                let plans = self.plan_more(session, &messages)?.0;
                let n_new: usize = plans.iter().map(|plan| plan.n_tokens).sum();
                let n_ctx = session.n_ctx();
                let mut cost = Cost::default();
                (cost.n_tokens, cost.n_ctx) = (n_new, n_ctx);
                (plans.iter().map(|plan| self.planned(plan)).collect(), cost)
            }
        };
        for file in &self.frames {
            let name = file.path().display().to_string();
            cost.reduced.iter_mut().for_each(|line| *line = line.replace(&name, &file.label()));
        }
        Ok(Plan { cost, media })
    }

    /// Plans what later questions bring, with the most that one of them costs: a medium that fits as it is stays so, any other has
    /// half of what is left.
    fn plan_more(&self, session: &Session, messages: &[Message]) -> Result<(Vec<MediaPlan>, Cost)> {
        let (n_ctx, sizes) = (session.n_ctx(), session.options());
        let mut known = (self.images.len(), self.videos.len());
        let (mut plans, mut most): (Vec<MediaPlan>, Cost) = Default::default();
        for part in messages.iter().flat_map(parts_of) {
            let (count, medium): (_, &dyn Fn() -> Result<Medium>) = match part {
                Part::Text(_) => continue,
                Part::Image { source, .. } => (&mut known.0, &|| Medium::image_from(source, &self.options.media)),
                Part::Video { source: MediaSource::Path(source), .. } => {
                    (&mut known.1, &|| Medium::video_from(source, &self.options.media))
                }
                Part::Video { source: MediaSource::Frames(frames), .. } => {
                    (&mut known.1, &|| Medium::pictures_from(frames, &self.options.media))
                }
            };
            if *count > 0 {
                *count -= 1;
                continue;
            }
            let waiting: usize = plans.iter().map(|plan| plan.n_tokens).sum();
            let used = session.n_past() + waiting + self.options.room() + QUESTION;
            let budget =
                Budget::new(&self.engine, Limits { n_ctx: Some(n_ctx), memory: self.memory(), time: None }, sizes);
            let whole = budget.fit_one(medium()?, used);
            let (plan, cost) = match whole {
                Ok((plan, cost)) if cost.reduced.is_empty() => (plan, cost),
                Err(error) if error.kind() != ErrorKind::Limit => return Err(error),
                _ => budget.fit_one(medium()?, used + n_ctx.saturating_sub(used) / 2)?,
            };
            plans.push(plan);
            if most.memory() < cost.memory() {
                most = cost;
            }
        }
        Ok((plans, most))
    }

    /// Reads the question with all that waits.
    pub(super) fn begin(&mut self, question: String, cancel: &Cancel) -> Result<((Generation, Sampler), Usage)> {
        let guide = self.options.form.as_ref().map(|form| form.guide(&self.engine.tokenizer)).transpose()?;
        let sampler = Sampler::new(self.options.sampling.clone())?.guided(guide);
        let messages = self.asked(&question);
        let known = (self.images.len(), self.videos.len());
        let is_first = self.session.is_none();
        match self.read(&messages, cancel) {
            Ok(usage) => {
                self.messages = messages;
                self.waiting.clear();
                Ok(((Generation::new(self.options.generate()), sampler), usage))
            }
            Err(error) => {
                // The question did not happen, and what it brought is planned again with the next one.
                self.images.truncate(known.0);
                self.videos.truncate(known.1);
                if is_first {
                    (self.session, self.hold) = (None, None);
                }
                Err(error)
            }
        }
    }

    fn read(&mut self, messages: &[Message], cancel: &Cancel) -> Result<Usage> {
        let started = Instant::now();
        if self.session.is_none() {
            let fit = self.budget().fit_prompt(messages, self.render(), &self.options.media, self.around());
            let (prompt, cost) = fit?;
            self.ledger.hold(&mut self.hold, &cost)?;
            let sizes = SessionOptions { n_ctx: cost.n_ctx, ..self.options.session(&self.engine) };
            self.session = Some(Session::new(&self.engine, sizes)?);
            (self.images, self.videos) = (prompt.images, prompt.videos);
        } else if let Some(session) = &self.session {
            let (plans, cost) = self.plan_more(session, messages)?;
            if !plans.is_empty() {
                self.ledger.hold(&mut self.hold, &cost)?;
            }
            for plan in plans {
                if plan.kind == MediaKind::Image { self.images.push(plan) } else { self.videos.push(plan) }
            }
        }
        let units = Prompt::units(&self.engine, messages, self.render())?;
        let session = self.session.as_mut().ok_or_else(|| Error::internal("a talk without a session reads"))?;
        let (images, videos) = (std::mem::take(&mut self.images), std::mem::take(&mut self.videos));
        let mut prompt = Prompt { units, images, videos };
        let mut usage = Usage { prompt_tokens: prompt.n_tokens()?, ..Usage::default() };
        let sink = &mut self.sink;
        let mut tell = |event: Event| {
            if let Event::PromptStart { cached, .. } = event {
                usage.cached_tokens = cached;
            }
            sink(event);
        };
        // Faults of pictures show before the work on anything begins.
        let read = prompt
            .load_pictures(cancel.flag())
            .and_then(|()| session.feed(&mut prompt, &mut Events::new(&mut tell, cancel.flag())));
        (self.images, self.videos) = (prompt.images, prompt.videos);
        read?;
        usage.prompt_time = started.elapsed();
        Ok(usage)
    }
}

fn parts_of(message: &Message) -> &[Part] {
    match &message.content {
        Content::Text(_) => &[],
        Content::Parts(parts) => parts,
    }
}
