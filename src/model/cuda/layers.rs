//! The last layers of the language model on GPUs: each GPU owns a run of consecutive layers with their weights and their
//! rows of the cache, and turns hidden states (n_tokens, n_embd) into hidden states. The first one may own the embedding, the
//! last one the output matrix. What a batch does there is in `step.rs`.

use std::ops::Range;

use super::rows::GpuRows;
use super::split::shares;
use super::step::RunScratch;
use super::{Cuda, DevMat};
use crate::Result;
use crate::cache::{CacheShape, DeviceRows, KvCache};
use crate::kernels::cuda::{Gpu, Stream};
use crate::model::decoder::{Head, Layer};
use crate::model::device::{Device, Linear};
use crate::model::host::Host;
use crate::model::weights::Mat;
use crate::model::{DeviceBytes, HParams};

/// A GPU with its layers.
pub(super) struct Run {
    pub gpu: Gpu,
    pub layers: Range<usize>,
    pub weights: Vec<Layer<Cuda>>,
    /// Where all of the model is on GPUs: on the first one, and on the last.
    pub embd: Option<DevMat>,
    pub head: Option<Head<Cuda>>,
}

/// All layers that are on GPUs: the last ones of the model.
pub(crate) struct DeviceLayers {
    pub(super) runs: Vec<Run>,
}

/// Working memory on all GPUs.
pub(crate) struct DeviceScratch(pub(super) Vec<RunScratch>);

impl DeviceLayers {
    /// What all of this takes with a cache of `shape`, for steps of `n_batch` tokens.
    ///
    /// # Errors
    /// A cache that cannot be; a GPU that no longer answers.
    pub(crate) fn bytes(&self, hp: &HParams, shape: &CacheShape, n_batch: usize) -> Result<DeviceBytes> {
        let mut all = DeviceBytes { spare: i64::MAX, ..DeviceBytes::default() };
        for run in &self.runs {
            let part = shape.of_layers(&run.layers);
            let (k, v) = part.part_bytes()?;
            let cache = (k + v + part.state_bytes()?) as u64;
            let working = RunScratch::n_bytes(hp, n_batch, run);
            all.weights += run.n_bytes() as u64;
            all.cache += cache;
            all.working += working as u64;
            let (free, _) = run.gpu.memory()?;
            all.spare = all.spare.min(free as i64 - (cache + working as u64) as i64);
        }
        Ok(all)
    }

    /// The GPU of each run with its layers, and whether the head is there.
    pub(crate) fn names(&self) -> Vec<(String, Range<usize>, bool)> {
        self.runs.iter().map(|run| (run.gpu.name().to_string(), run.layers.clone(), run.head.is_some())).collect()
    }

    /// What a GPU should tell and has not yet.
    pub(crate) fn warning(&self) -> Option<String> {
        self.runs.iter().find_map(|run| run.gpu.refusal())
    }

    /// Copies the last `n` layers to `gpus`, each getting a share as large as its free memory; with `ends`, the embedding
    /// goes to the first of them, the output norm and matrix to the last.
    ///
    /// # Errors
    /// Memory that a GPU does not have; a type without kernels.
    pub(crate) fn load(
        gpus: &[Gpu],
        layers: &[Layer<Host>],
        n: usize,
        ends: Option<(&Mat, &Head<Host>)>,
    ) -> Result<DeviceLayers> {
        let free = gpus.iter().map(|gpu| Ok(gpu.memory()?.0)).collect::<Result<Vec<u64>>>()?;
        let first = layers.len() - n;
        let mut runs: Vec<Run> = Vec::new();
        for (gpu, range) in gpus.iter().zip(shares(&free, n)) {
            let range = first + range.start..first + range.end;
            if range.is_empty() {
                continue;
            }
            let copies = gpu.on(Stream::Copy);
            let load = |il: usize| layers[il].on::<Cuda>(&copies, &format!("the weights of layer {il}"));
            runs.push(Run {
                gpu: gpu.clone(),
                weights: range.clone().map(load).collect::<Result<_>>()?,
                layers: range,
                embd: None,
                head: None,
            });
        }
        if let Some((token_embd, Head { norm, output })) = ends.filter(|_| !runs.is_empty()) {
            let last = runs.last_mut().expect("there is one");
            let copies = last.gpu.on(Stream::Copy);
            let norm = norm.on::<Cuda>(&copies, "output_norm")?;
            let matrix = Cuda::mat(&copies, &output.weight, "output")?;
            last.head = Some(Head { norm, output: Linear { weight: matrix.clone(), bias: None } });
            let n_runs = runs.len();
            let first = &mut runs[0];
            let is_same = n_runs == 1 && token_embd.is(&output.weight);
            let copies = first.gpu.on(Stream::Copy);
            first.embd = Some(if is_same { matrix } else { Cuda::mat(&copies, token_embd, "token_embd")? });
        }
        // Whoever uses the weights need not wait for them any more.
        runs.iter().try_for_each(|run| run.gpu.on(Stream::Copy).sync())?;
        Ok(DeviceLayers { runs })
    }

    /// The first layer that is on a GPU.
    pub(crate) fn first(&self) -> usize {
        self.runs.first().map_or(usize::MAX, |run| run.layers.start)
    }

    /// Whether the output matrix is on a GPU.
    pub(crate) fn has_head(&self) -> bool {
        self.runs.last().is_some_and(|run| run.head.is_some())
    }

    /// Whether the embedding is on a GPU.
    pub(crate) fn has_embd(&self) -> bool {
        self.runs.first().is_some_and(|run| run.embd.is_some())
    }

    /// Gives these layers their rows of `cache`, where they have none yet, and brings over what the host holds and the GPUs
    /// do not.
    ///
    /// # Errors
    /// Memory that a GPU does not have, with the numbers.
    ///
    /// # Panics
    /// When they have rows on other GPUs.
    pub(crate) fn place(&self, cache: &mut KvCache) -> Result<()> {
        if cache.placed().is_empty() {
            let rows = |run: &Run| -> Result<Box<dyn DeviceRows>> {
                Ok(Box::new(GpuRows::new(&run.gpu, &run.layers, cache.shape())?))
            };
            let rows = self.runs.iter().map(rows).collect::<Result<_>>()?;
            cache.place(rows);
        }
        let all_same = cache.placed().len() == self.runs.len()
            && self.runs.iter().enumerate().all(|(i, run)| GpuRows::of(cache, i).are(&run.gpu, &run.layers));
        assert!(all_same, "a cache serves one model");
        cache.push()
    }

    /// Working memory for batches of up to `n_batch` tokens.
    ///
    /// # Errors
    /// Memory that a GPU does not have.
    pub(crate) fn scratch(&self, hp: &HParams, n_batch: usize) -> Result<DeviceScratch> {
        let new = |(i, run): (usize, &Run)| RunScratch::new(run, i, hp, n_batch);
        Ok(DeviceScratch(self.runs.iter().enumerate().map(new).collect::<Result<_>>()?))
    }
}

impl Run {
    /// Bytes of its matrices.
    fn n_bytes(&self) -> usize {
        let head = self.head.as_ref().map(|head| &head.output.weight);
        // A tied matrix is there once.
        let embd = self.embd.as_ref().filter(|embd| head.is_none_or(|head| !embd.is(head)));
        let ends = [head, embd].into_iter().flatten().map(DevMat::n_bytes).sum::<usize>();
        // So are gates and ups of experts that come in one tensor.
        let of_layer = |layer: &Layer<Cuda>| {
            let mats: Vec<&DevMat> = layer.mats().collect();
            let fresh = mats.iter().enumerate().filter(|(i, mat)| !mats[..*i].iter().any(|other| other.is(mat)));
            fresh.map(|(_, mat)| mat.n_bytes()).sum::<usize>()
        };
        self.weights.iter().map(of_layer).sum::<usize>() + ends
    }
}
