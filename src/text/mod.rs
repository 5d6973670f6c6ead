//! Text: words become tokens and logits become words.
//! In: GGUF tokenizer keys, messages, logits. Out: token ids, text.
//! Start reading at [`Tokenizer`]; [`ChatTemplate`] renders conversations, [`Sampler`] picks tokens.
//! On purpose absent here: the model, media decoding.
#![forbid(unsafe_code)]

pub mod guide;
pub mod message;
pub mod sampler;
pub mod template;
pub mod tokenizer;
#[cfg(feature = "server")]
pub(crate) mod tools;
pub mod units;

mod bytes;
mod mask;
mod pretokenizer;
mod program;
mod sandbox;
mod source;
mod stop;
mod stream;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

#[cfg(feature = "convert")]
pub(crate) use pretokenizer::{QWEN2_SPLIT, QWEN35_SPLIT};

pub use guide::{Form, Guide};
pub use message::{Content, MediaSource, Message, Part};
pub use sampler::{Sampler, SamplerOptions};
pub use sandbox::THREAD as TEMPLATE_THREAD;
pub use source::{Data, Source};
pub use stop::StopStrings;
pub use stream::StreamDecoder;
pub use template::{ChatTemplate, Piece, RenderOptions};
pub use tokenizer::Tokenizer;
