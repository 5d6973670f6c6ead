//! Media on their way into a session: which pairs are read, where they stand, and what is left out of them.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::Session;
use crate::error::Context as _;
use crate::media::Grid;
use crate::model::VisionTower;
use crate::position::Pace;
use crate::stream::context::Held;
use crate::stream::decode::{self, Stage};
use crate::stream::left_out::Sifting;
use crate::stream::reader::{self, Encoded, Medium, ReadEnd};
use crate::stream::{Event, Events, MediaKind, PairText, Prompt};
use crate::{Error, Result};

/// How the pairs of a medium stand in a context.
#[derive(Clone, Copy)]
pub(super) struct Block<'t> {
    /// A pair in tokens.
    pub merged: Grid,
    pub pace: Pace,
    /// What stands around each pair that is a block of its own; the pairs of other videos share theirs.
    pub text: Option<&'t PairText>,
}

impl Session {
    pub(super) fn feed_media(
        &mut self,
        prompt: &mut Prompt,
        kind: MediaKind,
        index: usize,
        total: usize,
        events: &mut Events<'_>,
    ) -> Result<()> {
        let item = match kind {
            MediaKind::Image => index,
            MediaKind::Video => prompt.images.len() + index,
        };
        let plan = prompt.media(kind, index)?;
        let engine = Arc::clone(self.engine());
        let tower = engine.need_vision()?;
        let (grid, merged) = (plan.grid, plan.grid.merged(tower.hparams().merge));
        let scale = self.scale(plan.temporal_scale);
        self.reading = Some(Held::Medium { id: plan.id(), scale });
        let (per_pair, group) = (merged.h * merged.w, Session::pairs_at_once(grid.h, grid.w));
        decode::probe(tower, group, plan.n_pairs(), grid).at(|| plan.label.clone())?;
        tower.reserve(group.min(plan.n_pairs()) * grid.h * grid.w)?;
        // What a take holds already is placed but not decoded; steps begin where they would have begun anyway, so that the
        // result is the same to the last bit.
        let (id, text, n_pairs) = (plan.id(), plan.text.clone(), plan.n_pairs());
        let (what, keep, n_known) = (plan.left_out, plan.keep, self.context.n_known());
        let n_whole = plan.n_whole_pairs(n_known) / group * group;
        let start = match (what, keep) {
            (None, None) => n_whole,
            // What stays of a pair follows from the one before it.
            (None, Some(_)) => n_whole.saturating_sub(group),
            // What has changed follows from all of them.
            (Some(_), _) => 0,
        };
        if plan.leaves_out() && events.probe().is_some_and(|probe| probe.is_tracing()) {
            let message = "every token is traced: --dedup and --keep would leave some out";
            return Err(Error::unsupported(message).at(plan.label.clone()));
        }
        let sifting = plan.leaves_out().then(|| Sifting {
            what,
            keep,
            // Features of all pairs are needed where those that stay are chosen by them.
            n_known: if keep.is_some() { 0 } else { n_known },
            text: text.as_ref(),
            n_forgotten: Arc::default(),
        });
        let passed: Vec<usize> = (0..start).map(|pair| plan.n_visual(pair)).collect();
        let block = Block { merged, pace: plan.pace(scale), text: text.as_ref() };
        self.begin_blocks(block, &passed)?;
        let medium = Medium { item, kind, grid, per_pair, start, n_pairs: Some(n_pairs) };
        let kept = decode::decode(plan, start, group, events.cancel(), |stage| {
            self.read_medium(tower, (medium, sifting), block, stage, total, events)
        })?;
        if what.is_some() {
            self.kept.retain(|(known, _)| *known != id);
            self.kept.push((id, kept.clone()));
            plan.set_kept(kept);
        }
        self.context.end_visual();
        if let Some(probe) = events.probe() {
            probe.grid(kind, grid);
        }
        if plan.skipped() > 0 {
            events.send(Event::Skipped { item, n_packets: plan.skipped() });
        }
        if let Some(message) = plan.take_warning() {
            events.send(Event::Warning { item, message });
        }
        self.context.mark(Held::Medium { id, scale });
        self.reading = None;
        if self.context.is_recurrent() {
            // What is asked about a medium stands behind it: so that recurrent layers can come back to there, a step ends there.
            self.drain(total, true, events)?;
            self.context.keep_place()?;
        }
        Ok(())
    }

    /// Places the first pairs, which the cache holds with so many tokens each, and opens the block of the others where they share one.
    fn begin_blocks(
        &mut self,
        Block { merged: Grid { h, w, .. }, pace, text }: Block<'_>,
        pairs: &[usize],
    ) -> Result<()> {
        let Some(text) = text else {
            self.context.begin_visual(h, w, pace)?;
            return pairs.iter().try_for_each(|n| self.context.pass_pairs(1, *n));
        };
        for (lead, n) in text.lead.iter().zip(pairs) {
            self.context.pass_tokens(lead.len());
            self.context.begin_visual(h, w, pace)?;
            self.context.pass_pairs(1, *n)?;
            self.context.pass_tokens(text.tail.len());
        }
        Ok(())
    }

    /// Adds the visual rows of a pair, between the words `around` it where it is a block of its own; returns how many.
    pub(super) fn push_pair(
        &mut self,
        &Encoded { rows, kept, .. }: &Encoded<'_>,
        block: Block<'_>,
        around: Option<(&[u32], &[u32])>,
    ) -> Result<usize> {
        let Grid { h, w, .. } = block.merged;
        let n = kept.n_of(h * w);
        if let Some((lead, _)) = around {
            self.context.push_tokens(lead)?;
            self.context.begin_visual(h, w, block.pace)?;
        }
        match rows {
            // What is read of it is in the cache, if there is anything.
            [] => self.context.pass_pairs(1, n)?,
            rows => self.context.push_pair_in_part(rows, kept.marks()),
        }
        if let Some((_, tail)) = around {
            self.context.end_visual();
            self.context.push_tokens(tail)?;
        }
        Ok(n)
    }

    /// Reads a medium out of `total` tokens; returns how many tokens of each pair were read.
    pub(super) fn read_medium(
        &mut self,
        tower: &VisionTower,
        (medium, sifting): (Medium, Option<Sifting<'_>>),
        block: Block<'_>,
        stage: &mut Stage<'_>,
        total: usize,
        events: &mut Events<'_>,
    ) -> Result<Vec<u32>> {
        let (n_total, mut n_kept) = (medium.n_pairs.unwrap_or_default(), Vec::new());
        let end = reader::read(tower, medium, sifting, stage, events, &mut |encoded, events| {
            let (pair, is_reused) = (encoded.pair, encoded.is_reused);
            let around = block.text.map(|text| (&text.lead[pair][..], &text.tail[..]));
            let n = self.push_pair(&encoded, block, around)?;
            n_kept.push(n as u32);
            let (n_left_out, is_left_out) = (medium.per_pair - n, n == 0);
            let (item, n_done) = (medium.item, pair + 1);
            events.send(Event::Encoded { item, n_done, n_total, is_reused, n_left_out, is_left_out });
            self.drain(total, false, events)?;
            Ok(ControlFlow::Continue(()))
        })?;
        match end {
            ReadEnd::Failed(error) => Err(error),
            ReadEnd::Over | ReadEnd::Enough => Ok(n_kept),
        }
    }
}
