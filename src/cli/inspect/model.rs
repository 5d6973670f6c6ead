//! What a GGUF file is as a model: the family, what its layers are, what they keep, how its tower sees.
#![forbid(unsafe_code)]

use std::io::{self, Write};

use serde_json::{Value as Json, json};

use crate::gguf::Gguf;
use crate::model::family::FAMILIES;
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
                if let Some(rate) = hp.tokens_per_second {
                    writeln!(out, "  time goes by the clock: {rate} positions a second")?;
                }
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
                "n_deepstack": hp.n_deepstack,
            }),
            Known::Tower(hp) => json!({
                "kind": "tower", "n_layer": hp.n_layer, "n_embd": hp.n_embd, "n_head": hp.n_head,
                "token_side_pixels": hp.factor(), "taps": hp.taps, "n_pos_side": hp.n_pos_side,
                "window_tokens": hp.windows.as_ref().map(|windows| windows.side),
                "tokens_per_second": hp.tokens_per_second,
            }),
        };
        json["families"] = self.families().into();
        json
    }
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
