//! What a GGUF file is as a model: the family, what its layers are, what they keep, how its tower sees.
#![forbid(unsafe_code)]

use std::io::{self, Write};

use serde_json::{Value as Json, json};

use crate::gguf::Gguf;
use crate::model::family::{FAMILIES, FrameBudget, VideoForm, VideoTime};
use crate::model::{HParams, LayerKind, VisionHParams};

/// A model of a family that is known here.
pub(super) enum Known {
    Text(Box<HParams>),
    Tower(Box<VisionHParams>),
}

impl Known {
    /// What `gguf` is, if it is known.
    pub(super) fn of(gguf: &Gguf) -> Option<Known> {
        // Whoever inspects a file may want to know why it is none: loading it says so.
        match gguf.meta().str("general.architecture").ok()?? {
            "clip" => VisionHParams::from_gguf(gguf).ok().map(|hp| Known::Tower(Box::new(hp))),
            _ => HParams::from_gguf(gguf).ok().map(|hp| Known::Text(Box::new(hp))),
        }
    }

    /// Families that share what the file names.
    fn families(&self) -> Vec<&'static str> {
        let shares = |family: &&'static crate::model::family::Family| match self {
            Known::Text(hp) => family.architecture == hp.family.architecture,
            Known::Tower(hp) => family.projector == hp.family.projector,
        };
        FAMILIES.iter().copied().filter(|family| shares(family)).map(|family| family.name).collect()
    }

    /// In words.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let families = self.families().join(" or ");
        match self {
            Known::Text(hp) => {
                let n_recurrent = n_recurrent(hp);
                writeln!(out, "\nmodel    text model of {families}, positions {}", hp.layout)?;
                let recurrent = if n_recurrent > 0 { format!(", {n_recurrent} recurrent") } else { String::new() };
                writeln!(out, "  layers: {} of attention{recurrent}; width {}", hp.n_layer - n_recurrent, hp.n_embd)?;
                let [t, h, w] = hp.rope_sections;
                writeln!(
                    out,
                    "  {} heads of {} over {} of keys, of which {} rotate (time {t}, height {h}, width {w} pairs)",
                    hp.n_head, hp.n_embd_head, hp.n_head_kv, hp.n_rot
                )?;
                writeln!(out, "  a token takes {} bytes of an F16 cache", token_bytes(hp))?;
                if n_recurrent > 0 {
                    writeln!(out, "  recurrent layers keep {} bytes, however many tokens there were", state_bytes(hp))?;
                }
                if let Some(experts) = &hp.experts {
                    let shared = if hp.n_ff > 0 { format!(", and one of {} for all", hp.n_ff) } else { String::new() };
                    let (n, n_used, n_ff) = (experts.n, experts.n_used, experts.n_ff);
                    writeln!(out, "  a token goes through {n_used} of {n} experts of {n_ff} hidden elements{shared}")?;
                }
                match hp.n_deepstack {
                    0 => Ok(()),
                    n => writeln!(out, "  takes the tower's taps behind its first {n} layers"),
                }
            }
            Known::Tower(hp) => {
                let side = hp.factor();
                writeln!(out, "\nmodel    vision tower of {families}, a token for {side}x{side} pixels of two frames")?;
                writeln!(out, "  {} blocks, width {}, {} heads", hp.n_layer, hp.n_embd, hp.n_head)?;
                if let Some(windows) = &hp.windows {
                    let full = numbers(&windows.full);
                    writeln!(out, "  windows of {} tokens a side, but in blocks {full}", windows.side)?;
                }
                if hp.n_pos_side > 0 {
                    writeln!(out, "  a table of {0}x{0} positions", hp.n_pos_side)?;
                }
                if !hp.taps.is_empty() {
                    let taps: Vec<String> = hp.taps.iter().map(usize::to_string).collect();
                    writeln!(out, "  taps behind blocks {}", taps.join(", "))?;
                }
                writeln!(out, "  videos: {}", video_in_words(hp))?;
                if let (Some(min), Some(max)) = (hp.image_min_pixels, hp.image_max_pixels) {
                    writeln!(out, "  pictures of {min} to {max} pixels")?;
                }
                Ok(())
            }
        }
    }

    /// The same for programs.
    pub(super) fn to_json(&self) -> Json {
        let mut json = match self {
            Known::Text(hp) => json!({
                "kind": "text", "layout": hp.layout.name(), "n_layer": hp.n_layer, "n_recurrent": n_recurrent(hp),
                "n_embd": hp.n_embd, "n_head": hp.n_head, "n_head_kv": hp.n_head_kv, "n_embd_head": hp.n_embd_head,
                "n_rot": hp.n_rot, "token_bytes_f16": token_bytes(hp), "state_bytes": state_bytes(hp),
                "n_deepstack": hp.n_deepstack, "n_expert": hp.experts.map(|experts| experts.n),
                "n_expert_used": hp.experts.map(|experts| experts.n_used),
                "n_ff_expert": hp.experts.map(|experts| experts.n_ff), "n_ff": hp.n_ff,
            }),
            Known::Tower(hp) => json!({
                "kind": "tower", "n_layer": hp.n_layer, "n_embd": hp.n_embd, "n_head": hp.n_head,
                "token_side_pixels": hp.factor(), "taps": hp.taps, "n_pos_side": hp.n_pos_side,
                "window_tokens": hp.windows.as_ref().map(|windows| windows.side),
                "tokens_per_second": hp.tokens_per_second, "video": video_to_json(hp),
            }),
        };
        json["families"] = self.families().into();
        json
    }
}

/// Pixels that bound frames, of each or of all together, and which of both.
fn frame_bounds(hp: &VisionHParams) -> (u64, u64, bool) {
    let token = (hp.factor() * hp.factor()) as u64;
    let (shortest, longest, is_volume) = match hp.video.form.budget {
        FrameBudget::Frame { min_tokens, max_tokens } => (min_tokens * token, max_tokens * token, false),
        FrameBudget::Volume { shortest, longest } => (shortest, longest, true),
    };
    (hp.video.shortest.unwrap_or(shortest), hp.video.longest.unwrap_or(longest), is_volume)
}

/// How videos are sampled, sized and told of.
fn video_in_words(hp: &VisionHParams) -> String {
    let VideoForm { time, fps, min_frames, max_frames, .. } = hp.video.form;
    let time = match (time, hp.tokens_per_second) {
        (VideoTime::Stamps, _) if hp.video.keep_markers => {
            "time in words before each pair, between the template's markers".to_string()
        }
        (VideoTime::Stamps, _) => "time in words before each pair".to_string(),
        (VideoTime::Clock { .. }, Some(rate)) => format!("time by the clock, {rate} positions a second"),
        _ => "time by the number of the pair".to_string(),
    };
    let (min, max, is_volume) = frame_bounds(hp);
    let most = max / (2 * hp.factor() * hp.factor()) as u64;
    let of = if is_volume { format!("in all, no more than {most} tokens") } else { "each".to_string() };
    format!("{fps} frames a second, {min_frames} to {max_frames}, of {min} to {max} pixels {of}; {time}")
}

/// The same for programs.
fn video_to_json(hp: &VisionHParams) -> Json {
    let VideoForm { time, fps, min_frames, max_frames, .. } = hp.video.form;
    let time = match time {
        VideoTime::Index => "index",
        VideoTime::Clock { .. } => "clock",
        VideoTime::Stamps => "stamps",
    };
    let (min, max, is_volume) = frame_bounds(hp);
    json!({
        "time": time, "fps": fps, "min_frames": min_frames, "max_frames": max_frames, "min_pixels": min, "max_pixels": max,
        "pixels_of": if is_volume { "video" } else { "frame" }, "keep_markers": hp.video.keep_markers,
    })
}

fn n_recurrent(hp: &HParams) -> usize {
    hp.kinds.iter().filter(|kind| **kind == LayerKind::Recurrent).count()
}

/// Bytes that a token's keys and values take in F16.
fn token_bytes(hp: &HParams) -> usize {
    (hp.n_layer - n_recurrent(hp)) * hp.n_head_kv * hp.n_embd_head * 2 * 2
}

/// Bytes of all recurrent layers in f32: the state of each value head, and what the convolution looks back at.
fn state_bytes(hp: &HParams) -> usize {
    let one = hp.recurrent.map_or(0, |shape| shape.n_state() * size_of::<f32>());
    n_recurrent(hp) * one
}

/// Where flags are set.
fn numbers(flags: &[bool]) -> String {
    let set: Vec<String> = flags.iter().enumerate().filter(|(_, flag)| **flag).map(|(i, _)| i.to_string()).collect();
    if set.is_empty() { "none".to_string() } else { set.join(", ") }
}
