//! What stays the same between conversations: the models, the tokenizer, the template.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{StampCost, fingerprint};
use crate::cache::{CacheShape, CacheType};
use crate::gguf::Gguf;
use crate::model::family::belong_together;
use crate::model::{TextModel, VisionTower};
use crate::text::{ChatTemplate, Tokenizer};
use crate::{Error, Result, error::Context};

/// Which projector to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MmprojChoice {
    /// The one beside the model, if there is one (see [`find_mmproj`]).
    Auto,
    /// None: text only.
    Off,
    /// This file.
    Path(PathBuf),
}

/// What to load and how.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The language model: a GGUF file, the first one of a split model.
    pub model: PathBuf,
    /// Which projector, for pictures and videos.
    pub mmproj: MmprojChoice,
    /// Map files instead of reading them into memory.
    pub mmap: bool,
}

/// A loaded model with all that goes with it.
pub struct Engine {
    /// The language model.
    pub text: TextModel,
    /// The vision tower, where a projector was loaded.
    pub vision: Option<VisionTower>,
    /// Words to tokens and back.
    pub tokenizer: Tokenizer,
    /// Messages to words.
    pub template: ChatTemplate,
    /// What a user should know although it is no error.
    pub warnings: Vec<String>,
    /// Whether the text model's weights are all stored in f32.
    pub is_f32: bool,
    /// The model's own name, or its file's.
    pub name: String,
    /// Bytes of all files.
    pub n_bytes: u64,
    text_file: Arc<Gguf>,
    mmproj_file: Option<Arc<Gguf>>,
}

impl Engine {
    /// Opens the files and checks that they belong together.
    ///
    /// # Errors
    /// Whatever is wrong with a file, named; a projector of another model.
    pub fn load(options: &EngineOptions) -> Result<Engine> {
        let open = |path: &Path| -> Result<Arc<Gguf>> {
            let opened = if options.mmap {
                Gguf::open(path)
            } else {
                Gguf::open_with(path, crate::gguf::GgufOptions { mmap: false })
            };
            Ok(Arc::new(opened?))
        };
        let text = open(&options.model)?;
        let mmproj = match &options.mmproj {
            MmprojChoice::Off => None,
            MmprojChoice::Path(path) => Some(open(path)?),
            MmprojChoice::Auto => find_mmproj(&options.model)?.map(|path| open(&path)).transpose()?,
        };
        Engine::from_files(text, mmproj)
    }

    /// The same from files that are already open.
    ///
    /// # Errors
    /// See [`Engine::load`].
    pub fn from_files(text_file: Arc<Gguf>, mmproj_file: Option<Arc<Gguf>>) -> Result<Engine> {
        let place = |file: &Gguf| file.path().display().to_string();
        let (text, unused) = TextModel::load(&text_file)?;
        let mut warnings = unused_warning(&text_file, &unused);
        let vision = match &mmproj_file {
            None => None,
            Some(file) => {
                let (tower, unused) = VisionTower::load(file)?;
                warnings.extend(unused_warning(file, &unused));
                let (out, n_embd) = (tower.hparams().n_embd_out, text.hparams().n_embd);
                if out != n_embd {
                    let message = format!(
                        "projector width `{out}` differs from the text model's width `{n_embd}`: they belong to different models"
                    );
                    return Err(Error::mismatch(message).at(place(file)));
                }
                check_families(&text, &tower).at(|| place(file))?;
                Some(tower)
            }
        };
        let meta = text_file.meta();
        let tokenizer = Tokenizer::from_metadata(meta).at(|| place(&text_file))?;
        if tokenizer.n_vocab() > text.hparams().n_vocab {
            let message = format!(
                "the tokenizer has `{}` tokens, the embedding only `{}` rows",
                tokenizer.n_vocab(),
                text.hparams().n_vocab
            );
            return Err(Error::mismatch(message).at(place(&text_file)));
        }
        let template = ChatTemplate::from_metadata(meta).at(|| place(&text_file))?;
        let stem = text_file.path().file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let name = meta.str("general.name")?.map_or(stem, str::to_string);
        let is_f32 = text_file.tensors().iter().all(|t| t.ty == crate::gguf::GgmlType::F32);
        let n_bytes = text_file.file_bytes() + mmproj_file.as_ref().map_or(0, |f| f.file_bytes());
        Ok(Engine { text, vision, tokenizer, template, warnings, is_f32, name, n_bytes, text_file, mmproj_file })
    }

    /// Moves the last `n` layers (beyond their number also the output matrix) to `gpus`, and the vision tower to the first.
    ///
    /// # Errors
    /// Memory that a GPU does not have, with the numbers.
    #[cfg(feature = "cuda")]
    pub fn offload(&mut self, gpus: &[crate::kernels::cuda::Gpu], n: usize) -> Result<()> {
        if let (Some(tower), Some(gpu)) = (&mut self.vision, gpus.first().filter(|_| n > 0)) {
            tower.offload(gpu)?;
        }
        self.text.offload(gpus, n)
    }

    /// Identifies the text model's file.
    pub fn fingerprint(&self) -> String {
        fingerprint::model(&self.text_file)
    }

    /// Identifies the projector's file, if there is one.
    pub fn mmproj_fingerprint(&self) -> Option<String> {
        self.mmproj_file.as_ref().map(|file| fingerprint::model(file))
    }

    /// Checks that none of its files was cut or rewritten since it was loaded: asked after every step, before the result is
    /// used.
    ///
    /// # Errors
    /// `Io` naming the file and what differs.
    pub fn check_unchanged(&self) -> Result<()> {
        self.text_file.check_unchanged()?;
        self.mmproj_file.as_ref().map_or(Ok(()), |file| file.check_unchanged())
    }

    /// The shape of a cache for this model.
    pub fn cache_shape(&self, n_ctx: usize, types: (CacheType, CacheType)) -> CacheShape {
        self.text.hparams().cache_shape(n_ctx, types)
    }

    /// What a stamp costs, where videos are stamped.
    ///
    /// # Errors
    /// A vocabulary without vision markers.
    pub fn stamp_cost(&self) -> Result<Option<StampCost>> {
        let is_stamped = self.vision.as_ref().is_some_and(|tower| tower.hparams().video.is_stamped());
        is_stamped.then(|| StampCost::of(&self.tokenizer)).transpose()
    }

    /// The vision tower.
    ///
    /// # Errors
    /// `BadInput` saying how to get one, when none is loaded.
    pub fn need_vision(&self) -> Result<&VisionTower> {
        self.vision.as_ref().ok_or_else(|| {
            Error::bad_input(
                "pictures and videos need a projector: put an mmproj file beside the model or pass --mmproj",
            )
        })
    }
}

/// Refuses a tower that is of another family than the text model, or has another number of taps.
fn check_families(text: &TextModel, tower: &VisionTower) -> Result<()> {
    let (text, tower) = (text.hparams(), tower.hparams());
    let (architecture, projector) = (text.family.architecture, tower.family.projector);
    if !belong_together(architecture, projector) {
        let message = format!(
            "a projector `{projector}` does not belong to a text model `{architecture}`: they are of different families"
        );
        return Err(Error::mismatch(message));
    }
    let (n_taps, n_wanted) = (tower.taps.len(), text.n_deepstack);
    if n_taps != n_wanted {
        return Err(Error::mismatch(format!(
            "the projector's `clip.vision.is_deepstack_layers` has `{n_taps}` taps, the text model's `n_deepstack_layers` wants \
             {n_wanted}: they belong to different models"
        )));
    }
    Ok(())
}

fn unused_warning(file: &Gguf, unused: &[String]) -> Vec<String> {
    const SHOWN: usize = 5;
    if unused.is_empty() {
        return Vec::new();
    }
    let more = if unused.len() > SHOWN { ", …" } else { "" };
    let list = unused[..unused.len().min(SHOWN)].join(", ");
    vec![format!("{}: {} tensors have no use here: {list}{more}", file.path().display(), unused.len())]
}

/// Encodings in the order in which a projector is preferred.
const PREFERENCE: [&str; 4] = ["f16", "bf16", "q8_0", "f32"];

/// The projector beside `model`: a `.gguf` file whose name contains `mmproj`. `mmproj-<model>.gguf` wins; then a file whose
/// name contains the model's name without its encoding; then the only one there is. Among several encodings of one projector
/// the order is F16, BF16, Q8_0, F32.
///
/// # Errors
/// Several that cannot be told apart.
pub fn find_mmproj(model: &Path) -> Result<Option<PathBuf>> {
    let dir = match model.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let stem = model.file_stem().map(|s| s.to_string_lossy().to_lowercase()).unwrap_or_default();
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(None) };
    let mut found: Vec<(String, PathBuf)> = entries
        .flatten()
        .map(|entry| (entry.file_name().to_string_lossy().to_lowercase(), entry.path()))
        .filter(|(name, _)| name.contains("mmproj") && name.ends_with(".gguf"))
        .collect();
    found.sort();
    if let Some((_, path)) = found.iter().find(|(name, _)| *name == format!("mmproj-{stem}.gguf")) {
        return Ok(Some(path.clone()));
    }
    // `Qwen2-VL-2B-Q4_K_M` -> `qwen2-vl-2b`: the last part after a dash or a dot is the encoding.
    let base = stem.rsplit_once(['-', '.']).map_or(stem.as_str(), |(base, _)| base);
    if found.iter().any(|(name, _)| name.contains(base)) {
        found.retain(|(name, _)| name.contains(base));
    }
    let encoding = |name: &str| {
        let stem = name.trim_end_matches(".gguf");
        PREFERENCE.iter().position(|e| stem.split(['-', '.']).any(|part| part == *e))
    };
    if found.len() > 1 {
        let mut ranked: Vec<_> =
            found.iter().map(|(name, path)| (encoding(name).unwrap_or(usize::MAX), path)).collect();
        ranked.sort();
        if ranked[0].0 == ranked[1].0 {
            let names: Vec<_> = found.iter().map(|(_, path)| path.display().to_string()).collect();
            return Err(Error::bad_input(format!(
                "several projectors fit, choose one with --mmproj: {}",
                names.join(", ")
            )));
        }
        return Ok(Some(ranked[0].1.clone()));
    }
    Ok(found.pop().map(|(_, path)| path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[&str], model: &str) -> Result<Option<String>> {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(dir.path().join(file), b"").unwrap();
        }
        Ok(find_mmproj(&dir.path().join(model))?.map(|p| p.file_name().unwrap().to_string_lossy().into_owned()))
    }

    #[test]
    fn the_projector_beside_the_model_is_found() {
        let some = |name: &str| Some(name.to_string());
        assert_eq!(found(&["a-Q4_K_M.gguf"], "a-Q4_K_M.gguf").unwrap(), None);
        assert_eq!(found(&["mmproj-F16.gguf"], "a-Q4_K_M.gguf").unwrap(), some("mmproj-F16.gguf"));
        assert_eq!(
            found(&["mmproj-a-f16.gguf", "mmproj-b-f16.gguf"], "b-Q8_0.gguf").unwrap(),
            some("mmproj-b-f16.gguf")
        );
        assert_eq!(
            found(&["mmproj-a-Q8_0.gguf", "mmproj-a-F16.gguf"], "a-Q8_0.gguf").unwrap(),
            some("mmproj-a-Q8_0.gguf")
        );
        assert_eq!(
            found(&["mmproj-a-F32.gguf", "mmproj-a-BF16.gguf"], "a-Q8_0.gguf").unwrap(),
            some("mmproj-a-BF16.gguf")
        );
        assert!(found(&["mmproj-x.gguf", "mmproj-y.gguf"], "a-Q8_0.gguf").is_err());
    }
}
