//! A talk: turns with media, planned within limits, read into one session, answered.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Map;

use super::answer::{Answer, Cancel};
use super::frames::Frames;
use super::options::ChatOptions;
use super::plan::{Plan, PlannedMedium};
use super::strip::Strip;
use super::talk::{Talk, message};
use crate::stream::{Cost, Dump, Engine, Event, Ledger, Looked, MediaPlan, Session, Take};
use crate::text::{MediaSource, Message, Part, Source};
use crate::{Error, Result};

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
        talk.ok_or_else(busy)
    }

    /// The fault, which is told once.
    fn fault(&self) -> Result<()> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    pub(super) fn put(&self, talk: Box<Talk>) {
        *self.talk.lock().unwrap_or_else(PoisonError::into_inner) = Some(talk);
    }
}

impl Chat {
    pub(super) fn new(engine: &Arc<Engine>, ledger: &Arc<Ledger>) -> Chat {
        Chat::of(Talk::new(engine, ledger))
    }

    /// A talk about the video of a complete take.
    pub(super) fn about(home: (&Arc<Engine>, &Arc<Ledger>), take: Take) -> Result<Chat> {
        Talk::about(home, take).map(Chat::of)
    }

    /// A talk that goes on with a session which holds what `messages` say, of the media `videos`; memory is not limited.
    pub fn over(session: Session, messages: Vec<Message>, videos: Vec<MediaPlan>) -> Chat {
        Chat::of(Talk::over(session, &Ledger::new(None), messages, videos))
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
        self.with(|talk| talk.set_options(options))
    }

    /// Adds a part of a turn as it is, with options of its own, to the next question.
    ///
    /// # Errors
    /// An answer of this talk that is not over (`Busy`).
    pub fn add(&mut self, part: Part) -> Result<()> {
        self.at_home(|talk, _| {
            talk.waiting.push(part);
            Ok(())
        })
    }

    /// The same between questions.
    ///
    /// # Errors
    /// Sizes that make no sense; an answer of this talk that is not over (`Busy`).
    pub fn set_options(&mut self, options: ChatOptions) -> Result<()> {
        self.at_home(|talk, _| talk.set_options(options))
    }

    /// Goes on from a conversation, which replaces the talk so far: media among its turns are read with the next question, and an
    /// empty question answers its last turn as it is.
    #[must_use]
    pub fn conversation(self, messages: Vec<Message>) -> Chat {
        self.with(|talk| talk.go_on_from(messages))
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

    /// Stops by this handle.
    #[must_use]
    pub fn cancelled_by(self, cancel: Cancel) -> Chat {
        let cancelled = |home: Home| Chat { home: Arc::new(Home { cancel, ..home }) };
        match Arc::try_unwrap(self.home) {
            Ok(home) => cancelled(home),
            Err(home) => Chat { home }.with(|_| Err(busy())),
        }
    }

    /// Keeps the arrays of what is read and answered from now on, for [`Chat::take_dump`].
    pub fn dumping(self, is_wanted: bool) -> Chat {
        self.with(|talk| {
            talk.dump = is_wanted.then(Dump::default);
            Ok(())
        })
    }

    /// The arrays that were kept.
    pub fn take_dump(&mut self) -> Result<Option<Dump>> {
        self.at_home(|talk, _| Ok(talk.dump.take()))
    }

    /// The handle that stops the talk, for other threads.
    pub fn cancel(&self) -> Cancel {
        self.home.cancel.clone()
    }

    /// Does something with the talk while nobody answers, once what was given is known to be right.
    fn at_home<T>(&self, act: impl FnOnce(&mut Talk, &Cancel) -> Result<T>) -> Result<T> {
        let mut talk = self.home.take()?;
        let done = self.home.fault().and_then(|()| act(&mut talk, &self.home.cancel));
        self.home.put(talk);
        done
    }

    /// What the next question will take, without reading any of it. `question` may be empty. A first question that is then asked
    /// in these words is read as it was planned.
    ///
    /// # Errors
    /// What [`Chat::ask`] would say of the media and limits.
    pub fn plan(&mut self, question: impl Into<String>) -> Result<Plan> {
        self.at_home(|talk, _| {
            let mut plan = talk.plan(&question.into())?;
            if talk.n_ctx().is_none() && (talk.options.max_time.is_some() || plan.cost.is_long()) {
                talk.time(&mut plan.cost)?;
            }
            Ok(plan)
        })
    }

    /// [`Chat::plan`] without measuring how long it takes, where time is not limited.
    pub fn plan_sizes(&mut self) -> Result<Plan> {
        self.at_home(|talk, _| talk.plan(""))
    }

    /// Measures how long what was planned will take, where that is not known.
    pub fn time(&self, cost: &mut Cost) -> Result<()> {
        self.at_home(|talk, _| talk.time(cost))
    }

    /// Decodes the pictures of the plan that was made last.
    pub fn load_pictures(&mut self) -> Result<()> {
        self.at_home(|talk, cancel| talk.load_pictures(cancel))
    }

    /// Makes the context now, where that is not done: of [`ChatOptions::ctx_size`] slots, or as many as the model was trained
    /// for. Tells how many.
    ///
    /// # Errors
    /// Memory that is not to be had, or not allowed.
    pub fn start(&mut self) -> Result<usize> {
        self.at_home(|talk, _| {
            talk.start()?;
            Ok(talk.n_ctx().unwrap_or_default())
        })
    }

    /// Plans what was given since the last question and decodes its pictures, so that faults show before the question is asked;
    /// each medium with what it costs. [Starts](Chat::start) the talk.
    ///
    /// # Errors
    /// As [`Chat::ask`]; what was given since the last call is then dropped.
    pub fn load(&mut self) -> Result<Vec<(PlannedMedium, Cost)>> {
        self.at_home(|talk, cancel| talk.load(cancel))
    }

    /// All media of the talk that are planned, in its order.
    ///
    /// # Errors
    /// An answer of this talk that is not over (`Busy`).
    pub fn media(&self) -> Result<Vec<PlannedMedium>> {
        self.at_home(|talk, _| Ok(talk.media()))
    }

    /// Draws where the last answer looked ([`Answer::looked`]): frames of its media over a timeline of shares.
    ///
    /// # Errors
    /// As [`Chat::media`]; nothing that was looked at, or more than a picture shows.
    pub fn strip(&self, looked: &Looked) -> Result<Strip> {
        self.at_home(|talk, _| talk.strip(looked))
    }

    /// What was said, without what waits for the next question.
    ///
    /// # Errors
    /// As [`Chat::media`].
    pub fn messages(&self) -> Result<Vec<Message>> {
        self.at_home(|talk, _| Ok(talk.messages.clone()))
    }

    /// Takes back the last question and its answer: what waited for it waits for the next one, and what was read of it need not be
    /// read again.
    ///
    /// # Errors
    /// As [`Chat::media`].
    pub fn take_back(&mut self) -> Result<()> {
        self.at_home(|talk, _| {
            talk.take_back();
            Ok(())
        })
    }

    /// Begins anew: forgets all but the system prompt, and the video of a take.
    ///
    /// # Errors
    /// As [`Chat::media`]; memory that is not to be had.
    pub fn clear(&mut self) -> Result<()> {
        self.at_home(|talk, _| talk.clear())
    }

    /// Reads what was given and the question, and begins to answer. Reading takes as long as it takes: events tell of it, and
    /// [`Chat::cancel`] stops it; then the question did not happen, and what was given waits for the next one.
    ///
    /// # Errors
    /// Media that cannot be read, limits that they do not fit, cancellation; an answer of this talk that is not over (`Busy`).
    pub fn ask(&mut self, question: impl Into<String>) -> Result<Answer> {
        let mut talk = self.home.take()?;
        match self.home.fault().and_then(|()| talk.begin(&question.into(), &self.home.cancel)) {
            Ok((generating, usage)) => Ok(Answer::new(talk, Arc::clone(&self.home), generating, usage)),
            Err(error) => {
                self.home.put(talk);
                Err(error)
            }
        }
    }
}

fn busy() -> Error {
    Error::busy("the talk has an answer that is not over; read it to its end or drop it")
}
