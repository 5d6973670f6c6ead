//! A conversation ready for the model: token ids and planned media in order.

use super::{Engine, MediaKind, MediaOptions, MediaPlan};
use crate::text::template::{Piece, RenderOptions};
use crate::text::{Content, MediaSource, Message, Part};
use crate::{Error, Result};

/// One step of a sequence as the cache remembers it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unit {
    Token(u32),
    /// The `index`-th medium of its kind in the conversation.
    Media {
        kind: MediaKind,
        index: usize,
    },
}

/// Units in order, and the media they name.
pub struct Prompt {
    pub units: Vec<Unit>,
    pub images: Vec<MediaPlan>,
    pub videos: Vec<MediaPlan>,
}

impl Prompt {
    /// Renders and tokenizes `messages` and opens all their media. `defaults` apply where a part says nothing itself.
    ///
    /// # Errors
    /// Template errors, unreadable media, options that make no sense, a model without a projector.
    pub fn build(
        engine: &Engine,
        messages: &[Message],
        render: RenderOptions,
        defaults: &MediaOptions,
    ) -> Result<Prompt> {
        let (mut images, mut videos) = (Vec::new(), Vec::new());
        for part in parts(messages) {
            match part {
                Part::Text(_) => {}
                Part::Image { source, options } => {
                    let options = part_options(options, defaults)?;
                    images.push(MediaPlan::image_from(source, &options, engine.need_vision()?)?);
                }
                Part::Video { source, options } => {
                    let options = part_options(options, defaults)?;
                    let tower = engine.need_vision()?;
                    videos.push(match source {
                        MediaSource::Path(source) => MediaPlan::video_from(source, &options, tower)?,
                        MediaSource::Frames(frames) => MediaPlan::pictures_from(frames, &options, tower)?,
                    });
                }
            }
        }
        let units = Prompt::units(engine, messages, render)?;
        Ok(Prompt { units, images, videos })
    }

    /// The units of a conversation without opening its media.
    ///
    /// # Errors
    /// Template errors.
    pub fn units(engine: &Engine, messages: &[Message], render: RenderOptions) -> Result<Vec<Unit>> {
        let mut units = Vec::new();
        for piece in engine.template.tokenize(&engine.tokenizer, messages, render)? {
            match piece {
                Piece::Tokens(ids) => units.extend(ids.into_iter().map(Unit::Token)),
                Piece::Image(index) => units.push(Unit::Media { kind: MediaKind::Image, index }),
                Piece::Video(index) => units.push(Unit::Media { kind: MediaKind::Video, index }),
            }
        }
        Ok(units)
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

/// A part's own options over the defaults. Unknown ones are refused by name.
fn part_options(given: &serde_json::Map<String, serde_json::Value>, defaults: &MediaOptions) -> Result<MediaOptions> {
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
