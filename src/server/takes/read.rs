//! Reading a video into its take, from wherever it was left.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Entry;
use crate::server::desk::Desk;
use crate::server::lane::Class;
use crate::server::plan::around;
use crate::server::wire::{Fault, Json, TakeRequest};
use crate::stream::{Cost, Event, Events, Holder, IfExists, Take, Tally, Watch};
use crate::{Error, ErrorKind};

/// Why reading ended before its end.
pub(super) enum Stop {
    Cancelled,
    Fault(Fault),
}

impl std::convert::From<Error> for Stop {
    fn from(err: Error) -> Stop {
        match err.kind() {
            ErrorKind::Cancelled => Stop::Cancelled,
            _ => {
                eprintln!("error: {err}");
                Stop::Fault(Fault::from_error(&err))
            }
        }
    }
}

impl std::convert::From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        Stop::Fault(fault)
    }
}

/// Reads a video into its take, or on.
///
/// # Errors
/// A stop on request; what is wrong with the video, or with the take that is there.
pub(super) fn read(desk: &Desk, entry: &Arc<Entry>) -> std::result::Result<(), Stop> {
    let body = entry.note.request.to_string();
    let wanted = desk.wanted(TakeRequest::parse(&Json::parse(body.as_bytes())?)?)?;
    let request = wanted.watch_request();
    let hold = |cost: &Cost| {
        let is_stopped = || entry.cancel.load(Ordering::Relaxed);
        desk.memory.wait_for(Holder::Takes, desk.memory.reading_bytes(cost), is_stopped)
    };
    let _hold;
    let mut watch = if entry.path.exists() {
        let take = Take::open(&entry.path, true)?;
        if take.is_complete() {
            take.check_same(&desk.engine, &request)?;
            return Ok(());
        }
        _hold = hold(&Watch::cost_of_rest(&desk.engine, &request, &take)?)?;
        Watch::resume(&desk.engine, &request, take)?
    } else {
        let (plan, cost) = desk.plan_video(&wanted, false)?;
        _hold = hold(&cost)?;
        let around = around(desk, request.system_prompt)?;
        Watch::begin(&desk.engine, &request, (plan, around, cost.n_ctx), (&entry.path, IfExists::Refuse))?
    };
    watch.set_interval(desk.setup.checkpoint);
    let began = Instant::now();
    let mut turn = desk.lane.turn(Class::Reading);
    let mut tally = Tally::default();
    let mut sink = |event: Event| {
        tally.see(&event);
        entry.show.send_modify(|shown| {
            shown.n += 1;
            shown.progress.update(&event, began.elapsed());
        });
    };
    // Before each step others go first, if they are more urgent.
    let mut pass = || turn.pass();
    let done = watch.run(&mut Events::new(&mut sink, &entry.cancel).with_turns(&mut pass));
    desk.metrics.frames(&tally);
    Ok(done?)
}
