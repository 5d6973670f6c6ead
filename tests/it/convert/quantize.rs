//! Quantization of whole files: types, errors, what is kept, what is refused.

use std::path::{Path, PathBuf};

use longtake::ErrorKind;
use longtake::convert::{FileType, QuantizeOptions, QuantizeReport, quantize};
use longtake::gguf::{GgmlType, Gguf, GgufWriter, Metadata};
use longtake::tensor::dequantize_row;

use crate::common::golden;

fn tiny_c() -> PathBuf {
    golden().join("gguf_models/tiny-c.gguf")
}

fn options(input: &Path, dir: &Path, name: &str) -> QuantizeOptions {
    QuantizeOptions::new(input, dir.join(format!("{name}.gguf")), FileType::from_name(name).unwrap())
}

fn done(options: &QuantizeOptions) -> (QuantizeReport, Gguf) {
    let report = quantize(options, &mut ()).unwrap_or_else(|err| panic!("{err}"));
    (report, Gguf::open(&options.output).unwrap())
}

fn values(gguf: &Gguf, name: &str) -> Vec<f32> {
    let info = gguf.tensor(name).unwrap();
    let mut out = vec![0.0; info.n_elements()];
    dequantize_row(info.ty, gguf.data(info), &mut out).unwrap();
    out
}

/// Squared differences over squared values, from the files alone.
fn nmse(a: &[f32], b: &[f32]) -> f64 {
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f((*a).into(), (*b).into())).sum::<f64>();
    sum(&|a, b| (a - b) * (a - b)) / sum(&|a, _| a * a)
}

#[test]
fn types_and_errors_of_tiny_c() {
    let dir = tempfile::tempdir().unwrap();
    let source = Gguf::open(&tiny_c()).unwrap();
    // Bounds from the width of the steps: a step of 1/127 of the largest of 32 values for Q8_0, and so on.
    let bound = |ty: GgmlType| match ty {
        GgmlType::Q8_0 => 1e-4,
        GgmlType::Q6_K => 1e-3,
        GgmlType::Q5_K => 3e-3,
        GgmlType::Q4_K | GgmlType::IQ4_XS => 1e-2,
        GgmlType::Q3_K => 4e-2,
        other => panic!("{other}"),
    };
    for (name, base, output) in [
        ("Q8_0", GgmlType::Q8_0, GgmlType::Q8_0),
        ("Q4_K_M", GgmlType::Q4_K, GgmlType::Q6_K),
        ("Q3_K_S", GgmlType::Q3_K, GgmlType::Q6_K),
        ("IQ4_XS", GgmlType::IQ4_XS, GgmlType::Q6_K),
    ] {
        let (report, gguf) = done(&options(&tiny_c(), dir.path(), name));
        for (row, info) in report.tensors.iter().zip(gguf.tensors()) {
            assert_eq!((&row.name, row.to, &row.ne), (&info.name, info.ty, &info.ne));
            let before = source.tensor(&row.name).unwrap();
            assert_eq!(row.from, before.ty);
            if info.ne.len() == 1 {
                assert_eq!((info.ty, row.nmse), (GgmlType::F32, None));
                assert!(gguf.data(info) == source.data(before), "{}", row.name);
                continue;
            }
            // Of two layers, the second counts as the last eighth in the M recipes.
            let more = name == "Q4_K_M"
                && row.name.starts_with("blk.1.")
                && ["attn_v", "ffn_down"].iter().any(|p| row.name.contains(p));
            let want = if row.name == "token_embd.weight" {
                output
            } else if more {
                GgmlType::Q6_K
            } else {
                base
            };
            assert_eq!(row.to, want, "{name}: {}", row.name);
            let (said, seen) = (row.nmse.unwrap(), nmse(&values(&source, &row.name), &values(&gguf, &row.name)));
            assert!((said - seen).abs() <= 1e-9 * seen, "{}: {said} said, {seen} seen", row.name);
            assert!(said > 0.0 && said < bound(row.to), "{name}: {} {said}", row.name);
            assert!(row.rmse.unwrap() > 0.0 && row.max_abs_error.unwrap() >= row.rmse.unwrap());
        }
        assert_eq!(report.bytes_after, gguf.tensors().iter().map(|t| t.n_bytes as u64).sum::<u64>());
        assert!(report.bytes_after < report.bytes_before);
        assert_eq!(report.file_bytes, gguf.file_bytes());
        // All keys are kept but the one that says what the file is.
        let mut want = source.meta().clone();
        want.set("general.file_type", FileType::from_name(name).unwrap().id());
        want.set("general.quantization_version", 2u32);
        assert_eq!(gguf.meta(), &want);
    }
}

#[test]
fn a_projector_is_quantized_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = golden().join("gguf_models/mmproj-tiny-c.gguf");
    let (report, gguf) = done(&options(&path, dir.path(), "Q4_K_M"));
    let ty = |name: &str| gguf.tensor(name).unwrap().ty;
    assert_eq!(ty("v.patch_embd.weight"), GgmlType::F32);
    assert_eq!(ty("v.patch_embd.weight.1"), GgmlType::F32);
    assert_eq!(ty("mm.0.weight"), GgmlType::Q4_K);
    assert_eq!(ty("v.blk.0.attn_q.weight"), GgmlType::Q5_0, "128 columns do not fit Q4_K");
    assert_eq!(ty("v.blk.0.ffn_down.weight"), GgmlType::Q6_K);
    let row = report.tensors.iter().find(|t| t.name == "v.blk.0.attn_q.weight").unwrap();
    assert_eq!(row.wanted, Some(GgmlType::Q4_K));
}

#[test]
fn what_is_quantized_stays_unless_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let first = options(&tiny_c(), dir.path(), "Q8_0");
    done(&first);
    let mut again = options(&first.output, dir.path(), "Q4_0");
    let err = quantize(&again, &mut ()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::BadInput);
    let text = err.to_string();
    assert!(text.contains("`blk.0.attn_q.weight` is Q8_0") && text.contains("--allow-requantize"), "{text}");
    assert!(!again.output.exists());
    again.allow_requantize = true;
    let (_, gguf) = done(&again);
    assert_eq!(gguf.tensor("blk.0.attn_q.weight").unwrap().ty, GgmlType::Q4_0);
    // The type it has already is no requantization, and changes no byte.
    let mut same = options(&first.output, dir.path(), "Q8_0");
    same.output = dir.path().join("same.gguf");
    done(&same);
    assert!(std::fs::read(&same.output).unwrap() == std::fs::read(&first.output).unwrap());
}

#[test]
fn one_file_cannot_be_both() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    std::fs::copy(tiny_c(), &path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let mut others = vec![path.clone(), dir.path().join(".").join("a.gguf")];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&path, dir.path().join("link.gguf")).unwrap();
        std::fs::hard_link(&path, dir.path().join("hard.gguf")).unwrap();
        others.extend([dir.path().join("link.gguf"), dir.path().join("hard.gguf")]);
    }
    for other in others {
        let err = quantize(&QuantizeOptions::new(&path, &other, FileType::from_name("Q8_0").unwrap()), &mut ());
        assert_eq!(err.unwrap_err().kind(), ErrorKind::BadInput, "{}", other.display());
        assert!(std::fs::read(&path).unwrap() == before);
    }
}

#[test]
fn types_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let ty = |name: &str| GgmlType::from_name(name).unwrap();
    let mut by_name = options(&tiny_c(), dir.path(), "Q4_0");
    by_name.tensor_types = vec![
        (r"blk\.1\..*ffn_(up|gate)".to_string(), ty("q8_0")),
        ("ffn_up".to_string(), ty("f16")),
        ("nothing".to_string(), ty("f16")),
    ];
    by_name.token_embedding_type = Some(ty("q5_0"));
    struct Notes(Vec<String>);
    impl longtake::convert::Progress for Notes {
        fn note(&mut self, message: &str) {
            self.0.push(message.to_string());
        }
    }
    let mut notes = Notes(Vec::new());
    quantize(&by_name, &mut notes).unwrap();
    assert!(matches!(&notes.0[..], [one] if one.contains("`nothing`")), "{:?}", notes.0);
    let gguf = Gguf::open(&by_name.output).unwrap();
    for (name, want) in [
        ("blk.0.ffn_up.weight", GgmlType::F16),
        ("blk.1.ffn_up.weight", GgmlType::Q8_0),
        ("blk.1.ffn_gate.weight", GgmlType::Q8_0),
        ("blk.0.ffn_gate.weight", GgmlType::Q4_0),
        ("token_embd.weight", GgmlType::Q5_0),
    ] {
        assert_eq!(gguf.tensor(name).unwrap().ty, want, "{name}");
    }
    // Tied: the embedding is the output matrix.
    let mut tied = options(&tiny_c(), dir.path(), "Q4_1");
    tied.output_tensor_type = Some(ty("q8_0"));
    tied.pure = true;
    let (_, gguf) = done(&tied);
    assert_eq!(gguf.tensor("token_embd.weight").unwrap().ty, GgmlType::Q8_0);
    assert_eq!(gguf.tensor("blk.0.attn_v.weight").unwrap().ty, GgmlType::Q4_1);
    for bad in ["Q8_K", "IQ2_XXS", "I32"] {
        tied.output_tensor_type = Some(ty(bad));
        assert_eq!(quantize(&tied, &mut ()).unwrap_err().kind(), ErrorKind::BadInput, "{bad}");
    }
}

/// A model of one block with an output matrix, all values from a formula.
fn small_model(path: &Path, bend: impl Fn(&str, &mut [f32])) {
    let mut meta = Metadata::default();
    meta.set("general.architecture", "qwen2vl");
    meta.set("qwen2vl.block_count", 1u32);
    meta.set("split.count", 0u16);
    let tensors = [("token_embd.weight", 8), ("blk.0.ffn_up.weight", 16), ("output.weight", 8)];
    let mut writer = GgufWriter::new(meta);
    for (name, rows) in tensors {
        writer.tensor(name, GgmlType::F32, &[256, rows]).unwrap();
    }
    let fill = |i: usize, buf: &mut Vec<u8>| {
        let n = 256 * tensors[i].1;
        let mut x: Vec<f32> = (0..n).map(|k| ((k * 37 + i * 11) % 101) as f32 / 50.0 - 1.0).collect();
        bend(tensors[i].0, &mut x);
        buf.extend(x.iter().flat_map(|x| x.to_le_bytes()));
        Ok(())
    };
    writer.write(path, fill).unwrap();
}

#[test]
fn the_output_matrix_can_be_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    small_model(&path, |_, _| {});
    let mut leave = options(&path, dir.path(), "Q4_0");
    leave.leave_output_tensor = true;
    let (_, gguf) = done(&leave);
    assert_eq!(gguf.tensor("output.weight").unwrap().ty, GgmlType::F32);
    assert_eq!(gguf.tensor("token_embd.weight").unwrap().ty, GgmlType::Q4_0);
    assert_eq!(gguf.meta().get("split.count"), None);
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    for bad in [f32::NAN, f32::INFINITY, 1e30] {
        small_model(&path, |name, x| {
            if name == "blk.0.ffn_up.weight" {
                x[3000] = bad;
            }
        });
        let err = quantize(&options(&path, dir.path(), "Q4_K_M"), &mut ()).unwrap_err().to_string();
        assert!(err.contains("blk.0.ffn_up.weight") && err.contains("3000"), "{err}");
        assert!(!dir.path().join("Q4_K_M.gguf").exists());
    }
}

/// An importance matrix for `blk.0.ffn_up.weight`.
fn imatrix(path: &Path, ty: &str, sums: &[f32], count: f32, name: &str) {
    let mut meta = Metadata::default();
    meta.set("general.type", ty);
    meta.set("imatrix.datasets", vec!["words.txt".to_string()]);
    meta.set("imatrix.chunk_count", 7u32);
    let mut writer = GgufWriter::new(meta);
    writer.tensor(format!("{name}.in_sum2"), GgmlType::F32, &[sums.len(), 1]).unwrap();
    writer.tensor(format!("{name}.counts"), GgmlType::F32, &[1, 1]).unwrap();
    let data = [sums.to_vec(), vec![count]];
    writer
        .write(path, |i, buf| {
            buf.extend(data[i].iter().flat_map(|x| x.to_le_bytes()));
            Ok(())
        })
        .unwrap();
}

#[test]
fn an_importance_matrix_moves_the_error_to_where_it_matters_less() {
    let dir = tempfile::tempdir().unwrap();
    let (path, im) = (dir.path().join("m.gguf"), dir.path().join("im.gguf"));
    small_model(&path, |_, _| {});
    // Only every eighth column matters.
    let matters = |k: usize| k.is_multiple_of(8);
    let sums: Vec<f32> = (0..256).map(|k| if matters(k) { 4000.0 } else { 0.004 }).collect();
    imatrix(&im, "imatrix", &sums, 4.0, "blk.0.ffn_up.weight");
    let name = "blk.0.ffn_up.weight";
    let source = Gguf::open(&path).unwrap();
    let plain = options(&path, dir.path(), "IQ4_NL");
    let mut with = plain.clone();
    with.imatrix = Some(im.clone());
    with.output = dir.path().join("with.gguf");
    let error_where_it_matters = |options: &QuantizeOptions| {
        let (_, gguf) = done(options);
        let (a, b) = (values(&source, name), values(&gguf, name));
        let pairs = a.iter().zip(&b).enumerate().filter(|(k, _)| matters(k % 256));
        pairs.map(|(_, (a, b))| f64::from(a - b).powi(2)).sum::<f64>()
    };
    let (without, guided) = (error_where_it_matters(&plain), error_where_it_matters(&with));
    assert!(guided < 0.9 * without, "{guided} against {without}");
    let meta = Gguf::open(&with.output).unwrap().meta().clone();
    assert_eq!(meta.str("quantize.imatrix.file").unwrap(), Some("im.gguf"));
    assert_eq!(meta.str("quantize.imatrix.dataset").unwrap(), Some("words.txt"));
    assert_eq!(meta.uint("quantize.imatrix.entries_count").unwrap(), Some(1));
    assert_eq!(meta.uint("quantize.imatrix.chunks_count").unwrap(), Some(7));
    // Nothing counted: all columns alike.
    imatrix(&im, "imatrix", &sums, 0.0, name);
    let mut ones = with.clone();
    ones.output = dir.path().join("ones.gguf");
    assert!(error_where_it_matters(&ones) > guided);

    for (ty, sums, count, of, want) in [
        ("model", sums.clone(), 4.0, name, "imatrix"),
        ("imatrix", sums[..128].to_vec(), 4.0, name, "256"),
        ("imatrix", [&[-1.0], &sums[1..]].concat(), 4.0, name, "-1"),
        ("imatrix", [&[f32::NAN], &sums[1..]].concat(), 4.0, name, "NaN"),
        ("imatrix", sums.clone(), f32::INFINITY, name, "inf"),
    ] {
        imatrix(&im, ty, &sums, count, of);
        let err = quantize(&with, &mut ()).unwrap_err().to_string();
        assert!(err.contains("im.gguf") && err.contains(want), "{err}");
    }
    let mut none = with.clone();
    none.imatrix = Some(path.clone());
    assert!(quantize(&none, &mut ()).unwrap_err().to_string().contains("in_sum2"));
}
