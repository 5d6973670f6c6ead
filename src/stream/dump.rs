//! The arrays of a run, under the names that the golden data uses, for comparison with the training code.

use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize};

use super::{Engine, MediaKind, Probe, Prompt, Session};
use crate::cache::KvCache;
use crate::files::atomic::write_beside;
use crate::kernels::{CONV_KERNEL, DeltaShape};
use crate::media::Grid;
use crate::model::Trace;
use crate::model::family::QWEN2_VL;
use crate::position::Pos;
use crate::{Error, Result};

/// What one kind of media gave.
#[derive(Default)]
struct Media {
    pixels: Vec<f32>,
    grids: Vec<Grid>,
    /// Per stage, (n_patches, n_embd).
    stages: Vec<Vec<f32>>,
    output: Vec<f32>,
}

/// Collects arrays while a session works.
#[derive(Default)]
pub struct Dump {
    trace: Trace,
    hidden_visual: Vec<f32>,
    positions: Vec<Pos>,
    logits_after_generated: Vec<f32>,
    images: Media,
    videos: Media,
    generated: Vec<i64>,
    generated_positions: Vec<f32>,
    generated_margins: Vec<f32>,
    prompt: Option<PromptArrays>,
}

/// What is known once the prompt is in the cache.
struct PromptArrays {
    input_ids: Vec<i64>,
    logits_last4: Vec<f32>,
    /// Of the first layer with attention, (n_head_kv, n_tokens, d).
    keys: Vec<f32>,
    /// Of the first recurrent layer, where there is one: inputs of the convolution, matrices.
    state: Option<(Vec<f32>, Vec<f32>)>,
}

impl Dump {
    fn of(&mut self, kind: MediaKind) -> &mut Media {
        match kind {
            MediaKind::Image => &mut self.images,
            MediaKind::Video => &mut self.videos,
        }
    }

    /// Writes everything collected as a safetensors file, beside its name and renamed.
    ///
    /// # Errors
    /// What the file system says; a dump without a prompt.
    pub fn write(&self, engine: &Engine, path: &Path) -> Result<()> {
        let prompt = self.prompt.as_ref().ok_or_else(|| Error::bad_input("there is no prompt to dump"))?;
        let hp = engine.text.hparams();
        let mut arrays = Arrays::default();
        let n = prompt.input_ids.len();
        arrays.i64("input_ids", vec![n], &prompt.input_ids);
        for (kind, media) in [("image", &self.images), ("video", &self.videos)] {
            if media.grids.is_empty() {
                continue;
            }
            let vision = engine.need_vision()?;
            let tower = vision.hparams();
            let rows = media.pixels.len() / tower.n_patch_values();
            let grids: Vec<i64> = media.grids.iter().flat_map(|g| [g.t as i64, g.h as i64, g.w as i64]).collect();
            let stages = media.stages.concat();
            arrays.f32(&format!("{kind}_pixel_values"), vec![rows, tower.n_patch_values()], &media.pixels);
            arrays.i64(&format!("{kind}_grid_thw"), vec![media.grids.len(), 3], &grids);
            arrays.f32(&format!("{kind}_vit_stages"), vec![media.stages.len(), rows, tower.n_embd], &stages);
            // Of each visual token: its row, then what taps add.
            let (n_tokens, n_taps) = (media.output.len() / tower.n_out_values(), tower.taps.len());
            let plane = |i: usize| -> Vec<f32> {
                let tokens = media.output.chunks_exact(tower.n_out_values());
                tokens.flat_map(|token| &token[i * hp.n_embd..(i + 1) * hp.n_embd]).copied().collect()
            };
            arrays.f32(&format!("{kind}_vit_output"), vec![n_tokens, hp.n_embd], &plane(0));
            if n_taps > 0 {
                let taps: Vec<f32> = (1..=n_taps).flat_map(plane).collect();
                arrays.f32(&format!("{kind}_deepstack"), vec![n_taps, n_tokens, hp.n_embd], &taps);
            }
            let (mut order, mut ends, merged) = (Vec::new(), Vec::new(), tower.merge * tower.merge);
            for grid in &media.grids {
                let Some((cells, of_pair)) = vision.windows(grid.h, grid.w) else { break };
                for _ in 0..grid.t {
                    let first = order.len();
                    order.extend(cells.iter().map(|cell| (first + cell) as i64));
                    ends.extend(of_pair.iter().map(|end| (first * merged + end) as i64));
                }
            }
            if !ends.is_empty() {
                arrays.i64(&format!("{kind}_window_order"), vec![order.len()], &order);
                arrays.i64(&format!("{kind}_window_ends"), vec![ends.len()], &ends);
            }
        }
        let axes = [|p: &Pos| p.t as f32, |p: &Pos| p.h as f32, |p: &Pos| p.w as f32];
        let position_ids: Vec<f32> = axes.iter().flat_map(|axis| self.positions.iter().map(axis)).collect();
        arrays.f32("position_ids", vec![3, self.positions.len()], &position_ids);
        arrays.f32("logits_last4", vec![prompt.logits_last4.len() / hp.n_vocab, hp.n_vocab], &prompt.logits_last4);
        arrays.f32("hidden_last", vec![self.trace.hidden_last.len() / hp.n_embd, hp.n_embd], &self.trace.hidden_last);
        // Qwen2-VL's reference numbers call two of them after layer 0, and have nothing of a visual token.
        let is_first_family = engine.vision.as_ref().map_or(hp.family, |tower| tower.hparams().family) == &QWEN2_VL;
        if !is_first_family && !self.hidden_visual.is_empty() {
            arrays.f32("hidden_visual", vec![self.hidden_visual.len() / hp.n_embd, hp.n_embd], &self.hidden_visual);
        }
        let [queries, keys] = if is_first_family { ["layer0_q_last", "layer0_k"] } else { ["attn_q_last", "attn_k"] };
        arrays.f32(queries, vec![hp.n_head, hp.n_embd_head], &self.trace.attn_q_last);
        arrays.f32(keys, vec![hp.n_head_kv, n, hp.n_embd_head], &prompt.keys);
        if let (Some(shape), Some((conv, matrices))) = (hp.recurrent, &prompt.state) {
            arrays.f32("gdn_conv_state", vec![shape.conv_dim(), CONV_KERNEL - 1], conv);
            arrays.f32("gdn_state", vec![shape.n_head_v, shape.d_k, shape.d_v], matrices);
        }
        arrays.i64("generated", vec![self.generated.len()], &self.generated);
        arrays.f32("generated_positions", vec![self.generated.len()], &self.generated_positions);
        arrays.f32("generated_margins", vec![self.generated.len()], &self.generated_margins);
        arrays.f32("logits_after_generated", vec![self.logits_after_generated.len()], &self.logits_after_generated);
        arrays.write(path)
    }
}

impl Probe for Dump {
    /// A model author wants the last four rows.
    fn n_logits(&self) -> usize {
        4
    }

    fn is_tracing(&self) -> bool {
        true
    }

    fn trace(&mut self) -> Option<&mut Trace> {
        Some(&mut self.trace)
    }

    fn after_step(&mut self, pos: &[Pos], cache: &mut KvCache) -> Result<()> {
        self.positions.extend_from_slice(pos);
        if self.trace.visual.is_some() {
            self.hidden_visual.clone_from(&self.trace.hidden_visual);
        }
        cache.pull()
    }

    fn media(&mut self, kind: MediaKind, pixels: &[f32], stages: Vec<Vec<f32>>, output: &[f32]) {
        let media = self.of(kind);
        media.pixels.extend_from_slice(pixels);
        media.output.extend_from_slice(output);
        media.stages.resize(stages.len(), Vec::new());
        for (all, one) in media.stages.iter_mut().zip(stages) {
            all.extend(one);
        }
    }

    fn grid(&mut self, kind: MediaKind, grid: Grid) {
        self.of(kind).grids.push(grid);
    }

    fn token(&mut self, id: u32, logits: &[f32], position: f64) {
        self.generated.push(i64::from(id));
        self.generated_positions.push(position as f32);
        let (mut best, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for v in logits {
            if *v > best {
                (best, second) = (*v, best);
            } else if *v > second {
                second = *v;
            }
        }
        self.generated_margins.push(best - second);
    }

    /// Takes what can be seen only between prompt and generation.
    fn after_prompt(&mut self, session: &Session, prompt: &Prompt) -> Result<()> {
        let input_ids: Vec<i64> = prompt.input_ids(&session.engine().tokenizer)?.into_iter().map(i64::from).collect();
        let hp = session.engine().text.hparams();
        let mut keys = Vec::new();
        for ih in 0..hp.first_attention().map_or(0, |_| hp.n_head_kv) {
            keys.extend(session.cache().keys_f32(hp.first_attention().unwrap_or(0), ih, input_ids.len())?);
        }
        let state =
            hp.recurrent.map(|shape| Ok::<_, Error>(as_trained(&shape, &session.cache().states()?[..shape.n_state()])));
        let state = state.transpose()?;
        let logits_last4 = session.context().logits().to_vec();
        self.prompt = Some(PromptArrays { input_ids, logits_last4, keys, state });
        Ok(())
    }

    fn end(&mut self, logits: &[f32]) {
        self.logits_after_generated = logits.to_vec();
    }
}

/// A state in the order of the model's authors, in which the value heads of a key head stand side by side and not in turns: inputs
/// of the convolution (channels, 3), oldest first, and matrices (heads, d_k, d_v).
fn as_trained(shape: &DeltaShape, state: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (inputs, matrices) = state.split_at(shape.n_inputs());
    let (per_key, n_matrix, n_channels) = (shape.n_head_v / shape.n_head_k, shape.d_k * shape.d_v, shape.conv_dim());
    let heads = || (0..shape.n_head_v).map(|head| head % per_key * shape.n_head_k + head / per_key);
    let of_values = |head: usize| (0..shape.d_v).map(move |c| 2 * shape.key_dim() + head * shape.d_v + c);
    let channels = (0..2 * shape.key_dim()).chain(heads().flat_map(of_values));
    let conv = channels.flat_map(|c| inputs.iter().skip(c).step_by(n_channels)).copied().collect();
    (conv, heads().flat_map(|head| &matrices[head * n_matrix..][..n_matrix]).copied().collect())
}

/// Named arrays as bytes.
#[derive(Default)]
struct Arrays(Vec<(String, Dtype, Vec<usize>, Vec<u8>)>);

impl Arrays {
    fn f32(&mut self, name: &str, shape: Vec<usize>, data: &[f32]) {
        self.0.push((name.to_string(), Dtype::F32, shape, data.iter().flat_map(|v| v.to_le_bytes()).collect()));
    }

    fn i64(&mut self, name: &str, shape: Vec<usize>, data: &[i64]) {
        self.0.push((name.to_string(), Dtype::I64, shape, data.iter().flat_map(|v| v.to_le_bytes()).collect()));
    }

    fn write(&self, path: &Path) -> Result<()> {
        let views = self.0.iter().map(|(name, dtype, shape, bytes)| {
            let view = TensorView::new(*dtype, shape.clone(), bytes);
            view.map(|view| (name.as_str(), view)).map_err(|err| Error::format(format!("array `{name}`: {err}")))
        });
        let views = views.collect::<Result<Vec<_>>>()?;
        let bytes = serialize(views, None).map_err(|err| Error::format(format!("cannot write arrays: {err}")))?;
        write_beside(path, |file| Ok(file.write_all(&bytes)?))
    }
}
