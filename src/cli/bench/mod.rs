//! `longtake bench`: rows in the manner of llama-bench, with rows for the vision tower beside them, and on request
//! llama.cpp's time for the same work.
//! Start reading at [`run`]; `timed.rs` holds what is timed, `peer.rs` the same in llama.cpp (cargo feature `ggml`; in other
//! builds `no_peer.rs` stands in its place), `print.rs` the formats.

#[cfg_attr(not(feature = "ggml"), path = "no_peer.rs")]
mod peer;
mod print;
mod timed;

use std::path::PathBuf;
use std::sync::Arc;

use super::flags::all_if_negative;
use crate::cache::{CacheType, cache_type};
use crate::kernels::threads;
use crate::stream::{Engine, EngineOptions, MmprojChoice};
use crate::{Error, Result};
use peer::Peer;
use print::print;
use timed::{ParallelTest, TextTest, encode_test, video_test};

/// Measure prefill, decoding and encoding speed.
///
/// Depths are filled with synthetic keys and values, so a row at 64k tokens does not take the hour of reading them first.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Text model (GGUF).
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    /// Projector (GGUF); by default the one beside the model [short: -mm]
    #[arg(long, value_name = "FILE")]
    mmproj: Option<PathBuf>,
    /// Prompt lengths (comma list; 0: none).
    #[arg(short = 'p', long, value_delimiter = ',', default_value = "512")]
    n_prompt: Vec<usize>,
    /// Generated tokens (comma list; 0: none).
    #[arg(short = 'n', long, value_delimiter = ',', default_value = "64")]
    n_gen: Vec<usize>,
    /// Also generate in this many contexts at once, whose steps are taken together (comma list): tokens of all of them count.
    #[arg(long, value_name = "N", value_delimiter = ',')]
    parallel: Vec<usize>,
    /// Tokens already in the cache (comma list).
    #[arg(short = 'd', long, value_delimiter = ',', default_value = "0")]
    n_depth: Vec<usize>,
    /// Picture sizes to encode, as WIDTHxHEIGHT (comma list; `none`) [default: 448x252, or what the tower's grid has nearest to it]
    #[arg(short = 'e', long, value_delimiter = ',')]
    encode: Vec<String>,
    /// Video to read from the file to the filled cache, sampled as `run` does (repeatable).
    #[arg(long, value_name = "FILE")]
    video: Vec<PathBuf>,
    /// Times each test is run.
    #[arg(short, long, default_value_t = 3)]
    repetitions: usize,
    /// Tokens per step of prefill.
    #[arg(short, long, default_value_t = 512)]
    batch_size: usize,
    /// Type of cached keys [short: -ctk]
    #[arg(long, default_value = "f16")]
    cache_type_k: String,
    /// Type of cached values [short: -ctv]
    #[arg(long, default_value = "f16")]
    cache_type_v: String,
    /// Threads (0 or -1: all that this process may use).
    #[arg(short, long, default_value_t = 0, value_parser = all_if_negative, allow_negative_numbers = true)]
    threads: usize,
    /// Layers on the GPU: the last N, one more for the output matrix, or `all` [short: -ngl]
    #[arg(long, value_name = "N", hide = cfg!(not(feature = "cuda")))]
    n_gpu_layers: Option<String>,
    /// Run each text test in llama.cpp too, on the same file and threads, in turn with ours: a build with the feature `ggml`
    /// can. Of `repack` or `no-repack` and `fa` or `no-fa` (comma list) whatever is not named is chosen per test by trying.
    #[arg(long, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "best")]
    peer: Option<String>,
    /// md, json or csv.
    #[arg(short, long, default_value = "md", value_parser = ["md", "json", "csv"])]
    output: String,
}

/// One test with the seconds of each repetition.
struct Row {
    test: String,
    /// Tokens (or encodings) per repetition.
    n: usize,
    unit: &'static str,
    seconds: Vec<f64>,
    peer: Option<PeerSeconds>,
}

/// What llama.cpp took, repetition by repetition.
struct PeerSeconds {
    /// Which of its ways this was.
    how: String,
    seconds: Vec<f64>,
}

impl Row {
    /// Mean and standard deviation of the rate.
    fn rate(&self) -> (f64, f64) {
        let rates: Vec<f64> = self.seconds.iter().map(|s| self.n as f64 / s).collect();
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        let var = rates.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / rates.len() as f64;
        (mean, var.sqrt())
    }

    /// Median rates of both and the median of their ratio, repetition by repetition.
    fn beside_peer(&self) -> Option<(f64, f64, f64)> {
        let peer = self.peer.as_ref()?;
        let rates = |seconds: &[f64]| median(seconds.iter().map(|s| self.n as f64 / s).collect());
        let ratios = self.seconds.iter().zip(&peer.seconds).map(|(ours, theirs)| theirs / ours);
        Some((rates(&self.seconds), rates(&peer.seconds), median(ratios.collect())))
    }
}

/// The middle of an odd number of values, the mean of the two middle ones of an even number.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    (values[(n - 1) / 2] + values[n / 2]) / 2.0
}

/// Tokens before, during and per step of a test.
#[derive(Clone, Copy)]
struct Work {
    depth: usize,
    n: usize,
    n_batch: usize,
    types: (CacheType, CacheType),
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<()> {
    threads::start(args.threads)?;
    let asked = args.encode.iter().filter(|e| *e != "none").map(|e| size(e)).collect::<Result<Vec<_>>>()?;
    let encodes = args.encode.is_empty() || !asked.is_empty();
    if args.repetitions == 0 || args.batch_size == 0 {
        return Err(Error::bad_input("repetitions and batch size must be at least 1"));
    }
    let mut peer = args.peer.as_deref().map(|how| Peer::load(&args.model, how)).transpose()?;
    let mmproj = match (&args.mmproj, encodes || !args.video.is_empty()) {
        (Some(path), _) => MmprojChoice::Path(path.clone()),
        (None, true) => MmprojChoice::Auto,
        (None, false) => MmprojChoice::Off,
    };
    let mut engine = Engine::load(&EngineOptions { model: args.model.clone(), mmproj, mmap: true })?;
    crate::cli::gpus::offload(&mut engine, crate::cli::gpus::n_layers(args.n_gpu_layers.as_deref())?)?;
    let engine = Arc::new(engine);
    let types = (cache_type(&args.cache_type_k)?, cache_type(&args.cache_type_v)?);
    let sizes = match &engine.vision {
        Some(tower) if args.encode.is_empty() => vec![near_default(tower.hparams().factor())],
        Some(tower) => on_grid(asked, tower.hparams().factor())?,
        None => Vec::new(),
    };
    let mut rows = Vec::new();
    for depth in &args.n_depth {
        let suffix = if *depth == 0 { String::new() } else { format!(" @ d{depth}") };
        let prefills = args.n_prompt.iter().map(|n| ("pp", *n, args.batch_size));
        let decodes = args.n_gen.iter().map(|n| ("tg", *n, 1));
        for (name, n, n_batch) in prefills.chain(decodes).filter(|(_, n, _)| *n > 0) {
            let work = Work { depth: *depth, n, n_batch: n_batch.min(n), types };
            let mut row = Row { test: format!("{name}{n}{suffix}"), n, unit: "t/s", seconds: Vec::new(), peer: None };
            let mut theirs = peer.as_mut().map(|peer| peer.test(work)).transpose()?;
            row.peer = theirs.as_ref().map(|test| PeerSeconds { how: test.how(), seconds: Vec::new() });
            let mut ours = TextTest::new(&engine, work)?;
            // The warm-up need not be long.
            ours.run(work.n_batch)?;
            for _ in 0..args.repetitions {
                row.seconds.push(ours.run(n)?);
                if let (Some(test), Some(peer)) = (&mut theirs, &mut row.peer) {
                    peer.seconds.push(test.run(n)?);
                }
            }
            rows.push(row);
        }
        for (n_contexts, n) in args.parallel.iter().flat_map(|many| args.n_gen.iter().map(|n| (*many, *n))) {
            if n_contexts == 0 || n == 0 {
                continue;
            }
            let work = Work { depth: *depth, n, n_batch: 1, types };
            let mut row = Row {
                test: format!("tg{n} x{n_contexts}{suffix}"),
                n: n * n_contexts,
                unit: "t/s",
                seconds: Vec::new(),
                peer: None,
            };
            let mut together = ParallelTest::new(&engine, work, n_contexts)?;
            together.run(1)?;
            for _ in 0..args.repetitions {
                row.seconds.push(together.run(n)?);
            }
            rows.push(row);
        }
    }
    if let Some(tower) = &engine.vision {
        for (w, h) in sizes {
            let seconds = encode_test(tower, w, h, args.repetitions)?;
            rows.push(Row { test: format!("encode {w}x{h}"), n: 1, unit: "pairs/s", seconds, peer: None });
        }
    }
    for path in &args.video {
        let (name, n, seconds) = video_test(&engine, path, (args.batch_size, types), args.repetitions)?;
        rows.push(Row { test: format!("video {name}"), n, unit: "t/s", seconds, peer: None });
    }
    print(&args, &engine, &rows)
}

/// The size that is encoded unless others are asked for, 448 x 252 pixels, with each side on a grid of `factor` pixels.
fn near_default(factor: usize) -> (usize, usize) {
    let near = |side: usize| ((side + factor / 2) / factor).max(1) * factor;
    (near(448), near(252))
}

/// The sizes, if a tower whose tokens are `factor` pixels wide and high takes them: asked before anything is measured.
fn on_grid(sizes: Vec<(usize, usize)>, factor: usize) -> Result<Vec<(usize, usize)>> {
    match sizes.iter().find(|(w, h)| !w.is_multiple_of(factor) || !h.is_multiple_of(factor)) {
        Some((w, h)) => {
            Err(Error::bad_input(format!("picture size `{w}x{h}` must be a multiple of {factor} on both sides")))
        }
        None => Ok(sizes),
    }
}

fn size(text: &str) -> Result<(usize, usize)> {
    let sides = text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    sides
        .filter(|(w, h)| (1..=1 << 14).contains(w) && (1..=1 << 14).contains(h))
        .ok_or_else(|| Error::bad_input(format!("picture size `{text}` must be WIDTHxHEIGHT, each 1 to {}", 1 << 14)))
}

#[cfg(test)]
mod tests {
    use super::{near_default, on_grid};

    #[test]
    fn sizes_are_on_the_grid_of_the_tower() {
        assert_eq!([28, 32].map(near_default), [(448, 252), (448, 256)]);
        assert_eq!(on_grid(vec![(64, 32)], 32).unwrap(), [(64, 32)]);
        let error = on_grid(vec![(64, 32), (448, 252)], 32).unwrap_err().to_string();
        assert!(error.contains("`448x252`") && error.contains("multiple of 32"), "{error}");
    }
}
