//! Any GGUF becomes a smaller one, with the error of every tensor.

use std::path::PathBuf;

use tokenizers::utils::SysRegex;

use super::encode::{CHUNK, ErrorSums, decode, encode, measure};
use super::file_type::{FileType, ModelFacts, fit, is_quantizable, recipe};
use super::imatrix::Imatrix;
use super::progress::Progress;
use super::staged::{Declared, Staged, data_bytes};
use crate::error::Context;
use crate::files::atomic::is_same_file;
use crate::gguf::{GgmlType, Gguf, Metadata, TensorInfo};
use crate::tensor::{can_dequantize, can_quantize};
use crate::{Error, Result};

/// What to quantize, and how.
#[derive(Debug, Clone)]
pub struct QuantizeOptions {
    /// The file to be read, the first one of a split model.
    pub input: PathBuf,
    /// The file to be written.
    pub output: PathBuf,
    /// The mix of types that its tensors get.
    pub file_type: FileType,
    /// An importance matrix (GGUF).
    pub imatrix: Option<PathBuf>,
    /// Quantize what is already quantized; each step adds its error.
    pub allow_requantize: bool,
    /// Give every matrix the base type instead of following the recipe.
    pub pure: bool,
    /// Type of `output.weight` (of the tied embedding too).
    pub output_tensor_type: Option<GgmlType>,
    /// Type of `token_embd.weight`.
    pub token_embedding_type: Option<GgmlType>,
    /// Types by name: a regular expression that is searched for in the tensor's name; the first that fits counts.
    pub tensor_types: Vec<(String, GgmlType)>,
    /// Leave `output.weight` as it is.
    pub leave_output_tensor: bool,
    /// Decide everything, write nothing, measure nothing.
    pub dry_run: bool,
}

impl QuantizeOptions {
    /// Quantizes `input` into `output` by the recipe `file_type`.
    pub fn new(input: impl Into<PathBuf>, output: impl Into<PathBuf>, file_type: FileType) -> QuantizeOptions {
        QuantizeOptions {
            input: input.into(),
            output: output.into(),
            file_type,
            imatrix: None,
            allow_requantize: false,
            pure: false,
            output_tensor_type: None,
            token_embedding_type: None,
            tensor_types: Vec::new(),
            leave_output_tensor: false,
            dry_run: false,
        }
    }
}

/// What became of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorReport {
    /// As the file calls it.
    pub name: String,
    /// Dimensions, fastest first.
    pub ne: Vec<usize>,
    /// Its type in the input.
    pub from: GgmlType,
    /// Its type in the output.
    pub to: GgmlType,
    /// The type that the recipe asked for, where its rows forbid that.
    pub wanted: Option<GgmlType>,
    /// Bytes of its data in the input.
    pub bytes_before: u64,
    /// Bytes of its data in the output.
    pub bytes_after: u64,
    /// Root of the mean squared difference; `None`, as below, where nothing changed or nothing was measured.
    pub rmse: Option<f64>,
    /// The squared differences' share of the squared values.
    pub nmse: Option<f64>,
    /// The largest difference.
    pub max_abs_error: Option<f64>,
}

/// What a quantization made.
#[derive(Debug, Clone)]
pub struct QuantizeReport {
    /// In the order of the file.
    pub tensors: Vec<TensorReport>,
    /// The mix of types that was asked for.
    pub file_type: FileType,
    /// Bytes of tensor data in the input.
    pub bytes_before: u64,
    /// Bytes of tensor data in the output.
    pub bytes_after: u64,
    /// Bytes of the finished file; 0 in a dry run.
    pub file_bytes: u64,
}

/// Quantizes a GGUF file, text model or projector, ours or llama.cpp's.
///
/// The output appears under its name only when complete and read back. Memory stays near the largest single tensor of
/// the output; the input is mapped. The report is in file order.
///
/// # Errors
/// `BadInput` when input and output are one file, when the input is quantized and that is not allowed, or for a type that
/// cannot be written; `Format` for NaN or infinity in the weights; what reading and writing say; and whatever `progress`
/// returns to stop the work.
pub fn quantize(options: &QuantizeOptions, progress: &mut dyn Progress) -> Result<QuantizeReport> {
    if is_same_file(&options.input, &options.output) {
        let what = format!("`{}` is both input and output, expected two files", options.output.display());
        return Err(Error::bad_input(what));
    }
    let gguf = Gguf::open(&options.input)?;
    let imatrix = options.imatrix.as_deref().map(Imatrix::open).transpose()?;
    let choices = choose(options, &gguf, imatrix.as_ref(), progress).at(|| options.input.display().to_string())?;
    let declared: Vec<Declared> =
        gguf.tensors().iter().zip(&choices).map(|(t, choice)| (t.name.clone(), choice.to, t.ne.clone())).collect();
    let mut tensors: Vec<TensorReport> =
        gguf.tensors().iter().zip(&choices).map(|(t, choice)| choice.report(t)).collect();
    let mut file_bytes = 0;
    if !options.dry_run {
        let meta = metadata(options, &gguf, imatrix.as_ref());
        let staged = Staged::new(&options.output)?;
        file_bytes = staged.write(&meta, &declared, progress, |i, buf, progress| {
            let info = &gguf.tensors()[i];
            let weights = match &imatrix {
                Some(imatrix) if choices[i].to != info.ty => imatrix.get(&info.name, &info.ne)?,
                _ => None,
            };
            let sums = fill(&gguf, info, choices[i].to, weights, buf, progress)?;
            tensors[i].rmse = sums.map(|s| s.rmse());
            tensors[i].nmse = sums.map(|s| s.nmse());
            tensors[i].max_abs_error = sums.map(|s| s.max_abs);
            Ok(())
        })?;
        gguf.check_unchanged()?;
        Staged::publish([staged])?;
    }
    let total = |bytes: fn(&TensorReport) -> u64| tensors.iter().map(bytes).sum();
    Ok(QuantizeReport {
        file_type: options.file_type,
        bytes_before: total(|t| t.bytes_before),
        bytes_after: total(|t| t.bytes_after),
        file_bytes,
        tensors,
    })
}

/// The type a tensor gets, and the one it would have got.
struct Choice {
    to: GgmlType,
    wanted: Option<GgmlType>,
}

impl Choice {
    fn report(&self, info: &TensorInfo) -> TensorReport {
        TensorReport {
            name: info.name.clone(),
            ne: info.ne.clone(),
            from: info.ty,
            to: self.to,
            wanted: self.wanted,
            bytes_before: info.n_bytes as u64,
            bytes_after: data_bytes(self.to, &info.ne),
            rmse: None,
            nmse: None,
            max_abs_error: None,
        }
    }
}

fn choose(
    options: &QuantizeOptions,
    gguf: &Gguf,
    imatrix: Option<&Imatrix>,
    progress: &mut dyn Progress,
) -> Result<Vec<Choice>> {
    let patterns = patterns(options)?;
    let facts = facts(gguf, imatrix.is_some())?;
    let mut hits = vec![0usize; patterns.len()];
    let mut requantized = Vec::new();
    let mut unreadable = Vec::new();
    let mut choices = Vec::new();
    for info in gguf.tensors() {
        let keep = Choice { to: info.ty, wanted: None };
        let is_output = info.name == "output.weight";
        if !is_quantizable(&info.name, &info.ne) || (is_output && options.leave_output_tensor) {
            choices.push(keep);
            continue;
        }
        let by_pattern = patterns.iter().position(|(regex, _)| regex.find_iter(&info.name).next().is_some());
        let is_embedding = info.name == "token_embd.weight";
        let does_output = is_output || (is_embedding && !facts.has_output);
        let asked = [
            options.token_embedding_type.filter(|_| is_embedding),
            options.output_tensor_type.filter(|_| does_output),
            by_pattern.map(|at| patterns[at].1),
            options.pure.then_some(options.file_type.base()),
        ];
        if let Some(at) = by_pattern {
            hits[at] += 1;
        }
        let first = asked.into_iter().flatten().next();
        let ty = first.unwrap_or_else(|| recipe(options.file_type, &info.name, &info.ne, &facts));
        let to = fit(ty, info.n_cols());
        if to != info.ty && info.ty.block_len() > 1 && !options.allow_requantize {
            requantized.push(format!("`{}` is {}", info.name, info.ty));
        }
        if to != info.ty && !can_dequantize(info.ty) {
            unreadable.push(format!("`{}` is {}", info.name, info.ty));
        }
        choices.push(Choice { to, wanted: (to != ty).then_some(ty) });
    }
    if !unreadable.is_empty() {
        return Err(Error::unsupported(format!(
            "types that cannot be read yet ({}); quantize the F16 or BF16 form of the model instead",
            super::checkpoint::listed(&unreadable)
        )));
    }
    if !requantized.is_empty() {
        return Err(Error::bad_input(format!(
            "already quantized ({}); quantizing again adds to the error, --allow-requantize permits it",
            super::checkpoint::listed(&requantized)
        )));
    }
    for ((pattern, _), _) in options.tensor_types.iter().zip(&hits).filter(|(_, hits)| **hits == 0) {
        progress.note(&format!("tensor type pattern `{pattern}` decides about no tensor"));
    }
    if let Some(imatrix) = imatrix {
        let quantized = |t: &&TensorInfo| is_quantizable(&t.name, &t.ne);
        let mut unknown = 0;
        for info in gguf.tensors().iter().filter(quantized) {
            unknown += usize::from(imatrix.get(&info.name, &info.ne)?.is_none());
        }
        if unknown > 0 {
            progress.note(&format!("the importance matrix knows nothing about {unknown} of the matrices"));
        }
    }
    Ok(choices)
}

fn patterns(options: &QuantizeOptions) -> Result<Vec<(SysRegex, GgmlType)>> {
    let named = [options.output_tensor_type, options.token_embedding_type].into_iter().flatten();
    let all = named.chain(options.tensor_types.iter().map(|(_, ty)| *ty));
    for ty in all.chain([options.file_type.base()]) {
        if !can_quantize(ty) {
            return Err(Error::bad_input(format!("tensors of type `{ty}` cannot be made here, only read")));
        }
    }
    let compile = |(pattern, ty): &(String, GgmlType)| match SysRegex::new(pattern) {
        Ok(regex) => Ok((regex, *ty)),
        Err(err) => Err(Error::bad_input(format!("pattern `{pattern}`: {err}"))),
    };
    options.tensor_types.iter().map(compile).collect()
}

/// What the recipes want to know; a file that lacks a key (a projector, a vocabulary) simply has no such layers.
fn facts(gguf: &Gguf, has_imatrix: bool) -> Result<ModelFacts> {
    let meta = gguf.meta();
    let arch = meta.str("general.architecture")?.unwrap_or("").to_string();
    let uint = |key: &str| -> Result<usize> {
        let n = meta.uint(&format!("{arch}.{key}"))?.unwrap_or(0);
        usize::try_from(n).map_err(|_| Error::limit(format!("`{arch}.{key}` is `{n}`")))
    };
    let (n_head, n_head_kv) = (uint("attention.head_count")?, uint("attention.head_count_kv")?);
    Ok(ModelFacts {
        n_layer: uint("block_count")?,
        n_gqa: n_head.checked_div(n_head_kv).unwrap_or(1),
        has_output: gguf.tensor("output.weight").is_some(),
        n_expert: uint("expert_count")?,
        has_imatrix,
        attn_v: ModelFacts::layers_with_attn_v(gguf.tensors().iter().map(|t| t.name.as_str())),
        arch,
    })
}

/// The input's keys, with what the new file is.
fn metadata(options: &QuantizeOptions, gguf: &Gguf, imatrix: Option<&Imatrix>) -> Metadata {
    let mut meta = gguf.meta().clone();
    // The shards of a split model come together in one file.
    for key in ["split.no", "split.count", "split.tensors.count"] {
        meta.remove(key);
    }
    meta.set("general.file_type", options.file_type.id());
    meta.set("general.quantization_version", 2u32);
    if let Some(imatrix) = imatrix {
        meta.set("quantize.imatrix.file", imatrix.name.clone());
        if !imatrix.datasets.is_empty() {
            meta.set("quantize.imatrix.dataset", imatrix.datasets.join(", "));
        }
        meta.set("quantize.imatrix.entries_count", imatrix.len() as u32);
        if let Some(n) = imatrix.n_chunks {
            meta.set("quantize.imatrix.chunks_count", u32::try_from(n).unwrap_or(u32::MAX));
        }
    }
    meta
}

/// Appends one tensor to `buf` as type `to`; the error where its type changed.
fn fill(
    gguf: &Gguf,
    info: &TensorInfo,
    to: GgmlType,
    weights: Option<&[f32]>,
    buf: &mut Vec<u8>,
    progress: &mut dyn Progress,
) -> Result<Option<ErrorSums>> {
    let data = gguf.data(info);
    let n_bytes = data_bytes(to, &info.ne);
    let room = usize::try_from(n_bytes).ok().filter(|n| buf.try_reserve_exact(*n).is_ok());
    room.ok_or_else(|| Error::limit(format!("`{n_bytes}` bytes do not fit into memory")))?;
    if to == info.ty {
        buf.extend_from_slice(data);
        progress.advance(&info.name, n_bytes)?;
        return Ok(None);
    }
    let n_cols = info.n_cols();
    let row_bytes = info.ty.row_bytes(n_cols).expect("checked when the file was opened");
    let n_rows = (CHUNK / n_cols).max(1);
    let mut sums = ErrorSums::default();
    let mut values = Vec::new();
    // Each matrix of a tensor has weights of its own.
    let n_mats = weights.map_or(1, |weights| weights.len() / n_cols);
    let (mut done, mat_bytes) = (0, data.len() / n_mats);
    for (mat, data) in data.chunks_exact(mat_bytes).enumerate() {
        let weights = weights.map(|weights| &weights[mat * n_cols..][..n_cols]);
        for raw in data.chunks(n_rows * row_bytes) {
            values.resize(raw.len() / row_bytes * n_cols, 0.0);
            decode(info.ty, raw, n_cols, &mut values)?;
            let before = buf.len();
            encode(&values, n_cols, done, to, weights, buf)?;
            done += values.len();
            sums.add(measure(&values, &buf[before..], n_cols, to)?);
            progress.advance(&info.name, (buf.len() - before) as u64)?;
        }
    }
    Ok(Some(sums))
}
