//! `longtake bench`: rows in the manner of llama-bench, with rows for the vision tower beside them.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

use super::flags::cache_type;
use crate::cache::{CacheShape, KvCache};
use crate::gguf::GgmlType;
use crate::kernels::{self, threads};
use crate::model::{Batch, Scratch, TextModel, VisionTower};
use crate::position::Placer;
use crate::stream::{Engine, EngineOptions, MmprojChoice, fill};
use crate::{Error, Result};

/// Measure prefill, decoding and encoding speed.
///
/// Depths are filled with synthetic keys and values, so a row at 64k tokens does not take the hour of reading them first.
#[derive(clap::Args)]
pub struct Args {
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
    /// Tokens already in the cache (comma list).
    #[arg(short = 'd', long, value_delimiter = ',', default_value = "0")]
    n_depth: Vec<usize>,
    /// Picture sizes to encode, as WIDTHxHEIGHT (comma list; `none`).
    #[arg(short = 'e', long, value_delimiter = ',', default_value = "448x252")]
    encode: Vec<String>,
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
    /// Threads (0: all that this process may use).
    #[arg(short, long, default_value_t = 0)]
    threads: usize,
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
}

impl Row {
    /// Mean and standard deviation of the rate.
    fn rate(&self) -> (f64, f64) {
        let rates: Vec<f64> = self.seconds.iter().map(|s| self.n as f64 / s).collect();
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        let var = rates.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / rates.len() as f64;
        (mean, var.sqrt())
    }
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    threads::start(args.threads)?;
    let encode = args.encode.iter().filter(|e| *e != "none").map(|e| size(e)).collect::<Result<Vec<_>>>()?;
    if args.repetitions == 0 || args.batch_size == 0 {
        return Err(Error::bad_input("repetitions and batch size must be at least 1"));
    }
    let mmproj = match (&args.mmproj, encode.is_empty()) {
        (Some(path), _) => MmprojChoice::Path(path.clone()),
        (None, false) => MmprojChoice::Auto,
        (None, true) => MmprojChoice::Off,
    };
    let engine = Engine::load(&EngineOptions { model: args.model.clone(), mmproj, mmap: true })?;
    let types = (cache_type(&args.cache_type_k)?, cache_type(&args.cache_type_v)?);
    let mut rows = Vec::new();
    for depth in &args.n_depth {
        let suffix = if *depth == 0 { String::new() } else { format!(" @ d{depth}") };
        for n in args.n_prompt.iter().filter(|n| **n > 0) {
            let seconds = text_test(&engine.text, *depth, *n, args.batch_size, types, args.repetitions)?;
            rows.push(Row { test: format!("pp{n}{suffix}"), n: *n, unit: "t/s", seconds });
        }
        for n in args.n_gen.iter().filter(|n| **n > 0) {
            let seconds = text_test(&engine.text, *depth, *n, 1, types, args.repetitions)?;
            rows.push(Row { test: format!("tg{n}{suffix}"), n: *n, unit: "t/s", seconds });
        }
    }
    if let Some(tower) = &engine.vision {
        for (w, h) in encode {
            let seconds = encode_test(tower, w, h, args.repetitions)?;
            rows.push(Row { test: format!("encode {w}x{h}"), n: 1, unit: "pairs/s", seconds });
        }
    }
    print(&args, &engine, &rows)
}

/// Seconds per repetition of `n` tokens in steps of `n_batch`, after one warm-up, over a cache that holds `depth` tokens.
fn text_test(
    model: &TextModel,
    depth: usize,
    n: usize,
    n_batch: usize,
    (type_k, type_v): (GgmlType, GgmlType),
    repetitions: usize,
) -> Result<Vec<f64>> {
    let hp = model.hparams();
    let shape = CacheShape {
        n_layer: hp.n_layer,
        n_head_kv: hp.n_head_kv,
        d: hp.n_embd_head,
        n_ctx: depth + n,
        type_k,
        type_v,
    };
    let mut cache = KvCache::new(shape)?;
    fill(&mut cache, depth)?;
    let n_batch = n_batch.min(n);
    let mut scratch = Scratch::new(hp, n_batch);
    let tokens: Vec<u32> = (0..n).map(|i| (i.wrapping_mul(7919) % hp.n_vocab) as u32).collect();
    let mut embd = vec![0.0; n_batch * hp.n_embd];
    let mut seconds = Vec::new();
    for repetition in 0..=repetitions {
        cache.truncate(depth);
        let (mut placer, mut pos) = (Placer::new(hp.layout), Vec::new());
        placer.text(depth, &mut pos);
        // The warm-up need not be long.
        let n = if repetition == 0 { n_batch.min(n) } else { n };
        let started = Instant::now();
        for step in tokens[..n].chunks(n_batch) {
            let rows = &mut embd[..step.len() * hp.n_embd];
            model.embed(step, rows)?;
            pos.clear();
            placer.text(step.len(), &mut pos);
            model.forward(&Batch { embd: rows, pos: &pos, n_logits: 1 }, &mut cache, &mut scratch, None)?;
        }
        if repetition > 0 {
            seconds.push(started.elapsed().as_secs_f64());
        }
    }
    Ok(seconds)
}

fn encode_test(tower: &VisionTower, w: usize, h: usize, repetitions: usize) -> Result<Vec<f64>> {
    let hp = tower.hparams();
    let factor = hp.factor();
    if !w.is_multiple_of(factor) || !h.is_multiple_of(factor) {
        return Err(Error::bad_input(format!("picture size `{w}x{h}` must be a multiple of {factor} on both sides")));
    }
    let (rows, columns) = (h / hp.patch_size, w / hp.patch_size);
    let pixels: Vec<f32> = (0..rows * columns * hp.n_patch_values()).map(|i| (i % 251) as f32 / 100.0 - 1.2).collect();
    let mut seconds = Vec::new();
    for repetition in 0..=repetitions {
        let started = Instant::now();
        tower.encode(&pixels, rows, columns, None)?;
        if repetition > 0 {
            seconds.push(started.elapsed().as_secs_f64());
        }
    }
    Ok(seconds)
}

fn print(args: &Args, engine: &Engine, rows: &[Row]) -> Result<()> {
    let (kernels, n_threads) = (kernels::select()?.name, threads::count());
    let mut out = std::io::stdout().lock();
    let fields = |row: &Row| -> Value {
        let (mean, deviation) = row.rate();
        let ns = |s: f64| (s * 1e9) as u64;
        json!({
            "model_filename": args.model.display().to_string(), "model_type": engine.name, "model_size": engine.n_bytes,
            "backends": "CPU", "kernels": kernels, "n_threads": n_threads, "n_batch": args.batch_size,
            "type_k": args.cache_type_k, "type_v": args.cache_type_v, "test": row.test,
            "avg_ns": ns(row.seconds.iter().sum::<f64>() / row.seconds.len() as f64), "avg_ts": mean, "stddev_ts": deviation,
            "unit": row.unit, "samples_ns": row.seconds.iter().map(|s| ns(*s)).collect::<Vec<_>>(),
        })
    };
    match args.output.as_str() {
        "json" => writeln!(out, "{:#}", rows.iter().map(fields).collect::<Value>())?,
        "csv" => {
            writeln!(
                out,
                "model_filename,model_size,kernels,n_threads,n_batch,type_k,type_v,test,avg_ts,stddev_ts,unit"
            )?;
            for row in rows {
                let (mean, deviation) = row.rate();
                let file = args.model.display().to_string().replace('"', "\"\"");
                writeln!(
                    out,
                    "\"{file}\",{},{kernels},{n_threads},{},{},{},{},{mean},{deviation},{}",
                    engine.n_bytes, args.batch_size, args.cache_type_k, args.cache_type_v, row.test, row.unit
                )?;
            }
        }
        _ => {
            writeln!(out, "| model | size | backend | threads | kv | test | rate |")?;
            writeln!(out, "| --- | ---: | --- | ---: | --- | ---: | ---: |")?;
            for row in rows {
                let (mean, deviation) = row.rate();
                let size = indicatif::HumanBytes(engine.n_bytes);
                let kv = format!("{}/{}", args.cache_type_k, args.cache_type_v);
                writeln!(
                    out,
                    "| {} | {size} | CPU {kernels} | {n_threads} | {kv} | {} | {mean:.2} ± {deviation:.2} {} |",
                    engine.name, row.test, row.unit
                )?;
            }
        }
    }
    Ok(())
}

fn size(text: &str) -> Result<(usize, usize)> {
    let sides = text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    sides
        .filter(|(w, h)| (1..=1 << 14).contains(w) && (1..=1 << 14).contains(h))
        .ok_or_else(|| Error::bad_input(format!("picture size `{text}` must be WIDTHxHEIGHT, each 1 to {}", 1 << 14)))
}
