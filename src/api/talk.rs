//! What a talk is made of, and how a question is planned and read.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::Map;

use super::answer::{Cancel, Usage};
use super::frames::FramesFile;
use super::options::ChatOptions;
use super::plan::{Plan, PlannedMedium};
use crate::stream::{
    Budget, Cost, Dump, Engine, Event, Events, Generation, Hold, Ledger, Limits, Looked, MediaKind, MediaPlan, Medium,
    Prompt, Session, SessionOptions, Take,
};
use crate::text::template::RenderOptions;
use crate::text::{Content, MediaSource, Message, Part, Sampler};
use crate::{Error, Result};

/// Tokens that a question and the template around it take, where media are planned before it is known.
const QUESTION: usize = 64;

/// Where events go.
type Sink = Box<dyn FnMut(Event) + Send>;

/// What a talk consists of.
pub(super) struct Talk {
    engine: Arc<Engine>,
    pub(super) options: ChatOptions,
    pub(super) messages: Vec<Message>,
    /// Given since the last question, of which the first so many were planned, and their pictures decoded.
    pub(super) waiting: Vec<Part>,
    n_loaded: usize,
    pub(super) session: Option<Session>,
    /// What the first question will be read from, once that was planned.
    planned: Option<Planned>,
    /// All media that were planned; the cache keeps what they became.
    images: Vec<MediaPlan>,
    videos: Vec<MediaPlan>,
    pub(super) sink: Sink,
    /// The arrays of what is read and answered, where they are wanted.
    pub(super) dump: Option<Dump>,
    /// What the session may take of the memory of all talks, once there is one.
    hold: Option<Hold>,
    ledger: Arc<Ledger>,
    /// Frames that came from memory, for as long as they may be read.
    pub(super) frames: Vec<FramesFile>,
    /// The take that it is about.
    take: Option<Take>,
    /// What was said, and what waited, before the last question.
    before: Option<(usize, Vec<Part>)>,
    /// The last of the messages was not answered yet: an empty question is none.
    is_asked: bool,
}

/// The session, where events go, what looks on.
type Speaking<'a> = (&'a mut Session, &'a mut dyn FnMut(Event), Option<&'a mut Dump>);

/// A conversation that was planned whole.
struct Planned {
    messages: Vec<Message>,
    prompt: Prompt,
    cost: Cost,
}

impl Talk {
    pub(super) fn new(engine: &Arc<Engine>, ledger: &Arc<Ledger>) -> Talk {
        Talk {
            engine: Arc::clone(engine),
            options: ChatOptions::default(),
            messages: Vec::new(),
            waiting: Vec::new(),
            n_loaded: 0,
            session: None,
            planned: None,
            images: Vec::new(),
            videos: Vec::new(),
            sink: Box::new(|_| {}),
            dump: None,
            hold: None,
            ledger: Arc::clone(ledger),
            frames: Vec::new(),
            take: None,
            before: None,
            is_asked: false,
        }
    }

    /// About the video of a complete take.
    pub(super) fn about((engine, ledger): (&Arc<Engine>, &Arc<Ledger>), take: Take) -> Result<Talk> {
        if !take.is_complete() {
            let message = format!(
                "is not complete: {} of {} tokens are in it; watch the video again to go on",
                take.n_done(),
                take.header.n_tokens()
            );
            return Err(Error::bad_input(message).at(take.path().display().to_string()));
        }
        let mut talk = Talk::new(engine, ledger);
        let session = Session::from_take(engine, &take)?;
        talk.hold_context(session.options(), session.n_ctx())?;
        (talk.session, talk.take) = (Some(session), Some(take));
        talk.introduce(None);
        Ok(talk)
    }

    /// That goes on with a session which holds what `messages` say, of the media `videos`.
    pub(super) fn over(session: Session, ledger: &Arc<Ledger>, messages: Vec<Message>, videos: Vec<MediaPlan>) -> Talk {
        let talk = Talk::new(session.engine(), ledger);
        Talk { session: Some(session), is_asked: !messages.is_empty(), messages, videos, ..talk }
    }

    pub(super) fn set_options(&mut self, options: ChatOptions) -> Result<()> {
        options.check()?;
        (self.options, self.planned) = (options, None);
        Ok(())
    }

    /// What is said before the first question: a system prompt, and the video of a take.
    fn introduce(&mut self, system: Option<Message>) {
        self.messages = system.into_iter().collect();
        if let Some(take) = &self.take {
            let header = &take.header;
            let source = MediaSource::Path((&*header.source).into());
            self.waiting = vec![Part::Video { source, options: Map::new() }];
            self.videos = vec![MediaPlan::watched(header)];
            self.n_loaded = 1;
            self.messages = header.system_prompt.as_deref().map(|text| message("system", text)).into_iter().collect();
        }
    }

    /// Goes on from a conversation whose last turn is to be answered.
    pub(super) fn go_on_from(&mut self, messages: Vec<Message>) -> Result<()> {
        self.clear()?;
        (self.is_asked, self.messages) = (!messages.is_empty(), messages);
        Ok(())
    }

    /// Forgets all but the system prompt, and the video of a take.
    pub(super) fn clear(&mut self) -> Result<()> {
        match (&self.take, &mut self.session) {
            (Some(take), _) => self.session = Some(Session::from_take(&self.engine, take)?),
            (None, Some(session)) => session.clear(),
            (None, None) => {}
        }
        let system = self.messages.drain(..).next().filter(|first| first.role == "system");
        (self.planned, self.before, self.n_loaded, self.is_asked) = (None, None, 0, false);
        (self.waiting, self.images, self.videos) = Default::default();
        self.introduce(system);
        Ok(())
    }

    /// The session, where events go and what looks on, once something was read.
    pub(super) fn speaking(&mut self) -> Option<Speaking<'_>> {
        Some((self.session.as_mut()?, &mut *self.sink, self.dump.as_mut()))
    }

    /// Where the last answer looked, where that is found out.
    pub(super) fn looked(&self) -> Option<Looked> {
        self.session.as_ref()?.looked()
    }

    /// An answer was given.
    pub(super) fn answered(&mut self, text: &str) {
        self.messages.push(message("assistant", text));
    }

    /// Takes back the last question and its answer: what waited for it waits again.
    pub(super) fn take_back(&mut self) {
        if let Some((n_messages, mut waiting)) = self.before.take() {
            // Where nothing was added, the question was there before.
            self.is_asked = self.messages.len() <= n_messages + 1;
            self.messages.truncate(n_messages);
            self.n_loaded = waiting.len();
            waiting.append(&mut self.waiting);
            self.waiting = waiting;
        }
    }

    /// Slots of the context, once there is one.
    pub(super) fn n_ctx(&self) -> Option<usize> {
        self.session.as_ref().map(Session::n_ctx)
    }

    fn render(&self) -> RenderOptions<'static> {
        let ChatOptions { add_vision_id, special, .. } = self.options;
        RenderOptions { add_generation_prompt: true, add_vision_id, special, tools: &[] }
    }

    /// Slots for what is not media or words of the first question.
    fn around(&self) -> usize {
        let reserve = if self.options.ctx_size.is_none() { self.options.reserve } else { 0 };
        self.options.answer().saturating_add(reserve)
    }

    fn budget(&self) -> Budget {
        let limits = Limits { memory: self.memory(), ..self.options.limits() };
        Budget::new(&self.engine, limits, self.options.session(&self.engine))
    }

    /// Bytes that the talk may take, weights included.
    fn memory(&self) -> Option<u64> {
        self.ledger.limit(self.hold.as_ref(), self.options.max_memory)
    }

    /// Holds what a context of `n_ctx` slots takes.
    fn hold_context(&mut self, options: SessionOptions, n_ctx: usize) -> Result<()> {
        let limits = Limits { n_ctx: Some(n_ctx), memory: self.memory(), time: None };
        let (_, cost) = Budget::new(&self.engine, limits, options).fit(Vec::new(), 0)?;
        self.ledger.hold(&mut self.hold, &cost)
    }

    /// Makes the context before anything is asked: as large as the options say, or the model was trained for.
    pub(super) fn start(&mut self) -> Result<()> {
        if self.session.is_none() {
            let n_ctx = self.options.ctx_size.unwrap_or(self.engine.text.hparams().n_ctx_train);
            let options = SessionOptions { n_ctx, ..self.options.session(&self.engine) };
            self.hold_context(options, n_ctx)?;
            self.session = Some(Session::new(&self.engine, options)?);
        }
        Ok(())
    }

    /// A medium as it will be read; frames from memory are named as such.
    fn shown(&self, plan: &MediaPlan) -> PlannedMedium {
        let own = self.frames.iter().find(|file| file.path().as_os_str() == &*plan.label);
        let planned = PlannedMedium::of(plan);
        PlannedMedium { label: own.map_or(planned.label, FramesFile::label), ..planned }
    }

    /// What was reduced, with frames from memory named as such.
    fn name_frames(&self, cost: &mut Cost) {
        for file in &self.frames {
            let name = file.path().display().to_string();
            cost.reduced.iter_mut().for_each(|line| *line = line.replace(&name, &file.label()));
        }
    }

    /// The conversation with the question in it.
    fn asked(&self, question: &str) -> Vec<Message> {
        let is_turn = !(self.is_asked && question.is_empty() && self.waiting.is_empty());
        let turn = is_turn.then(|| {
            let parts = self.waiting.iter().cloned().chain([Part::Text(question.to_string())]);
            Message::new("user", Content::Parts(parts.collect()))
        });
        self.messages.iter().cloned().chain(turn).collect()
    }

    /// All media that are planned, in the order of the conversation.
    pub(super) fn media(&self) -> Vec<PlannedMedium> {
        self.plans().into_iter().map(|plan| self.shown(plan)).collect()
    }

    /// The take that it is about, and what that says of its video: its name and what it has in it.
    pub(super) fn take(&self) -> Option<(&Path, (&str, &str))> {
        let take = self.take.as_ref()?;
        Some((take.path(), (&take.header.source, &take.header.source_fingerprint)))
    }

    /// The plans of all media, likewise.
    pub(super) fn plans(&self) -> Vec<&MediaPlan> {
        let (mut images, mut videos) = (self.images.iter(), self.videos.iter());
        let all = self.messages.iter().flat_map(parts_of).chain(&self.waiting);
        let plan = |part: &Part| match part {
            Part::Text(_) => None,
            Part::Image { .. } => images.next(),
            Part::Video { .. } => videos.next(),
        };
        all.filter_map(plan).collect()
    }

    /// What the next question will take; of a first one it is kept, to be read as it was planned.
    pub(super) fn plan(&mut self, question: &str) -> Result<Plan> {
        let messages = self.asked(question);
        let (media, mut cost) = match &self.session {
            None => {
                let fit = self.budget().fit_prompt(&messages, self.render(), &self.options.media, self.around());
                let (prompt, cost) = fit?;
                let media = prompt.media_in_order().into_iter().map(|plan| self.shown(plan)).collect();
                self.planned = Some(Planned { messages, prompt, cost: cost.clone() });
                (media, cost)
            }
            Some(session) => {
                let n_ctx = session.n_ctx();
                let mut sum = Cost::default();
                sum.n_ctx = n_ctx;
                let plans = self.plan_more(session, &messages)?;
                for (plan, cost) in &plans {
                    sum.n_tokens += plan.n_tokens;
                    sum.reduced.extend(cost.reduced.iter().cloned());
                }
                (plans.iter().map(|(plan, _)| self.shown(plan)).collect(), sum)
            }
        };
        self.name_frames(&mut cost);
        Ok(Plan { cost, media })
    }

    /// Measures how long what was planned will take, where that is not known.
    pub(super) fn time(&self, cost: &mut Cost) -> Result<()> {
        self.budget().time(cost)
    }

    /// Plans what later questions bring, each with what it costs.
    fn plan_more(&self, session: &Session, messages: &[Message]) -> Result<Vec<(MediaPlan, Cost)>> {
        let (n_ctx, sizes) = (session.n_ctx(), session.options());
        let budget = Budget::new(&self.engine, Limits { n_ctx: Some(n_ctx), memory: self.memory(), time: None }, sizes);
        let (mut images, mut videos) = (self.images.len(), self.videos.len());
        let mut used = session.n_past() + self.n_waiting() + self.options.answer().saturating_add(QUESTION);
        let mut plans = Vec::new();
        for part in messages.iter().flat_map(parts_of) {
            let known = match part {
                Part::Text(_) => continue,
                Part::Image { .. } => &mut images,
                Part::Video { .. } => &mut videos,
            };
            if *known > 0 {
                *known -= 1;
            } else if let Some(medium) = Medium::of(part, &self.options.media)? {
                let (plan, cost) = budget.fit_more(medium, used)?;
                used = used.saturating_add(plan.n_tokens);
                plans.push((plan, cost));
            }
        }
        Ok(plans)
    }

    /// Tokens of media that were planned and wait to be read: the newest of each kind.
    fn n_waiting(&self) -> usize {
        let waiting = &self.waiting[..self.n_loaded];
        let n_images = waiting.iter().filter(|part| matches!(part, Part::Image { .. })).count();
        let n_videos = waiting.iter().filter(|part| matches!(part, Part::Video { .. })).count();
        let of = |plans: &[MediaPlan], n: usize| -> usize {
            plans.iter().rev().take(n).filter(|plan| !plan.is_watched()).map(|plan| plan.n_tokens).sum()
        };
        of(&self.images, n_images) + of(&self.videos, n_videos)
    }

    /// Plans what was given since the last question and decodes its pictures, so that faults show now.
    ///
    /// # Errors
    /// As of [`Talk::begin`]; what was given since the last call, and is at fault, is dropped.
    pub(super) fn load(&mut self, cancel: &Cancel) -> Result<Vec<(PlannedMedium, Cost)>> {
        self.start()?;
        let loaded = self.load_waiting(cancel);
        match &loaded {
            Ok(_) => self.n_loaded = self.waiting.len(),
            Err(_) => self.waiting.truncate(self.n_loaded),
        }
        loaded
    }

    fn load_waiting(&mut self, cancel: &Cancel) -> Result<Vec<(PlannedMedium, Cost)>> {
        let Some(session) = &self.session else { return Ok(Vec::new()) };
        let mut plans = self.plan_more(session, &self.asked(""))?;
        let flag = cancel.flag();
        plans.iter_mut().try_for_each(|(plan, _)| plan.load(&|| flag.load(Ordering::Relaxed)))?;
        plans.iter_mut().for_each(|(_, cost)| self.name_frames(cost));
        let shown = plans.iter().map(|(plan, cost)| (self.shown(plan), cost.clone())).collect();
        self.keep(plans)?;
        Ok(shown)
    }

    /// Decodes the pictures of a first question that was planned.
    pub(super) fn load_pictures(&mut self, cancel: &Cancel) -> Result<()> {
        self.planned.as_mut().map_or(Ok(()), |planned| planned.prompt.load_pictures(cancel.flag()))
    }

    /// Keeps plans among those of the talk, and what the dearest takes.
    fn keep(&mut self, plans: Vec<(MediaPlan, Cost)>) -> Result<()> {
        if let Some((_, most)) = plans.iter().max_by_key(|(_, cost)| cost.memory()) {
            self.ledger.hold(&mut self.hold, most)?;
        }
        for (plan, _) in plans {
            if plan.kind == MediaKind::Image { self.images.push(plan) } else { self.videos.push(plan) }
        }
        Ok(())
    }

    /// Reads the question with all that waits.
    pub(super) fn begin(&mut self, question: &str, cancel: &Cancel) -> Result<((Generation, Sampler), Usage)> {
        let guide = self.options.form.as_ref().map(|form| form.guide(&self.engine.tokenizer)).transpose()?;
        let sampler = Sampler::new(self.options.sampling.clone())?.guided(guide);
        let messages = self.asked(question);
        let known = (self.images.len(), self.videos.len());
        let is_first = self.session.is_none();
        match self.read(&messages, cancel) {
            Ok(usage) => {
                let n_before = self.messages.len();
                self.messages = messages;
                self.before = Some((n_before, std::mem::take(&mut self.waiting)));
                (self.n_loaded, self.is_asked) = (0, false);
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

    /// Plans the first question, unless that was done, and makes the session for it.
    fn open(&mut self, messages: &[Message]) -> Result<()> {
        let planned = self.planned.take().filter(|planned| planned.messages == messages);
        let (prompt, cost) = match planned {
            // Others may hold by now what was free when it was planned.
            Some(Planned { prompt, cost, .. }) if self.ledger.hold(&mut self.hold, &cost).is_ok() => (prompt, cost),
            _ => {
                let fit = self.budget().fit_prompt(messages, self.render(), &self.options.media, self.around());
                let (prompt, cost) = fit?;
                self.ledger.hold(&mut self.hold, &cost)?;
                (prompt, cost)
            }
        };
        let sizes = SessionOptions { n_ctx: cost.n_ctx, ..self.options.session(&self.engine) };
        self.session = Some(Session::new(&self.engine, sizes)?);
        (self.images, self.videos) = (prompt.images, prompt.videos);
        Ok(())
    }

    fn read(&mut self, messages: &[Message], cancel: &Cancel) -> Result<Usage> {
        match &self.session {
            None => self.open(messages)?,
            Some(session) => {
                let plans = self.plan_more(session, messages)?;
                self.keep(plans)?;
            }
        }
        let units = Prompt::units(&self.engine, messages, self.render())?;
        let session = self.session.as_mut().ok_or_else(|| Error::internal("a talk without a session reads"))?;
        let (images, videos) = (std::mem::take(&mut self.images), std::mem::take(&mut self.videos));
        let mut prompt = Prompt { units, images, videos };
        session.find_looks(self.options.look);
        let mut usage = Usage::default();
        let (sink, dump) = (&mut self.sink, &mut self.dump);
        let mut tell = |event: Event| {
            match event {
                Event::PromptStart { n_tokens, cached } => {
                    (usage.prompt_tokens, usage.cached_tokens) = (n_tokens, cached);
                }
                // Where something is left out it may be less than was counted.
                Event::Prefilled { n_total, .. } => usage.prompt_tokens = n_total,
                _ => {}
            }
            usage.media.see(&event);
            sink(event);
        };
        let mut events = Events::new(&mut tell, cancel.flag());
        if let Some(dump) = dump {
            events = events.with_probe(dump);
        }
        // Faults of pictures show before the work on anything begins.
        let mut started = Instant::now();
        let read = prompt.load_pictures(cancel.flag()).and_then(|()| {
            started = Instant::now();
            session.feed(&mut prompt, &mut events)
        });
        (self.images, self.videos) = (prompt.images, prompt.videos);
        read?;
        usage.prompt_time = started.elapsed();
        Ok(usage)
    }
}

pub(super) fn message(role: &str, text: &str) -> Message {
    Message::new(role, Content::Text(text.to_string()))
}

fn parts_of(message: &Message) -> &[Part] {
    match &message.content {
        Content::Text(_) => &[],
        Content::Parts(parts) => parts,
    }
}
