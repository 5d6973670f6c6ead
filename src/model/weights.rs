//! Weights: checked handles to tensors of a mapped file.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use super::device::{Device, Linear, Norm, Stack};
use super::host::Host;
use crate::gguf::{GgmlType, Gguf, TensorInfo};
use crate::tensor::{MatView, can_dequantize, dequantize_row};
use crate::{Error, Result};

/// A matrix, packed.
#[derive(Clone)]
pub(super) struct Mat {
    data: Data,
    ty: GgmlType,
    n_cols: usize,
    /// Of all rows of the data, those that it has.
    rows: Range<usize>,
    n_rows_of_data: usize,
}

#[derive(Clone)]
enum Data {
    /// Stays in its file.
    File(Arc<Gguf>, TensorInfo),
    /// Put together from several tensors.
    Own(Arc<[f32]>),
}

impl Mat {
    /// (n_rows, n_cols) floats.
    ///
    /// # Panics
    /// When there are more or fewer.
    pub(super) fn from_floats(values: &[f32], n_cols: usize, n_rows: usize) -> Mat {
        assert_eq!(values.len(), n_cols * n_rows, "floats of a matrix");
        Mat { data: Data::Own(values.into()), ty: GgmlType::F32, n_cols, rows: 0..n_rows, n_rows_of_data: n_rows }
    }

    /// Some of its rows, as a matrix.
    fn part(&self, rows: Range<usize>) -> Mat {
        assert!(rows.end <= self.rows.len(), "rows {rows:?} of {}", self.rows.len());
        let first = self.rows.start;
        Mat { rows: first + rows.start..first + rows.end, ..self.clone() }
    }

    /// Whether `other` is the same rows of the same memory.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only a copy elsewhere could be a second one"))]
    pub(super) fn is(&self, other: &Mat) -> bool {
        std::ptr::eq(self.view().data(), other.view().data())
    }

    /// Its rows.
    pub(super) fn view(&self) -> MatView<'_> {
        let data = match &self.data {
            Data::File(file, info) => file.data(info),
            Data::Own(values) => bytemuck::cast_slice(values),
        };
        let all = MatView::new(self.ty, self.n_cols, self.n_rows_of_data, data).expect("checked where it was made");
        all.rows(self.rows.clone())
    }
}

impl Linear<Host> {
    /// A copy on another device.
    ///
    /// # Errors
    /// Memory that the device does not have.
    pub(super) fn on<D: Device>(&self, home: &D::Home, what: &str) -> Result<Linear<D>> {
        let bias = self.bias.as_ref().map(|bias| D::vec(home, bias, what)).transpose()?;
        Ok(Linear { weight: D::mat(home, &self.weight, what)?, bias })
    }
}

impl Stack<Host> {
    /// A copy on another device.
    ///
    /// # Errors
    /// Memory that the device does not have.
    pub(super) fn on<D: Device>(&self, home: &D::Home, what: &str) -> Result<Stack<D>> {
        let Stack { mat, first, step, n_rows } = self;
        Ok(Stack { mat: D::mat(home, mat, what)?, first: *first, step: *step, n_rows: *n_rows })
    }
}

impl Norm<Host> {
    /// A copy on another device.
    ///
    /// # Errors
    /// Memory that the device does not have.
    pub(super) fn on<D: Device>(&self, home: &D::Home, what: &str) -> Result<Norm<D>> {
        let bias = self.bias.as_ref().map(|bias| D::vec(home, bias, what)).transpose()?;
        Ok(Norm { weight: D::vec(home, &self.weight, what)?, bias })
    }
}

/// Collects every mismatch between what the model needs and what the file holds, so that one error lists them all.
pub(super) struct Loader<'a> {
    file: &'a Arc<Gguf>,
    used: HashSet<String>,
    problems: Vec<String>,
    /// Matrices of types that nothing here can compute with.
    no_kernel: Vec<String>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(file: &'a Arc<Gguf>) -> Loader<'a> {
        Loader { file, used: HashSet::new(), problems: Vec::new(), no_kernel: Vec::new() }
    }

    /// Whether the file holds `name`.
    pub(super) fn has(&self, name: &str) -> bool {
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
            if can_dequantize(info.ty) {
                self.problems.push(format!("`{name}` has type {}, expected F32, F16 or BF16", info.ty));
            } else {
                self.no_kernel.push(format!("`{name}` has type {}", info.ty));
            }
            return None;
        }
        Some(info)
    }

    /// A matrix of `n_rows` rows; `None` on a mismatch, with which `finish` fails.
    pub(super) fn mat(&mut self, name: &str, n_cols: usize, n_rows: usize) -> Option<Mat> {
        let info = self.find(name, &[n_cols, n_rows], can_dequantize)?;
        let data = Data::File(Arc::clone(self.file), info.clone());
        Some(Mat { data, ty: info.ty, n_cols, rows: 0..n_rows, n_rows_of_data: n_rows })
    }

    /// A matrix with its bias.
    pub(super) fn linear(&mut self, name: &str, n_cols: usize, n_rows: usize) -> Option<Linear<Host>> {
        self.linear_or_matrix(name, n_cols, n_rows, true)
    }

    /// A matrix, with its bias where it `has_bias`.
    pub(super) fn linear_or_matrix(
        &mut self,
        name: &str,
        n_cols: usize,
        n_rows: usize,
        has_bias: bool,
    ) -> Option<Linear<Host>> {
        let weight = self.mat(&format!("{name}.weight"), n_cols, n_rows);
        let bias = has_bias.then(|| self.vec(&format!("{name}.bias"), n_rows));
        Some(Linear { weight: weight?, bias })
    }

    /// The matrices of queries, keys and values of a block: each by its name, `attn_q` to `attn_v`, or all in one, `attn_qkv`.
    pub(super) fn qkv(
        &mut self,
        block: &str,
        n_cols: usize,
        n_rows: [usize; 3],
        has_bias: bool,
    ) -> [Option<Linear<Host>>; 3] {
        let [n_q, n_k, n_v] = n_rows;
        let fused = format!("{block}.attn_qkv");
        if self.has(&format!("{block}.attn_q.weight")) || !self.has(&format!("{fused}.weight")) {
            return [("attn_q", n_q), ("attn_k", n_k), ("attn_v", n_v)]
                .map(|(part, n)| self.linear_or_matrix(&format!("{block}.{part}"), n_cols, n, has_bias));
        }
        let all = self.linear_or_matrix(&fused, n_cols, n_q + n_k + n_v, has_bias);
        let part = |rows: Range<usize>| {
            let Linear { weight, bias } = all.as_ref()?;
            // A bias of another length is a problem that was recorded.
            let bias = bias.as_ref().map(|bias| bias.get(rows.clone()).unwrap_or_default().to_vec());
            Some(Linear { weight: weight.part(rows), bias })
        };
        [part(0..n_q), part(n_q..n_q + n_k), part(n_q + n_k..n_q + n_k + n_v)]
    }

    /// A matrix without one.
    pub(super) fn matrix(&mut self, name: &str, n_cols: usize, n_rows: usize) -> Option<Linear<Host>> {
        Some(Linear { weight: self.mat(&format!("{name}.weight"), n_cols, n_rows)?, bias: None })
    }

    /// `n` matrices in one tensor.
    pub(super) fn stack(&mut self, name: &str, n_cols: usize, n_rows: usize, n: usize) -> Option<Stack<Host>> {
        let info = self.find(&format!("{name}.weight"), &[n_cols, n_rows, n], can_dequantize)?;
        let data = Data::File(Arc::clone(self.file), info.clone());
        let mat = Mat { data, ty: info.ty, n_cols, rows: 0..n_rows * n, n_rows_of_data: n_rows * n };
        Some(Stack { mat, first: 0, step: n_rows, n_rows })
    }

    /// The gates and the ups of `n` experts: each in a tensor of their own, or both in one, `gate_up`, where an expert's gate
    /// stands before its up.
    pub(super) fn gate_and_up(&mut self, ffn: &str, n_cols: usize, n_ff: usize, n: usize) -> [Option<Stack<Host>>; 2] {
        let fused = format!("{ffn}_gate_up_exps");
        if self.has(&format!("{ffn}_gate_exps.weight")) || !self.has(&format!("{fused}.weight")) {
            return ["gate", "up"].map(|part| self.stack(&format!("{ffn}_{part}_exps"), n_cols, n_ff, n));
        }
        let all = self.stack(&fused, n_cols, 2 * n_ff, n);
        [0, n_ff].map(|first| {
            let Stack { mat, step, .. } = all.as_ref()?;
            Some(Stack { mat: mat.clone(), first, step: *step, n_rows: n_ff })
        })
    }

    /// The weights of an RMSNorm.
    pub(super) fn rms_norm(&mut self, name: &str, n: usize) -> Norm<Host> {
        Norm { weight: self.vec(&format!("{name}.weight"), n), bias: None }
    }

    /// Those of a LayerNorm.
    pub(super) fn layer_norm(&mut self, name: &str, n: usize) -> Norm<Host> {
        Norm { weight: self.vec(&format!("{name}.weight"), n), bias: Some(self.vec(&format!("{name}.bias"), n)) }
    }

    /// Those of either.
    pub(super) fn norm(&mut self, name: &str, n: usize, has_bias: bool) -> Norm<Host> {
        if has_bias { self.layer_norm(name, n) } else { self.rms_norm(name, n) }
    }

    /// A vector of plain floats.
    pub(super) fn vec(&mut self, name: &str, n: usize) -> Vec<f32> {
        self.array(name, &[n])
    }

    /// A tensor of plain floats of any shape.
    pub(super) fn array(&mut self, name: &str, ne: &[usize]) -> Vec<f32> {
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
    pub(super) fn finish(self) -> Result<Vec<String>> {
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
