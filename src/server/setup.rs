//! How a server is set up: what the command line says, checked.

use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::limits;
use super::store::Rules;
use crate::gguf::GgmlType;
use crate::stream::{Limits, MediaOptions, SessionOptions};
use crate::text::SamplerOptions;

/// Everything that stays the same while a server runs.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// Names of the model beside its own.
    pub aliases: Vec<String>,
    /// Keys, one of which every request has to show; none: everybody may ask.
    pub keys: Vec<String>,
    /// Who shows another key has other conversations, files, takes and batches.
    pub private: bool,
    /// Names under which the server may be called, beside `localhost` and addresses.
    pub hosts: Vec<String>,
    /// Pages of other sites that may ask.
    pub origins: Vec<String>,
    /// The folder for files and takes; none: nothing is kept.
    pub data: Option<PathBuf>,
    /// A further folder of takes, which are only asked.
    pub takes: Option<PathBuf>,
    /// The folder of which `file:` URLs may name files.
    pub media_path: Option<PathBuf>,
    pub max_body: u64,
    pub rules: Rules,
    /// Requests that are worked on, and that wait.
    pub parallel: usize,
    pub queue: usize,
    pub max_request: Duration,
    pub drain: Duration,
    /// Videos that took as long to be read for a question become takes.
    pub keep_read: Duration,
    /// How long what clients left goes on, or waits for them.
    pub linger: Duration,
    /// Time between checkpoints of a take.
    pub checkpoint: Duration,
    /// Parts of messages stay in the order in which they were sent.
    pub as_sent: bool,
    pub metrics_public: bool,
    pub log_prompts: bool,
    pub page: bool,
    pub slots: bool,
    /// Defaults of requests. `n_ctx` is the context of every conversation.
    pub session: SessionOptions,
    pub sampling: SamplerOptions,
    pub media: MediaOptions,
    pub limits: Limits,
}

impl Setup {
    /// The same for each key alone, with a folder of its own.
    pub(crate) fn of_keys(&self) -> Vec<Setup> {
        let of = |key: &String| {
            let name: String = Sha256::digest(key).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
            let data = self.data.as_ref().map(|data| data.join("keys").join(name));
            Setup { keys: vec![key.clone()], data, ..self.clone() }
        };
        self.keys.iter().map(of).collect()
    }
}

impl Default for Setup {
    fn default() -> Setup {
        let session = SessionOptions {
            n_ctx: 4096,
            n_batch: 512,
            type_k: GgmlType::F16.into(),
            type_v: GgmlType::F16.into(),
            temporal_scale: None,
        };
        Setup {
            aliases: Vec::new(),
            keys: Vec::new(),
            private: false,
            hosts: Vec::new(),
            origins: Vec::new(),
            data: None,
            takes: None,
            media_path: None,
            max_body: limits::MAX_BODY,
            rules: Rules { max_file: limits::MAX_FILE, quota: limits::QUOTA, keep: limits::KEEP },
            parallel: limits::PARALLEL,
            queue: limits::QUEUE,
            max_request: limits::MAX_REQUEST,
            drain: limits::DRAIN,
            linger: limits::LINGER,
            keep_read: limits::KEEP_READ,
            checkpoint: limits::CHECKPOINT,
            as_sent: false,
            metrics_public: false,
            log_prompts: false,
            page: true,
            slots: false,
            session,
            sampling: SamplerOptions { temp: 0.0, ..SamplerOptions::default() },
            media: MediaOptions::default(),
            limits: Limits::default(),
        }
    }
}
