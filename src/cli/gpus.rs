//! `--n-gpu-layers` and `longtake inspect --gpus`. A build without the feature `cuda` says that it has none.
#![forbid(unsafe_code)]

use crate::stream::Engine;
use crate::{Error, Result};

/// How many layers `--n-gpu-layers` wants on GPUs: a number, or `all` with the output matrix.
///
/// # Errors
/// Another word.
pub(super) fn n_layers(flag: Option<&str>) -> Result<usize> {
    match flag {
        None => Ok(0),
        Some("all") => Ok(usize::MAX),
        Some(word) => word
            .parse()
            .map_err(|_| Error::bad_input(format!("--n-gpu-layers `{word}` is neither a number of layers nor `all`"))),
    }
}

/// Moves `n` layers and the vision tower to GPUs. A machine without GPUs is no error: it says so in a line, and the CPU
/// computes.
///
/// # Errors
/// GPUs that refuse, memory that they do not have.
#[cfg(feature = "cuda")]
pub(super) fn offload(engine: &mut Engine, n: usize) -> Result<()> {
    if n == 0 {
        return Ok(());
    }
    let gpus = open()?;
    if gpus.is_empty() {
        return Ok(());
    }
    gpus.iter().for_each(|gpu| gpu.set_graphs(super::environment::may_record()));
    engine.offload(&gpus, n)?;
    for (name, layers, head) in engine.text.on_gpus() {
        let head = if head { " and the output matrix" } else { "" };
        eprintln!("{name}: layers {} to {}{head}", layers.start, layers.end - 1);
    }
    Ok(())
}

/// The GPUs of this machine; where there are none it says why.
#[cfg(feature = "cuda")]
fn open() -> Result<Vec<crate::kernels::cuda::Gpu>> {
    use crate::kernels::cuda::{Gpu, gpus};
    #[cfg(feature = "cuda-emulation")]
    if super::environment::wants_emulation() {
        return Ok(vec![Gpu::emulated(1 << 32)]);
    }
    let found = match gpus() {
        Ok(found) => found,
        Err(err) => {
            eprintln!("warning: no layers on a GPU: {err}; the CPU computes");
            return Ok(Vec::new());
        }
    };
    let (able, old): (Vec<_>, Vec<_>) = found.iter().partition(|info| info.can_run());
    for info in old {
        let (major, minor) = info.capability;
        eprintln!(
            "warning: {} is not used: its compute capability is {major}.{minor}, expected 7.5 or later",
            info.name
        );
    }
    able.into_iter().map(Gpu::open).collect()
}

/// Says that this build has no CUDA, where layers on a GPU are wanted.
///
/// # Errors
/// None.
#[cfg(not(feature = "cuda"))]
pub(super) fn offload(_: &mut Engine, n: usize) -> Result<()> {
    if n > 0 {
        eprintln!("warning: this binary has no CUDA (cargo feature `cuda`), --n-gpu-layers has no effect");
    }
    Ok(())
}

/// Lists the GPUs of this machine on stdout, as text or as a JSON array.
///
/// # Errors
/// `Unsupported` saying what is missing: the feature, the driver or a GPU.
#[cfg(feature = "cuda")]
pub(super) fn list(json: bool) -> Result<()> {
    use std::io::Write;

    let gpus = crate::kernels::cuda::gpus()?;
    let mut text = String::new();
    for gpu in &gpus {
        let (major, minor) = gpu.capability;
        let verdict = if gpu.can_run() { "can run" } else { "cannot run, expected capability 7.5 or later" };
        let mib = gpu.memory >> 20;
        text += &format!("{}  {}  {mib} MiB  capability {major}.{minor}: {verdict}\n", gpu.index, gpu.name);
    }
    if json {
        let list = gpus.iter().map(|gpu| {
            let (major, minor) = gpu.capability;
            serde_json::json!({
                "index": gpu.index, "name": gpu.name, "memory": gpu.memory, "capability": [major, minor],
                "can_run": gpu.can_run(),
            })
        });
        text = format!("{}\n", list.collect::<serde_json::Value>());
    }
    Ok(super::out::stdout().write_all(text.as_bytes())?)
}

/// # Errors
/// Always: this build has no CUDA.
#[cfg(not(feature = "cuda"))]
pub(super) fn list(_: bool) -> Result<()> {
    Err(Error::unsupported("this binary has no CUDA, expected one built with `cargo build --release --features cuda`"))
}
