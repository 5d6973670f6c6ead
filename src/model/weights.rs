//! Weights: checked handles to tensors of a mapped file.

use std::collections::HashSet;
use std::sync::Arc;

use crate::gguf::{GgmlType, Gguf, TensorInfo};
use crate::tensor::{MatView, can_quantize, dequantize_row};
use crate::{Error, Result};

/// A matrix that stays in its file, packed.
#[derive(Clone)]
pub struct Mat {
    file: Arc<Gguf>,
    info: TensorInfo,
    n_cols: usize,
    n_rows: usize,
}

impl Mat {
    /// Its rows.
    pub fn view(&self) -> MatView<'_> {
        MatView::new(self.info.ty, self.n_cols, self.n_rows, self.file.data(&self.info)).expect("checked by the loader")
    }
}

/// Collects every mismatch between what the model needs and what the file holds, so that one error lists them all.
pub struct Loader<'a> {
    file: &'a Arc<Gguf>,
    used: HashSet<String>,
    problems: Vec<String>,
    /// Matrices of types that nothing here can compute with.
    no_kernel: Vec<String>,
}

impl<'a> Loader<'a> {
    pub fn new(file: &'a Arc<Gguf>) -> Loader<'a> {
        Loader { file, used: HashSet::new(), problems: Vec::new(), no_kernel: Vec::new() }
    }

    /// Whether the file holds `name`.
    pub fn has(&self, name: &str) -> bool {
        self.file.tensor(name).is_some()
    }

    fn find(&mut self, name: &str, ne: &[usize], wanted: impl Fn(GgmlType) -> bool) -> Option<&'a TensorInfo> {
        self.used.insert(name.to_string());
        let Some(info) = self.file.tensor(name) else {
            self.problems.push(format!("`{name}` is missing"));
            return None;
        };
        // Trailing dimensions of 1 carry no meaning.
        let trimmed = |ne: &[usize]| ne.len() - ne.iter().rev().take_while(|n| **n == 1).count();
        if info.ne[..trimmed(&info.ne)] != ne[..trimmed(ne)] {
            self.problems.push(format!("`{name}` is {:?}, expected {ne:?}", info.ne));
            return None;
        }
        if !wanted(info.ty) {
            if can_quantize(info.ty) {
                self.problems.push(format!("`{name}` has type {}, expected F32, F16 or BF16", info.ty));
            } else {
                self.no_kernel.push(format!("`{name}` has type {}", info.ty));
            }
            return None;
        }
        Some(info)
    }

    /// A matrix of `n_rows` rows. On a mismatch the placeholder returned never escapes: `finish` fails.
    pub fn mat(&mut self, name: &str, n_cols: usize, n_rows: usize) -> Option<Mat> {
        let info = self.find(name, &[n_cols, n_rows], can_quantize)?;
        Some(Mat { file: Arc::clone(self.file), info: info.clone(), n_cols, n_rows })
    }

    /// A vector of plain floats.
    pub fn vec(&mut self, name: &str, n: usize) -> Vec<f32> {
        self.array(name, &[n])
    }

    /// A tensor of plain floats of any shape.
    pub fn array(&mut self, name: &str, ne: &[usize]) -> Vec<f32> {
        let plain = |ty| matches!(ty, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16);
        let Some(info) = self.find(name, ne, plain) else { return Vec::new() };
        let mut out = vec![0.0; info.n_elements()];
        if let Err(err) = dequantize_row(info.ty, self.file.data(info), &mut out) {
            self.problems.push(format!("`{name}`: {err}"));
        }
        if let Some(at) = out.iter().position(|v| !v.is_finite()) {
            self.problems.push(format!("`{name}` holds `{}` at index {at}", out[at]));
        }
        out
    }

    /// Names that the model has no use for.
    ///
    /// # Errors
    /// All mismatches at once.
    pub fn finish(self) -> Result<Vec<String>> {
        let place = || self.file.path().display().to_string();
        if !self.problems.is_empty() {
            let problems = [self.problems.as_slice(), &self.no_kernel].concat();
            let message = format!("{} tensors do not fit: {}", problems.len(), shown(&problems, 20));
            return Err(Error::mismatch(message).at(place()));
        }
        if !self.no_kernel.is_empty() {
            return Err(Error::unsupported(format!(
                "{} tensors have types that are not supported yet: {}; take the model as Q4_K_M or Q8_0, or make that of its F16 \
                 form: `longtake quantize MODEL-F16.gguf MODEL-Q4_K_M.gguf Q4_K_M`",
                self.no_kernel.len(),
                shown(&self.no_kernel, 3)
            ))
            .at(place()));
        }
        Ok(self.file.tensors().iter().map(|t| t.name.clone()).filter(|name| !self.used.contains(name)).collect())
    }
}

/// The first `n` of what is wrong, and how many there are beside them.
fn shown(items: &[String], n: usize) -> String {
    let more = items.len().saturating_sub(n);
    let tail = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{}{tail}", items[..items.len() - more].join("; "))
}
