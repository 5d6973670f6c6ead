//! The keys of a take.

use crate::cache::{CacheShape, CacheType, LayerSet, Recurrent};
use crate::gguf::{Array, Metadata, Value};
use crate::kernels::DeltaShape;
use crate::position::{Clock, Layout, Pace, Placer};
use crate::stream::left_out::{MOST_STEPS, most, most_of_all};
use crate::stream::stamps::Markers;
use crate::stream::{Engine, MediaPlan, PairText, Session, SessionOptions};
use crate::{Error, Result};

/// What the cache of a take is of. Keys: `docs/gguf-keys.md`.
#[derive(Debug, Clone, PartialEq)]
pub struct TakeHeader {
    /// The text model's own name, or its file's.
    pub model_name: String,
    /// Identifies the text model's file.
    pub model_fingerprint: String,
    /// Identifies the projector's file.
    pub mmproj_fingerprint: String,
    /// The position layout, by name.
    pub layout: String,
    /// Temporal scale of the video's time ids.
    pub temporal_scale: f64,
    /// Sizes and types of the cache.
    pub shape: CacheShape,
    /// Tokens per step of prefill: continuing keeps them.
    pub n_batch: usize,
    /// Frame pairs per step of the vision tower, likewise.
    pub n_encode: usize,
    /// Token ids before the video.
    pub before: Vec<u32>,
    /// Token ids behind the video.
    pub after: Vec<u32>,
    /// The video in merged tokens: frame pairs, rows, columns.
    pub grid: [usize; 3],
    /// Frame pairs of a stream that are in the cache no more: the first ones, unless it is compressed. Their positions are not given
    /// to others.
    pub n_forgotten: usize,
    /// Patches per token and side.
    pub merge: usize,
    /// Height of a frame after resizing, in pixels.
    pub height: usize,
    /// Width of a frame after resizing, in pixels.
    pub width: usize,
    /// See [`MediaOptions::dedup`](crate::stream::MediaOptions::dedup).
    pub dedup: Option<f32>,
    /// See [`MediaOptions::keep`](crate::stream::MediaOptions::keep).
    pub keep: Option<f32>,
    /// Then the visual tokens of each pair in the cache, once they are known. While they are not, the most are counted that it may
    /// be: the take is incomplete until it was written anew.
    pub kept: Option<Vec<u32>>,
    /// Frames in the cache, as indices of the source.
    pub frames: Vec<u32>,
    /// So many frames of the source pass in a second.
    pub fps: f64,
    /// Seconds between pairs and ids per second, for models that were trained with them.
    pub clock: Option<Clock>,
    /// Whether time is told in words.
    pub markers: Markers,
    /// The token ids around each pair then.
    pub text: Option<PairText>,
    /// Tokens that stood around the pairs that are in the cache no more.
    pub n_forgotten_text: usize,
    /// Whether a stream's past became thinner when the context was full: then `kept` says what is left of each pair, and `frames`
    /// which pairs there are.
    pub is_compressed: bool,
    /// The system prompt that stands before the video.
    pub system_prompt: Option<String>,
    /// Where the video was.
    pub source: String,
    /// How large it was.
    pub source_bytes: u64,
    /// Identifies it by content.
    pub source_fingerprint: String,
    /// What watching was asked for, as far as the plan follows from it: flags and values ([`WatchRequest::asked`]). Takes of
    /// version 1 do not say.
    ///
    /// [`WatchRequest::asked`]: crate::stream::WatchRequest::asked
    pub asked: Option<Vec<(String, String)>>,
}

const ARCH: &str = "general.architecture";
const ASKED: &str = "take.asked";
const RECURRENT_LAYERS: &str = "take.cache.recurrent_layers";
const RECURRENT_STATE: &str = "take.cache.recurrent_state";
const SECONDS_PER_PAIR: &str = "take.video.seconds_per_pair";
const IDS_PER_SECOND: &str = "take.video.ids_per_second";
const DEDUP: &str = "take.video.dedup";
const KEEP: &str = "take.video.keep";
const KEPT: &str = "take.video.kept";
const LEAD: &str = "take.video.lead";
const LEAD_LENGTHS: &str = "take.video.lead_lengths";
const TAIL: &str = "take.video.tail";
const TAKEN: &str = "take.video.n_taken";
const FORGOTTEN_TEXT: &str = "take.video.n_forgotten_text";
const COMPRESSED: &str = "take.video.compressed";
const KEEP_MARKERS: &str = "take.video.keep_markers";

/// Most tokens of a take: keeps every product below well inside 64 bits.
const MAX_TOKENS: usize = 1 << 28;

impl TakeHeader {
    /// Tokens when the whole video is in.
    pub fn n_tokens(&self) -> usize {
        self.before.len() + self.n_media() + self.after.len()
    }

    /// Tokens of the video.
    pub fn n_media(&self) -> usize {
        let [t, h, w] = self.grid;
        let visual = match &self.kept {
            Some(kept) => kept.iter().map(|n| *n as usize).sum(),
            None => most_of_all(t.saturating_sub(self.n_forgotten), h * w, self.keep),
        };
        visual + self.text.as_ref().map_or(0, PairText::n_text)
    }

    /// Places the video: what stands behind it stands where it stood when it was watched.
    ///
    /// # Errors
    /// Those of [`Placer::begin_visual`].
    pub fn place(&self, placer: &mut Placer) -> Result<()> {
        let [t, h, w] = self.grid;
        if let Some(text) = &self.text {
            placer.pass_text(self.n_forgotten_text + text.n_text());
        }
        placer.begin_visual(h, w, self.pace())?;
        match self.text {
            Some(_) => placer.pass_blocks(t)?,
            None => placer.pass_frames(t)?,
        }
        placer.end_visual();
        Ok(())
    }

    /// Whether something of the video was left out.
    pub fn leaves_out(&self) -> bool {
        self.dedup.is_some() || self.keep.is_some()
    }

    /// How time goes by in the video.
    pub fn pace(&self) -> Pace {
        Pace { scale: Some(self.temporal_scale), clock: self.clock }
    }

    /// What it says of a video that was planned, without the source's own identity.
    ///
    /// # Errors
    /// Frames beyond 32 bits.
    pub fn of(
        engine: &Engine,
        plan: &MediaPlan,
        options: &SessionOptions,
        (before, after): (&[u32], &[u32]),
        system_prompt: Option<&str>,
    ) -> Result<TakeHeader> {
        let (hp, merge) = (engine.text.hparams(), engine.need_vision()?.hparams().merge);
        let merged = plan.grid.merged(merge);
        let index = |i: &usize| u32::try_from(*i).map_err(|_| Error::limit(format!("frame `{i}` is beyond 32 bits")));
        Ok(TakeHeader {
            model_name: engine.name.clone(),
            model_fingerprint: engine.fingerprint(),
            mmproj_fingerprint: engine.mmproj_fingerprint().unwrap_or_default(),
            layout: hp.layout.to_string(),
            temporal_scale: plan.temporal_scale.or(options.temporal_scale).unwrap_or(hp.temporal_scale),
            shape: engine.cache_shape(options.n_ctx, (options.type_k, options.type_v)),
            n_batch: options.n_batch,
            n_encode: Session::pairs_at_once(plan.grid.h, plan.grid.w),
            before: before.to_vec(),
            after: after.to_vec(),
            grid: [merged.t, merged.h, merged.w],
            n_forgotten: plan.n_forgotten,
            merge,
            height: plan.height,
            width: plan.width,
            dedup: plan.dedup(),
            keep: plan.keep,
            kept: plan.kept.clone(),
            frames: plan.frames.iter().map(index).collect::<Result<_>>()?,
            fps: plan.info.as_ref().map_or(0.0, |info| info.fps),
            clock: plan.clock,
            markers: plan.markers,
            text: plan.text.clone(),
            n_forgotten_text: plan.n_forgotten_text,
            is_compressed: plan.is_compressed,
            system_prompt: system_prompt.map(str::to_string),
            source: plan.label.clone(),
            source_bytes: 0,
            source_fingerprint: String::new(),
            asked: Some(Vec::new()),
        })
    }

    /// # Errors
    /// Sizes that contradict each other.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::format(what));
        if self.is_compressed && self.kept.is_none() {
            return wrong(format!("key `{COMPRESSED}` is set, but `{KEPT}` does not say what is left"));
        }
        let [t, h, w] = self.grid;
        let pairs = t.checked_sub(self.n_forgotten).filter(|n| *n > 0);
        // Keys hold at most as many ids as there is memory for.
        let n_text = self.text.as_ref().map_or(0, PairText::n_text);
        let per_pair = h.checked_mul(w).filter(|n| *n > 0);
        let media = match (&self.kept, per_pair.zip(pairs)) {
            (None, Some((per_pair, n))) => {
                let behind = (n - 1).checked_mul(most(1, per_pair, self.keep));
                behind.and_then(|behind| behind.checked_add(per_pair)?.checked_add(n_text))
            }
            (Some(kept), Some((per_pair, n))) => {
                if !(self.leaves_out() || self.is_compressed)
                    || kept.len() != n
                    || kept.iter().any(|n| *n as usize > per_pair)
                {
                    return wrong(format!("`{}` numbers of tokens do not fit a grid of {:?}", kept.len(), self.grid));
                }
                kept.iter().try_fold(n_text, |sum, n| sum.checked_add(*n as usize))
            }
            (_, None) => None,
        };
        let (limit, share) = (self.dedup.unwrap_or(0.0), self.keep.unwrap_or(1.0));
        if !((0.0..=MOST_STEPS).contains(&limit) && share > 0.0 && share <= 1.0) {
            return wrong(format!("keys `{DEDUP}` and `{KEEP}` are `{limit}` and `{share}`"));
        }
        let total = media.and_then(|n| n.checked_add(self.before.len())?.checked_add(self.after.len()));
        match total {
            Some(n) if n <= self.shape.n_ctx && n <= MAX_TOKENS && !self.grid.contains(&0) => {}
            _ => return wrong(format!("a grid of `{:?}` does not fit {} slots", self.grid, self.shape.n_ctx)),
        }
        if self.n_batch == 0 || self.n_encode == 0 || !(1..=64).contains(&self.merge) {
            return wrong("steps of `0` tokens or pairs, or no patches per token".to_string());
        }
        if pairs.is_none_or(|n| self.frames.len() != 2 * n) || u32::try_from(t).is_err() {
            return wrong(format!("`{}` frames do not make {t} pairs less {}", self.frames.len(), self.n_forgotten));
        }
        if self.text.is_some() != (self.markers != Markers::Plain) {
            return wrong("words around pairs that are not stamped, or none around pairs that are".to_string());
        }
        if let Some(text) = &self.text
            && pairs != Some(text.lead.len())
        {
            return wrong(format!("words before `{}` pairs of {t} less {}", text.lead.len(), self.n_forgotten));
        }
        // Whatever passes here can be placed.
        self.place(&mut Placer::new(Layout::Mrope))?;
        self.shape.n_bytes().map(drop)
    }

    /// Reads the keys; [`check`](TakeHeader::check) has still to be asked.
    ///
    /// # Errors
    /// Another version, keys that are missing or of another type.
    pub fn read(meta: &Metadata) -> Result<TakeHeader> {
        let version = meta.need_uint("take.version")?;
        if !(1..=super::VERSION).contains(&version) {
            let message = format!("take version `{version}` is not known here, expected 1 to {}", super::VERSION);
            return Err(Error::unsupported(message));
        }
        let text = |key: &str| meta.need_str(key).map(str::to_string);
        let size = |key: &str| -> Result<usize> {
            let n = meta.need_uint(key)?;
            usize::try_from(n)
                .ok()
                .filter(|n| *n <= MAX_TOKENS)
                .ok_or_else(|| Error::format(format!("key `{key}` is `{n}`, expected at most {MAX_TOKENS}")))
        };
        let list = |key: &str| -> Result<Vec<u32>> {
            let list = meta.ints(key)?.ok_or_else(|| Error::format(format!("key `{key}` is missing")))?;
            let ids = list.iter().map(|n| u32::try_from(*n));
            ids.collect::<std::result::Result<_, _>>()
                .map_err(|_| Error::format(format!("key `{key}` holds a number beyond 32 bits")))
        };
        let ty = |key: &str| -> Result<CacheType> {
            let name = meta.need_str(key)?;
            let known = CacheType::from_name(name);
            known.ok_or_else(|| Error::format(format!("key `{key}` is `{name}`, no known type of a cache")))
        };
        let n_layer = size("take.cache.n_layer")?;
        let recurrent = meta.ints(RECURRENT_LAYERS)?.map(|_| -> Result<Recurrent> {
            let (layers, state) = (list(RECURRENT_LAYERS)?, list(RECURRENT_STATE)?);
            let [n_head_k, n_head_v, d_k, d_v] = state[..] else {
                return Err(Error::format(format!("key `{RECURRENT_STATE}` is `{state:?}`, expected four numbers")));
            };
            if n_layer > LayerSet::MAX || layers.is_empty() || layers.iter().any(|il| *il as usize >= n_layer) {
                let message = format!("key `{RECURRENT_LAYERS}` is `{layers:?}`, expected some of {n_layer} layers");
                return Err(Error::format(message));
            }
            let [n_head_k, n_head_v, d_k, d_v] = [n_head_k, n_head_v, d_k, d_v].map(|n| n as usize);
            let layers = LayerSet::of((0..n_layer).map(|il| layers.contains(&(il as u32))));
            Ok(Recurrent { layers, state: DeltaShape { n_head_k, n_head_v, d_k, d_v } })
        });
        let grid = list("take.grid")?;
        let [t, h, w] = grid[..] else {
            return Err(Error::format(format!("key `take.grid` is `{grid:?}`, expected three numbers")));
        };
        Ok(TakeHeader {
            model_name: text("take.model.name")?,
            model_fingerprint: text("take.model.fingerprint")?,
            mmproj_fingerprint: text("take.mmproj.fingerprint")?,
            layout: text("take.position_layout")?,
            temporal_scale: meta.need_float("take.temporal_scale")?,
            shape: CacheShape {
                n_layer,
                n_head_kv: size("take.cache.n_head_kv")?,
                d: size("take.cache.n_embd_head")?,
                n_ctx: size("take.cache.n_ctx")?,
                type_k: ty("take.cache.type_k")?,
                type_v: ty("take.cache.type_v")?,
                recurrent: recurrent.transpose()?,
            },
            n_batch: size("take.n_batch")?,
            n_encode: size("take.n_encode")?,
            before: list("take.tokens_before")?,
            after: list("take.tokens_after")?,
            grid: [t as usize, h as usize, w as usize],
            n_forgotten: meta.uint("take.n_forgotten")?.map_or(Ok(0), |_| size("take.n_forgotten"))?,
            merge: size("take.merge")?,
            height: size("take.video.height")?,
            width: size("take.video.width")?,
            dedup: meta.float(DEDUP)?.map(|limit| limit as f32),
            keep: meta.float(KEEP)?.map(|share| share as f32),
            kept: meta.ints(KEPT)?.map(|_| list(KEPT)).transpose()?,
            frames: list("take.video.frames")?,
            fps: meta.need_float("take.video.fps")?,
            clock: match meta.float(SECONDS_PER_PAIR)? {
                None => None,
                Some(seconds_per_pair) => {
                    let clock = Clock { seconds_per_pair, ids_per_second: meta.need_float(IDS_PER_SECOND)? };
                    Some(clock.checked()?)
                }
            },
            markers: match meta.bool(KEEP_MARKERS)? {
                None => Markers::Plain,
                Some(false) => Markers::Replaced,
                Some(true) => Markers::Kept,
            },
            text: match meta.ints(LEAD_LENGTHS)? {
                None => None,
                Some(_) => Some(PairText {
                    lead: parts(&list(LEAD)?, &list(LEAD_LENGTHS)?)
                        .ok_or_else(|| Error::format(format!("keys `{LEAD}` and `{LEAD_LENGTHS}` do not agree")))?,
                    tail: list(TAIL)?,
                    n_taken: size(TAKEN)?,
                }),
            },
            n_forgotten_text: meta.uint(FORGOTTEN_TEXT)?.map_or(Ok(0), |_| size(FORGOTTEN_TEXT))?,
            is_compressed: meta.bool(COMPRESSED)?.unwrap_or(false),
            system_prompt: meta.str("take.system_prompt")?.map(str::to_string),
            source: text("take.source.name")?,
            source_bytes: meta.need_uint("take.source.n_bytes")?,
            source_fingerprint: text("take.source.fingerprint")?,
            asked: meta.strings(ASKED)?.map(|list| {
                let pair = |text: &String| {
                    let (name, value) = text.split_once('=').unwrap_or((text, ""));
                    (name.to_string(), value.to_string())
                };
                list.iter().map(pair).collect()
            }),
        })
    }

    /// The keys.
    pub fn to_metadata(&self) -> Metadata {
        let mut meta = Metadata::default();
        let ids = |list: &[u32]| Value::Array(Array::U32(list.to_vec()));
        meta.set(ARCH, super::ARCHITECTURE);
        meta.set("general.name", self.source.as_str());
        let shape = &self.shape;
        // Who knows nothing of states, clocks and stamps can read all takes that have none.
        let is_plain = shape.recurrent.is_none() && self.clock.is_none() && self.text.is_none();
        let version = match (self.is_compressed, self.leaves_out()) {
            (true, _) => super::VERSION as u32,
            (false, true) => 4,
            (false, false) => 3 - u32::from(is_plain),
        };
        meta.set("take.version", version);
        meta.set("take.model.name", self.model_name.as_str());
        meta.set("take.model.fingerprint", self.model_fingerprint.as_str());
        meta.set("take.mmproj.fingerprint", self.mmproj_fingerprint.as_str());
        meta.set("take.position_layout", self.layout.as_str());
        meta.set("take.temporal_scale", self.temporal_scale);
        for (key, n) in [
            ("take.cache.n_layer", shape.n_layer),
            ("take.cache.n_head_kv", shape.n_head_kv),
            ("take.cache.n_embd_head", shape.d),
            ("take.cache.n_ctx", shape.n_ctx),
            ("take.n_batch", self.n_batch),
            ("take.n_encode", self.n_encode),
            ("take.n_forgotten", self.n_forgotten),
            ("take.merge", self.merge),
            ("take.video.height", self.height),
            ("take.video.width", self.width),
        ] {
            meta.set(key, n as u64);
        }
        if let Some(Recurrent { layers, state }) = shape.recurrent {
            let layers: Vec<u32> = (0..shape.n_layer as u32).filter(|il| layers.contains(*il as usize)).collect();
            let sizes = [state.n_head_k, state.n_head_v, state.d_k, state.d_v].map(|n| n as u32);
            meta.set(RECURRENT_LAYERS, ids(&layers));
            meta.set(RECURRENT_STATE, ids(&sizes));
        }
        meta.set("take.cache.type_k", shape.type_k.name());
        meta.set("take.cache.type_v", shape.type_v.name());
        meta.set("take.tokens_before", ids(&self.before));
        meta.set("take.grid", ids(&self.grid.map(|n| n as u32)));
        meta.set("take.tokens_after", ids(&self.after));
        meta.set("take.video.frames", ids(&self.frames));
        meta.set("take.video.fps", self.fps);
        if let Some(limit) = self.dedup {
            meta.set(DEDUP, f64::from(limit));
        }
        if let Some(share) = self.keep {
            meta.set(KEEP, f64::from(share));
        }
        if let Some(kept) = &self.kept {
            meta.set(KEPT, ids(kept));
        }
        if self.is_compressed {
            meta.set(COMPRESSED, true);
        }
        if let Some(Clock { seconds_per_pair, ids_per_second }) = self.clock {
            meta.set(SECONDS_PER_PAIR, seconds_per_pair);
            meta.set(IDS_PER_SECOND, ids_per_second);
        }
        if let Some(PairText { lead, tail, n_taken }) = &self.text {
            meta.set(TAKEN, *n_taken as u64);
            meta.set(FORGOTTEN_TEXT, self.n_forgotten_text as u64);
            meta.set(LEAD, ids(&lead.concat()));
            meta.set(LEAD_LENGTHS, ids(&lead.iter().map(|ids| ids.len() as u32).collect::<Vec<_>>()));
            meta.set(TAIL, ids(tail));
            meta.set(KEEP_MARKERS, self.markers == Markers::Kept);
        }
        if let Some(text) = &self.system_prompt {
            meta.set("take.system_prompt", text.as_str());
        }
        meta.set("take.source.name", self.source.as_str());
        meta.set("take.source.n_bytes", self.source_bytes);
        meta.set("take.source.fingerprint", self.source_fingerprint.as_str());
        if let Some(asked) = &self.asked {
            let list = asked.iter().map(|(name, value)| format!("{name}={value}")).collect();
            meta.set(ASKED, Value::Array(Array::String(list)));
        }
        meta
    }
}

/// A list cut into parts of these lengths, if they are all of it.
fn parts(list: &[u32], lengths: &[u32]) -> Option<Vec<Vec<u32>>> {
    let mut rest = list;
    let part = |n: &u32| {
        let (part, after) = rest.split_at_checked(*n as usize)?;
        rest = after;
        Some(part.to_vec())
    };
    let parts = lengths.iter().map(part).collect::<Option<_>>()?;
    rest.is_empty().then_some(parts)
}
