//! What all tests share: where the golden data is.
#![allow(dead_code)]

use std::path::PathBuf;
use std::sync::Once;

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

/// Reads a golden JSON file.
pub fn golden_json(path: &str) -> serde_json::Value {
    let path = golden().join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
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
