//! The embedded model, made by `training/symbols/train.sh`.

use std::sync::Arc;

use crate::Result;
use crate::gguf::Gguf;
use crate::stream::Engine;

static TEXT: &[u8] = include_bytes!("../../assets/symbols/symbols.gguf");
static MMPROJ: &[u8] = include_bytes!("../../assets/symbols/mmproj-symbols.gguf");

/// Opens it.
///
/// # Errors
/// None, unless memory is refused.
pub fn engine() -> Result<Engine> {
    let open = |name: &str, bytes| Gguf::from_static(name, bytes).map(Arc::new);
    Engine::from_files(open("symbols.gguf", TEXT)?, Some(open("mmproj-symbols.gguf", MMPROJ)?))
}
