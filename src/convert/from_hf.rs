//! A Hugging Face checkpoint folder becomes a text model and a projector.

use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use super::checkpoint::Checkpoint;
use super::encode::{CHUNK, decode, encode};
use super::family::{Along, Family, Group, Map};
use super::file_type::{FileType, ModelFacts, fit, is_quantizable, recipe};
use super::hf_tokenizer::set_tokenizer_keys;
use super::names::{file_name, mmproj_beside, size_label};
use super::packed::check_not_packed;
use super::plan::{Part, Plan, Planned, Stored};
use super::progress::Progress;
use super::staged::{Declared, Staged};
use super::values::{Values, set_constants};
use crate::error::Context;
use crate::files::atomic::{ends_as_folder, folder_of};
use crate::gguf::{GgmlType, Metadata};
use crate::model::family::{FAMILIES, architecture_of};
use crate::position::{Layout, scale_warning};
use crate::{Error, Result};

/// What to convert, and into what.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// The checkpoint folder.
    pub input: PathBuf,
    /// The text model's file, or a folder (one that is there, or a path that ends in a separator), in which both files are
    /// then named by the GGUF convention. Folders that are absent are made.
    pub output: PathBuf,
    /// The projector's file; `mmproj-<stem>.gguf` beside the text model when `None`.
    pub mmproj_output: Option<PathBuf>,
    /// The text model's file type; `None` keeps the type that each matrix is stored in.
    pub outtype: Option<FileType>,
    /// The projector's file type: F32, F16, BF16 or Q8_0. `None` follows `outtype`, but with 16 bits where that is
    /// quantized.
    pub mmproj_outtype: Option<FileType>,
    /// The position layout that the checkpoint was trained with; M-RoPE stands for the one that its family was published
    /// with. Any other gets its own architecture name.
    pub layout: Layout,
    /// Default temporal scale to record, for layouts that have one.
    pub temporal_scale: Option<f64>,
    /// The model's name; the folder's when `None`.
    pub model_name: Option<String>,
    /// A family description to use instead of those compiled in.
    pub family: Option<PathBuf>,
}

impl ConvertOptions {
    /// Converts `input` to `output` as it is stored, with M-RoPE positions.
    pub fn new(input: impl Into<PathBuf>, output: impl Into<PathBuf>) -> ConvertOptions {
        ConvertOptions {
            input: input.into(),
            output: output.into(),
            mmproj_output: None,
            outtype: None,
            mmproj_outtype: None,
            layout: Layout::Mrope,
            temporal_scale: None,
            model_name: None,
            family: None,
        }
    }
}

/// A file that was written.
#[derive(Debug, Clone)]
pub struct OutputFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its bytes.
    pub n_bytes: u64,
    /// Its tensors.
    pub n_tensors: usize,
    /// The mix of types that its tensors have.
    pub file_type: FileType,
}

/// What a conversion made.
#[derive(Debug, Clone)]
pub struct ConvertReport {
    /// The language model.
    pub text: OutputFile,
    /// The projector.
    pub mmproj: OutputFile,
}

/// Converts a checkpoint folder to a text GGUF and a projector GGUF.
///
/// Everything that can be known to be wrong is found before the first byte is written: the configuration, the table of
/// tensors, their shapes and types, the tokenizer. Both files are then written under other names, read back, and renamed
/// one right after the other, so an error leaves neither of them. The same checkpoint and options give the same bytes.
/// Memory stays near the largest single tensor of the output.
///
/// # Errors
/// `BadInput` for options that make no sense; `Format`, `Mismatch`, `Unsupported`, `Limit` naming file and field for a
/// checkpoint that cannot be converted; `Io`; and whatever `progress` returns to stop the work.
pub fn convert(options: &ConvertOptions, progress: &mut dyn Progress) -> Result<ConvertReport> {
    check_options(options)?;
    let mut checkpoint = Checkpoint::open(&options.input).at(|| options.input.display().to_string())?;
    let place = || options.input.display().to_string();
    let family = choose_family(options, &checkpoint)?;
    let note = check_not_packed(&checkpoint).at(place)?;
    let mut values = Values::read(&family, &checkpoint.configs).at(place)?;
    let (layout, text_arch) = layout_and_architecture(options, &family.text.architecture)?;
    values.adopt_layout(layout)?;
    let plan = Plan::new(&family, &values, &checkpoint).at(place)?;
    let video_note = checkpoint.configs.video_note(family.reads_video_processor());
    let notes = checkpoint.notes.iter().chain(&video_note).chain(&note).chain(&plan.notes);
    notes.for_each(|note| progress.note(note));

    let model_name = match &options.model_name {
        Some(name) => name.clone(),
        None => checkpoint.folder.real().file_name().map_or("model".to_string(), |n| n.to_string_lossy().into_owned()),
    };
    let text = Output::new(&plan.text, options.outtype, &facts(&family, &values, &plan)?);
    let mmproj_type = mmproj_type(options, &plan.mmproj);
    let mmproj =
        Output::new(&plan.mmproj, mmproj_type, &ModelFacts { arch: "clip".to_string(), ..ModelFacts::default() });

    let mut text_meta = general_keys(&family.text, &text_arch, &model_name, &text)?;
    values.set_keys(&family, &text_arch, |rule| rule.text.as_ref(), &mut text_meta);
    if text_arch != family.text.architecture {
        set_layout_keys(layout, options.temporal_scale, &text_arch, &mut text_meta, progress);
    }
    set_tokenizer_keys(&options.input, values.uint("n_vocab")?, &mut text_meta)?;
    let arch = &family.mmproj.architecture;
    let mut mmproj_meta = general_keys(&family.mmproj, arch, &model_name, &mmproj)?;
    values.set_keys(&family, arch, |rule| rule.mmproj.as_ref(), &mut mmproj_meta);

    let (text_path, mmproj_path) = paths(options, &model_name, text.file_type, mmproj.file_type);
    let text_file = Staged::new(&text_path)?;
    let mmproj_file = Staged::new(&mmproj_path)?;
    if is_one_name(&text_path, &mmproj_path) {
        let what = format!("`{}` cannot be both the text model and the projector", text_path.display());
        return Err(Error::bad_input(what));
    }
    let mmproj_bytes = mmproj_file.write(&mmproj_meta, &mmproj.declared, progress, |i, buf, progress| {
        fill(&mut checkpoint, &plan.mmproj[i], &mmproj.declared[i], buf, progress)
    })?;
    let text_bytes = text_file.write(&text_meta, &text.declared, progress, |i, buf, progress| {
        fill(&mut checkpoint, &plan.text[i], &text.declared[i], buf, progress)
    })?;
    Staged::publish([mmproj_file, text_file])?;
    let report = |output: Output, path, n_bytes| OutputFile {
        path,
        n_bytes,
        n_tensors: output.declared.len(),
        file_type: output.file_type,
    };
    Ok(ConvertReport { text: report(text, text_path, text_bytes), mmproj: report(mmproj, mmproj_path, mmproj_bytes) })
}

fn check_options(options: &ConvertOptions) -> Result<()> {
    match options.mmproj_outtype {
        Some(ty) if !["F32", "F16", "BF16", "Q8_0"].contains(&ty.name()) => Err(Error::bad_input(format!(
            "projector type `{ty}`, expected F32, F16, BF16 or Q8_0; `quantize` makes smaller ones"
        ))),
        _ => Ok(()),
    }
}

/// The layout that is meant, and the architecture that stands for it. M-RoPE, the default, is whatever the family was
/// published with, and `hope` is its own form of HoPE.
///
/// # Errors
/// `Unsupported` where the family has no such layout; `BadInput` for a temporal scale that it does not have or that is none.
fn layout_and_architecture(options: &ConvertOptions, architecture: &str) -> Result<(Layout, String)> {
    let asked = options.layout;
    let (layout, full) = match FAMILIES.iter().find(|family| family.architecture == architecture) {
        Some(family) => {
            let (published, _) = family.layouts[0];
            let named = |(layout, suffix): &&(Layout, &str)| *layout == asked || *suffix == asked.name();
            let layout = match asked {
                Layout::Mrope => published,
                asked => family.layouts.iter().find(named).map_or(asked, |(layout, _)| *layout),
            };
            (layout, architecture_of(family, layout)?)
        }
        None if asked == Layout::Mrope => (asked, architecture.to_string()),
        None => (asked, format!("{architecture}-{asked}")),
    };
    if let Some(scale) = options.temporal_scale {
        if !layout.uses_temporal_scale() {
            return Err(Error::bad_input(format!("layout `{layout}` has no temporal scale, but `{scale}` is given")));
        }
        if !(scale > 0.0 && (scale as f32).is_finite() && scale as f32 > 0.0) {
            return Err(Error::bad_input(format!("temporal scale `{scale}` must be a positive finite number")));
        }
    }
    Ok((layout, full))
}

fn choose_family(options: &ConvertOptions, checkpoint: &Checkpoint) -> Result<Family> {
    let (model_type, architectures) = (checkpoint.model_type(), checkpoint.architectures());
    let Some(path) = &options.family else {
        return Family::built_in(model_type, &architectures).at(|| options.input.display().to_string());
    };
    let family = Family::open(path)?;
    if !family.describes(model_type, &architectures) {
        return Err(Error::mismatch(format!(
            "family `{}` ({}) does not describe a checkpoint with model_type `{}`, architectures `{}`",
            path.display(),
            family.name,
            model_type.unwrap_or(""),
            architectures.join(", ")
        )));
    }
    Ok(family)
}

fn facts(family: &Family, values: &Values, plan: &Plan) -> Result<ModelFacts> {
    Ok(ModelFacts {
        arch: family.text.architecture.clone(),
        n_layer: values.uint(&family.text.blocks)?,
        n_gqa: values.uint("n_gqa").unwrap_or(1),
        has_output: plan.text.iter().any(|t| t.name == "output.weight"),
        has_imatrix: false,
        n_expert: values.uint("n_expert").unwrap_or(0),
        attn_v: ModelFacts::layers_with_attn_v(plan.text.iter().map(|t| t.name.as_str())),
    })
}

/// The projector's file type: as asked, else as the text model's, but 16 bits instead of fewer.
fn mmproj_type(options: &ConvertOptions, plan: &[Planned]) -> Option<FileType> {
    options.mmproj_outtype.or_else(|| {
        let ty = options.outtype?;
        let wide = match main_type(plan) {
            GgmlType::BF16 => GgmlType::BF16,
            _ => GgmlType::F16,
        };
        Some(if ty.is_quantized() { FileType::plain(wide) } else { ty })
    })
}

/// One output file: the type of every tensor, and of the file as a whole.
struct Output {
    declared: Vec<Declared>,
    file_type: FileType,
}

impl Output {
    fn new(plan: &[Planned], chosen: Option<FileType>, facts: &ModelFacts) -> Output {
        let ty = |t: &Planned| {
            let is_f16 = chosen.map_or(stored_type(t.dtype), FileType::base) == GgmlType::F16;
            match chosen {
                // Kernels over patches are few and touch every pixel: full width, except among halves.
                _ if t.name.contains("patch_embd") && t.ne.len() > 1 && is_f16 => GgmlType::F16,
                _ if !is_quantizable(&t.name, &t.ne) => GgmlType::F32,
                Some(file_type) => fit(recipe(file_type, &t.name, &t.ne, facts), t.ne[0]),
                None => stored_type(t.dtype),
            }
        };
        Output {
            declared: plan.iter().map(|t| (t.name.clone(), ty(t), t.ne.clone())).collect(),
            file_type: chosen.unwrap_or_else(|| FileType::plain(main_type(plan))),
        }
    }

    fn n_params(&self) -> u64 {
        self.declared.iter().map(|(_, _, ne)| ne.iter().map(|n| *n as u64).product::<u64>()).sum()
    }
}

/// The type in which most values of the matrices are stored.
fn main_type(plan: &[Planned]) -> GgmlType {
    let matrices = || plan.iter().filter(|t| is_quantizable(&t.name, &t.ne));
    let n_of =
        |ty| matrices().filter(|t| stored_type(t.dtype) == ty).map(|t| t.ne.iter().product::<usize>()).sum::<usize>();
    let types = [GgmlType::F32, GgmlType::F16, GgmlType::BF16];
    types.into_iter().max_by_key(|ty| n_of(*ty)).expect("three types")
}

fn stored_type(dtype: Dtype) -> GgmlType {
    match dtype {
        Dtype::F16 => GgmlType::F16,
        Dtype::BF16 => GgmlType::BF16,
        // The plan lets nothing else through.
        _ => GgmlType::F32,
    }
}

/// The keys that every file begins with, and the constants of its family.
fn general_keys(group: &Group, arch: &str, model_name: &str, output: &Output) -> Result<Metadata> {
    let mut meta = Metadata::default();
    meta.set("general.architecture", arch);
    set_constants(group, arch, &mut meta)?;
    meta.set("general.name", model_name);
    meta.set("general.size_label", size_label(output.n_params()));
    meta.set("general.file_type", output.file_type.id());
    meta.set("general.quantization_version", 2u32);
    Ok(meta)
}

/// The keys that only this program's own architectures have; see `docs/gguf-keys.md`.
fn set_layout_keys(layout: Layout, scale: Option<f64>, arch: &str, meta: &mut Metadata, progress: &mut dyn Progress) {
    meta.set(format!("{arch}.rope.layout"), layout.name());
    if layout.uses_temporal_scale() {
        let scale = scale.unwrap_or(layout.default_temporal_scale());
        meta.set(format!("{arch}.rope.temporal_scale"), scale as f32);
        if let Some(warning) = scale_warning(scale).filter(|_| layout != Layout::VideoRope) {
            progress.note(&warning);
        }
    }
}

/// Where the two files go.
fn paths(options: &ConvertOptions, model: &str, text: FileType, mmproj: FileType) -> (PathBuf, PathBuf) {
    let in_folder = options.output.is_dir() || ends_as_folder(&options.output);
    let text_path = match in_folder {
        true => options.output.join(file_name(model, text.name(), false)),
        false => options.output.clone(),
    };
    let mmproj_path = match &options.mmproj_output {
        Some(path) => path.clone(),
        None if in_folder => options.output.join(file_name(model, mmproj.name(), true)),
        None => mmproj_beside(&text_path),
    };
    (text_path, mmproj_path)
}

/// Whether two paths, whose folders are there, name one file: `a.gguf` and `./a.gguf` do.
fn is_one_name(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| {
        folder_of(path).canonicalize().ok().map(|folder| (folder, path.file_name().map(std::ffi::OsStr::to_os_string)))
    };
    real(a).is_some() && real(a) == real(b)
}

/// Reads one tensor piece by piece and appends it, encoded, to `buf`.
fn fill(
    checkpoint: &mut Checkpoint,
    planned: &Planned,
    declared: &Declared,
    buf: &mut Vec<u8>,
    progress: &mut dyn Progress,
) -> Result<()> {
    let (name, ty, ne) = declared;
    let n_bytes = super::staged::data_bytes(*ty, ne);
    let room = usize::try_from(n_bytes).ok().filter(|n| buf.try_reserve_exact(*n).is_ok());
    room.ok_or_else(|| Error::limit(format!("`{n_bytes}` bytes do not fit into memory")))?;
    let stored = stored_type(planned.dtype);
    // Values per row of the source, and which rows of it.
    let n_total: usize = ne.iter().product();
    let (first, n, row_len) = match planned.part {
        Part::Rows { first, n } => (first, n, n_total / n),
        Part::Frame { n, channels, area, .. } => (0, n, channels * 2 * area),
        Part::Matrices { n, stored, .. } => (0, n, stored.rows * stored.columns),
    };
    let row_bytes = row_len * stored.block_bytes();
    let n_rows = (CHUNK / row_len).max(1);
    let rows_tile = planned.tile.filter(|(along, _)| *along == Along::Rows).map(|(_, tile)| tile);
    let columns_tile = planned.tile.filter(|(along, _)| *along == Along::Columns).map(|(_, tile)| tile);
    let (mut raw, mut values, mut row) = (Vec::new(), Vec::new(), Vec::new());
    let mut done = 0;
    for at in (0..n).step_by(n_rows) {
        let rows = n_rows.min(n - at);
        raw.resize(rows * row_bytes, 0);
        let place = || format!("`{}`", planned.source);
        // Rows that follow one another in the checkpoint are read at once.
        let source = |i: usize| first + rows_tile.map_or(at + i, |tile| tile.source(at + i));
        let mut from = 0;
        while from < rows {
            let run = (from + 1..rows).take_while(|i| source(*i) == source(from) + i - from).count() + 1;
            let buf = &mut raw[from * row_bytes..][..run * row_bytes];
            checkpoint.read(&planned.source, (source(from) * row_bytes) as u64, buf).at(place)?;
            from += run;
        }
        values.resize(rows * row_len, 0.0);
        decode(stored, &raw, 1, &mut values)?;
        if let Some(tile) = columns_tile {
            for to in values.chunks_exact_mut(row_len) {
                row.clear();
                row.extend_from_slice(to);
                to.iter_mut().enumerate().for_each(|(i, x)| *x = row[tile.source(i)]);
            }
        }
        match planned.map {
            Map::Keep => {}
            Map::PlusOne => values.iter_mut().for_each(|x| *x += 1.0),
            Map::NegExp => values.iter_mut().for_each(|x| *x = -f64::from(*x).exp() as f32),
        }
        match planned.part {
            Part::Rows { .. } => {}
            Part::Frame { frame, area, .. } => values = pick_frame(&values, frame, area),
            Part::Matrices { stored, first, n_rows, .. } => values = pick_rows(&values, stored, first..first + n_rows),
        }
        let before = buf.len();
        encode(&values, ne[0], done, *ty, None, buf).at(place)?;
        done += values.len();
        progress.advance(name, (buf.len() - before) as u64)?;
    }
    Ok(())
}

/// Of runs `(2, area)` the one of `frame`.
fn pick_frame(values: &[f32], frame: usize, area: usize) -> Vec<f32> {
    values.chunks_exact(2 * area).flat_map(|pair| &pair[frame * area..][..area]).copied().collect()
}

/// Of matrices one behind the other some rows each.
fn pick_rows(values: &[f32], Stored { rows, columns, turned }: Stored, part: Range<usize>) -> Vec<f32> {
    let mut picked = Vec::with_capacity(values.len() / rows * part.len());
    for matrix in values.chunks_exact(rows * columns) {
        if turned {
            part.clone().for_each(|row| picked.extend(matrix[row..].iter().step_by(rows)));
        } else {
            picked.extend_from_slice(&matrix[part.start * columns..part.end * columns]);
        }
    }
    picked
}

#[cfg(test)]
mod tests {
    use super::{Stored, pick_frame, pick_rows};

    #[test]
    fn a_frame_is_every_second_area() {
        let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
        assert_eq!(pick_frame(&values, 0, 3), [0.0, 1.0, 2.0, 6.0, 7.0, 8.0]);
        assert_eq!(pick_frame(&values, 1, 3), [3.0, 4.0, 5.0, 9.0, 10.0, 11.0]);
    }

    #[test]
    fn rows_of_matrices_are_picked_however_they_are_stored() {
        let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let stored = Stored { rows: 3, columns: 2, turned: false };
        assert_eq!(pick_rows(&values, stored, 1..3), [2.0, 3.0, 4.0, 5.0, 8.0, 9.0, 10.0, 11.0]);
        let turned = Stored { turned: true, ..stored };
        assert_eq!(pick_rows(&values, turned, 1..3), [1.0, 4.0, 2.0, 5.0, 7.0, 10.0, 8.0, 11.0]);
    }
}
