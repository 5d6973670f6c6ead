//! The front door for Rust programs: a model that was opened, talks about videos and pictures with it, takes.
//! In: paths and words. Out: pieces of text as they come, plans, [`Event`](crate::stream::Event)s as values.
//! Start reading at [`Longtake`] and [`Chat::ask`]; everything below is `stream`, which can be used directly, too.
//! The command line is a user of it. On purpose absent here: printing, the environment, signals, threads that nobody asked for,
//! sockets. The server stands beside this room, not on it: it shares contexts and steps among talks, which is what `stream` is for.
#![forbid(unsafe_code)]

mod answer;
mod chat;
mod frames;
mod options;
mod plan;
mod strip;
mod talk;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use answer::{Answer, Cancel, Usage};
pub use chat::Chat;
pub use frames::Frames;
pub use options::{ChatOptions, OpenOptions};
pub use plan::{Plan, PlannedMedium};
pub use strip::{MAX_DRAWN, Strip};
pub use watch::{OpenTake, TAKE_RESERVE, Watched, Watching, take_reserve};

use crate::error::Context;
use crate::kernels::{prefer, threads};
use crate::stream::{Engine, EngineOptions, Ledger, Take};
use crate::{Error, Result};

/// What of a cap on memory no plan gets: what allocators keep between the steps of decoding and reading, and small things of talks. A
/// talk that was planned to 57 MiB had 64 at the peak of its first question and 71 at that of its second.
const SPARE_BYTES: u64 = 16 << 20;

/// A model that is ready to talk. Clones share it, and threads may, too.
#[derive(Clone)]
pub struct Longtake {
    engine: Arc<Engine>,
    ledger: Arc<Ledger>,
    /// Maps takes instead of reading them into memory.
    mmap: bool,
}

impl Longtake {
    /// Opens a model and the projector beside it.
    ///
    /// # Errors
    /// Whatever is wrong with a file, named.
    pub fn open(model: impl AsRef<Path>) -> Result<Longtake> {
        Longtake::open_with(model, OpenOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Longtake::open`]; `Limit` for a model that does not fit into [`OpenOptions::max_memory`]; an operating system that
    /// refuses threads; kernels that cannot run here, or come after others.
    pub fn open_with(model: impl AsRef<Path>, options: OpenOptions) -> Result<Longtake> {
        let model = model.as_ref();
        // Seen before a byte of it is read.
        let n_bytes = std::fs::metadata(model).at(|| model.display().to_string())?.len();
        if let Some(limit) = options.max_memory.filter(|limit| *limit < n_bytes) {
            let message = format!("a file of `{n_bytes}` bytes, expected at most {limit}; raise the limit on memory");
            return Err(Error::limit(message).at(model.display().to_string()));
        }
        let OpenOptions { mmproj, mmap, .. } = options.clone();
        Longtake::with_options(options, || Engine::load(&EngineOptions { model: model.to_path_buf(), mmproj, mmap }))
    }

    /// The model that this program carries: it knows eight shapes in eight colours.
    ///
    /// # Errors
    /// None, unless memory is refused.
    #[cfg(feature = "demo")]
    pub fn demo() -> Result<Longtake> {
        Longtake::demo_with(OpenOptions::default())
    }

    /// The same with options, of which those of files mean nothing.
    ///
    /// # Errors
    /// As [`Longtake::open_with`].
    #[cfg(feature = "demo")]
    pub fn demo_with(options: OpenOptions) -> Result<Longtake> {
        Longtake::with_options(options, crate::drawn::embedded::engine)
    }

    fn with_options(options: OpenOptions, load: impl FnOnce() -> Result<Engine>) -> Result<Longtake> {
        if let Some(n) = options.threads {
            threads::start(n)?;
        }
        if let Some(name) = &options.kernels {
            prefer(name, "the option `kernels`")?;
        }
        let limit = options.max_memory.map(|limit| limit.saturating_sub(SPARE_BYTES));
        let longtake = Longtake { engine: Arc::new(load()?), ledger: Ledger::new(limit), mmap: options.mmap };
        if options.max_memory.is_some() {
            // Room for the least talk that there is.
            longtake.chat().options(ChatOptions::default().reserve(0).max_tokens(1)).plan("")?;
        }
        Ok(longtake)
    }

    /// A model that was loaded otherwise.
    pub fn from_engine(engine: Arc<Engine>) -> Longtake {
        Longtake { engine, ledger: Ledger::new(None), mmap: true }
    }

    /// The same where takes are mapped only if `mmap` says so.
    pub fn with_mmap(self, mmap: bool) -> Longtake {
        Longtake { mmap, ..self }
    }

    /// The model itself.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// What a user should know although it is no error.
    pub fn warnings(&self) -> &[String] {
        &self.engine.warnings
    }

    /// Begins a talk.
    pub fn chat(&self) -> Chat {
        Chat::new(&self.engine, &self.ledger)
    }

    /// Begins a talk about the video of a take, which is not read again.
    ///
    /// # Errors
    /// A take that is damaged, incomplete, or of another model.
    pub fn chat_about(&self, take: impl AsRef<Path>) -> Result<Chat> {
        self.chat_about_open(Take::open(take.as_ref(), self.mmap)?)
    }

    /// The same of a take that was opened.
    ///
    /// # Errors
    /// A take that is incomplete, or of another model.
    pub(crate) fn chat_about_open(&self, take: Take) -> Result<Chat> {
        Chat::about((&self.engine, &self.ledger), take)
    }

    /// Will watch a video once, to keep what was seen in a take.
    pub fn watch(&self, video: impl Into<PathBuf>) -> Watching {
        Watching::new((&self.engine, &self.ledger), video.into(), self.mmap)
    }
}
