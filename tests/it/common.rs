//! What all tests share: where the golden data is.
#![allow(dead_code)]

use std::path::PathBuf;
use std::sync::{Arc, Once};

use longtake::Result;
use longtake::gguf::Gguf;
use longtake::model::{HParams, TextModel, VisionTower};
use longtake::stream::{Engine, EngineOptions};

/// Has the kernels compute that `LONGTAKE_KERNELS` names: comes before every model, since the first one decides.
pub fn choose_kernels() {
    const KERNELS: &str = "LONGTAKE_KERNELS";
    if let Some(name) = std::env::var(KERNELS).ok().filter(|name| !name.is_empty()) {
        longtake::kernels::prefer(&name, KERNELS).expect("nothing else chooses");
    }
}

/// [`TextModel::load`].
pub fn text_model(file: &Arc<Gguf>) -> Result<(TextModel, Vec<String>)> {
    choose_kernels();
    TextModel::load(file)
}

/// [`TextModel::with`].
pub fn text_model_with(hp: HParams, file: &Arc<Gguf>) -> Result<(TextModel, Vec<String>)> {
    choose_kernels();
    TextModel::with(hp, file)
}

/// [`VisionTower::load`].
pub fn vision_tower(file: &Arc<Gguf>) -> Result<(VisionTower, Vec<String>)> {
    choose_kernels();
    VisionTower::load(file)
}

/// [`Engine::from_files`].
pub fn engine_of(text: Arc<Gguf>, mmproj: Option<Arc<Gguf>>) -> Result<Engine> {
    choose_kernels();
    Engine::from_files(text, mmproj)
}

/// [`Engine::load`].
pub fn engine(options: &EngineOptions) -> Result<Engine> {
    choose_kernels();
    Engine::load(options)
}

/// The folder with the golden data: `LONGTAKE_GOLDEN`, or the selection that is part of the repository.
pub fn golden() -> PathBuf {
    static SAY: Once = Once::new();
    match std::env::var_os("LONGTAKE_GOLDEN") {
        Some(dir) => PathBuf::from(dir),
        None => {
            SAY.call_once(|| eprintln!("LONGTAKE_GOLDEN is not set: testing against the committed selection only"));
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
        }
    }
}

/// The same of the newer families: `LONGTAKE_GOLDEN_FAMILIES`, or the selection.
pub fn golden_families() -> PathBuf {
    static SAY: Once = Once::new();
    match std::env::var_os("LONGTAKE_GOLDEN_FAMILIES") {
        Some(dir) => PathBuf::from(dir),
        None => {
            SAY.call_once(|| eprintln!("LONGTAKE_GOLDEN_FAMILIES is not set: testing against the selection only"));
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden_families")
        }
    }
}

/// Those of tiny models with experts.
pub fn golden_experts() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden_experts")
}

/// Reads a golden JSON file.
pub fn golden_json(path: &str) -> serde_json::Value {
    json_at(&golden().join(path))
}

/// Reads a golden JSON file of the newer families.
pub fn families_json(path: &str) -> serde_json::Value {
    json_at(&golden_families().join(path))
}

/// Every model with goldens of the newer families, with its index.
pub fn family_models() -> Vec<(String, serde_json::Value)> {
    let models = models_in(&golden_families());
    assert!(models.len() >= 3, "{} models", models.len());
    models
}

/// The same of golden data in a folder of their own.
pub fn models_in(root: &std::path::Path) -> Vec<(String, serde_json::Value)> {
    let dir = root.join("model");
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|err| panic!("{}: {err}", dir.display()));
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(!names.is_empty(), "{}", dir.display());
    names.into_iter().map(|name| (name.clone(), json_at(&dir.join(name).join("index.json")))).collect()
}

/// Reads a JSON file.
pub fn json_at(path: &std::path::Path) -> serde_json::Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// A `.safetensors` file of golden arrays, read with the reference crate.
pub struct Arrays {
    bytes: Vec<u8>,
    path: PathBuf,
}

impl Arrays {
    pub fn open(path: &str) -> Arrays {
        Arrays::at(&golden().join(path))
    }

    pub fn at(path: &std::path::Path) -> Arrays {
        let path = path.to_path_buf();
        Arrays { bytes: std::fs::read(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display())), path }
    }

    fn view<R>(&self, name: &str, f: impl FnOnce(safetensors::tensor::TensorView<'_>) -> R) -> R {
        let st = safetensors::SafeTensors::deserialize(&self.bytes).expect("golden arrays parse");
        f(st.tensor(name).unwrap_or_else(|_| panic!("{}: no array {name}", self.path.display())))
    }

    pub fn has(&self, name: &str) -> bool {
        let st = safetensors::SafeTensors::deserialize(&self.bytes).expect("golden arrays parse");
        st.tensor(name).is_ok()
    }

    pub fn names(&self) -> Vec<String> {
        let st = safetensors::SafeTensors::deserialize(&self.bytes).expect("golden arrays parse");
        st.names().into_iter().map(|n| n.to_string()).collect()
    }

    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.view(name, |v| v.shape().to_vec())
    }

    pub fn u8(&self, name: &str) -> Vec<u8> {
        self.view(name, |v| v.data().to_vec())
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.view(name, |v| {
            assert_eq!(v.dtype(), safetensors::Dtype::F32, "{name}");
            v.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        })
    }

    pub fn f64(&self, name: &str) -> Vec<f64> {
        self.view(name, |v| {
            assert_eq!(v.dtype(), safetensors::Dtype::F64, "{name}");
            v.data().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
        })
    }

    pub fn i64(&self, name: &str) -> Vec<i64> {
        self.view(name, |v| {
            assert_eq!(v.dtype(), safetensors::Dtype::I64, "{name}");
            v.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()
        })
    }
}

/// Largest absolute difference; NaN anywhere counts as infinite.
pub fn max_abs_diff(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "lengths differ");
    a.iter().zip(b).fold(0.0, |worst, (x, y)| {
        let d = (x - y).abs();
        if d.is_nan() { f32::INFINITY } else { worst.max(d) }
    })
}
