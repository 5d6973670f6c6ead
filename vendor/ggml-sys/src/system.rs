//! Starting ggml once, its messages, and what it was compiled for.

use std::ffi::{CStr, c_char, c_void};
use std::sync::{Mutex, Once};

use crate::sys;

/// What went wrong, in one line.
#[derive(Debug)]
pub struct Error(String);

impl Error {
    /// With the last error that ggml or llama.cpp reported, if there is one.
    pub(crate) fn new(message: impl Into<String>) -> Error {
        let said = LAST_ERROR.lock().ok().and_then(|mut last| last.take());
        Error(said.map_or(message.into(), |said| format!("said `{said}`")))
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

pub type Result<T> = std::result::Result<T, Error>;

static LAST_ERROR: Mutex<Option<String>> = Mutex::new(None);

/// Fills ggml's tables, without which some of its functions silently return 0, and silences all but errors.
pub(crate) fn start() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: called once, before any other function; the callback is valid for ever.
        unsafe {
            sys::llama_log_set(Some(on_message), std::ptr::null_mut());
            sys::ggml_cpu_init();
            sys::llama_backend_init();
        }
    });
}

unsafe extern "C" fn on_message(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if level == sys::GGML_LOG_LEVEL_ERROR {
        // SAFETY: messages are C strings that live during the call.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_string();
        if let Ok(mut last) = LAST_ERROR.lock() {
            // The first says why, the ones behind it only that.
            last.get_or_insert(text);
        }
    }
}

/// The instruction sets ggml was compiled for, as llama.cpp prints them.
pub fn system_info() -> String {
    start();
    // SAFETY: a C string that llama.cpp keeps.
    unsafe { CStr::from_ptr(sys::llama_print_system_info()) }.to_string_lossy().trim().to_string()
}

/// Instruction sets of this CPU that make products faster and that ggml was compiled without: with any of them missing it is
/// no fair peer.
pub fn missing_features() -> Vec<&'static str> {
    start();
    #[allow(unused_mut)]
    let mut features: Vec<(&'static str, bool, i32)> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as here;
        // SAFETY: functions without arguments that return constants.
        unsafe {
            features.push(("AVX2", here!("avx2"), sys::ggml_cpu_has_avx2()));
            features.push(("AVX_VNNI", here!("avxvnni"), sys::ggml_cpu_has_avx_vnni()));
            features.push(("AVX512", here!("avx512f"), sys::ggml_cpu_has_avx512()));
            features.push(("AVX512_VNNI", here!("avx512vnni"), sys::ggml_cpu_has_avx512_vnni()));
            features.push(("AVX512_BF16", here!("avx512bf16"), sys::ggml_cpu_has_avx512_bf16()));
        }
    }
    features.into_iter().filter(|(_, here, ggml)| *here && *ggml == 0).map(|(name, ..)| name).collect()
}
