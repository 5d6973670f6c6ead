//! Batches: requests of a file, answered into another, in OpenAI's form and in any order. Every answer is a line that is appended
//! and on disk before the next; so after any end the same command goes on with the requests that have no line yet.
//! Start reading at [`run`]; `lines` knows the two files.

mod lines;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

pub(crate) use lines::Shard;
use lines::{Input, Line, Output};

use super::answer;
use super::desk::Desk;
use super::dialect::Endpoint;
use super::memory::Memory;
use super::metrics::Metrics;
use super::random::id;
use super::run::own;
use super::setup::Setup;
use super::wire::{Code, Fault, Json};
use crate::stream::Engine;
use crate::{Error, ErrorKind, Result};

/// What a batch did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Requests of this shard.
    pub total: usize,
    /// Those that were answered.
    pub completed: usize,
    /// Those that were refused or failed: they have lines, too.
    pub failed: usize,
    /// Those of both whose lines were there already.
    pub kept: usize,
}

impl Counts {
    /// Requests that have a line.
    pub(crate) fn done(&self) -> usize {
        self.completed + self.failed
    }

    fn add(&mut self, is_good: bool) {
        *(if is_good { &mut self.completed } else { &mut self.failed }) += 1;
    }
}

/// A batch to run.
pub(crate) struct Batch<'a> {
    pub input: &'a Path,
    pub output: &'a Path,
    pub shard: Shard,
    /// The only endpoint that lines may name; none: any of them.
    pub endpoint: Option<Endpoint>,
    /// Requests that are worked on at a time.
    pub parallel: usize,
}

/// Answers the requests of a file. `told` hears how far it is after every line.
///
/// # Errors
/// A line that is no request, an id twice, files that cannot be read or written; `Cancelled` once `stop` is raised, with every
/// answer that was given on disk.
pub(crate) async fn run(
    desk: &Arc<Desk>,
    batch: &Batch<'_>,
    stop: &AtomicBool,
    mut told: impl FnMut(Counts),
) -> Result<Counts> {
    // All of it is looked at before any of it is worked on.
    let total = Input::open(batch.input)?.check(batch.endpoint, batch.shard)?;
    let (mut output, answered) = Output::open(batch.output)?;
    let mut counts = Counts { total, ..Counts::default() };
    let mut input = Input::open(batch.input)?;
    let mut running: JoinSet<(bool, Value)> = JoinSet::new();
    let mut is_over = false;
    told(counts);
    while !(is_over && running.is_empty()) {
        if stop.load(Ordering::Relaxed) {
            // Jobs end with what waits for them.
            running.abort_all();
            return Err(Error::new(ErrorKind::Cancelled, "stopped on request; the same command goes on"));
        }
        while !is_over && running.len() < batch.parallel.max(1) {
            let Some(line) = input.next()? else {
                is_over = true;
                break;
            };
            if !batch.shard.has(&line.custom_id) {
                continue;
            }
            if let Some(is_good) = answered.get(&line.custom_id) {
                counts.kept += 1;
                counts.add(*is_good);
                continue;
            }
            running.spawn(answered_line(desk.clone(), line));
        }
        // The flag is looked at now and then.
        let next = tokio::time::timeout(Duration::from_millis(100), running.join_next());
        match next.await {
            Ok(Some(Ok((is_good, line)))) => {
                output.append(&line)?;
                counts.add(is_good);
                told(counts);
            }
            Ok(Some(Err(_))) => return Err(Error::internal("a request of a batch was lost; the log may say why")),
            _ => {}
        }
    }
    // The last lines may have been there.
    told(counts);
    Ok(counts)
}

/// Runs a batch with a model and nothing else around it.
///
/// # Errors
/// As [`run`]; a store that a server works with, threads that the system refuses.
pub(crate) fn run_alone(
    engine: Arc<Engine>,
    setup: Setup,
    batch: &Batch<'_>,
    stop: &AtomicBool,
    told: impl FnMut(Counts),
) -> Result<Counts> {
    let _held = setup.data.as_deref().map(own).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    // Some things of the desk live on the runtime.
    let done = runtime.block_on(async {
        let memory = Memory::new(setup.limits.memory);
        let desks = Desk::open_all(&engine, setup, &Arc::new(Metrics::default()), &memory)?;
        let desk = desks.first().ok_or_else(|| Error::internal("a batch without a desk"))?;
        run(desk, batch, stop, told).await
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

/// The line that answers a request, and whether it was answered well.
async fn answered_line(desk: Arc<Desk>, line: Line) -> (bool, Value) {
    let request_id = id("req");
    let answered = loop {
        match answer_one(&desk, &line).await {
            // Others are served, too; this can wait.
            Err(fault) if fault.code.is_passing() => {
                tokio::time::sleep(Duration::from_secs(fault.retry_after.unwrap_or(1).clamp(1, 10))).await;
            }
            answered => break answered,
        }
    };
    let (status, body) = match &answered {
        Ok(body) => (200, body.clone()),
        Err(fault) => (fault.code.status(), fault.to_json()),
    };
    let line = json!({
        "id": id("batch_req"), "custom_id": line.custom_id,
        "response": { "status_code": status, "request_id": request_id, "body": body }, "error": null,
    });
    (answered.is_ok(), line)
}

/// The answer to a request, as the server would give it whole.
async fn answer_one(desk: &Arc<Desk>, line: &Line) -> std::result::Result<Value, Fault> {
    let (request, dialect) = line.endpoint.read(desk, &Json::parse(&line.body)?)?;
    if request.stream {
        return Err(Fault::new(Code::UnsupportedParameter, "a batch is not streamed").of("stream"));
    }
    answer::whole(desk.clone(), request, dialect).await
}
