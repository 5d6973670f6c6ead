//! File types (`Q4_K_M` and its kin) and the type that each tensor gets: llama.cpp's rules, so that a file of ours is
//! laid out as its quantizer would.

use crate::gguf::GgmlType;
use crate::gguf::GgmlType::*;
use crate::tensor::can_dequantize;
use crate::{Error, Result};

/// A recipe for a whole file: `general.file_type` and the type that most tensors get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileType(usize);

/// Name, number in `general.file_type`, base type.
const TABLE: &[(&str, u32, GgmlType)] = &[
    ("F32", 0, F32),
    ("F16", 1, F16),
    ("BF16", 32, BF16),
    ("Q8_0", 7, Q8_0),
    ("Q4_0", 2, Q4_0),
    ("Q4_1", 3, Q4_1),
    ("Q5_0", 8, Q5_0),
    ("Q5_1", 9, Q5_1),
    ("Q2_K", 10, Q2_K),
    ("Q3_K_S", 11, Q3_K),
    ("Q3_K_M", 12, Q3_K),
    ("Q3_K_L", 13, Q3_K),
    ("Q4_K_S", 14, Q4_K),
    ("Q4_K_M", 15, Q4_K),
    ("Q5_K_S", 16, Q5_K),
    ("Q5_K_M", 17, Q5_K),
    ("Q6_K", 18, Q6_K),
    ("IQ4_NL", 25, IQ4_NL),
    ("IQ4_XS", 30, IQ4_XS),
];

/// Short names, as llama.cpp reads them.
const ALIASES: &[(&str, &str)] = &[("Q3_K", "Q3_K_M"), ("Q4_K", "Q4_K_M"), ("Q5_K", "Q5_K_M")];

impl FileType {
    /// All file types that can be written.
    pub fn all() -> impl Iterator<Item = FileType> {
        (0..TABLE.len()).map(FileType)
    }

    /// The file type called `name`, in any case; `Q4_K` stands for `Q4_K_M`, and `Q3_K`, `Q5_K` alike.
    ///
    /// # Errors
    /// `BadInput` listing the names.
    pub fn from_name(name: &str) -> Result<FileType> {
        let alias = ALIASES.iter().find(|(short, _)| short.eq_ignore_ascii_case(name));
        let full = alias.map_or(name, |(_, full)| full);
        TABLE.iter().position(|row| row.0.eq_ignore_ascii_case(full)).map(FileType).ok_or_else(|| {
            let known: Vec<&str> = TABLE.iter().map(|row| row.0).collect();
            // `IQ2_M` and its kin are mixtures of types that are read.
            let is_read =
                GgmlType::from_name(name).is_some_and(can_dequantize) || name.to_ascii_uppercase().starts_with("IQ");
            let what = if is_read { "is read, but not made here" } else { "is not known" };
            Error::bad_input(format!("file type `{name}` {what}, expected one of {}", known.join(", ")))
        })
    }

    /// The file type whose tensors are plainly of type `ty` (F32, F16, BF16).
    pub(crate) fn plain(ty: GgmlType) -> FileType {
        let at = TABLE.iter().position(|row| row.2 == ty);
        FileType(at.expect("plain types have a row"))
    }

    /// Its name, as in file names.
    pub fn name(self) -> &'static str {
        TABLE[self.0].0
    }

    /// Its number in `general.file_type`.
    pub fn id(self) -> u32 {
        TABLE[self.0].1
    }

    /// The type that most tensors get.
    pub fn base(self) -> GgmlType {
        TABLE[self.0].2
    }

    /// Whether it has fewer bits than a float of 16 bits.
    pub fn is_quantized(self) -> bool {
        self.base().block_len() > 1
    }
}

impl std::fmt::Display for FileType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What the rules want to know about a model.
#[derive(Debug, Clone, Default)]
pub(crate) struct ModelFacts {
    pub arch: String,
    pub n_layer: usize,
    /// Query heads per key-value head.
    pub n_gqa: usize,
    /// Whether `output.weight` exists (else the embedding does its work).
    pub has_output: bool,
    /// Experts of a layer, 0 where there are none.
    pub n_expert: usize,
    /// Whether importances steer the quantization.
    pub has_imatrix: bool,
    /// The layers with a tensor called `attn_v.weight`, in order. Others are recurrent, and are not counted.
    pub attn_v: Vec<usize>,
}

impl ModelFacts {
    /// The layers of the tensors called `attn_v.weight` among these names.
    pub(crate) fn layers_with_attn_v<'a>(names: impl Iterator<Item = &'a str>) -> Vec<usize> {
        let mut layers: Vec<usize> = names.filter(|name| name.ends_with("attn_v.weight")).map(layer_of).collect();
        layers.sort_unstable();
        layers
    }

    /// Whether this is a model with 80 layers of the families in which llama.cpp keeps `attn_v` at 5 bits or more,
    /// because many heads share it. It knows no size for `qwen2vl` and does not do it there.
    fn is_70b(&self) -> bool {
        self.n_layer == 80 && matches!(self.arch.as_str(), "llama" | "qwen2")
    }
}

/// Whether a tensor may be stored in another type than it came in: matrices called `...weight`, no norms, no tables of
/// positions, no patch kernels, no short convolutions.
pub(crate) fn is_quantizable(name: &str, ne: &[usize]) -> bool {
    let is_matrix = ne.iter().skip(1).any(|n| *n > 1);
    let kept = ["_norm.weight", "position_embd", "patch_embd", "ffn_gate_inp.weight", "ssm_conv1d"];
    name.ends_with("weight") && is_matrix && !kept.iter().any(|part| name.contains(part))
}

/// The type that llama.cpp's recipe `file_type` gives a quantizable tensor, before [`fit`].
pub(crate) fn recipe(file_type: FileType, name: &str, ne: &[usize], model: &ModelFacts) -> GgmlType {
    let base = file_type.base();
    if !file_type.is_quantized() {
        return base;
    }
    // A tied embedding is the output matrix.
    if name == "output.weight" || (name == "token_embd.weight" && !model.has_output) {
        return match base {
            _ if !ne[0].is_multiple_of(256) => Q8_0,
            Q8_0 => Q8_0,
            _ => Q6_K,
        };
    }
    let il = layer_of(name);
    let is = |part: &str| name.contains(part);
    // Small, and what they say is multiplied up over all tokens.
    if is("ssm_alpha.weight") || is("ssm_beta.weight") {
        return F32;
    }
    // With eight experts attention is so small a part that more bits for it cost nothing.
    let is_small = model.n_expert == 8;
    if is("attn_v.weight") {
        if is_small { Q8_0 } else { attn_v(file_type, il, model) }
    } else if is("attn_k.weight") && is_small {
        Q8_0
    } else if is("ffn_down") {
        ffn_down(file_type, il, model)
    } else if is("attn_output.weight") {
        match file_type.name() {
            "Q2_K" | "Q3_K_S" | "Q3_K_M" | "Q4_K_S" | "Q4_K_M" | "IQ4_NL" | "IQ4_XS" if is_small => Q5_K,
            "Q2_K" => Q3_K,
            "Q3_K_M" => Q4_K,
            "Q3_K_L" => Q5_K,
            _ => base,
        }
    } else if is("attn_qkv.weight") {
        match file_type.name() {
            "Q3_K_M" | "Q3_K_L" => Q4_K,
            "Q4_K_M" => Q5_K,
            "Q5_K_M" => Q6_K,
            _ => base,
        }
    } else {
        base
    }
}

fn attn_v(file_type: FileType, layer: usize, model: &ModelFacts) -> GgmlType {
    let base = file_type.base();
    let il = model.attn_v.iter().position(|known| *known == layer).unwrap_or(layer);
    let ty = match file_type.name() {
        "Q2_K" if model.n_gqa >= 4 => Q4_K,
        "Q2_K" => Q3_K,
        "Q3_K_M" if il < 2 => Q5_K,
        "Q3_K_M" => Q4_K,
        "Q3_K_L" => Q5_K,
        "IQ4_NL" | "IQ4_XS" if model.n_gqa >= 4 => Q5_K,
        "Q4_K_M" | "Q5_K_M" if wants_more_bits(il, model.attn_v.len()) => Q6_K,
        "Q4_K_S" if il < 4 => Q5_K,
        _ => base,
    };
    if model.is_70b() && matches!(ty, Q3_K | Q4_K) { Q5_K } else { ty }
}

fn ffn_down(file_type: FileType, il: usize, model: &ModelFacts) -> GgmlType {
    let base = file_type.base();
    // llama.cpp counts no text layers in a projector: there every layer lies beyond 7/8 of zero.
    let n_layer = if model.arch == "clip" { 0 } else { model.n_layer };
    let is_early = il < n_layer / 8;
    match file_type.name() {
        "Q2_K" => Q3_K,
        "Q3_K_M" if il < n_layer / 16 => Q5_K,
        "Q3_K_M" => Q4_K,
        "Q3_K_L" => Q5_K,
        "Q4_K_M" | "Q5_K_M" if wants_more_bits(il, n_layer) => Q6_K,
        "IQ4_NL" | "IQ4_XS" if is_early && !model.has_imatrix => Q5_K,
        "Q4_K_S" if is_early => Q5_K,
        // An importance matrix can go astray in the first layers.
        "Q4_0" if is_early && model.has_imatrix => Q4_1,
        "Q5_0" if is_early && model.has_imatrix => Q5_1,
        _ => base,
    }
}

/// The layers that suffer most from few bits: the first and last eighth and every third between.
fn wants_more_bits(il: usize, n_layer: usize) -> bool {
    il < n_layer / 8 || il >= 7 * n_layer / 8 || (il - n_layer / 8) % 3 == 2
}

/// `ty`, or what stands in for it when a row is not a whole number of its blocks.
pub(crate) fn fit(ty: GgmlType, n_cols: usize) -> GgmlType {
    let fits = |ty: GgmlType| ty.row_bytes(n_cols).is_some();
    if fits(ty) {
        return ty;
    }
    let smaller = match ty {
        Q2_K | Q3_K => Q4_0,
        Q4_K => Q5_0,
        Q5_K => Q5_1,
        Q6_K => Q8_0,
        IQ4_XS => IQ4_NL,
        _ => F16,
    };
    if fits(smaller) { smaller } else { F16 }
}

/// The block number in a tensor's name, 0 where there is none.
fn layer_of(name: &str) -> usize {
    let after = name.split_once("blk.").map_or("", |(_, after)| after);
    after.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for ty in FileType::all() {
            assert_eq!(FileType::from_name(&ty.name().to_lowercase()).unwrap(), ty);
        }
        assert_eq!(FileType::from_name("q4_k").unwrap().name(), "Q4_K_M");
        assert!(FileType::from_name("Q4_K_X").unwrap_err().to_string().contains("Q4_K_M"));
    }

    #[test]
    fn rows_that_do_not_divide_fall_back() {
        for (ty, n, want) in [
            (Q4_K, 256, Q4_K),
            (Q4_K, 416, Q5_0),
            (Q5_K, 416, Q5_1),
            (Q6_K, 416, Q8_0),
            (Q3_K, 416, Q4_0),
            (IQ4_XS, 416, IQ4_NL),
            (Q4_K, 80, F16),
            (Q8_0, 80, F16),
            (BF16, 80, BF16),
        ] {
            assert_eq!(fit(ty, n), want, "{ty} {n}");
        }
    }
}
