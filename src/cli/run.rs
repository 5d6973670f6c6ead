//! `longtake run`: one answer.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ArgMatches;
use serde_json::{Map, json};

use super::budget::{BudgetFlags, measuring, print_plan, print_time};
use super::flags::{ComputeFlags, FormFlags, MediaFlags, ModelFlags, SamplingFlags, warn_of_length};
use super::live::{self, LiveFlags};
use super::looked::WhereFlags;
use super::out::{self, stdout};
use super::progress::{Progress, catch_interrupt, waiting};
use crate::api::{Answer, Cancel, Chat, ChatOptions, Longtake, Plan, PlannedMedium, Usage};
use crate::error::Context;
use crate::files::atomic::check_output;
use crate::files::input::{read_text, text_from};
use crate::stream::{Engine, Event, Finish, MediaKind, SessionOptions};
use crate::text::message::{MAX_JSON_BYTES, parse_messages};
use crate::text::{Content, Form, MediaSource, Message, Part, Source};
use crate::{Error, Result};

/// Answer one question about videos, pictures and text, in the order given.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    parts: PartFlags,
    #[command(flatten)]
    media: MediaFlags,
    #[command(flatten)]
    live: LiveFlags,
    #[command(flatten)]
    budget: BudgetFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
    #[command(flatten)]
    form: FormFlags,
    #[command(flatten)]
    looks: WhereFlags,
    /// Print one JSON object with text, tokens and timings instead of the text.
    #[arg(long)]
    json: bool,
    /// Print nothing but the answer.
    #[arg(short, long)]
    quiet: bool,
    /// Write the run's arrays (input_ids, position_ids, pixel_values, vit_output, logits_last4, generated, …).
    #[arg(long, value_name = "FILE.safetensors")]
    dump: Option<PathBuf>,
}

/// What a conversation is made of.
#[derive(clap::Args)]
pub(super) struct PartFlags {
    /// Text of the question; repeatable, between media.
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Vec<String>,
    /// Read the text of the question from a file (`-`: standard input).
    #[arg(short, long, value_name = "FILE")]
    pub file: Vec<PathBuf>,
    /// Picture: png, jpeg, webp, gif, bmp, ico, ppm, anything ffmpeg reads (comma list; repeatable).
    #[arg(long, value_name = "FILE")]
    pub image: Vec<OsString>,
    /// Video: mp4, mov, y4m, gif, anything ffmpeg reads, or a folder of frames (comma list; repeatable); `-`: a stream on
    /// standard input, Y4M or what ffmpeg reads.
    #[arg(long, value_name = "FILE")]
    pub video: Vec<OsString>,
    /// System prompt [short: -sys]
    #[arg(long, value_name = "TEXT")]
    pub system_prompt: Option<String>,
    /// A whole conversation as JSON: [{"role", "content": [{"type": "text"|"image"|"video", …}]}].
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "file", "image", "video", "system_prompt"])]
    pub messages: Option<PathBuf>,
    /// Number pictures and videos in the prompt ("Picture 1: ").
    #[arg(long)]
    pub add_vision_id: bool,
    /// Let control tokens in the prompt be tokens (`<|box_start|>`, `<|im_end|>`, …) instead of text.
    #[arg(long)]
    pub special: bool,
}

/// Runs the command; `matches` know the order in which parts were given.
pub(super) fn run(args: Args, matches: &ArgMatches) -> Result<()> {
    args.dump.as_deref().map_or(Ok(()), check_output)?;
    args.looks.check()?;
    let messages = args.parts.messages(matches, Vec::new())?;
    let wants_vision = has_media(&messages);
    let started = Instant::now();
    let engine = args.model.load(wants_vision)?;
    let load_time = started.elapsed();
    let form = args.form.read(&engine, args.sampling.ignore_eos)?;
    let request = Request {
        compute: &args.model.compute,
        media: &args.media,
        budget: &args.budget,
        sampling: &args.sampling,
        form: form.as_ref(),
        looks: &args.looks,
        add_vision_id: args.parts.add_vision_id,
        special: args.parts.special,
        json: args.json,
        quiet: args.quiet,
        dump: args.dump.as_deref(),
    };
    if live::has_stream(&messages) {
        return live::answer(&engine, &request, &messages, args.live.when_full(), load_time);
    }
    args.live.check_unused()?;
    let answer = answer(&engine, &request, &messages, load_time)?;
    if args.json {
        writeln!(stdout(), "{answer}")?;
    }
    Ok(())
}

/// How to answer: the flags that `run` and `demo` share.
pub(super) struct Request<'a> {
    pub compute: &'a ComputeFlags,
    pub media: &'a MediaFlags,
    pub budget: &'a BudgetFlags,
    pub sampling: &'a SamplingFlags,
    /// The form that the answer has to have.
    pub form: Option<&'a Form>,
    pub looks: &'a WhereFlags,
    pub add_vision_id: bool,
    pub special: bool,
    /// Keep the text for the JSON object that is returned instead of printing it.
    pub json: bool,
    pub quiet: bool,
    pub dump: Option<&'a Path>,
}

impl Request<'_> {
    /// Sizes of the session, but for its slots; with a word of warning where its temporal scale is odd.
    ///
    /// # Errors
    /// Values that are none.
    pub(super) fn sizes(&self, engine: &Engine) -> Result<SessionOptions> {
        self.compute.session(engine, 0, self.media.scale(engine.text.hparams().layout)?)
    }

    /// How a talk is held in a session of these sizes.
    ///
    /// # Errors
    /// Values that are none.
    pub(super) fn options(&self, sizes: SessionOptions) -> Result<ChatOptions> {
        let limits = self.budget.limits(self.compute.ctx_size)?;
        Ok(ChatOptions {
            reserve: 0,
            max_tokens: self.sampling.n_predict(),
            room: Some(self.sampling.room(self.compute.ctx_size)),
            ignore_eos: self.sampling.ignore_eos,
            sampling: self.sampling.options(),
            form: self.form.cloned(),
            media: self.media.options()?,
            add_vision_id: self.add_vision_id,
            special: self.special,
            look: self.looks.is_wanted(),
            ..ChatOptions::of(sizes, limits)
        })
    }
}

/// Answers the last turn of `messages`: plan, read, generate. The answer goes to stdout as it comes (unless `json`), all
/// else to stderr. Returns text, tokens and timings.
pub(super) fn answer(
    engine: &Arc<Engine>,
    args: &Request<'_>,
    messages: &[Message],
    load_time: Duration,
) -> Result<serde_json::Value> {
    let longtake = Longtake::from_engine(Arc::clone(engine));
    let cancel = Cancel::from_static(catch_interrupt()?);
    let mut chat = longtake
        .chat()
        .options(args.options(args.sizes(engine)?)?)
        .conversation(messages.to_vec())
        .cancelled_by(cancel);
    let Plan { media, mut cost } = measuring(args.quiet || !args.budget.has_time(), || chat.plan_sizes())?;
    args.looks.check_media(media.len())?;
    if !(args.quiet || media.is_empty()) {
        print_plan(&media, &cost);
        if cost.is_long() {
            measuring(false, || chat.time(&mut cost))?;
        }
        print_time(&cost);
    }
    warn_of_length(engine, cost.n_ctx);
    let has_pictures = media.iter().any(|medium| medium.kind == MediaKind::Image);
    waiting("decoding pictures", args.quiet || !has_pictures, || chat.load_pictures())?;
    Ok(respond(engine, chat, "", args, load_time)?.1)
}

/// Asks `question` and prints the answer, as [`answer`] does; the talk comes back with it.
pub(super) fn respond(
    engine: &Engine,
    chat: Chat,
    question: &str,
    args: &Request<'_>,
    load_time: Duration,
) -> Result<(Chat, serde_json::Value)> {
    // What is wrong with media.
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let (heard, mut progress) = (Arc::clone(&warnings), Progress::new(args.quiet));
    let mut chat = chat.dumping(args.dump.is_some()).on_event(move |event| {
        let warning = match &event {
            Event::Warning { message, .. } | Event::Notice(message) => Some(message.clone()),
            Event::Skipped { n_packets, .. } => Some(format!("{n_packets} damaged packets skipped")),
            _ => None,
        };
        heard.lock().unwrap_or_else(PoisonError::into_inner).extend(warning);
        progress.event(event);
    });
    let mut answer = chat.ask(question)?;
    print(&mut answer, args.json)?;
    let (text, tokens, finish) = (answer.text().to_string(), answer.tokens().to_vec(), answer.finish());
    let Usage { prompt_tokens: n_prompt, cached_tokens: n_known, prompt_time, answer_time, media, .. } = answer.usage();
    let looked = answer.looked();
    drop(answer);
    if let (Some(dump), Some(path)) = (chat.take_dump()?, args.dump) {
        dump.write(engine, path)?;
    }
    let n_read = n_prompt - n_known;
    let rate = |n: usize, time: Duration| n as f64 / time.as_secs_f64().max(1e-9);
    if !args.quiet {
        eprintln!(
            "load {:.2} s | prompt {n_read} tokens in {:.2} s ({:.1} t/s) | answer {} tokens in {:.2} s ({:.1} t/s)",
            load_time.as_secs_f64(),
            prompt_time.as_secs_f64(),
            rate(n_read, prompt_time),
            tokens.len(),
            answer_time.as_secs_f64(),
            rate(tokens.len(), answer_time),
        );
        if media.reused_pairs > 0 {
            eprintln!("{} frames equal earlier ones and were not encoded again", 2 * media.reused_pairs);
        }
        if media.left_out_tokens > 0 {
            let (pairs, tokens) = (media.left_out_pairs, media.left_out_tokens);
            eprintln!(
                "{tokens} visual tokens were left out; {} frames had not changed and were not encoded",
                2 * pairs
            );
        }
    }
    let looked = args.looks.tell(&chat, looked.as_ref(), args.quiet)?;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let warnings = std::mem::take(&mut *warnings.lock().unwrap_or_else(PoisonError::into_inner));
    let mut value = json!({
        "text": text,
        "tokens": tokens,
        "finish_reason": match finish { Some(Finish::Length) => "length", Some(Finish::Caller) => "cancelled", _ => "stop" },
        "usage": { "prompt_tokens": n_prompt, "completion_tokens": tokens.len(), "total_tokens": n_prompt + tokens.len() },
        "timings": {
            "load_ms": ms(load_time),
            "prompt_n": n_read, "prompt_ms": ms(prompt_time), "prompt_per_second": rate(n_read, prompt_time),
            "decode_ms": ms(media.decode_time), "encode_ms": ms(media.encode_time), "reused_pairs": media.reused_pairs,
            "predicted_n": tokens.len(), "predicted_ms": ms(answer_time), "predicted_per_second": rate(tokens.len(), answer_time),
        },
        "media": chat.media()?.iter().map(media_json).collect::<Vec<_>>(),
        "warnings": warnings,
    });
    if let Some(looked) = looked {
        value["where"] = looked;
    }
    Ok((chat, value))
}

/// Prints an answer as it comes, and the end of its last line; where `is_kept`, it only waits for it.
///
/// # Errors
/// What ended it before its time.
pub(super) fn print(answer: &mut Answer, is_kept: bool) -> Result<()> {
    while let Some(piece) = answer.next() {
        let piece = piece?;
        if !is_kept && out::piece(&piece).is_break() {
            answer.stop();
        }
    }
    if !is_kept && answer.finish() != Some(Finish::Caller) {
        let _ = out::piece("\n");
    }
    Ok(())
}

/// A medium with the numbers and times that its frames have in the file.
fn media_json(plan: &PlannedMedium) -> serde_json::Value {
    let shown = &plan.frames;
    // A picture is its own only frame.
    let frames = if plan.kind == MediaKind::Image { vec![0] } else { shown.iter().map(|s| s.number).collect() };
    let mut medium = json!({
        "type": plan.kind.name(), "source": plan.label, "frames": frames,
        "times": shown.iter().map(|s| s.seconds).collect::<Vec<_>>(),
        "width": plan.width, "height": plan.height, "pairs": plan.n_pairs(),
        "grid_thw": [plan.grid.t, plan.grid.h, plan.grid.w], "tokens": plan.n_tokens,
    });
    tell_left_out(plan, &mut medium);
    medium
}

/// How something is left out of a video, and how much, as far as that is known.
pub(super) fn tell_left_out(plan: &PlannedMedium, medium: &mut serde_json::Value) {
    let both = [("dedup", plan.dedup), ("keep_share", plan.keep)];
    for (name, value) in both.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        medium[name] = json!(value);
        medium["tokens_left_out"] = json!(plan.n_left_out);
    }
    if plan.is_compressed {
        medium["compressed"] = json!(true);
        medium["tokens_left_out"] = json!(plan.n_left_out);
    }
}

/// Whether pictures or videos are part of a conversation.
pub(super) fn has_media(messages: &[Message]) -> bool {
    let is_medium = |part: &Part| !matches!(part, Part::Text(_));
    messages.iter().any(|m| matches!(&m.content, Content::Parts(parts) if parts.iter().any(is_medium)))
}

impl PartFlags {
    /// Whether nothing is given.
    pub(super) fn is_empty(&self) -> bool {
        !self.has_text() && self.image.is_empty() && self.video.is_empty()
    }

    /// Whether there is more than media.
    pub(super) fn has_text(&self) -> bool {
        !self.prompt.is_empty() || !self.file.is_empty() || self.system_prompt.is_some() || self.messages.is_some()
    }

    /// The conversation: `--messages`, or one user turn from the parts in the order of the command line, with `more` parts and
    /// their places in it.
    pub(super) fn messages(&self, matches: &ArgMatches, more: Vec<(usize, Part)>) -> Result<Vec<Message>> {
        if let Some(path) = &self.messages {
            let place = || path.display().to_string();
            return parse_messages(&text_at(path, MAX_JSON_BYTES as u64)?).at(place);
        }
        let mut parts = more;
        let indices = |id: &str| matches.indices_of(id).into_iter().flatten().collect::<Vec<_>>();
        for (at, text) in indices("prompt").into_iter().zip(&self.prompt) {
            parts.push((at, Part::Text(text.clone())));
        }
        for (at, path) in indices("file").into_iter().zip(&self.file) {
            let mut text = text_at(path, MAX_TEXT)?;
            // The one that editors put at the end of a file.
            if text.ends_with('\n') {
                text.pop();
            }
            parts.push((at, Part::Text(text)));
        }
        for (at, list) in indices("image").into_iter().zip(&self.image) {
            for source in sources(list)? {
                parts.push((at, Part::Image { source, options: Map::new() }));
            }
        }
        for (at, list) in indices("video").into_iter().zip(&self.video) {
            for source in sources(list)? {
                parts.push((at, Part::Video { source: MediaSource::Path(source), options: Map::new() }));
            }
        }
        if parts.is_empty() {
            return Err(Error::bad_input("nothing to answer: give --prompt, --file, --image, --video or --messages"));
        }
        parts.sort_by_key(|(at, _)| *at);
        let mut messages = Vec::new();
        if let Some(system) = &self.system_prompt {
            messages.push(Message::new("system", Content::Text(system.clone())));
        }
        let parts = parts.into_iter().map(|(_, part)| part).collect();
        messages.push(Message::new("user", Content::Parts(parts)));
        Ok(messages)
    }
}

/// A list separated by commas, unless a file of the whole name exists, or it is a `data:` URL, which has a comma of its own.
fn sources(list: &OsStr) -> Result<Vec<Source>> {
    if list.as_encoded_bytes().starts_with(b"data:") || Path::new(list).exists() {
        return Ok(vec![Source::from_word(list)?]);
    }
    items(list).filter(|item| !item.is_empty()).map(Source::from_word).collect()
}

/// What stands between commas, in whatever encoding.
#[cfg(unix)]
fn items(list: &OsStr) -> impl Iterator<Item = &OsStr> {
    use std::os::unix::ffi::OsStrExt;
    list.as_bytes().split(|byte| *byte == b',').map(OsStr::from_bytes)
}

/// What stands between commas; a list that is not Unicode is one item.
#[cfg(not(unix))]
fn items(list: &OsStr) -> impl Iterator<Item = &OsStr> {
    let text = list.to_str();
    text.into_iter().flat_map(|text| text.split(',')).map(OsStr::new).chain(text.is_none().then_some(list))
}

/// Longest prompt file, in bytes.
const MAX_TEXT: u64 = 64 << 20;

/// A text file, or standard input for `-`.
fn text_at(path: &Path, cap: u64) -> Result<String> {
    let text = if path.as_os_str() == "-" { text_from(std::io::stdin().lock(), cap) } else { read_text(path, cap) };
    text.at(|| path.display().to_string())
}
