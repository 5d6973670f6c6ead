//! How models are opened and talks are held: defaults, and builders that change them.

use std::time::Duration;

use crate::Result;
use crate::cache::CacheType;
use crate::gguf::GgmlType;
use crate::stream::{Engine, GenerateOptions, Limits, MediaOptions, MmprojChoice, SessionOptions};
use crate::text::{Form, SamplerOptions};

/// How a model is opened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OpenOptions {
    /// Which projector, for pictures and videos.
    pub mmproj: MmprojChoice,
    /// Maps files instead of reading them into memory.
    pub mmap: bool,
    /// Threads of this process that compute, the caller's among them (0: all it may use); the first model decides, by default
    /// as 0.
    pub threads: Option<usize>,
    /// The table of kernels to use instead of the fastest that this CPU can run, by name ([`crate::kernels::candidates`]); the
    /// first model decides for all of this process.
    pub kernels: Option<String>,
    /// Bytes that the model and all its talks may take together: a talk that does not fit into what others left of it is reduced
    /// or refused.
    pub max_memory: Option<u64>,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions { mmproj: MmprojChoice::Auto, mmap: true, threads: None, kernels: None, max_memory: None }
    }
}

impl OpenOptions {
    /// With this projector.
    #[must_use]
    pub fn mmproj(self, mmproj: MmprojChoice) -> OpenOptions {
        OpenOptions { mmproj, ..self }
    }

    /// Reads files into memory, as network drives want it.
    #[must_use]
    pub fn mmap(self, mmap: bool) -> OpenOptions {
        OpenOptions { mmap, ..self }
    }

    /// With so many threads.
    #[must_use]
    pub fn threads(self, n: usize) -> OpenOptions {
        OpenOptions { threads: Some(n), ..self }
    }

    /// With this table of kernels.
    #[must_use]
    pub fn kernels(self, name: impl Into<String>) -> OpenOptions {
        OpenOptions { kernels: Some(name.into()), ..self }
    }

    /// Within so many bytes, for all talks together.
    #[must_use]
    pub fn max_memory(self, n_bytes: u64) -> OpenOptions {
        OpenOptions { max_memory: Some(n_bytes), ..self }
    }
}

/// How a talk is held.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ChatOptions {
    /// Slots of the context; by default what the first question needs, with [`ChatOptions::reserve`].
    pub ctx_size: Option<usize>,
    /// Slots kept for further questions, where the context follows from the first one.
    pub reserve: usize,
    /// Tokens per step of prefill.
    pub batch_size: usize,
    /// Types of cached keys and values; by default F16, and F32 for a model in F32.
    pub cache_types: Option<(CacheType, CacheType)>,
    /// Temporal scale of videos; the model's own by default.
    pub temporal_scale: Option<f64>,
    /// Bytes to stay within, weights included: smaller pictures and frames, then fewer frames are taken.
    pub max_memory: Option<u64>,
    /// Time to stay within until the first word, likewise: this machine is measured for some seconds.
    pub max_time: Option<Duration>,
    /// Most tokens of an answer.
    pub max_tokens: usize,
    /// Slots that are kept for an answer; by default as many as `max_tokens`, and of a context whose size is given at most an
    /// eighth.
    pub room: Option<usize>,
    /// Goes on behind the tokens that end an answer.
    pub ignore_eos: bool,
    /// How tokens are chosen: the likeliest, by default.
    pub sampling: SamplerOptions,
    /// The form that answers have to have; any text, by default.
    pub form: Option<Form>,
    /// How media are sampled, sized and decoded.
    pub media: MediaOptions,
    /// Numbers pictures and videos in the prompt.
    pub add_vision_id: bool,
    /// Lets control tokens that questions spell be tokens. Whoever writes a question can then end its turn.
    pub special: bool,
    /// Finds out where answers look ([`Answer::looked`](super::Answer::looked)), which costs about as much as attention does.
    pub look: bool,
}

impl Default for ChatOptions {
    fn default() -> ChatOptions {
        ChatOptions {
            ctx_size: None,
            reserve: 1024,
            batch_size: 512,
            cache_types: None,
            temporal_scale: None,
            max_memory: None,
            max_time: None,
            max_tokens: 2048,
            room: None,
            ignore_eos: false,
            sampling: SamplerOptions { temp: 0.0, ..SamplerOptions::default() },
            form: None,
            media: MediaOptions::default(),
            add_vision_id: false,
            special: false,
            look: false,
        }
    }
}

impl ChatOptions {
    /// Of these sizes, but for `n_ctx`, within these limits.
    pub fn of(sizes: SessionOptions, Limits { n_ctx, memory, time }: Limits) -> ChatOptions {
        ChatOptions {
            ctx_size: n_ctx,
            batch_size: sizes.n_batch,
            cache_types: Some((sizes.type_k, sizes.type_v)),
            temporal_scale: sizes.temporal_scale,
            max_memory: memory,
            max_time: time,
            ..ChatOptions::default()
        }
    }

    /// With a context of `n` slots.
    #[must_use]
    pub fn ctx_size(self, n: usize) -> ChatOptions {
        ChatOptions { ctx_size: Some(n), ..self }
    }

    /// With `n` slots for further questions.
    #[must_use]
    pub fn reserve(self, n: usize) -> ChatOptions {
        ChatOptions { reserve: n, ..self }
    }

    /// With steps of `n` tokens.
    #[must_use]
    pub fn batch_size(self, n: usize) -> ChatOptions {
        ChatOptions { batch_size: n, ..self }
    }

    /// With keys and values of these types: block formats, or [`CacheType`]s, which may be transformed.
    #[must_use]
    pub fn cache_types(self, keys: impl Into<CacheType>, values: impl Into<CacheType>) -> ChatOptions {
        ChatOptions { cache_types: Some((keys.into(), values.into())), ..self }
    }

    /// With this temporal scale.
    #[must_use]
    pub fn temporal_scale(self, scale: f64) -> ChatOptions {
        ChatOptions { temporal_scale: Some(scale), ..self }
    }

    /// Within so many bytes.
    #[must_use]
    pub fn max_memory(self, n_bytes: u64) -> ChatOptions {
        ChatOptions { max_memory: Some(n_bytes), ..self }
    }

    /// Within this time.
    #[must_use]
    pub fn max_time(self, time: Duration) -> ChatOptions {
        ChatOptions { max_time: Some(time), ..self }
    }

    /// With answers of at most `n` tokens.
    #[must_use]
    pub fn max_tokens(self, n: usize) -> ChatOptions {
        ChatOptions { max_tokens: n, ..self }
    }

    /// With `n` slots kept for an answer.
    #[must_use]
    pub fn room(self, n: usize) -> ChatOptions {
        ChatOptions { room: Some(n), ..self }
    }

    /// With tokens chosen this way.
    #[must_use]
    pub fn sampling(self, sampling: SamplerOptions) -> ChatOptions {
        ChatOptions { sampling, ..self }
    }

    /// With answers of this form: JSON of a schema, a grammar, one of a few words.
    #[must_use]
    pub fn form(self, form: Form) -> ChatOptions {
        ChatOptions { form: Some(form), ..self }
    }

    /// Finds out where answers look: [`Answer::looked`](super::Answer::looked).
    #[must_use]
    pub fn look(self, look: bool) -> ChatOptions {
        ChatOptions { look, ..self }
    }

    /// With media sampled, sized and decoded this way. What is not built in is decoded by nobody, unless
    /// [`MediaOptions::decoders`] says by whom.
    #[must_use]
    pub fn media(self, media: MediaOptions) -> ChatOptions {
        ChatOptions { media, ..self }
    }

    /// Sizes of a session, whose `n_ctx` is to be planned yet where none is given.
    pub(super) fn session(&self, engine: &Engine) -> SessionOptions {
        let own = CacheType::from(if engine.is_f32 { GgmlType::F32 } else { GgmlType::F16 });
        let (type_k, type_v) = self.cache_types.unwrap_or((own, own));
        let n_ctx = self.ctx_size.unwrap_or(1).max(1);
        SessionOptions { n_ctx, n_batch: self.batch_size, type_k, type_v, temporal_scale: self.temporal_scale }
    }

    /// What may be used.
    pub(super) fn limits(&self) -> Limits {
        Limits { n_ctx: self.ctx_size, memory: self.max_memory, time: self.max_time }
    }

    /// Slots that an answer may need.
    pub(super) fn answer(&self) -> usize {
        let share = || self.ctx_size.map_or(self.max_tokens, |n| self.max_tokens.min(n / 8));
        self.room.unwrap_or_else(share)
    }

    /// How an answer is generated.
    pub(super) fn generate(&self) -> GenerateOptions {
        GenerateOptions { n_predict: self.max_tokens, ignore_eos: self.ignore_eos }
    }

    /// # Errors
    /// Sizes that make no sense.
    pub(super) fn check(&self) -> Result<()> {
        if self.batch_size == 0 || self.ctx_size == Some(0) {
            return Err(crate::Error::bad_input("context and batch size must be at least 1"));
        }
        Ok(())
    }
}
