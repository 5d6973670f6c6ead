//! Every CUDA kernel against the scalar definitions at odd sizes: on the emulated GPU, or with `LONGTAKE_CUDA_TEST=gpu` on
//! the first GPU of this machine (`tests/gpu/run.sh` does that).

mod attention;
mod delta;
mod experts;
mod model;
mod products;
mod rows;
mod streams;
mod together;

use longtake::gguf::GgmlType;
use longtake::kernels::cuda::{Gpu, Mem, gpus};
use longtake::kernels::{Kernels, supported};

use longtake::random::Rng;

/// Every type that weights can have.
const WEIGHT_TYPES: [GgmlType; 15] = [
    GgmlType::F32,
    GgmlType::F16,
    GgmlType::BF16,
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::Q8_0,
    GgmlType::Q2_K,
    GgmlType::Q3_K,
    GgmlType::Q4_K,
    GgmlType::Q5_K,
    GgmlType::Q6_K,
    GgmlType::IQ4_NL,
    GgmlType::IQ4_XS,
];

/// The GPU that tests use; a demand for one that is not there fails aloud.
fn gpu() -> Gpu {
    let gpu = match std::env::var("LONGTAKE_CUDA_TEST").as_deref() {
        Ok("gpu" | "card") => {
            Gpu::open(&gpus().expect("LONGTAKE_CUDA_TEST=gpu needs a GPU")[0]).expect("the GPU opens")
        }
        Ok(other) => panic!("LONGTAKE_CUDA_TEST is `{other}`, expected `gpu` or nothing"),
        Err(_) => Gpu::emulated(1 << 30),
    };
    gpu.set_graphs(longtake::cli::environment::may_record());
    gpu
}

/// Whether tests run on the emulated GPU, which does only what somebody waits for.
fn is_emulated() -> bool {
    std::env::var_os("LONGTAKE_CUDA_TEST").is_none()
}

/// GPUs whose streams run in as different an order as they may.
fn gpus_in_any_order() -> Vec<Gpu> {
    if is_emulated() { vec![Gpu::emulated(1 << 30), Gpu::emulated_eager(1 << 30)] } else { vec![gpu()] }
}

/// The definition.
fn scalar() -> &'static Kernels {
    let table = supported()[0];
    assert_eq!(table.name, "scalar");
    table
}

fn up(gpu: &Gpu, data: &[f32]) -> Mem {
    gpu.upload(data, "test").unwrap()
}

fn down(mem: &Mem) -> Vec<f32> {
    let mut out = vec![0f32; mem.len() / 4];
    mem.read(&mut out).unwrap();
    out
}

/// Squared error relative to the squared result; NaN counts as infinite.
fn nmse(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - f64::from(*w)).powi(2)).sum();
    let power: f64 = want.iter().map(|w| f64::from(*w).powi(2)).sum();
    let ratio = if error == 0.0 { 0.0 } else { error / power };
    if ratio.is_nan() { f64::INFINITY } else { ratio }
}

#[test]
fn memory_is_zeroed_copied_in_parts_and_refused_with_numbers() {
    let gpu = gpu();
    let mem = gpu.alloc(40, "a test").unwrap();
    assert_eq!(down(&mem), [0.0; 10]);
    mem.floats(3, 4).write(&[1f32, 2.0, 3.0, 4.0]).unwrap();
    let mut host = [9u8; 40];
    let rows = longtake::kernels::cuda::Copy2d { at: 4, pitch: 12, width: 8, rows: 3 };
    mem.read_rows(&mut host, rows).unwrap();
    let got: Vec<f32> = host.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let rest = f32::from_le_bytes([9; 4]);
    assert_eq!(got, [rest, 0.0, 0.0, rest, 2.0, 3.0, rest, 0.0, 0.0, rest]);
    mem.write_rows(&[7; 40], rows).unwrap();
    let sevens = f32::from_le_bytes([7; 4]);
    assert_eq!(down(&mem), [0.0, sevens, sevens, 1.0, sevens, sevens, 4.0, sevens, sevens, 0.0]);

    let (free, total) = gpu.memory().unwrap();
    assert!(free <= total);
    let error = gpu.alloc(total as usize + 1, "a cache").err().expect("more than there is").to_string();
    assert!(error.contains(&format!("`{}` bytes for a cache", total + 1)) && error.contains("are free"), "{error}");
}
