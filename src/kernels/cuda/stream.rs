//! What orders work on a card: streams, events between them, and launches that are recorded once and replayed as one.

use std::sync::atomic::Ordering;

use super::memory::Card;
use crate::error::Context;
use crate::{Error, Result};

/// A queue of a card. What is in one happens in order; of two, only what an [`Event`] says.
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
pub struct Event {
    card: Card,
    id: u64,
}

impl Event {
    /// One that was not recorded yet: waiting for it is no wait.
    ///
    /// # Errors
    /// What the card says.
    pub fn new(card: &Card) -> Result<Event> {
        Ok(Event { card: card.clone(), id: card.driver().new_event()? })
    }

    /// Stands from now on for all that was asked of the stream of `card` before.
    ///
    /// # Errors
    /// What the card says.
    pub fn record(&self, card: &Card) -> Result<()> {
        card.driver().record(self.id, card.stream())
    }

    /// What is asked of the stream of `card` from now on happens after it.
    ///
    /// # Errors
    /// What the card says.
    pub fn wait(&self, card: &Card) -> Result<()> {
        card.driver().wait(self.id, card.stream())
    }

    /// Returns after it.
    ///
    /// # Errors
    /// What went wrong on the card meanwhile.
    pub fn sync(&self) -> Result<()> {
        self.card.driver().sync_event(self.id)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.card.driver().free_event(self.id);
    }
}

/// Launches that were recorded, to be replayed as one.
pub struct Graph {
    card: Card,
    id: u64,
    /// What [`Card::n_freed`] said when it was recorded.
    n_freed: u64,
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.card.driver().free_graph(self.id);
    }
}

impl Card {
    /// Records what `launches` asks of this card's stream instead of doing it. `None` where the driver refuses, which is said
    /// once on stderr, or where [`Card::set_graphs`] says no.
    ///
    /// # Errors
    /// Those of `launches`.
    pub fn capture(&self, launches: impl FnOnce() -> Result<()>) -> Result<Option<Graph>> {
        if !self.graphs().on.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let refuse = |err: Error| {
            self.set_graphs(false);
            eprintln!("warning: {}: {err}; kernels are launched one by one", self.name());
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
                Ok(Some(Graph { card: self.clone(), id, n_freed }))
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
    /// card was freed since: it may have been the graph's.
    ///
    /// # Errors
    /// What the card says.
    pub fn replay(&self, graph: &Graph) -> Result<bool> {
        if graph.n_freed != self.n_freed() || !self.is(&graph.card) {
            return Ok(false);
        }
        // SAFETY: the graph is alive, its memory was there when it was recorded, and none was freed since.
        unsafe { self.driver().replay(graph.id, self.stream()) }.at(|| "a recorded step".to_string())?;
        Ok(true)
    }

    /// Whether [`Card::capture`] records. At first it does, unless `LONGTAKE_CUDA_GRAPH` is 0.
    pub fn set_graphs(&self, on: bool) {
        self.graphs().on.store(on, Ordering::Relaxed);
    }

    /// How often launches were recorded on this card.
    pub fn n_captured(&self) -> usize {
        self.graphs().n_captured.load(Ordering::Relaxed)
    }
}
