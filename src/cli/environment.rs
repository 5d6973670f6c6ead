//! What the environment says. The library reads none of it: it is asked here, and handed on as options.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use crate::Result;
use crate::kernels;

/// The variable that names the table of kernels to use.
const KERNELS: &str = "LONGTAKE_KERNELS";
/// The variable that is 0 where a GPU's launches are not to be recorded.
#[cfg(feature = "cuda")]
const GRAPHS: &str = "LONGTAKE_CUDA_GRAPH";
/// The variable that is there where the emulated GPU stands in for those of the machine.
#[cfg(feature = "cuda-emulation")]
const EMULATED: &str = "LONGTAKE_CUDA_EMULATED";

/// Asks for the kernels that `LONGTAKE_KERNELS` names, if it names any.
///
/// # Errors
/// When others were asked for before.
pub fn choose_kernels() -> Result<()> {
    match std::env::var(KERNELS).ok().filter(|name| !name.is_empty()) {
        Some(name) => kernels::prefer(&name, KERNELS),
        None => Ok(()),
    }
}

/// Whether a GPU's launches may be recorded and replayed: unless `LONGTAKE_CUDA_GRAPH` is 0.
#[cfg(feature = "cuda")]
pub fn may_record() -> bool {
    std::env::var_os(GRAPHS).is_none_or(|word| word != "0")
}

/// Whether the emulated GPU is meant: where `LONGTAKE_CUDA_EMULATED` is set.
#[cfg(feature = "cuda-emulation")]
pub(crate) fn wants_emulation() -> bool {
    std::env::var_os(EMULATED).is_some()
}

/// The folder below which this user keeps things of one kind: what `variable` says, as free desktops do, or Windows' own, or
/// `at_home` in the home folder.
pub(crate) fn user_folder(variable: &str, at_home: &[&str]) -> Option<PathBuf> {
    let from = |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || from("HOME").map(|home| at_home.iter().fold(home, |path, part| path.join(part)));
    from(variable).or_else(|| from("LOCALAPPDATA")).or_else(home)
}
