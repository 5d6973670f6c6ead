//! From a checked request to a prompt with a plan: media are opened, not decoded, and what does not fit is refused before
//! anything waits.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::desk::Desk;
use super::lane::Class;
use super::limits::{MAX_IMAGES, MAX_VIDEOS, OPEN_ANSWER};
use super::opened::{Open, message, text_of, video_first};
use super::store::{Blob, start_of};
use super::wire::chat::Own;
use super::wire::media::{Kind, Named, kind_of};
use super::wire::{ChatRequest, Code, Fault, From, MediaPart, Sampling, Tools, TurnPart};
use crate::error::Context as _;
use crate::stream::{Around, Budget, Conversation, Cost, Limits, Looked, MediaKind, MediaPlan, Prompt, Take, Unit};
use crate::text::template::RenderOptions;
use crate::text::{Data, Form, Guide, MediaSource, Message, Part, SamplerOptions, Source};
use crate::{Error, ErrorKind};

type Result<T> = std::result::Result<T, Fault>;

/// How prompts are rendered: what users write stays text.
const RENDER: RenderOptions =
    RenderOptions { add_generation_prompt: true, add_vision_id: false, special: false, tools: &[] };

/// A share of the context that is kept for text beside media. Plans of media depend on it, so it is coarse: another question
/// of about the same length finds the same plan, and what was read for the first.
const KEPT_SHARE: usize = 8;

/// A request that fits.
pub(crate) struct Planned {
    pub prompt: Prompt,
    pub cost: Cost,
    /// The take that it asks about.
    pub take: Option<Arc<Take>>,
    /// Names of its media, in order.
    pub names: Vec<String>,
    /// The system message that it begins with.
    pub system: Option<String>,
    /// Whether videos were moved before the text.
    pub is_reordered: bool,
    pub n_prompt: usize,
    /// Most tokens of the answer.
    pub n_predict: usize,
    /// Slots of the context.
    pub n_ctx: usize,
    /// What the answer may be, where it has to have a form.
    pub guide: Option<Box<dyn Guide>>,
    /// Bytes on disk that are read.
    _held: Vec<Arc<Blob>>,
}

/// What a request's parts became.
#[derive(Default)]
struct Resolved {
    names: Vec<String>,
    held: Vec<Arc<Blob>>,
    n_images: usize,
    n_videos: usize,
}

impl Desk {
    /// Plans a request.
    ///
    /// # Errors
    /// Media that cannot be read, what does not fit, a take that is not ready or is asked in another way than it was read.
    pub(crate) fn plan(&self, request: &mut ChatRequest) -> Result<Planned> {
        self.check_model(request.model.as_deref())?;
        // Before all else: better no answer than one of another form.
        let guide = match request.form.take() {
            Some((form, field)) => Some(self.guide(&form, field)?),
            None if request.calls_tools() => Some(self.guide_of_tools(&request.tools)?),
            None => None,
        };
        if request.is_raw {
            return self.plan_raw(request).map(|planned| Planned { guide, ..planned });
        }
        let take = request.turns.iter().flat_map(|turn| &turn.parts).find_map(|part| match part {
            TurnPart::Media(MediaPart { from: From::Take(id), at, .. }) => Some((id.clone(), at.clone())),
            _ => None,
        });
        let planned = match take {
            Some((id, at)) => self.plan_take(request, &id, &at),
            None => self.plan_media(request),
        };
        planned.map(|planned| Planned { guide, ..planned })
    }

    /// What a form allows, compiled.
    fn guide(&self, form: &Form, field: &str) -> Result<Box<dyn Guide>> {
        form.guide(&self.engine.tokenizer).map_err(|err| match err.kind() {
            ErrorKind::Busy => Fault::new(Code::QueueFull, err.message()).after(2),
            _ => Fault::new(Code::InvalidSchema, err.message()).of(field),
        })
    }

    /// What calls of tools allow, in the words of the model's template.
    fn guide_of_tools(&self, Tools { list, choice, is_parallel }: &Tools) -> Result<Box<dyn Guide>> {
        let style = self.engine.template.tool_style().ok_or_else(|| {
            let message = "`tools` is not supported: the chat template of this model knows no tools";
            Fault::new(Code::UnsupportedParameter, message).of("tools")
        })?;
        let choice = choice.clone().unwrap_or_default();
        let form = style.form(list, &choice, *is_parallel, &self.engine.tokenizer);
        self.guide(&form.map_err(|err| Fault::new(Code::InvalidSchema, err.message()).of("tools"))?, "tools")
    }

    /// A prompt as it stands. Whoever writes all of it also writes the control tokens in it.
    fn plan_raw(&self, request: &ChatRequest) -> Result<Planned> {
        let texts = request.turns.iter().flat_map(|turn| &turn.parts);
        let text: String =
            texts.filter_map(|part| if let TurnPart::Text(text) = part { Some(&**text) } else { None }).collect();
        let ids = self.engine.tokenizer.encode(&text, true).map_err(|err| Fault::from_error(&err).of("prompt"))?;
        if ids.is_empty() {
            return Err(Fault::value("prompt", "`prompt` is empty"));
        }
        let n_ctx = self.context(&request.own)?;
        let n_predict = n_predict(request.max_tokens, ids.len(), n_ctx).map_err(|fault| fault.of("prompt"))?;
        let n_prompt = ids.len();
        let prompt = Prompt::new(ids.into_iter().map(Unit::Token).collect(), Vec::new());
        let mut cost = Cost::default();
        cost.n_ctx = n_ctx;
        let names = Vec::new();
        Ok(Planned {
            prompt,
            cost,
            take: None,
            names,
            system: None,
            is_reordered: false,
            n_prompt,
            n_predict,
            n_ctx,
            guide: None,
            _held: Vec::new(),
        })
    }

    fn plan_media(&self, request: &mut ChatRequest) -> Result<Planned> {
        let mut resolved = Resolved::default();
        let shared = std::mem::take(&mut request.video_options);
        let mut messages = Vec::new();
        for turn in &mut request.turns {
            let mut open = Open::new(turn);
            for part in std::mem::take(&mut turn.parts) {
                open.parts.push(match part {
                    TurnPart::Text(text) => Part::Text(text),
                    TurnPart::Media(part) => self.resolve(part, &shared, &mut resolved)?,
                });
            }
            messages.push(open);
        }
        if resolved.n_images > MAX_IMAGES || resolved.n_videos > MAX_VIDEOS {
            let message = format!(
                "`{}` pictures and `{}` videos, at most {MAX_IMAGES} and {MAX_VIDEOS}",
                resolved.n_images, resolved.n_videos
            );
            return Err(Fault::value("messages", message));
        }
        let as_sent = request.own.as_sent.unwrap_or(self.setup.as_sent);
        let is_reordered = !as_sent && messages.iter_mut().map(video_first).fold(false, |any, moved| any | moved);
        let system = messages.first().filter(|first| first.role == "system").map(text_of);
        let messages: Vec<Message> = messages.into_iter().map(message).collect();
        let n_ctx = self.context(&request.own)?;
        let room = request.max_tokens.unwrap_or(OPEN_ANSWER).min(n_ctx / KEPT_SHARE);
        let limits = Limits {
            n_ctx: Some(n_ctx),
            memory: smaller(request.own.max_memory, self.setup.limits.memory),
            time: smaller(request.own.max_time.map(Duration::from_secs_f64), self.setup.limits.time),
        };
        let has_media = resolved.n_images + resolved.n_videos > 0;
        let fault = |err: Error| fit_fault(&err, has_media);
        let budget = Budget::new(&self.engine, limits, self.setup.session);
        // Only those that may be called are told of.
        let tools: Vec<Value> = match request.calls_tools() {
            true => request.tools.list.iter().map(|tool| tool.told.clone()).collect(),
            false => Vec::new(),
        };
        let render = RenderOptions { tools: &tools, ..RENDER };
        let open = || Conversation::open(&self.engine, &messages, render, &self.setup.media);
        let fit = |around: usize, Conversation { units, media }: Conversation| {
            // To measure this machine is work.
            let _turn = limits.time.map(|_| self.lane.turn(Class::Prefill));
            budget.fit(media, around).map(|(plans, cost)| (Prompt::new(units, plans), cost))
        };
        let conversation = open().map_err(fault)?;
        let n_text = conversation.units.iter().filter(|unit| matches!(unit, Unit::Token(_))).count();
        let exact = n_text.saturating_add(room);
        let coarse = exact.next_multiple_of((n_ctx / KEPT_SHARE).max(1)).max(n_ctx / 4);
        let fitted = match has_media && coarse > exact {
            true => match fit(coarse, conversation) {
                Err(err) if err.kind() == ErrorKind::Limit => fit(exact, open().map_err(fault)?),
                fitted => fitted,
            },
            false => fit(exact, conversation),
        };
        let (prompt, cost) = fitted.map_err(fault)?;
        let n_prompt = prompt.n_tokens().map_err(fault)?;
        let n_predict = n_predict(request.max_tokens, n_prompt, n_ctx)?;
        let Resolved { names, held, .. } = resolved;
        Ok(Planned {
            prompt,
            cost,
            take: None,
            names,
            system,
            is_reordered,
            n_prompt,
            n_predict,
            n_ctx,
            guide: None,
            _held: held,
        })
    }

    /// A question about a take: the conversation begins just as the one that was read.
    fn plan_take(&self, request: &mut ChatRequest, id: &str, at: &str) -> Result<Planned> {
        let differs = |what: &str| Fault::new(Code::TakePrefixMismatch, what.to_string()).of(at);
        let (take, name) = self.takes()?.open(id)?;
        let header = &take.header;
        if request.calls_tools() {
            return Err(differs(
                "tools stand in the system message, under which the take was not read: ask without `tools`",
            ));
        }
        let n_media =
            request.turns.iter().flat_map(|turn| &turn.parts).filter(|part| matches!(part, TurnPart::Media(_)));
        if n_media.count() != 1 {
            return Err(differs(
                "a conversation about a take is about its video alone: it holds no other picture or video",
            ));
        }
        let mut messages = Vec::new();
        for turn in &mut request.turns {
            let mut open = Open::new(turn);
            for part in std::mem::take(&mut turn.parts) {
                match part {
                    TurnPart::Text(text) => open.parts.push(Part::Text(text)),
                    TurnPart::Media(part) if !part.options.is_empty() => {
                        let message = "the video of a take was sampled when it was read: it has no options";
                        return Err(differs(message));
                    }
                    // Its place among the parts does not matter.
                    TurnPart::Media(_) => {
                        let source = MediaSource::Path((&*header.source).into());
                        open.parts.insert(0, Part::Video { source, options: Map::new() });
                    }
                }
            }
            messages.push(open);
        }
        let system = messages.first().filter(|first| first.role == "system").map(text_of);
        match (&header.system_prompt, &system) {
            (Some(kept), None) => {
                let text = vec![Part::Text(kept.clone())];
                messages.insert(0, Open { role: "system", parts: text, calls: Vec::new() });
            }
            (kept, given) if given.is_some() && kept.as_deref() != given.as_deref() => {
                let message = "the system message differs from the one that the take was read under: leave it out, or read the video again under this one";
                return Err(differs(message));
            }
            _ => {}
        }
        let messages: Vec<Message> = messages.into_iter().map(message).collect();
        let units = Prompt::units(&self.engine, &messages, RENDER).map_err(|err| Fault::from_error(&err))?;
        let tokens = |ids: &[u32]| ids.iter().map(|id| Unit::Token(*id)).collect::<Vec<_>>();
        let video = Unit::Media { kind: MediaKind::Video, index: 0 };
        let begin = [tokens(&header.before), vec![video], tokens(&header.after)].concat();
        if !units.starts_with(&begin) {
            let message = "the video of a take stands in the first message of the user, with nothing but the system message before";
            return Err(differs(message));
        }
        let prompt = Prompt::new(units, vec![MediaPlan::watched(header)]);
        let n_prompt = prompt.n_tokens().map_err(|err| Fault::from_error(&err))?;
        let n_ctx = header.shape.n_ctx;
        let n_predict = n_predict(request.max_tokens, n_prompt, n_ctx)?;
        let mut cost = Cost::default();
        (cost.n_tokens, cost.n_ctx) = (header.n_media(), n_ctx);
        Ok(Planned {
            prompt,
            cost,
            take: Some(take),
            names: vec![name],
            system: None,
            is_reordered: false,
            n_prompt,
            n_predict,
            n_ctx,
            guide: None,
            _held: Vec::new(),
        })
    }

    /// The context of a request: the server's, or less.
    fn context(&self, own: &Own) -> Result<usize> {
        let most = self.setup.session.n_ctx;
        match own.context {
            Some(n) if n > most => {
                let message = format!("`longtake.context` is `{n}`, the server's context holds {most} tokens");
                Err(Fault::value("longtake.context", message))
            }
            given => Ok(given.unwrap_or(most)),
        }
    }

    /// The name of the model, where the request says one.
    pub(crate) fn check_model(&self, name: Option<&str>) -> Result<()> {
        match name {
            Some(name) if name != self.name() && !self.setup.aliases.iter().any(|alias| alias == name) => {
                let message = format!("the model is not here; this server has `{}`", self.name());
                Err(Fault::new(Code::ModelNotFound, message).of("model"))
            }
            _ => Ok(()),
        }
    }

    /// Where a medium is, and what it is.
    fn resolve(&self, part: MediaPart, shared: &Map<String, Value>, resolved: &mut Resolved) -> Result<Part> {
        let MediaPart { named, from, mut options, uuid, at } = part;
        let not_found = || Fault::new(Code::MediaNotFound, "nothing is known under this name").of(&*at);
        let (kind, source, name) = match from {
            From::Data(bytes) => {
                let kind = kind_of(&bytes.0);
                (kind, MediaSource::Path(Source::Data(Data::new("", bytes.0))), None)
            }
            From::File(id) => {
                let upload = self.files()?.get(&id).map_err(|fault| fault.of(&*at))?;
                resolved.held.push(upload.blob().clone());
                let kind = match &*upload.kind {
                    "image" => Kind::Image,
                    "video" => Kind::Video,
                    _ => {
                        let message = "the file holds lines of a batch, no picture or video";
                        return Err(Fault::new(Code::InvalidMedia, message).of(&*at));
                    }
                };
                (kind, MediaSource::Path(upload.blob().path().into()), Some(upload.name))
            }
            From::Path(url) => {
                let path = self.local(&url).ok_or_else(not_found)?;
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                (kind_of(&start_of(&path)), MediaSource::Path(path.into()), name)
            }
            From::Frames(frames) => {
                let one = |frame: From| match frame {
                    From::Data(bytes) => Ok(Source::Data(Data::new("", bytes.0))),
                    From::File(id) => {
                        let upload = self.files()?.get(&id).map_err(|fault| fault.of(&*at))?;
                        resolved.held.push(upload.blob().clone());
                        Ok(Source::Path(upload.blob().path().into()))
                    }
                    From::Path(url) => Ok(Source::Path(self.local(&url).ok_or_else(not_found)?)),
                    _ => Err(not_found()),
                };
                let frames = frames.into_iter().map(one).collect::<Result<Vec<_>>>()?;
                (Kind::Video, MediaSource::Frames(frames), None)
            }
            From::Uuid => {
                let uuid = uuid.as_deref().ok_or_else(not_found)?;
                let (kind, source) = self.alias(uuid).ok_or_else(not_found)?;
                (kind, source, None)
            }
            From::Take(_) => return Err(Fault::value(&*at, "a take is asked about alone")),
        };
        if let Some(uuid) = uuid {
            self.set_alias(uuid, (kind, source.clone()));
        }
        let is_video = match (kind, named) {
            (Kind::Image, _) | (Kind::Animation, Named::Image | Named::File) => false,
            (Kind::Video, _) | (Kind::Animation, Named::Video) => true,
            (Kind::Unknown, Named::Image) => false,
            (Kind::Unknown, Named::Video) => true,
            (Kind::Unknown, Named::File) => {
                let message = "the file is no picture or video that is known here";
                return Err(Fault::new(Code::InvalidMedia, message).of(&*at));
            }
        };
        let n = if is_video { &mut resolved.n_videos } else { &mut resolved.n_images };
        *n += 1;
        resolved.names.push(name.unwrap_or_else(|| format!("{} {n}", if is_video { "video" } else { "picture" })));
        if is_video {
            // A part's own word wins; one way to choose frames replaces the other.
            for (key, value) in shared {
                let other = match key.as_str() {
                    "fps" => "nframes",
                    "nframes" => "fps",
                    _ => "",
                };
                if !options.contains_key(key) && !options.contains_key(other) {
                    options.insert(key.clone(), value.clone());
                }
            }
            return Ok(Part::Video { source, options });
        }
        match source {
            MediaSource::Path(source) => Ok(Part::Image { source, options }),
            MediaSource::Frames(_) => Err(not_found()),
        }
    }

    /// The file that a `file:` URL or a path names, if it is a regular one below the folder for media, reached without links.
    /// What is forbidden looks like what is absent.
    pub(crate) fn local(&self, url: &str) -> Option<PathBuf> {
        let root = self.setup.media_path.as_deref()?;
        let path = Source::parse(url).ok()?.path()?.to_path_buf();
        let below = if path.is_absolute() { path.strip_prefix(root).ok()?.to_path_buf() } else { path };
        let mut whole = root.to_path_buf();
        for component in below.components() {
            let Component::Normal(name) = component else { return None };
            whole.push(name);
            if whole.symlink_metadata().ok()?.file_type().is_symlink() {
                return None;
            }
        }
        whole.is_file().then_some(whole)
    }

    /// The sampler of a request.
    pub(crate) fn sampler_options(&self, given: &Sampling) -> SamplerOptions {
        let base = &self.setup.sampling;
        SamplerOptions {
            seed: given.seed.unwrap_or_else(|| if base.seed == 0 { super::random::now() } else { base.seed }),
            temp: given.temperature.unwrap_or(base.temp),
            top_k: given.top_k.unwrap_or(base.top_k),
            top_p: given.top_p.unwrap_or(base.top_p),
            min_p: given.min_p.unwrap_or(base.min_p),
            repeat_penalty: given.repeat_penalty.unwrap_or(base.repeat_penalty),
            presence_penalty: given.presence_penalty.unwrap_or(base.presence_penalty),
            frequency_penalty: given.frequency_penalty.unwrap_or(base.frequency_penalty),
            logit_bias: given.logit_bias.clone(),
            ..base.clone()
        }
    }
}

impl Planned {
    /// The plan for people and programs.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "media": self.media_json(&[]), "n_prompt": self.n_prompt, "n_media": self.cost.n_tokens, "n_ctx": self.n_ctx,
            "max_answer": self.n_predict,
            "memory": {
                "total": self.cost.memory(), "weights": self.cost.weights, "cache": self.cost.cache,
                "working": self.cost.working,
            },
            "seconds": seconds_json(&self.cost), "reduced": self.reduced(),
            "order": if self.is_reordered { "video-first" } else { "as-sent" },
        })
    }

    /// What was reduced, without names of files.
    fn reduced(&self) -> Vec<&str> {
        self.cost.reduced.iter().map(|words| words.rsplit(": ").next().unwrap_or(words)).collect()
    }

    /// The media of the conversation; `was_cached` says of each whether it was in the cache.
    pub(crate) fn media_json(&self, was_cached: &[bool]) -> Value {
        let all = self.prompt.media_in_order();
        let one = |(i, plan): (usize, &&MediaPlan)| {
            let shown = plan.shown();
            let times: Vec<f64> = shown.iter().map(|frame| (frame.seconds * 1e3).round() / 1e3).collect();
            let (start, end) = (times.first().copied(), times.last().copied());
            let step = match (start, end) {
                (Some(start), Some(end)) if times.len() > 1 => Some((end - start) / (times.len() - 1) as f64),
                _ => None,
            };
            let source = match (&self.take, was_cached.get(i)) {
                (Some(_), _) => Some("take"),
                (None, Some(true)) => Some("cache"),
                (None, Some(false)) => Some("read"),
                (None, None) => None,
            };
            // Of this very medium, without the name of its file.
            let reduced = |line: &String| line.strip_prefix(&*plan.label)?.strip_prefix(": ").map(str::to_string);
            let reduced: Vec<String> = self.cost.reduced.iter().filter_map(reduced).collect();
            // The same content in the same frames and sizes is the same medium.
            let id: String = plan.id().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
            json!({
                "id": id, "reduced": reduced,
                "type": plan.kind.name(), "name": self.names.get(i), "frames": plan.frames.len(), "size": [plan.width, plan.height],
                "seconds_per_frame": step, "start": start, "end": end, "times": times, "tokens": plan.n_tokens,
                "duration": plan.info.as_ref().map(|info| info.duration), "source": source,
            })
        };
        all.iter().enumerate().map(one).collect()
    }

    /// Where an answer looked, with the names that clients gave and none of the server's.
    pub(crate) fn looked_json(&self, mut looked: Looked) -> Value {
        for (i, medium) in looked.media.iter_mut().enumerate() {
            medium.label = self.names.get(i).cloned().unwrap_or_else(|| medium.kind.name().to_string());
        }
        looked.to_json()
    }
}

/// Seconds of the stages, where they are known.
pub(super) fn seconds_json(cost: &Cost) -> Value {
    cost.seconds.map_or(
        Value::Null,
        |s| json!({ "total": s.total(), "encode": s.encode, "prefill": s.prefill, "decode": s.decode }),
    )
}

/// What a limit says, in terms of what was asked.
pub(super) fn fit_fault(err: &Error, has_media: bool) -> Fault {
    match err.kind() {
        ErrorKind::Limit if !has_media => {
            Fault { code: Code::ContextLengthExceeded, ..Fault::from_error(err) }.of("messages")
        }
        ErrorKind::Limit => Fault::from_error(err).of("messages"),
        _ => {
            let fault = Fault::from_error(err);
            if fault.code == Code::InternalError {
                eprintln!("error: {err}");
            }
            fault
        }
    }
}

/// Most tokens of the answer.
fn n_predict(wanted: Option<usize>, n_prompt: usize, n_ctx: usize) -> Result<usize> {
    if n_prompt >= n_ctx {
        let message = format!(
            "the conversation has `{n_prompt}` tokens, the context holds {n_ctx}, of which one is the answer's: say less"
        );
        return Err(Fault::new(Code::ContextLengthExceeded, message).of("messages"));
    }
    Ok(wanted.unwrap_or(OPEN_ANSWER).min(n_ctx - n_prompt))
}

fn smaller<T: PartialOrd>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if a < b { a } else { b }),
        (a, b) => a.or(b),
    }
}

/// What surrounds the video of a take under this system prompt.
///
/// # Errors
/// Template errors.
pub(super) fn around(desk: &Desk, system_prompt: Option<&str>) -> Result<Around> {
    Around::of(&desk.engine, system_prompt).at(|| "template").map_err(|err| Fault::from_error(&err))
}

/// A name for people: the last part of a path.
pub(super) fn base_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}
