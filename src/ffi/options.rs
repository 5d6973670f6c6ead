//! Options of C: a zero is the default, always.

use std::ffi::c_char;
use std::time::Duration;

use super::call::{given, text};
use crate::cache::cache_type;
use crate::error::Context as _;
use crate::media::Decoders;
use crate::stream::MmprojChoice;
use crate::{ChatOptions, Error, OpenOptions, Result};

/// How a model is opened and a chat is held. Set everything to zero, then `size`, then what you want:
/// `lt_options options = {.size = sizeof options, .max_memory = 1 << 30};`. A zero is the default. Those of `lt_open` are the
/// options of its chats, too, unless a chat is given its own.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lt_options {
    /// `sizeof(lt_options)`: tells the library which header the program was compiled with.
    pub size: usize,
    /// For `lt_open`: the projector's file; by default the one beside the model.
    pub mmproj: *const c_char,
    /// Bytes. For `lt_open` a hard cap on the model and all its chats together, for a chat on that chat with the model. What is
    /// asked for is made smaller until it fits, which `lt_chat_plan` tells, or refused with `LT_LIMIT` before any work.
    pub max_memory: u64,
    /// For `lt_open`: threads that compute, the caller's among them; by default as many as the process may use, by affinity and
    /// quota. The first model of a process decides.
    pub threads: u32,
    /// For `lt_open`: not 0 reads model files into memory instead of mapping them.
    pub no_mmap: u32,
    /// Slots of the context; by default what the first question needs.
    pub ctx_size: u32,
    /// Slots for further questions, where the context follows from the first one.
    pub reserve: u32,
    /// Tokens per step of reading.
    pub batch_size: u32,
    /// Most tokens of an answer.
    pub max_tokens: u32,
    /// Seconds until the first word, at most; the machine is measured for some seconds then.
    pub max_seconds: f64,
    /// Type of cached keys and values, like `q8_0` or `q4_0h`.
    pub cache_type: *const c_char,
    /// Of sampling: 0, the default, takes the likeliest token.
    pub temp: f32,
    /// Of sampling, where `temp` is above 0: by default 0.95, 0.05 and 40.
    pub top_p: f32,
    /// See `top_p`.
    pub min_p: f32,
    /// See `top_p`.
    pub top_k: u32,
    /// Of sampling.
    pub seed: u64,
    /// Frames of a video that are taken for each second of it; by default 2.
    pub fps: f64,
    /// Seconds: where in the video to begin.
    pub start: f64,
    /// Seconds: where to end.
    pub end: f64,
    /// So many frames, instead of `fps`.
    pub n_frames: u32,
    /// At most so many frames.
    pub max_frames: u32,
    /// Bounds of a frame's or picture's pixels.
    pub min_pixels: u64,
    /// See `min_pixels`.
    pub max_pixels: u64,
    /// Bound of the pixels of a whole video.
    pub total_pixels: u64,
    /// HoPE's temporal scale.
    pub temporal_scale: f64,
    /// Not 0 lets `ffmpeg`, where it is on the PATH, decode what is not built in, as a guarded child process.
    pub ffmpeg: u32,
    /// Not 0 finds out where answers look, which `lt_answer_looked` tells; it costs somewhat more than attention does, once more.
    pub look: u32,
}

impl lt_options {
    /// What the caller gave; nothing for a null pointer.
    ///
    /// # Errors
    /// A size that is none.
    ///
    /// # Safety
    /// `options` is null, or good for reading `options->size` bytes; its strings end with a zero byte.
    pub(super) unsafe fn read<'a>(options: *const lt_options) -> Result<Option<&'a lt_options>> {
        if options.is_null() {
            return Ok(None);
        }
        // SAFETY: the caller's promise, for the first field.
        let size = *unsafe { given(options.cast::<usize>(), "options") }?;
        // There has been one header so far.
        if size != size_of::<lt_options>() {
            let want = size_of::<lt_options>();
            return Err(Error::bad_input(format!("options.size is `{size}`, expected sizeof(lt_options), {want}")));
        }
        // SAFETY: the caller's promise.
        Ok(Some(unsafe { given(options, "options") }?))
    }

    /// # Errors
    /// Text that is none.
    pub(super) fn open(&self) -> Result<OpenOptions> {
        let mut open = OpenOptions::default();
        if !self.mmproj.is_null() {
            // SAFETY: whoever called `read` promised that its strings are strings.
            open.mmproj = MmprojChoice::Path(unsafe { text(self.mmproj, "options.mmproj") }?.into());
        }
        open.threads = nonzero(self.threads);
        open.mmap = self.no_mmap == 0;
        open.max_memory = (self.max_memory != 0).then_some(self.max_memory);
        Ok(open)
    }

    /// # Errors
    /// Text that is none, a type that is none, times that are none; whatever else is wrong is told where it is used.
    pub(super) fn chat(&self) -> Result<ChatOptions> {
        let mut chat = ChatOptions::default();
        chat.ctx_size = nonzero(self.ctx_size);
        chat.reserve = nonzero(self.reserve).unwrap_or(chat.reserve);
        chat.batch_size = nonzero(self.batch_size).unwrap_or(chat.batch_size);
        chat.max_tokens = nonzero(self.max_tokens).unwrap_or(chat.max_tokens);
        chat.max_memory = (self.max_memory != 0).then_some(self.max_memory);
        if self.max_seconds != 0.0 {
            let time = Duration::try_from_secs_f64(self.max_seconds);
            chat.max_time = Some(time.map_err(|_| {
                Error::bad_input(format!("options.max_seconds is `{}`, expected a time", self.max_seconds))
            })?);
        }
        if !self.cache_type.is_null() {
            // SAFETY: whoever called `read` promised that its strings are strings.
            let name = unsafe { text(self.cache_type, "options.cache_type") }?;
            let ty = cache_type(name).at(|| "options.cache_type".to_string())?;
            chat.cache_types = Some((ty, ty));
        }
        chat.temporal_scale = number(self.temporal_scale);
        chat.look = self.look != 0;
        let sampling = &mut chat.sampling;
        (sampling.temp, sampling.seed) = (self.temp, self.seed);
        sampling.top_k = nonzero(self.top_k).unwrap_or(sampling.top_k);
        let share = |given: f32, default| if given == 0.0 { default } else { given };
        sampling.top_p = share(self.top_p, sampling.top_p);
        sampling.min_p = share(self.min_p, sampling.min_p);
        if self.ffmpeg != 0 {
            chat.media.decoders = Decoders::installed();
        }
        let sample = &mut chat.media.sample;
        (sample.fps, sample.video_start, sample.video_end) = (number(self.fps), number(self.start), number(self.end));
        (sample.nframes, sample.max_frames) = (nonzero(self.n_frames), nonzero(self.max_frames));
        let pixels = |n: u64| (n != 0).then_some(n);
        sample.min_pixels = pixels(self.min_pixels);
        sample.max_pixels = pixels(self.max_pixels);
        sample.total_pixels = pixels(self.total_pixels);
        Ok(chat)
    }
}

fn nonzero(n: u32) -> Option<usize> {
    (n != 0).then_some(n as usize)
}

fn number(n: f64) -> Option<f64> {
    (n != 0.0).then_some(n)
}
