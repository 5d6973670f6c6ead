//! `longtake inspect --check`: every number of every tensor, on all threads.

use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;

use crate::Result;
use crate::error::Context;
use crate::gguf::{GgmlType, Gguf};
use crate::kernels::threads::in_rayon;
use crate::tensor::dequantize_row;

/// What `--check` found.
pub(super) struct Report {
    pub(super) bad: Vec<Bad>,
    /// Tensors of types without a decoder.
    pub(super) skipped: Vec<(String, GgmlType)>,
    pub(super) n_values: u64,
}

/// A tensor with numbers that are not finite.
#[derive(serde::Serialize)]
pub(super) struct Bad {
    pub(super) tensor: String,
    /// How many of its elements are NaN or infinite.
    pub(super) count: u64,
    /// The first of them, counted through the whole tensor, fastest dimension first.
    pub(super) first_index: u64,
    #[serde(serialize_with = "super::json::float")]
    pub(super) first_value: f64,
}

/// Decodes every tensor and looks for NaN and infinity. A block scale that is not finite makes its elements so.
pub(super) fn check(gguf: &Gguf) -> Result<Report> {
    let bar = ProgressBar::new(gguf.tensors().iter().map(|t| t.n_bytes as u64).sum());
    bar.set_style(
        ProgressStyle::with_template("checking {bar:40} {bytes}/{total_bytes} {eta}").expect("the template is valid"),
    );
    let mut report = Report { bad: Vec::new(), skipped: Vec::new(), n_values: 0 };
    for tensor in gguf.tensors() {
        if !has_decoder(tensor.ty) {
            report.skipped.push((tensor.name.clone(), tensor.ty));
            continue;
        }
        let found = check_tensor(tensor.ty, gguf.data(tensor), &bar).at(|| format!("tensor `{}`", tensor.name))?;
        report.n_values += tensor.n_elements() as u64;
        if let Some((count, first_index, first_value)) = found {
            report.bad.push(Bad { tensor: tensor.name.clone(), count, first_index, first_value });
        }
    }
    bar.finish_and_clear();
    gguf.check_unchanged()?;
    Ok(report)
}

/// Elements that are decoded at a time: some blocks of every format, little enough for the cache.
const CHUNK: usize = 16 * 1024;

fn has_decoder(ty: GgmlType) -> bool {
    is_integer(ty) || ty == GgmlType::F64 || dequantize_row(ty, &[], &mut []).is_ok()
}

fn is_integer(ty: GgmlType) -> bool {
    matches!(ty, GgmlType::I8 | GgmlType::I16 | GgmlType::I32 | GgmlType::I64)
}

/// The number of elements that are not finite, with index and value of the first.
fn check_tensor(ty: GgmlType, data: &[u8], bar: &ProgressBar) -> Result<Option<(u64, u64, f64)>> {
    if is_integer(ty) {
        bar.inc(data.len() as u64);
        return Ok(None);
    }
    let chunk_bytes = ty.row_bytes(CHUNK).expect("the chunk is a whole number of blocks of every type");
    let scan = |(i, chunk): (usize, &[u8])| {
        let n = chunk.len() / ty.block_bytes() * ty.block_len();
        let values: Vec<f64> = if ty == GgmlType::F64 {
            chunk.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
        } else {
            let mut values = vec![0f32; n];
            dequantize_row(ty, chunk, &mut values)?;
            values.into_iter().map(f64::from).collect()
        };
        bar.inc(chunk.len() as u64);
        let mut bad = values.iter().enumerate().filter(|(_, v)| !v.is_finite());
        let first = bad.next().map(|(k, v)| ((i * CHUNK + k) as u64, *v));
        Ok(first.map(|(index, value)| (1 + bad.count() as u64, index, value)))
    };
    let first_of = |a: Option<(u64, u64, f64)>, b: Option<(u64, u64, f64)>| match (a, b) {
        (Some(a), Some(b)) => {
            let first = if a.1 < b.1 { a } else { b };
            Some((a.0 + b.0, first.1, first.2))
        }
        (a, b) => a.or(b),
    };
    in_rayon(|| data.par_chunks(chunk_bytes).enumerate().map(scan).try_reduce(|| None, |a, b| Ok(first_of(a, b))))?
}
