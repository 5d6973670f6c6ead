//! The front door for Rust programs: a model that was opened, talks about videos and pictures with it, takes.
//! In: paths and words. Out: pieces of text as they come, plans, [`Event`](crate::stream::Event)s as values.
//! Start reading at [`Longtake`] and [`Chat::ask`]; everything below is `stream`, which can be used directly, too.
//! On purpose absent here: printing, the environment, signals, threads that nobody asked for, sockets. The server
//! stands beside this room, not on it: it shares contexts and steps among talks, which is what `stream` is for.
#![forbid(unsafe_code)]

mod answer;
mod chat;
mod options;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use answer::{Answer, Cancel, Usage};
pub use chat::{Chat, Plan, PlannedMedium};
pub use options::{ChatOptions, OpenOptions};
pub use watch::{Watched, Watching};

use crate::Result;
use crate::kernels::{prefer, threads};
use crate::stream::{Engine, EngineOptions, Take};

/// A model that is ready to talk. Clones share it, and threads may, too.
#[derive(Clone)]
pub struct Longtake {
    engine: Arc<Engine>,
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
    /// As [`Longtake::open`]; an operating system that refuses threads; kernels that cannot run here, or come after others.
    pub fn open_with(model: impl AsRef<Path>, options: OpenOptions) -> Result<Longtake> {
        if let Some(n) = options.threads {
            threads::start(n)?;
        }
        if let Some(name) = &options.kernels {
            prefer(name, "the option `kernels`")?;
        }
        let OpenOptions { mmproj, mmap, .. } = options;
        let engine = Engine::load(&EngineOptions { model: model.as_ref().to_path_buf(), mmproj, mmap })?;
        Ok(Longtake { engine: Arc::new(engine) })
    }

    /// The model that this program carries: it knows eight shapes in eight colours.
    ///
    /// # Errors
    /// None, unless memory is refused.
    #[cfg(feature = "demo")]
    pub fn demo() -> Result<Longtake> {
        Ok(Longtake { engine: Arc::new(crate::drawn::embedded::engine()?) })
    }

    /// A model that was loaded otherwise.
    pub fn from_engine(engine: Arc<Engine>) -> Longtake {
        Longtake { engine }
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
        Chat::new(&self.engine)
    }

    /// Begins a talk about the video of a take, which is not read again.
    ///
    /// # Errors
    /// A take that is damaged, incomplete, or of another model.
    pub fn chat_about(&self, take: impl AsRef<Path>) -> Result<Chat> {
        Chat::about(&self.engine, &Take::open(take.as_ref(), true)?)
    }

    /// Will watch a video once, to keep what was seen in a take.
    pub fn watch(&self, video: impl Into<PathBuf>) -> Watching {
        Watching::new(&self.engine, video.into())
    }
}
