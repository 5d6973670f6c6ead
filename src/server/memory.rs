//! The memory of the server, counted in one place against `--max-memory`: conversations, what requests decode and encode, videos
//! that are read into takes, bytes that came with requests. Who finds too little of it has conversations let go that nobody
//! speaks in, the oldest first, and then waits; what could never fit is refused.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::limits::MAX_RETRY_AFTER;
use super::wire::{Code, Fault};
use crate::stream::{Budget, Cost, Engine, Hold, Holder, Lack, Ledger, Limits, SessionOptions, Take, program_bytes};
use crate::{Error, ErrorKind, Result};

/// Lets go of conversations until so many bytes are free, if it can.
type Reclaim = Box<dyn Fn(u64) + Send + Sync>;

/// The ledger of a server, and who can make room.
#[derive(Clone)]
pub(crate) struct Memory(Arc<Shared>);

struct Shared {
    ledger: Arc<Ledger>,
    limit: Option<u64>,
    reclaim: OnceLock<Reclaim>,
    /// What a conversation of the server's context takes, and what of a plan's working memory that is already.
    sizes: OnceLock<Sizes>,
}

#[derive(Clone, Copy)]
struct Sizes {
    context: u64,
    /// What steps of text work in, and the program.
    working: u64,
    program: u64,
}

impl Memory {
    /// Of at most so many bytes.
    pub(crate) fn new(limit: Option<u64>) -> Memory {
        let (reclaim, sizes) = (OnceLock::new(), OnceLock::new());
        Memory(Arc::new(Shared { ledger: Ledger::new(limit), limit, reclaim, sizes }))
    }

    /// The model is there.
    ///
    /// # Errors
    /// A limit that not even one conversation fits.
    pub(crate) fn loaded(&self, engine: &Arc<Engine>, options: &SessionOptions) -> Result<()> {
        let cost = context_cost(engine, options)?;
        let program = program_bytes(engine);
        let (shared, context) = (cost.weights + program, cost.memory() - cost.weights - program);
        if let Some(limit) = self.0.limit.filter(|limit| *limit < shared + context) {
            let (all, n_ctx) = (shared + context, options.n_ctx);
            return Err(Error::limit(format!(
                "the model and one conversation of {n_ctx} tokens take `{all}` bytes, --max-memory allows {limit}; raise it or lower -c"
            )));
        }
        self.0.ledger.share(shared);
        let _ = self.0.sizes.set(Sizes { context, working: cost.working, program });
        Ok(())
    }

    /// Who lets go of conversations.
    pub(crate) fn on_lack(&self, reclaim: impl Fn(u64) + Send + Sync + 'static) {
        let _ = self.0.reclaim.set(Box::new(reclaim));
    }

    fn sizes(&self) -> Sizes {
        self.0.sizes.get().copied().unwrap_or(Sizes { context: 0, working: 0, program: 0 })
    }

    /// Bytes of a conversation: one of the server's context, or about a take the slots behind its video, whose own pages are the
    /// file's.
    ///
    /// # Errors
    /// Sizes that cannot be counted.
    pub(crate) fn conversation_bytes(&self, engine: &Arc<Engine>, take: Option<&Arc<Take>>) -> Result<u64> {
        let Some(take) = take else { return Ok(self.sizes().context) };
        let shape = &take.header.shape;
        let options = SessionOptions {
            n_ctx: shape.n_ctx,
            n_batch: take.header.n_batch,
            type_k: shape.type_k,
            type_v: shape.type_v,
            temporal_scale: None,
        };
        let cost = context_cost(engine, &options)?;
        let free = (shape.n_ctx - take.header.n_tokens().min(shape.n_ctx)) as u128;
        let own = u128::from(cost.cache) * free / shape.n_ctx.max(1) as u128;
        Ok(own as u64 + cost.working - program_bytes(engine))
    }

    /// Bytes that a plan takes while its media are read, besides its conversation.
    pub(crate) fn request_bytes(&self, cost: &Cost) -> u64 {
        cost.working.saturating_sub(self.sizes().working)
    }

    /// Bytes that a plan takes with a conversation of its own, of a video that is read into a take.
    pub(crate) fn reading_bytes(&self, cost: &Cost) -> u64 {
        cost.cache + cost.working.saturating_sub(self.sizes().program)
    }

    /// Holds so many bytes, if they are free now.
    ///
    /// # Errors
    /// Why there are too few.
    pub(crate) fn try_hold(&self, holder: Holder, n_bytes: u64) -> std::result::Result<Hold, Lack> {
        self.0.ledger.try_hold(holder, n_bytes)
    }

    /// Holds so many bytes, if need be instead of conversations that nobody speaks in.
    ///
    /// # Errors
    /// Why there are too few, although these were asked to go.
    pub(crate) fn hold(&self, holder: Holder, n_bytes: u64) -> std::result::Result<Hold, Lack> {
        match self.try_hold(holder, n_bytes) {
            Err(Lack::Now(missing)) => {
                if let Some(reclaim) = self.0.reclaim.get() {
                    reclaim(missing);
                }
                self.try_hold(holder, n_bytes)
            }
            held => held,
        }
    }

    /// Waits a moment for others to give something back.
    pub(crate) fn wait(&self) {
        self.0.ledger.wait(Duration::from_millis(50));
    }

    /// Holds so many bytes, as soon as they are there.
    ///
    /// # Errors
    /// More than there may ever be; a stop while it waits.
    pub(crate) fn wait_for(&self, holder: Holder, n_bytes: u64, is_stopped: impl Fn() -> bool) -> Result<Hold> {
        loop {
            match self.hold(holder, n_bytes) {
                Ok(hold) => return Ok(hold),
                Err(Lack::Never(room)) => return Err(never(n_bytes, room)),
                Err(Lack::Now(_)) if is_stopped() => {
                    return Err(Error::new(ErrorKind::Cancelled, "stopped on request"));
                }
                Err(Lack::Now(_)) => self.wait(),
            }
        }
    }

    /// Whether a request may be let in that will take so many bytes: what is held for a question is given back before long, what is
    /// held for a video that is read into a take may not be.
    ///
    /// # Errors
    /// `video_does_not_fit` for what never fits, `too_many_bytes` for what does not as long as that video is read.
    pub(crate) fn admit(&self, n_bytes: u64) -> std::result::Result<(), Fault> {
        let Some(limit) = self.0.limit else { return Ok(()) };
        let (shared, held) = self.0.ledger.told();
        let room = limit.saturating_sub(shared);
        if n_bytes > room {
            return Err(Fault::from_error(&never(n_bytes, room)).of("messages"));
        }
        if n_bytes > room.saturating_sub(held[Holder::Takes as usize]) {
            let message = "a video that is being read into a take holds the memory that this needs: pause it (POST /v1/takes/{id}/cancel), or ask again later";
            return Err(Fault::new(Code::TooManyBytes, message).after(MAX_RETRY_AFTER.as_secs()));
        }
        Ok(())
    }

    /// What is held by whom: the model, then the holders by name.
    pub(crate) fn told(&self) -> Vec<(&'static str, u64)> {
        let (shared, held) = self.0.ledger.told();
        let holders = Holder::ALL.iter().zip(held).map(|((_, name), n_bytes)| (*name, n_bytes));
        [("model", shared)].into_iter().chain(holders).collect()
    }

    /// The limit.
    pub(crate) fn limit(&self) -> Option<u64> {
        self.0.limit
    }

    /// For programs.
    pub(crate) fn to_json(&self) -> Value {
        let held: serde_json::Map<_, _> =
            self.told().into_iter().map(|(name, n)| (name.to_string(), json!(n))).collect();
        json!({ "limit": self.limit(), "held": held, "conversation": self.sizes().context })
    }
}

/// Since when somebody waits for memory, and whether that is too long.
pub(crate) struct Patience(Instant);

impl Patience {
    /// From now on.
    pub(crate) fn new() -> Patience {
        Patience(Instant::now())
    }

    /// # Errors
    /// `Busy` after the longest wait that any client is asked for.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.elapsed() > MAX_RETRY_AFTER {
            return Err(Error::busy("other requests hold the memory that this one needs; ask again"));
        }
        Ok(())
    }
}

/// The error of what can never fit.
pub(crate) fn never(n_bytes: u64, room: u64) -> Error {
    Error::limit(format!(
        "this takes `{n_bytes}` bytes besides the model, {room} are left for it; take fewer or smaller frames, or start the server with a larger --max-memory"
    ))
}

fn context_cost(engine: &Arc<Engine>, options: &SessionOptions) -> Result<Cost> {
    let limits = Limits { n_ctx: Some(options.n_ctx), ..Limits::default() };
    Ok(Budget::new(engine, limits, *options).fit(Vec::new(), 0)?.1)
}
