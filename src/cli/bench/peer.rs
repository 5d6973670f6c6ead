//! The same tests in llama.cpp: same file, same threads, same process, in whichever of its ways is fastest.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use ggml_sys::{Context, ContextOptions, Model};

use super::{Work, timed};
use crate::kernels::threads;
use crate::{Error, ErrorKind, Result};

/// Most tokens that a way is tried with: enough to tell prefills apart, and some steps of decoding.
const TRIAL_TOKENS: usize = 512;
const TRIAL_STEPS: usize = 8;
/// Fewest tokens that are computed to fill a cache; their keys and values are then repeated.
const FILL_TOKENS: usize = 64;

/// One of the ways in which llama.cpp can run a test.
#[derive(Clone, Copy, PartialEq)]
struct Way {
    /// Weights are copied into the order of ggml's fastest kernels, for the types that have some.
    repack: bool,
    flash: bool,
}

/// The model in llama.cpp, loaded once per kind of loading.
pub(super) struct Peer {
    path: PathBuf,
    ways: Vec<Way>,
    models: [Option<Arc<Model>>; 2],
}

/// A context filled to its depth, in the fastest way.
pub(super) struct PeerTest {
    context: Context,
    work: Work,
    tokens: Vec<u32>,
    way: Way,
}

fn failed(err: ggml_sys::Error) -> Error {
    Error::new(ErrorKind::Mismatch, format!("llama.cpp {err}"))
}

impl Peer {
    /// Reads which ways are wanted, and warns where ggml was not built for this machine.
    ///
    /// # Errors
    /// A word that is not known.
    pub(super) fn load(path: &Path, how: &str) -> Result<Peer> {
        let (mut repack, mut flash) = (None, None);
        for word in how.split(',').filter(|word| *word != "best") {
            match word {
                "repack" | "no-repack" => repack = Some(word == "repack"),
                "fa" | "no-fa" => flash = Some(word == "fa"),
                _ => {
                    let known = "best, repack, no-repack, fa or no-fa";
                    return Err(Error::bad_input(format!("peer option `{word}` is not known, expected {known}")));
                }
            }
        }
        let either = |chosen: Option<bool>| chosen.map_or(vec![false, true], |chosen| vec![chosen]);
        let with = |repack: bool| either(flash).into_iter().map(move |flash| Way { repack, flash });
        let ways = either(repack).into_iter().flat_map(with).collect();
        let missing = ggml_sys::missing_features();
        if !missing.is_empty() {
            eprintln!(
                "warning: ggml was built without {}, which this CPU has: its times are not fair; build with \
                 RUSTFLAGS=-Ctarget-cpu=native",
                missing.join(", ")
            );
        }
        Ok(Peer { path: path.to_path_buf(), ways, models: [None, None] })
    }

    /// Fills a cache and finds the fastest way.
    ///
    /// # Errors
    /// What llama.cpp says when it cannot run the test in any way.
    pub(super) fn test(&mut self, work: Work) -> Result<PeerTest> {
        let mut best: Option<(f64, PeerTest)> = None;
        let mut refused = None;
        for way in self.ways.clone() {
            match self.try_way(work, way) {
                Ok((seconds, test)) if best.as_ref().is_none_or(|(best, _)| seconds < *best) => {
                    best = Some((seconds, test));
                }
                Ok(_) => {}
                Err(err) => refused = Some(err),
            }
        }
        let unknown = || Error::bad_input("no way to run the peer");
        best.map(|(_, test)| test).ok_or_else(|| refused.unwrap_or_else(unknown))
    }

    fn try_way(&mut self, work: Work, way: Way) -> Result<(f64, PeerTest)> {
        let model = match &mut self.models[usize::from(way.repack)] {
            Some(model) => Arc::clone(model),
            place => Arc::clone(place.insert(Model::load(&self.path, way.repack).map_err(failed)?)),
        };
        let options = ContextOptions {
            n_ctx: work.depth + work.n,
            n_batch: work.n_batch.max(FILL_TOKENS),
            n_threads: threads::count(),
            flash: way.flash,
            type_k: work.types.0.ty.id(),
            type_v: work.types.1.ty.id(),
        };
        let mut context = Context::new(&model, options).map_err(failed)?;
        context.fill(work.depth).map_err(failed)?;
        let tokens = timed::tokens(work.n, model.n_vocab());
        let mut test = PeerTest { context, work, tokens, way };
        let n = work.n.min(if work.n_batch == 1 { TRIAL_STEPS } else { TRIAL_TOKENS });
        // The first run touches memory for the first time.
        test.run(n)?;
        let seconds = test.run(n)?;
        Ok((seconds, test))
    }

    /// What ggml was compiled for.
    pub(super) fn system_info() -> String {
        ggml_sys::system_info()
    }
}

impl PeerTest {
    /// The way that was fastest.
    pub(super) fn how(&self) -> String {
        let word = |yes: bool, name: &str| if yes { name.to_string() } else { format!("no-{name}") };
        format!("{} {}", word(self.way.repack, "repack"), word(self.way.flash, "fa"))
    }

    /// Seconds for the first `n` tokens of the test.
    ///
    /// # Errors
    /// What llama.cpp says.
    pub(super) fn run(&mut self, n: usize) -> Result<f64> {
        self.context.truncate(self.work.depth).map_err(failed)?;
        let started = Instant::now();
        for step in self.tokens[..n].chunks(self.work.n_batch) {
            self.context.run(step).map_err(failed)?;
        }
        let seconds = started.elapsed().as_secs_f64();
        self.context.pause();
        Ok(seconds)
    }
}
