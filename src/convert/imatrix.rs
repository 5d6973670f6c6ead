//! Importance matrices: how strongly each column of a matrix is excited by real text, from llama.cpp's imatrix files.

use std::collections::HashMap;
use std::path::Path;

use crate::error::Context;
use crate::gguf::{GgmlType, Gguf, TensorInfo};
use crate::tensor::dequantize_row;
use crate::{Error, Result};

/// Importances per tensor name: one weight per column, of each matrix of a tensor.
pub(crate) struct Imatrix {
    /// The file's name, without its folder.
    pub name: String,
    pub datasets: Vec<String>,
    pub n_chunks: Option<u64>,
    weights: HashMap<String, Vec<f32>>,
}

impl Imatrix {
    /// Reads a GGUF imatrix: pairs `<name>.in_sum2` (n_cols, n_mats) and `<name>.counts` (1, n_mats).
    ///
    /// # Errors
    /// `Format` when the file is another kind of GGUF, a pair is incomplete or its numbers are no sums of squares.
    pub(crate) fn open(path: &Path) -> Result<Imatrix> {
        let gguf = Gguf::open(path)?;
        Imatrix::read(&gguf, path).at(|| path.display().to_string())
    }

    pub(super) fn read(gguf: &Gguf, path: &Path) -> Result<Imatrix> {
        let meta = gguf.meta();
        if meta.str("general.type")?.is_some_and(|ty| ty != "imatrix") {
            return Err(Error::format("`general.type` is not `imatrix`"));
        }
        let mut weights = HashMap::new();
        for sums in gguf.tensors() {
            let Some(name) = sums.name.strip_suffix(".in_sum2") else { continue };
            let counts = gguf.tensor(&format!("{name}.counts"));
            let counts = counts.ok_or_else(|| Error::format(format!("`{name}.counts` is missing")))?;
            weights.insert(name.to_string(), mean_squares(gguf, sums, counts).at(|| format!("`{name}`"))?);
        }
        if weights.is_empty() {
            return Err(Error::format("holds no `.in_sum2` tensor, expected an importance matrix"));
        }
        Ok(Imatrix {
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            datasets: meta.strings("imatrix.datasets")?.unwrap_or_default().to_vec(),
            n_chunks: meta.uint("imatrix.chunk_count")?,
            weights,
        })
    }

    /// Number of tensors it knows.
    pub(crate) fn len(&self) -> usize {
        self.weights.len()
    }

    /// The importances for the tensor called `name`, of dimensions `ne`: (n_mats, n_cols), where one tensor holds the matrices
    /// of all experts of a layer.
    ///
    /// # Errors
    /// `Mismatch` when they are for another width, or for more or fewer matrices.
    pub(crate) fn get(&self, name: &str, ne: &[usize]) -> Result<Option<&[f32]>> {
        let (n_cols, n_mats) = (ne[0], ne.iter().skip(2).product::<usize>());
        match self.weights.get(name) {
            Some(weights) if weights.len() != n_cols * n_mats => {
                let n = weights.len();
                let differs = match n_mats {
                    1 => format!("`{n}` columns, the model has `{n_cols}`"),
                    _ => format!("`{n}` columns in all its matrices, the model has `{n_cols}` in each of `{n_mats}`"),
                };
                Err(Error::mismatch(format!("imatrix `{}`: `{name}` has {differs}", self.name)))
            }
            found => Ok(found.map(Vec::as_slice)),
        }
    }
}

/// Sums divided by counts, matrix by matrix; 1 where nothing was counted.
fn mean_squares(gguf: &Gguf, sums: &TensorInfo, counts: &TensorInfo) -> Result<Vec<f32>> {
    if sums.ty != GgmlType::F32 || counts.ty != GgmlType::F32 {
        return Err(Error::format(format!("is {} with counts {}, expected F32", sums.ty, counts.ty)));
    }
    let read = |info: &TensorInfo| {
        let mut values = vec![0.0; info.n_elements()];
        dequantize_row(info.ty, gguf.data(info), &mut values).map(|()| values)
    };
    let (sums_f32, counts) = (read(sums)?, read(counts)?);
    let n_cols = sums.n_cols();
    if sums.n_rows() != counts.len() {
        let what = format!("has sums for `{}` matrices and counts for `{}`", sums.n_rows(), counts.len());
        return Err(Error::mismatch(what));
    }
    let bad = |x: &f32| !(0.0..=f32::MAX).contains(x);
    if let Some(x) = sums_f32.iter().chain(&counts).find(|x| bad(x)) {
        return Err(Error::format(format!("holds `{x}`, expected finite numbers from 0")));
    }
    let mean = |(sums, count): (&[f32], &f32)| match *count {
        0.0 => vec![1.0; n_cols],
        count => sums.iter().map(|sum| sum / count).collect(),
    };
    Ok(sums_f32.chunks_exact(n_cols).zip(&counts).flat_map(mean).collect())
}
