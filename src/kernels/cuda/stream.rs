//! What orders work on a GPU: streams, events between them, and launches that are recorded once and replayed as one.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::memory::Gpu;
use crate::error::Context;
use crate::{Error, Result};

/// A queue of a GPU. What is in one happens in order; of two, only what a [`GpuEvent`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stream {
    /// The language model.
    #[default]
    Text,
    /// The vision tower.
    Vision,
    /// Copies that may go on beside either: weights, pixels, visual tokens.
    Copy,
}

impl Stream {
    pub(super) const COUNT: usize = 3;
}

/// A place in a stream that others can wait for.
pub struct GpuEvent {
    gpu: Gpu,
    id: u64,
}

impl GpuEvent {
    /// One that was not recorded yet: waiting for it is no wait.
    ///
    /// # Errors
    /// What the GPU says.
    pub fn new(gpu: &Gpu) -> Result<GpuEvent> {
        Ok(GpuEvent { gpu: gpu.clone(), id: gpu.driver().new_event()? })
    }

    /// Stands from now on for all that was asked of the stream of `gpu` before.
    ///
    /// # Errors
    /// What the GPU says.
    pub fn record(&self, gpu: &Gpu) -> Result<()> {
        gpu.driver().record(self.id, gpu.stream())
    }

    /// What is asked of the stream of `gpu` from now on happens after it.
    ///
    /// # Errors
    /// What the GPU says.
    pub fn wait(&self, gpu: &Gpu) -> Result<()> {
        gpu.driver().wait(self.id, gpu.stream())
    }

    /// Returns after it.
    ///
    /// # Errors
    /// What went wrong on the GPU meanwhile.
    pub fn sync(&self) -> Result<()> {
        self.gpu.driver().sync_event(self.id)
    }
}

impl Drop for GpuEvent {
    fn drop(&mut self) {
        self.gpu.driver().free_event(self.id);
    }
}

/// Launches that were recorded, to be replayed as one.
pub struct Graph {
    gpu: Gpu,
    id: u64,
    /// What [`Gpu::n_freed`] said when it was recorded.
    n_freed: u64,
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.gpu.driver().free_graph(self.id);
    }
}

impl Gpu {
    /// Records what `launches` asks of this GPU's stream instead of doing it. `None` where the driver refuses, which
    /// [`Gpu::refusal`] tells, or where [`Gpu::set_graphs`] says no.
    ///
    /// # Errors
    /// Those of `launches`.
    pub fn capture(&self, launches: impl FnOnce() -> Result<()>) -> Result<Option<Graph>> {
        if !self.graphs().on.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let refuse = |err: Error| {
            self.set_graphs(false);
            let message = format!("{}: {err}; kernels are launched one by one", self.name());
            *self.graphs().refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
            self.graphs().has_refusal.store(true, Ordering::Release);
            Ok(None)
        };
        if let Err(err) = self.driver().begin_capture(self.stream()) {
            return refuse(err);
        }
        let n_freed = self.n_freed();
        let launched = launches();
        let graph = self.driver().end_capture(self.stream());
        match (launched, graph) {
            (Ok(()), Ok(id)) => {
                self.graphs().n_captured.fetch_add(1, Ordering::Relaxed);
                Ok(Some(Graph { gpu: self.clone(), id, n_freed }))
            }
            // A launch that cannot be recorded fails, too, and says less than the driver does here.
            (_, Err(err)) => refuse(err),
            (Err(err), Ok(id)) => {
                self.driver().free_graph(id);
                Err(err)
            }
        }
    }

    /// Does what `graph` recorded, with the numbers that are in memory now. False, and nothing is done, where memory of the
    /// GPU was freed since: it may have been the graph's.
    ///
    /// # Errors
    /// What the GPU says.
    pub fn replay(&self, graph: &Graph) -> Result<bool> {
        if graph.n_freed != self.n_freed() || !self.is(&graph.gpu) {
            return Ok(false);
        }
        // SAFETY: the graph is alive, its memory was there when it was recorded, and none was freed since.
        unsafe { self.driver().replay(graph.id, self.stream()) }.at(|| "a recorded step".to_string())?;
        Ok(true)
    }

    /// Why the driver of this GPU records nothing, said once: the next call says nothing.
    pub fn refusal(&self) -> Option<String> {
        let graphs = self.graphs();
        // Most calls find nothing, and write nothing.
        if !graphs.has_refusal.load(Ordering::Acquire) || !graphs.has_refusal.swap(false, Ordering::AcqRel) {
            return None;
        }
        graphs.refusal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether [`Gpu::capture`] records. At first it does.
    pub fn set_graphs(&self, on: bool) {
        self.graphs().on.store(on, Ordering::Relaxed);
    }

    /// How often launches were recorded on this GPU.
    pub fn n_captured(&self) -> usize {
        self.graphs().n_captured.load(Ordering::Relaxed)
    }
}
