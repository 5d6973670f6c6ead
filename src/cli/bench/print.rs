//! Rows as a table, as JSON, as CSV.

use std::io::Write;

use serde_json::{Value, json};

use super::peer::Peer;
use super::{Args, Row};
use crate::Result;
use crate::cli::out::stdout;
use crate::kernels::{self, threads};
use crate::stream::Engine;

/// Writes all rows to stdout.
pub(super) fn print(args: &Args, engine: &Engine, rows: &[Row]) -> Result<()> {
    let (kernels, n_threads) = (kernels::select()?.name, threads::count());
    let (n_layer, n_host) = (engine.text.hparams().n_layer, engine.text.n_host_layers());
    let on_gpus = n_layer - n_host;
    let backend = match on_gpus {
        0 => "CPU".to_string(),
        n => format!("CUDA {n}/{n_layer} layers, CPU"),
    };
    let mut out = stdout();
    let fields = |row: &Row| -> Value {
        let (mean, deviation) = row.rate();
        let ns = |s: f64| (s * 1e9) as u64;
        let mut fields = json!({
            "model_filename": args.model.display().to_string(), "model_type": engine.name, "model_size": engine.n_bytes,
            "backends": backend, "n_gpu_layers": on_gpus, "kernels": kernels, "n_threads": n_threads, "n_batch": args.batch_size,
            "type_k": args.cache_type_k, "type_v": args.cache_type_v, "test": row.test,
            "avg_ns": ns(row.seconds.iter().sum::<f64>() / row.seconds.len() as f64), "avg_ts": mean, "stddev_ts": deviation,
            "unit": row.unit, "samples_ns": row.seconds.iter().map(|s| ns(*s)).collect::<Vec<_>>(),
        });
        if let (Some((ours, theirs, ratio)), Some(peer)) = (row.beside_peer(), &row.peer) {
            fields["median_ts"] = ours.into();
            fields["peer_median_ts"] = theirs.into();
            fields["ratio"] = ratio.into();
            fields["peer_options"] = peer.how.as_str().into();
            fields["peer_system_info"] = Peer::system_info().into();
            fields["peer_samples_ns"] = peer.seconds.iter().map(|s| ns(*s)).collect();
        }
        fields
    };
    match args.output.as_str() {
        "json" => writeln!(out, "{:#}", rows.iter().map(fields).collect::<Value>())?,
        "csv" => {
            let peer = if args.peer.is_some() { ",median_ts,peer_median_ts,ratio,peer_options" } else { "" };
            writeln!(
                out,
                "model_filename,model_size,kernels,n_threads,n_batch,type_k,type_v,test,avg_ts,stddev_ts,unit{peer}"
            )?;
            for row in rows {
                let (mean, deviation) = row.rate();
                let file = args.model.display().to_string().replace('"', "\"\"");
                let peer = match (row.beside_peer(), &row.peer) {
                    (Some((ours, theirs, ratio)), Some(peer)) => format!(",{ours},{theirs},{ratio},{}", peer.how),
                    _ if args.peer.is_some() => ",,,,".to_string(),
                    _ => String::new(),
                };
                writeln!(
                    out,
                    "\"{file}\",{},{kernels},{n_threads},{},{},{},{},{mean},{deviation},{}{peer}",
                    engine.n_bytes, args.batch_size, args.cache_type_k, args.cache_type_v, row.test, row.unit
                )?;
            }
        }
        _ => {
            let (head, line) = match args.peer {
                Some(_) => (" median | llama.cpp | ratio | its options |", " ---: | ---: | ---: | --- |"),
                None => ("", ""),
            };
            writeln!(out, "| model | size | backend | threads | kv | test | rate |{head}")?;
            writeln!(out, "| --- | ---: | --- | ---: | --- | ---: | ---: |{line}")?;
            for row in rows {
                let (mean, deviation) = row.rate();
                let size = indicatif::HumanBytes(engine.n_bytes);
                let kv = format!("{}/{}", args.cache_type_k, args.cache_type_v);
                let peer = match (row.beside_peer(), &row.peer) {
                    (Some((ours, theirs, ratio)), Some(peer)) => {
                        format!(" {ours:.2} | {theirs:.2} | {ratio:.2} | {} |", peer.how)
                    }
                    _ if args.peer.is_some() => " | | | |".to_string(),
                    _ => String::new(),
                };
                writeln!(
                    out,
                    "| {} | {size} | {backend} {kernels} | {n_threads} | {kv} | {} | {mean:.2} ± {deviation:.2} {} |{peer}",
                    engine.name, row.test, row.unit
                )?;
            }
        }
    }
    Ok(())
}
