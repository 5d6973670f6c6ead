//! Watching a video into a take.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::answer::Cancel;
use super::options::ChatOptions;
use crate::stream::{Around, Budget, Engine, Event, Events, IfExists, Ledger, Limits, Take, Watch, WatchRequest};
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

impl Watching {
    pub(super) fn new((engine, ledger): (&Arc<Engine>, &Arc<Ledger>), video: PathBuf) -> Watching {
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

    /// The handle that stops it; what was watched until then is in the take, and the same call goes on from there.
    pub fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Watches the video into the take `path`. One that is complete and of the same is left as it is.
    ///
    /// # Errors
    /// A video or take that cannot be read or written, one of something else, limits that the video does not fit, cancellation.
    pub fn into_take(mut self, path: impl AsRef<Path>) -> Result<Watched> {
        self.options.check()?;
        let path = path.as_ref();
        let goes_on = path.exists() && !self.again;
        let if_exists = if self.again { IfExists::Replace } else { IfExists::Refuse };
        if !goes_on {
            if_exists.check(path)?;
        }
        let engine = Arc::clone(&self.engine);
        let request = WatchRequest {
            video: &self.video,
            system_prompt: self.system.as_deref(),
            media: &self.options.media,
            // Of the whole, so that a take can be gone on with whatever else is held at that time.
            limits: Limits { memory: self.ledger.whole(self.options.max_memory), ..self.options.limits() },
            reserve: self.options.reserve,
            options: self.options.session(&engine),
        };
        let budget = |limits| Budget::new(&engine, limits, request.options).with_reserve(request.reserve);
        let mut hold = None;
        let mut watch = if goes_on {
            let take = Take::open(path, true)?;
            if take.is_complete() {
                take.check_same(&engine, &request)?;
                let n_tokens = take.n_done();
                return Ok(Watched { take: path.to_path_buf(), n_tokens, n_before: n_tokens });
            }
            let limits = Limits { n_ctx: Some(take.header.shape.n_ctx), ..Limits::default() };
            if self.ledger.is_limited() {
                self.ledger.hold(&mut hold, &budget(limits).fit_video(request.video, request.media, 0)?.1)?;
            }
            Watch::resume(&engine, &request, take)?
        } else {
            let around = Around::of(&engine, request.system_prompt)?;
            let n_around = around.n_tokens() + request.reserve;
            let (plan, cost) = budget(request.limits).fit_video(request.video, request.media, n_around)?;
            self.ledger.hold(&mut hold, &cost)?;
            Watch::begin(&engine, &request, (plan, around, cost.n_ctx), (path, if_exists))?
        };
        if self.checkpoint > Duration::from_secs(86_400) {
            return Err(Error::bad_input("more than a day between checkpoints"));
        }
        watch.set_interval(self.checkpoint);
        let n_before = watch.n_done();
        watch.run(&mut Events::new(&mut *self.sink, self.cancel.flag()))?;
        Ok(Watched { take: path.to_path_buf(), n_tokens: watch.n_total(), n_before })
    }
}
