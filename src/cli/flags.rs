//! Flags that several commands share, named as llama.cpp names them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::gpus;
use crate::cache::cache_type;
use crate::error::Context;
use crate::files::input::read_text;
use crate::gguf::GgmlType;
use crate::media::sample::SampleOptions;
use crate::media::{Decoders, SafeDecoder};
use crate::position::{Layout, parse_temporal_scale, scale_warning};
use crate::stream::{Engine, EngineOptions, MediaOptions, MmprojChoice, SessionOptions, kept_share, steps};
use crate::text::guide::MAX_FORM_BYTES;
use crate::text::sampler::MAX_REPEAT_LAST_N;
use crate::text::{Form, SamplerOptions};
use crate::{Error, Result};

/// llama.cpp's flags of several letters after one dash, which clap cannot spell itself.
const SHORT_WORDS: [(&str, &str); 7] = [
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-mm", "--mmproj"),
    ("-ngl", "--n-gpu-layers"),
    ("-sys", "--system-prompt"),
    ("-ub", "--ubatch-size"),
    ("-tb", "--threads-batch"),
];

/// Replaces those flags by their long names.
pub(super) fn expand_short_words(args: impl Iterator<Item = std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let long = |arg: std::ffi::OsString| {
        let found = SHORT_WORDS.iter().find(|(short, _)| arg == *short);
        found.map_or(arg, |(_, long)| (*long).into())
    };
    args.map(long).collect()
}

/// Which model, on how many threads.
#[derive(Args)]
pub(super) struct ModelFlags {
    /// Text model (GGUF).
    #[arg(short, long, value_name = "FILE", required = true)]
    pub model: Option<PathBuf>,
    /// Projector (GGUF); by default the one beside the model.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "no_mmproj",
        help = "Projector (GGUF); by default the one beside the model [short: -mm]"
    )]
    pub mmproj: Option<PathBuf>,
    /// Load no projector.
    #[arg(long)]
    pub no_mmproj: bool,
    /// Read model files into memory instead of mapping them (network drives).
    #[arg(long)]
    pub no_mmap: bool,
    #[command(flatten)]
    pub template: TemplateFlags,
    #[command(flatten)]
    pub compute: ComputeFlags,
}

impl ModelFlags {
    /// The text model's file.
    ///
    /// # Errors
    /// None given, to a command that can do without but not here.
    pub(super) fn path(&self) -> Result<&Path> {
        self.model.as_deref().ok_or_else(|| Error::bad_input("which model? pass --model"))
    }

    /// The model, or without one the embedded.
    #[cfg(feature = "eval")]
    pub(super) fn load_or_embedded(&self) -> Result<Arc<Engine>> {
        if self.model.is_some() { self.load(true) } else { self.compute.embedded() }
    }

    /// Starts the threads and loads the model.
    pub(super) fn load(&self, wants_vision: bool) -> Result<Arc<Engine>> {
        self.compute.start()?;
        let mmproj = match &self.mmproj {
            _ if self.no_mmproj => MmprojChoice::Off,
            Some(path) => MmprojChoice::Path(path.clone()),
            None if wants_vision => MmprojChoice::Auto,
            None => MmprojChoice::Off,
        };
        let mut engine =
            Engine::load(&EngineOptions { model: self.path()?.to_path_buf(), mmproj, mmap: !self.no_mmap })?;
        self.template.apply(&mut engine)?;
        self.compute.offload(&mut engine)?;
        engine.warnings.iter().for_each(|w| eprintln!("warning: {w}"));
        Ok(Arc::new(engine))
    }
}

/// The chat template.
#[derive(Args, Default)]
pub(super) struct TemplateFlags {
    /// Options that the model's chat template knows, as a JSON object: '{"enable_thinking": false}'.
    #[arg(long, visible_alias = "template-kwargs", value_name = "JSON")]
    pub chat_template_kwargs: Option<String>,
}

impl TemplateFlags {
    /// Tells them to the template of `engine`.
    pub(super) fn apply(&self, engine: &mut Engine) -> Result<()> {
        let options = self.chat_template_kwargs.as_deref();
        options.map_or(Ok(()), |json| engine.template.set_options(json).at(|| "--chat-template-kwargs"))
    }
}

/// Threads and cache.
#[derive(Args, Default)]
pub(super) struct ComputeFlags {
    /// Threads (0 or -1: all that this process may use).
    #[arg(short, long, default_value_t = 0, value_name = "N", value_parser = all_if_negative, allow_negative_numbers = true)]
    pub threads: usize,
    /// Accepted for llama.cpp's sake: all work uses --threads.
    #[arg(long, hide = true, value_parser = all_if_negative, allow_negative_numbers = true)]
    pub threads_batch: Option<usize>,
    /// Context size in tokens (0: what the prompt and the answer need).
    #[arg(short, long, default_value_t = 0, value_name = "N")]
    pub ctx_size: usize,
    /// Tokens per step of prefill.
    #[arg(short, long, default_value_t = 512, value_name = "N")]
    pub batch_size: usize,
    /// Accepted for llama.cpp's sake: batches are not split further.
    #[arg(long, hide = true)]
    pub ubatch_size: Option<usize>,
    /// Type of cached keys: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl (default: f16; f32 for a model in
    /// f32); with an h behind it, as in q4_0h, keys go through a Hadamard transform first, which few bits like [short: -ctk]
    #[arg(long, value_name = "TYPE")]
    pub cache_type_k: Option<String>,
    /// Type of cached values, likewise [short: -ctv]
    #[arg(long, value_name = "TYPE")]
    pub cache_type_v: Option<String>,
    /// Layers on the GPU, and with them the vision tower: the last N, one more for the output matrix, or `all` (a build with
    /// the feature `cuda`) [short: -ngl]
    #[arg(long, value_name = "N", hide = cfg!(not(feature = "cuda")))]
    pub n_gpu_layers: Option<String>,
}

impl ComputeFlags {
    /// Starts the worker threads.
    pub(super) fn start(&self) -> Result<()> {
        gpus::n_layers(self.n_gpu_layers.as_deref())?;
        crate::kernels::threads::start(self.threads)
    }

    /// Starts the threads and loads the embedded model.
    #[cfg(feature = "demo")]
    pub(super) fn embedded(&self) -> Result<Arc<Engine>> {
        self.start()?;
        let mut engine = crate::drawn::embedded::engine()?;
        self.offload(&mut engine)?;
        Ok(Arc::new(engine))
    }

    /// Moves layers to the GPU where that is wanted.
    pub(super) fn offload(&self, engine: &mut Engine) -> Result<()> {
        gpus::offload(engine, gpus::n_layers(self.n_gpu_layers.as_deref())?)
    }

    /// Sizes of a session; `n_ctx` slots unless the user said otherwise.
    pub(super) fn session(&self, engine: &Engine, n_ctx: usize, scale: Option<f64>) -> Result<SessionOptions> {
        let n_ctx = if self.ctx_size == 0 { n_ctx } else { self.ctx_size };
        let parse = |name: &Option<String>| match name {
            None if engine.is_f32 => Ok(GgmlType::F32.into()),
            None => Ok(GgmlType::F16.into()),
            Some(name) => cache_type(name),
        };
        Ok(SessionOptions {
            n_ctx: n_ctx.max(1),
            n_batch: self.batch_size,
            type_k: parse(&self.cache_type_k)?,
            type_v: parse(&self.cache_type_v)?,
            temporal_scale: scale,
        })
    }
}

/// Says when a context is longer than what the model was trained for.
pub(super) fn warn_of_length(engine: &Engine, n_ctx: usize) {
    let n_train = engine.text.hparams().n_ctx_train;
    if n_ctx > n_train {
        eprintln!("warning: the context of {n_ctx} tokens is longer than the {n_train} the model was trained for");
    }
}

/// How the next token is picked. Greedy unless told otherwise: an answer about a video should not be a dice roll.
#[derive(Args)]
pub(super) struct SamplingFlags {
    /// Tokens to generate at most (-1: until the model stops).
    #[arg(short = 'n', long = "predict", alias = "n-predict", default_value_t = -1, allow_hyphen_values = true, value_name = "N")]
    pub predict: i64,
    /// Go on after the end token.
    #[arg(long)]
    pub ignore_eos: bool,
    /// Temperature (0: always the likeliest token).
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true)]
    pub temp: f32,
    /// Choose among the K likeliest (0 or -1: all).
    #[arg(long, default_value_t = 40, value_parser = all_if_negative, allow_negative_numbers = true)]
    pub top_k: usize,
    /// Choose among the likeliest that together reach this probability.
    #[arg(long, default_value_t = 0.95)]
    pub top_p: f32,
    /// Drop tokens less likely than this share of the likeliest.
    #[arg(long, default_value_t = 0.05)]
    pub min_p: f32,
    /// Random seed (-1: from the clock).
    #[arg(short, long, default_value_t = -1, allow_hyphen_values = true)]
    pub seed: i64,
    /// Penalty on repeated tokens (1: none).
    #[arg(long, default_value_t = 1.0)]
    pub repeat_penalty: f32,
    /// How many recent tokens the penalties look at (-1: all).
    #[arg(long, default_value_t = 64, value_parser = most_if_negative, allow_negative_numbers = true)]
    pub repeat_last_n: usize,
    /// Penalty on tokens present among them (0: none).
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true)]
    pub presence_penalty: f32,
    /// Penalty per occurrence among them (0: none).
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true)]
    pub frequency_penalty: f32,
}

/// The form that answers have to have.
#[derive(Args, Default)]
pub(crate) struct FormFlags {
    /// Answer with JSON of this schema ('{}': any JSON).
    #[arg(short = 'j', long, value_name = "JSON", group = "demanded_form")]
    pub json_schema: Option<String>,
    /// The same from a file.
    #[arg(long, value_name = "FILE", group = "demanded_form")]
    pub json_schema_file: Option<PathBuf>,
    /// Answer with text of this grammar: GBNF, or Lark as llguidance reads it.
    #[arg(long, value_name = "TEXT", group = "demanded_form")]
    pub grammar: Option<String>,
    /// The same from a file.
    #[arg(long, value_name = "FILE", group = "demanded_form")]
    pub grammar_file: Option<PathBuf>,
}

impl FormFlags {
    /// The form, compiled once so that what is wrong with it shows before any work.
    ///
    /// # Errors
    /// A file that cannot be read; what cannot be compiled, with the flag that says it.
    pub(crate) fn read(&self, engine: &Engine, ignore_eos: bool) -> Result<Option<Form>> {
        let file = |path: &Option<PathBuf>| {
            let read = |path: &PathBuf| read_text(path, MAX_FORM_BYTES as u64).at(|| path.display().to_string());
            path.as_ref().map(read).transpose()
        };
        let schema = self.json_schema.clone().map_or_else(|| file(&self.json_schema_file), |text| Ok(Some(text)))?;
        let grammar = self.grammar.clone().map_or_else(|| file(&self.grammar_file), |text| Ok(Some(text)))?;
        let (form, flag) = match (schema, grammar) {
            (None, None) => return Ok(None),
            (Some(text), _) => {
                let schema =
                    serde_json::from_str(&text).map_err(|err| Error::bad_input(format!("--json-schema: {err}")))?;
                (Form::Schema(schema), "--json-schema")
            }
            (None, Some(text)) => (Form::Grammar(text), "--grammar"),
        };
        if ignore_eos {
            return Err(Error::bad_input(format!(
                "--ignore-eos and {flag} exclude each other: a form says where it ends"
            )));
        }
        form.guide(&engine.tokenizer).at(|| flag)?;
        Ok(Some(form))
    }
}

/// A count where 0 means all, and llama.cpp's -1 does, too.
pub(super) fn all_if_negative(text: &str) -> std::result::Result<usize, String> {
    most_if_negative(text).map(|n| if n == usize::MAX { 0 } else { n })
}

/// A count where llama.cpp's -1 means as many as there are.
fn most_if_negative(text: &str) -> std::result::Result<usize, String> {
    match text.parse::<i64>() {
        Ok(n) if n >= -1 => Ok(usize::try_from(n).unwrap_or(usize::MAX)),
        _ => Err("expected a count, or -1 for all".to_string()),
    }
}

/// Room for an answer when neither -n nor -c bounds it.
const OPEN_ANSWER: usize = 2048;
/// The share of the context that such an answer may have where -c bounds it.
const OPEN_SHARE: usize = 8;

impl SamplingFlags {
    /// The sampler's options.
    pub(super) fn options(&self) -> SamplerOptions {
        let clock =
            || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
        SamplerOptions {
            seed: u64::try_from(self.seed).unwrap_or_else(|_| clock()),
            temp: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: if self.repeat_last_n == usize::MAX { MAX_REPEAT_LAST_N } else { self.repeat_last_n },
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: Vec::new(),
        }
    }

    /// At most so many tokens; `usize::MAX` for no limit.
    pub(super) fn n_predict(&self) -> usize {
        usize::try_from(self.predict).unwrap_or(usize::MAX)
    }

    /// Slots to reserve for the answer, in a context of `ctx_size` slots unless that is 0.
    pub(super) fn room(&self, ctx_size: usize) -> usize {
        let open = if ctx_size == 0 { OPEN_ANSWER } else { OPEN_ANSWER.min(ctx_size / OPEN_SHARE) };
        usize::try_from(self.predict).unwrap_or(open)
    }
}

/// How frames are chosen, sized and placed.
#[derive(Args, Default)]
pub(super) struct MediaFlags {
    /// Frames per second to sample (default 2).
    #[arg(long, allow_hyphen_values = true)]
    pub fps: Option<f64>,
    /// Take this many frames instead.
    #[arg(long)]
    pub nframes: Option<usize>,
    /// At least this many frames (default 4).
    #[arg(long)]
    pub min_frames: Option<usize>,
    /// At most this many frames (default 768).
    #[arg(long)]
    pub max_frames: Option<usize>,
    /// Begin at this second of the video.
    #[arg(long = "start", value_name = "SECONDS", allow_hyphen_values = true)]
    pub video_start: Option<f64>,
    /// End at this second of the video.
    #[arg(long = "end", value_name = "SECONDS", allow_hyphen_values = true)]
    pub video_end: Option<f64>,
    /// Least pixels of a picture or frame after resizing.
    #[arg(long)]
    pub min_pixels: Option<u64>,
    /// Most pixels of a picture or frame after resizing.
    #[arg(long)]
    pub max_pixels: Option<u64>,
    /// Pixel budget of a whole video.
    #[arg(long)]
    pub total_pixels: Option<u64>,
    /// Bound each frame, too, where a model's budget is one for the whole video (Qwen3-VL, Qwen3.5).
    #[arg(long)]
    pub cap_pixels_per_frame: bool,
    /// Leave the vision markers around a video whose frame pairs are stamped (Qwen3-VL, Qwen3.5), as newer transformers do.
    #[arg(long)]
    pub keep_markers: bool,
    /// Temporal scale of HoPE or VideoRoPE: a number, `understanding` (1.5) or `retrieval` (0.75); default from the model.
    #[arg(long, value_name = "G", allow_hyphen_values = true)]
    pub temporal_scale: Option<String>,
    /// Leave out what has not changed in a video by more than so many steps of 255 since it was read last.
    #[arg(long, value_name = "STEPS", value_parser = parse_steps)]
    pub dedup: Option<f32>,
    /// Of every frame pair of a video but the first, read the share of tokens that differ most from the pair before.
    #[arg(long = "keep-share", id = "kept_share", value_name = "SHARE", value_parser = parse_share)]
    pub keep: Option<f32>,
    #[command(flatten)]
    pub safe: SafeFlags,
}

/// A share of tokens that stay.
pub(super) fn parse_share(text: &str) -> std::result::Result<f32, String> {
    let share = text.parse().map_err(|_| Error::bad_input("expected a number")).and_then(kept_share);
    share.map_err(|err| err.message().to_string())
}

/// A change that does not count.
pub(super) fn parse_steps(text: &str) -> std::result::Result<f32, String> {
    text.parse()
        .map_err(|_| Error::bad_input("expected a number"))
        .and_then(steps)
        .map_err(|err| err.message().to_string())
}

/// Where H.264 is decoded.
#[derive(Args, Default)]
pub(super) struct SafeFlags {
    /// Decode H.264 in a child process: a fault of the decoder is then an error that names the file.
    #[arg(long)]
    safe_decode: bool,
}

impl SafeFlags {
    /// What is installed, and this program as the child, if that was asked for.
    ///
    /// # Errors
    /// `Io` when the operating system does not say which file it is.
    pub(super) fn decoders(&self) -> Result<Decoders> {
        let h264 = if self.safe_decode { Some(SafeDecoder::new(std::env::current_exe()?)) } else { None };
        Ok(Decoders { h264, ..Decoders::installed() })
    }
}

impl MediaFlags {
    /// Options for every medium that says nothing itself.
    ///
    /// # Errors
    /// Those of [`SafeFlags::decoders`].
    pub(super) fn options(&self) -> Result<MediaOptions> {
        let sample = SampleOptions {
            fps: self.fps,
            nframes: self.nframes,
            min_frames: self.min_frames,
            max_frames: self.max_frames,
            video_start: self.video_start,
            video_end: self.video_end,
            min_pixels: self.min_pixels,
            max_pixels: self.max_pixels,
            total_pixels: self.total_pixels,
            cap_pixels_per_frame: self.cap_pixels_per_frame,
            ..SampleOptions::default()
        };
        let (keep_markers, decoders) = (self.keep_markers, self.safe.decoders()?);
        Ok(MediaOptions { sample, temporal_scale: None, keep_markers, dedup: self.dedup, keep: self.keep, decoders })
    }

    /// The temporal scale, with a word of warning where the model has no use for it or was not trained with it.
    pub(super) fn scale(&self, layout: Layout) -> Result<Option<f64>> {
        let Some(text) = &self.temporal_scale else { return Ok(None) };
        let scale = parse_temporal_scale(text)?;
        if !layout.uses_temporal_scale() {
            eprintln!("warning: the model's position layout is `{layout}`, which has no temporal scale");
        } else if let Some(warning) = scale_warning(scale).filter(|_| layout != Layout::VideoRope) {
            eprintln!("warning: {warning}");
        }
        Ok(Some(scale))
    }
}
