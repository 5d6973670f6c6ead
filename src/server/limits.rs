//! Every cap of the server, in one place. What is beyond one is refused before anything is reserved for it.

use std::time::Duration;

/// Connections that are open at a time; more wait to be accepted.
pub(crate) const MAX_CONNECTIONS: usize = 256;
/// Longest head of a request, in bytes.
pub(crate) const MAX_HEAD_BYTES: usize = 32 << 10;
/// Most header lines of a request.
pub(crate) const MAX_HEADERS: usize = 96;
/// Time for the head of a request; a connection that has none for as long is closed, too.
pub(crate) const HEAD_TIME: Duration = Duration::from_secs(10);

/// Longest JSON body, in bytes: three quarters of it may be a video.
pub(crate) const MAX_BODY: u64 = 64 << 20;
/// Bytes of all JSON bodies that are in memory at a time.
pub(crate) const MAX_BODIES: usize = 256 << 20;
/// Bodies must come at this many bytes a second, once they have had [`BODY_GRACE`].
pub(crate) const MIN_BODY_RATE: u64 = 64 << 10;
/// Time that every body has, whatever its rate.
pub(crate) const BODY_GRACE: Duration = Duration::from_secs(30);
/// Deepest nesting of a JSON body.
pub(crate) const MAX_JSON_DEPTH: usize = 64;
/// Most values (numbers, words, lists, objects) of a JSON body.
pub(crate) const MAX_JSON_VALUES: usize = 1 << 18;

/// Most messages of a request, and parts of all its messages together.
pub(crate) const MAX_MESSAGES: usize = 1024;
pub(crate) const MAX_PARTS: usize = 4096;
/// Most text of a request, in bytes.
pub(crate) const MAX_TEXT_BYTES: usize = crate::text::message::MAX_TEXT_BYTES;
/// Most pictures and videos of a request.
pub(crate) const MAX_IMAGES: usize = 64;
pub(crate) const MAX_VIDEOS: usize = 4;
/// Most pictures that stand for the frames of one video.
pub(crate) const MAX_LISTED_FRAMES: usize = 768;

/// Most strings that end an answer, and the longest of them in bytes.
pub(crate) const MAX_STOPS: usize = 16;
pub(crate) const MAX_STOP_BYTES: usize = 256;
/// Most tokens whose likelihood a request may change.
pub(crate) const MAX_LOGIT_BIASES: usize = 1024;
/// Most alternatives for which log probabilities are told.
pub(crate) const MAX_TOP_LOGPROBS: usize = 20;
/// Longest answer where a request names no length, in tokens.
pub(crate) const OPEN_ANSWER: usize = 4096;

/// Most tools of a request, and most calls of a message.
pub(crate) const MAX_TOOLS: usize = 128;
/// Most bytes of all tools together.
pub(crate) const MAX_TOOL_BYTES: usize = 48 << 10;

/// Most keys that share nothing with each other: each has threads and a store of its own.
pub(crate) const PRIVATE_KEYS: usize = 64;

/// Largest file that may be uploaded, unless the command line says otherwise.
pub(crate) const MAX_FILE: u64 = 8 << 30;
/// Room for files and takes, likewise.
pub(crate) const QUOTA: u64 = 50 << 30;
/// Time after the last use for which they are kept, likewise.
pub(crate) const KEEP: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longest name of a file that is kept, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 255;
/// Most files and takes of the store.
pub(crate) const MAX_ENTRIES: usize = 100_000;

/// Requests that are worked on at a time, and that wait, likewise.
pub(crate) const PARALLEL: usize = 2;
pub(crate) const QUEUE: usize = 32;
/// Longest wait that a refused client is asked for.
pub(crate) const MAX_RETRY_AFTER: Duration = Duration::from_secs(120);
/// Longest time for one request, likewise.
pub(crate) const MAX_REQUEST: Duration = Duration::from_secs(6 * 3600);
/// Time for running answers after the signal to stop, likewise.
pub(crate) const DRAIN: Duration = Duration::from_secs(30);

/// Time for which a prompt that is more than half read is read on for a client that left, and for which an answer that it left
/// can be gone on with, likewise.
pub(crate) const LINGER: Duration = Duration::from_secs(60);

/// Time that a video must have taken to be read for a question, to become a take when its conversation is let go, likewise.
pub(crate) const KEEP_READ: Duration = Duration::from_secs(10);

/// Silence after which a stream gets a comment, and a whole answer its headers and a space.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);
/// Shortest and longest time between two words about progress.
pub(crate) const PROGRESS_LEAST: Duration = Duration::from_millis(250);
pub(crate) const PROGRESS_MOST: Duration = Duration::from_secs(5);
/// Time between the checkpoints of a take.
pub(crate) const CHECKPOINT: Duration = Duration::from_secs(10);
