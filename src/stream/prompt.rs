//! A conversation ready for the model: token ids and planned media in order.

use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

use super::left_out::MOST_STEPS;
use super::{Engine, MediaKind, MediaOptions, MediaPlan, Medium};
use crate::text::template::{Piece, RenderOptions};
use crate::text::{Content, Message, Part, Tokenizer};
use crate::{Error, Result};

/// One step of a sequence as the cache remembers it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unit {
    /// This token.
    Token(u32),
    /// The `index`-th medium of its kind in the conversation.
    Media {
        /// A picture, or a video.
        kind: MediaKind,
        /// From 0.
        index: usize,
    },
}

impl Unit {
    /// The units of a piece of a rendered conversation.
    pub fn of(piece: Piece) -> Vec<Unit> {
        match piece {
            Piece::Tokens(ids) => ids.into_iter().map(Unit::Token).collect(),
            Piece::Image(index) => vec![Unit::Media { kind: MediaKind::Image, index }],
            Piece::Video(index) => vec![Unit::Media { kind: MediaKind::Video, index }],
        }
    }
}

/// Units in order, and the media they name.
pub struct Prompt {
    /// In the order of the conversation.
    pub units: Vec<Unit>,
    /// The pictures that units name by number.
    pub images: Vec<MediaPlan>,
    /// The videos that units name by number.
    pub videos: Vec<MediaPlan>,
}

/// A conversation whose media were opened, once, and not planned yet.
pub struct Conversation {
    /// In the order of the conversation.
    pub units: Vec<Unit>,
    /// In the order of the conversation.
    pub media: Vec<Medium>,
}

impl Conversation {
    /// Renders and tokenizes `messages` and opens all their media. `defaults` apply where a part says nothing itself.
    ///
    /// # Errors
    /// Template errors, unreadable media, options that make no sense.
    pub fn open(
        engine: &Engine,
        messages: &[Message],
        render: RenderOptions,
        defaults: &MediaOptions,
    ) -> Result<Conversation> {
        let media = parts(messages).filter_map(|part| Medium::of(part, defaults).transpose()).collect::<Result<_>>()?;
        Ok(Conversation { units: Prompt::units(engine, messages, render)?, media })
    }
}

impl Prompt {
    /// Renders and tokenizes `messages`, opens all their media and plans them without a bound on their tokens. `defaults`
    /// apply where a part says nothing itself.
    ///
    /// # Errors
    /// Those of [`Conversation::open`], a model without a projector.
    pub fn build(
        engine: &Engine,
        messages: &[Message],
        render: RenderOptions,
        defaults: &MediaOptions,
    ) -> Result<Prompt> {
        let Conversation { units, media } = Conversation::open(engine, messages, render, defaults)?;
        let plan = |medium: Medium| medium.whole(engine.need_vision()?.hparams());
        let mut prompt = Prompt::new(units, media.into_iter().map(plan).collect::<Result<_>>()?);
        prompt.tell_time(&engine.tokenizer)?;
        Ok(prompt)
    }

    /// Tells prompts apart by content: SHA-256 of the tokens, and of what each medium is and where in time it is placed.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for unit in &self.units {
            match *unit {
                Unit::Token(id) => hash.update([&[0], &id.to_le_bytes()[..]].concat()),
                Unit::Media { kind, index } => {
                    hash.update([1]);
                    let plan = self.plan(kind, index);
                    hash.update(plan.map(MediaPlan::id).unwrap_or_default());
                    hash.update(format!("{:?}", plan.map(|plan| plan.temporal_scale)));
                }
            }
        }
        hash.finalize().into()
    }

    /// Writes the stamps of all videos whose time is told in words, and takes away the markers that theirs replace. Done once for
    /// units as the template gave them; a second time nothing happens.
    ///
    /// # Errors
    /// A vocabulary without vision markers.
    pub fn tell_time(&mut self, tokenizer: &Tokenizer) -> Result<()> {
        let mut at = 0;
        while at < self.units.len() {
            if let Unit::Media { kind: MediaKind::Video, index } = self.units[at]
                && let Some(plan) = self.videos.get_mut(index)
            {
                let ids = |units: &[Unit]| -> Vec<u32> {
                    let id = |unit: &Unit| if let Unit::Token(id) = unit { Some(*id) } else { None };
                    units.iter().rev().map_while(id).collect()
                };
                let mut before = ids(&self.units[..at]);
                before.reverse();
                let is_closed = matches!(self.units.get(at + 1), Some(Unit::Token(_)));
                let n_stay = plan.join(tokenizer, &before)?;
                if n_stay < before.len() && is_closed {
                    let first = at - (before.len() - n_stay);
                    self.units.splice(first..at + 2, [self.units[at]]);
                    at = first;
                }
            }
            at += 1;
        }
        Ok(())
    }

    /// A conversation with the plans of its media, in order.
    pub fn new(units: Vec<Unit>, media: Vec<MediaPlan>) -> Prompt {
        let (images, videos) = media.into_iter().partition(|plan| plan.kind == MediaKind::Image);
        Prompt { units, images, videos }
    }

    /// The units of a conversation without opening its media.
    ///
    /// # Errors
    /// Template errors.
    pub fn units(engine: &Engine, messages: &[Message], render: RenderOptions) -> Result<Vec<Unit>> {
        Ok(engine.template.tokenize(&engine.tokenizer, messages, render)?.into_iter().flat_map(Unit::of).collect())
    }

    /// The tokens as the reference writes them, with a pad for each visual one.
    ///
    /// # Errors
    /// A medium that was not planned, a vocabulary without pads.
    pub fn input_ids(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let pad = |kind: MediaKind| {
            let name = if kind == MediaKind::Image { "<|image_pad|>" } else { "<|video_pad|>" };
            tokenizer.token_id(name).ok_or_else(|| Error::mismatch(format!("the vocabulary has no `{name}`")))
        };
        let mut ids = Vec::new();
        for unit in &self.units {
            match *unit {
                Unit::Token(id) => ids.push(id),
                Unit::Media { kind, index } => {
                    let plan = self.plan(kind, index).ok_or_else(|| not_planned(kind, index))?;
                    let pad = pad(kind)?;
                    match &plan.text {
                        None => ids.extend(std::iter::repeat_n(pad, plan.n_tokens)),
                        Some(text) => {
                            for (pair, lead) in text.lead.iter().enumerate() {
                                ids.extend(lead);
                                ids.extend(std::iter::repeat_n(pad, plan.n_pair_tokens(pair) - text.n_tokens(pair, 0)));
                                ids.extend(&text.tail);
                            }
                        }
                    }
                }
            }
        }
        Ok(ids)
    }

    /// All media in the order of the conversation.
    pub fn media_in_order(&self) -> Vec<&MediaPlan> {
        let named = |unit: &Unit| match *unit {
            Unit::Token(_) => None,
            Unit::Media { kind, index } => self.plan(kind, index),
        };
        self.units.iter().filter_map(named).collect()
    }

    /// Decodes all pictures, whose faults show before the work on anything begins. Stops soon once `cancel` is set.
    ///
    /// # Errors
    /// Those of [`MediaPlan::load`].
    pub fn load_pictures(&mut self, cancel: &AtomicBool) -> Result<()> {
        self.images.iter_mut().try_for_each(|plan| plan.load(&|| cancel.load(Ordering::Relaxed)))
    }

    /// The medium that a unit names, if it was planned.
    pub fn plan(&self, kind: MediaKind, index: usize) -> Option<&MediaPlan> {
        match kind {
            MediaKind::Image => self.images.get(index),
            MediaKind::Video => self.videos.get(index),
        }
    }

    /// The same, to read it.
    ///
    /// # Errors
    /// A medium that was not planned.
    pub fn media(&mut self, kind: MediaKind, index: usize) -> Result<&mut MediaPlan> {
        let list = match kind {
            MediaKind::Image => &mut self.images,
            MediaKind::Video => &mut self.videos,
        };
        list.get_mut(index).ok_or_else(|| not_planned(kind, index))
    }

    /// Tokens of `units` in the context.
    ///
    /// # Errors
    /// A medium that was not planned.
    pub fn n_tokens(&self) -> Result<usize> {
        let mut n = 0usize;
        for unit in &self.units {
            n += match *unit {
                Unit::Token(_) => 1,
                Unit::Media { kind, index } => self.plan(kind, index).ok_or_else(|| not_planned(kind, index))?.n_tokens,
            };
        }
        Ok(n)
    }
}

fn not_planned(kind: MediaKind, index: usize) -> Error {
    Error::mismatch(format!("the conversation has no {kind:?} number {index}"))
}

/// All parts of all messages that are not plain text, in order.
fn parts(messages: &[Message]) -> impl Iterator<Item = &Part> {
    messages.iter().flat_map(|m| match &m.content {
        Content::Text(_) => [].iter(),
        Content::Parts(parts) => parts.iter(),
    })
}

/// A part's own options over the defaults.
///
/// # Errors
/// `BadInput` for an option that is not known, by name, and for what is no number.
pub fn part_options(
    given: &serde_json::Map<String, serde_json::Value>,
    defaults: &MediaOptions,
) -> Result<MediaOptions> {
    let mut options = defaults.clone();
    let sample = &mut options.sample;
    // Either way of choosing frames replaces the other.
    if given.contains_key("fps") {
        sample.nframes = None;
    }
    if given.contains_key("nframes") {
        sample.fps = None;
    }
    for (key, value) in given {
        let wrong = || Error::bad_input(format!("media option `{key}` is `{value}`, expected a non-negative number"));
        let no_switch = || Error::bad_input(format!("media option `{key}` is `{value}`, expected true or false"));
        let number = || value.as_f64().filter(|v| v.is_finite()).ok_or_else(wrong);
        // Pixel bounds are sometimes written as floats (`256*28*28.0`).
        let count = || number().and_then(|v| if (0.0..9e15).contains(&v) { Ok(v as u64) } else { Err(wrong()) });
        match key.as_str() {
            "fps" => sample.fps = Some(number()?),
            "nframes" => sample.nframes = Some(count()? as usize),
            "min_frames" => sample.min_frames = Some(count()? as usize),
            "max_frames" => sample.max_frames = Some(count()? as usize),
            "video_start" => sample.video_start = Some(number()?),
            "video_end" => sample.video_end = Some(number()?),
            "min_pixels" => sample.min_pixels = Some(count()?),
            "max_pixels" => sample.max_pixels = Some(count()?),
            "total_pixels" => sample.total_pixels = Some(count()?),
            "resized_height" => sample.resized_height = Some(count()? as usize),
            "resized_width" => sample.resized_width = Some(count()? as usize),
            "cap_pixels_per_frame" => sample.cap_pixels_per_frame = value.as_bool().ok_or_else(no_switch)?,
            "keep_markers" => options.keep_markers = value.as_bool().ok_or_else(no_switch)?,
            "keep_share" => options.keep = Some(kept_share(number()?)?),
            "dedup" => options.dedup = Some(steps(number()?)?),
            "temporal_scale" => {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
                options.temporal_scale = Some(crate::position::parse_temporal_scale(&text)?);
            }
            // Carried by published conversations without a meaning here.
            "sample_fps" | "raw_fps" | "detail" => {}
            _ => return Err(Error::bad_input(format!("media option `{key}` is not known"))),
        }
    }
    Ok(options)
}

/// A change in 8-bit steps that does not count.
///
/// # Errors
/// What no pixel can change by.
pub fn steps(number: f64) -> Result<f32> {
    if (0.0..=f64::from(MOST_STEPS)).contains(&number) {
        return Ok(number as f32);
    }
    Err(Error::bad_input(format!("`dedup` is `{number}`, expected 0 to {MOST_STEPS} steps of a colour")))
}

/// A share of visual tokens that stay.
///
/// # Errors
/// None, or more than all.
pub fn kept_share(number: f64) -> Result<f32> {
    if number > 0.0 && number <= 1.0 {
        return Ok(number as f32);
    }
    Err(Error::bad_input(format!("a share to keep is `{number}`, expected a share above 0 and up to 1")))
}
