//! Watching a video into a take.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::answer::Cancel;
use super::options::ChatOptions;
use super::plan::{Plan, PlannedMedium};
use crate::stream::{
    Around, Budget, Engine, Event, Events, Hold, IfExists, Ledger, Limits, MediaPlan, Take, Watch, WatchRequest,
};
use crate::{Error, Result};

/// A video that will be watched into a take. A take that was left unfinished is gone on with.
pub struct Watching {
    engine: Arc<Engine>,
    ledger: Arc<Ledger>,
    video: PathBuf,
    options: ChatOptions,
    system: Option<String>,
    again: bool,
    checkpoint: Duration,
    sink: Box<dyn FnMut(Event) + Send>,
    cancel: Cancel,
    mmap: bool,
}

/// What was watched.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Watched {
    /// The finished file.
    pub take: PathBuf,
    /// Tokens in the take.
    pub n_tokens: usize,
    /// So many of them were there before.
    pub n_before: usize,
}

/// Slots of a take that are for questions and answers, unless told otherwise.
pub const TAKE_RESERVE: usize = 4096;

/// The same in a context of so many tokens, where that is given: [`TAKE_RESERVE`], or a quarter of what would have less than as
/// much besides.
pub fn take_reserve(n_ctx: Option<usize>) -> usize {
    n_ctx.filter(|n_ctx| *n_ctx < 2 * TAKE_RESERVE).map_or(TAKE_RESERVE, |n_ctx| n_ctx / 4)
}

impl Watching {
    pub(super) fn new((engine, ledger): (&Arc<Engine>, &Arc<Ledger>), video: PathBuf, mmap: bool) -> Watching {
        Watching {
            engine: Arc::clone(engine),
            ledger: Arc::clone(ledger),
            video,
            options: ChatOptions::default().reserve(TAKE_RESERVE),
            system: None,
            again: false,
            checkpoint: Duration::from_secs(10),
            sink: Box::new(|_| {}),
            cancel: Cancel::new(),
            mmap,
        }
    }

    /// Watches this way; `reserve` slots of the take are for questions and answers.
    #[must_use]
    pub fn options(self, options: ChatOptions) -> Watching {
        Watching { options, ..self }
    }

    /// With a system prompt, under which questions will be asked.
    #[must_use]
    pub fn system(self, text: impl Into<String>) -> Watching {
        Watching { system: Some(text.into()), ..self }
    }

    /// Replaces a take that is there.
    #[must_use]
    pub fn again(self) -> Watching {
        Watching { again: true, ..self }
    }

    /// With so much time between checkpoints.
    #[must_use]
    pub fn checkpoint(self, every: Duration) -> Watching {
        Watching { checkpoint: every, ..self }
    }

    /// Sends what happens to `sink`.
    #[must_use]
    pub fn on_event(self, sink: impl FnMut(Event) + Send + 'static) -> Watching {
        Watching { sink: Box::new(sink), ..self }
    }

    /// Stops by this handle.
    #[must_use]
    pub fn cancelled_by(self, cancel: Cancel) -> Watching {
        Watching { cancel, ..self }
    }

    /// The handle that stops it; what was watched until then is in the take, and the same call goes on from there.
    pub fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Watches the video into the take `path`. One that is complete and of the same is left as it is.
    ///
    /// # Errors
    /// A video or take that cannot be read or written, one of something else, limits that the video does not fit, cancellation.
    pub fn into_take(self, path: impl AsRef<Path>) -> Result<Watched> {
        self.open(path)?.run()
    }

    /// Looks at the take `path`, if there is one, and plans the video, if there is none: nothing is watched or written yet.
    ///
    /// # Errors
    /// As [`Watching::into_take`].
    pub fn open(self, path: impl AsRef<Path>) -> Result<OpenTake> {
        self.options.check()?;
        if self.checkpoint > Duration::from_secs(86_400) {
            return Err(Error::bad_input("more than a day between checkpoints"));
        }
        let (path, request, mut hold) = (path.as_ref().to_path_buf(), self.request(), None);
        let state = if path.exists() && !self.again {
            let take = Take::open(&path, self.mmap)?;
            if take.is_complete() {
                take.check_same(&self.engine, &request)?;
                State::Complete(take.n_done())
            } else {
                if self.ledger.is_limited() {
                    self.ledger.hold(&mut hold, &Watch::cost_of_rest(&self.engine, &request, &take)?)?;
                }
                State::Left(Box::new(Watch::resume(&self.engine, &request, take)?))
            }
        } else {
            self.if_exists().check(&path)?;
            let around = Around::of(&self.engine, request.system_prompt)?;
            let n_around = around.n_tokens().saturating_add(request.reserve);
            let (plan, cost) = self.budget(request.limits).fit_video(&self.video, request.media, n_around)?;
            self.ledger.hold(&mut hold, &cost)?;
            let shown = Plan { media: vec![PlannedMedium::of(&plan)], cost };
            State::Planned(Box::new((plan, around, shown)))
        };
        Ok(OpenTake { state, path, watching: self, _hold: hold })
    }

    fn request(&self) -> WatchRequest<'_> {
        WatchRequest {
            video: &self.video,
            system_prompt: self.system.as_deref(),
            media: &self.options.media,
            // Of the whole, so that a take can be gone on with whatever else is held at that time.
            limits: Limits { memory: self.ledger.whole(self.options.max_memory), ..self.options.limits() },
            reserve: self.options.reserve,
            options: self.options.session(&self.engine),
        }
    }

    fn budget(&self, limits: Limits) -> Budget {
        Budget::new(&self.engine, limits, self.options.session(&self.engine)).with_reserve(self.options.reserve)
    }

    fn if_exists(&self) -> IfExists {
        if self.again { IfExists::Replace } else { IfExists::Refuse }
    }
}

/// A take that is about to be written, or gone on with.
pub struct OpenTake {
    watching: Watching,
    path: PathBuf,
    state: State,
    _hold: Option<Hold>,
}

enum State {
    /// With so many tokens.
    Complete(usize),
    Left(Box<Watch>),
    Planned(Box<(MediaPlan, Around, Plan)>),
}

impl OpenTake {
    /// What the video will take, unless it was planned before: a take that was left unfinished goes on as it was planned.
    pub fn plan(&self) -> Option<&Plan> {
        if let State::Planned(planned) = &self.state { Some(&planned.2) } else { None }
    }

    /// Measures how long that will take.
    ///
    /// # Errors
    /// A video that cannot be decoded; memory that cannot be had.
    pub fn time(&mut self) -> Result<()> {
        let State::Planned(planned) = &mut self.state else { return Ok(()) };
        self.watching.budget(Limits::default()).time(&mut planned.2.cost)
    }

    /// Tokens that are in it already.
    pub fn n_before(&self) -> usize {
        match &self.state {
            State::Complete(n_tokens) => *n_tokens,
            State::Left(watch) => watch.n_done(),
            State::Planned(..) => 0,
        }
    }

    /// Tokens that will be in it, where that is known before it is begun.
    pub fn n_total(&self) -> Option<usize> {
        match &self.state {
            State::Complete(n_tokens) => Some(*n_tokens),
            State::Left(watch) => Some(watch.n_total()),
            State::Planned(..) => None,
        }
    }

    /// Watches to the end.
    ///
    /// # Errors
    /// As [`Watching::into_take`]; the take holds what was watched until then.
    pub fn run(self) -> Result<Watched> {
        let OpenTake { mut watching, path, state, _hold } = self;
        let mut watch = match state {
            State::Complete(n_tokens) => return Ok(Watched { take: path, n_tokens, n_before: n_tokens }),
            State::Left(watch) => *watch,
            State::Planned(planned) => {
                let (plan, around, Plan { cost, .. }) = *planned;
                let take = (&*path, watching.if_exists());
                Watch::begin(&watching.engine, &watching.request(), (plan, around, cost.n_ctx), take)?
            }
        };
        watch.set_interval(watching.checkpoint);
        let n_before = watch.n_done();
        watch.run(&mut Events::new(&mut *watching.sink, watching.cancel.flag()))?;
        Ok(Watched { take: path, n_tokens: watch.n_total(), n_before })
    }
}
