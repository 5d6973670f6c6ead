//! File names and labels by the GGUF conventions.

use std::path::{Path, PathBuf};

/// `<BaseName>-<Encoding>.gguf`, with `mmproj-` before it for a projector.
pub(crate) fn file_name(model: &str, encoding: &str, is_mmproj: bool) -> String {
    let prefix = if is_mmproj { "mmproj-" } else { "" };
    format!("{prefix}{}-{encoding}.gguf", base_name(model))
}

/// Where the projector of the text model at `text` goes: `mmproj-<stem>.gguf` beside it.
pub(crate) fn mmproj_beside(text: &Path) -> PathBuf {
    let stem = text.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    text.with_file_name(format!("mmproj-{stem}.gguf"))
}

/// A model's name as a part of a file name: letters, digits, `.`, `_` and `-`.
fn base_name(model: &str) -> String {
    let kept: String =
        model.chars().map(|c| if c.is_alphanumeric() || matches!(c, '.' | '_') { c } else { '-' }).collect();
    let name = kept.trim_matches(|c| c == '-' || c == '.');
    if name.is_empty() { "model".to_string() } else { name.chars().take(100).collect() }
}

/// A parameter count as people write it: two significant digits or more (`1.5B`, `72B`, `820K`).
pub(crate) fn size_label(n_params: u64) -> String {
    let steps = [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")];
    let n = n_params as f64;
    let (step, unit) = steps.into_iter().find(|(step, _)| n >= *step).unwrap_or((1e3, "K"));
    let scaled = n / step;
    if scaled.round() >= 10.0 { format!("{scaled:.0}{unit}") } else { format!("{scaled:.1}{unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_names() {
        let rows = [
            (1_543_714_304, "1.5B"),
            (7_615_616_512, "7.6B"),
            (72_706_203_648, "73B"),
            (665_271_296, "665M"),
            (820_000, "820K"),
            (120, "0.1K"),
        ];
        for (n, want) in rows {
            assert_eq!(size_label(n), want);
        }
        assert_eq!(file_name("Qwen2-VL-2B", "Q4_K_M", false), "Qwen2-VL-2B-Q4_K_M.gguf");
        assert_eq!(file_name("../a b/c", "F16", true), "mmproj-a-b-c-F16.gguf");
        assert_eq!(file_name("..", "F16", false), "model-F16.gguf");
        assert_eq!(mmproj_beside(Path::new("x/M.gguf")), Path::new("x/mmproj-M.gguf"));
    }
}
