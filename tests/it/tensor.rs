//! Tests of the room `tensor`: every block format against independent packers and unpackers.

use longtake::ErrorKind;
use longtake::gguf::GgmlType::{self, *};
use longtake::tensor::{MatView, can_dequantize, can_quantize, dequantize_row, quantize_row};
use proptest::prelude::*;

use crate::common::{Arrays, golden_json};

/// Every type that has a decoder and an encoder.
const TYPES: [GgmlType; 15] =
    [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS];

/// The largest root mean square error over a block of numbers between -1 and 1, however they are spread.
fn coarsest(ty: GgmlType) -> f64 {
    match ty {
        F32 => 0.0,
        F16 => 3e-4,
        BF16 => 3e-3,
        Q8_0 => 6e-3,
        Q6_K => 0.025,
        Q5_K | Q5_1 => 0.045,
        Q5_0 => 0.06,
        Q4_K | Q4_1 => 0.09,
        IQ4_NL | IQ4_XS => 0.1,
        Q4_0 => 0.12,
        Q3_K => 0.2,
        Q2_K => 0.3,
        _ => unreachable!("{ty} is not among the types"),
    }
}

/// The types of the golden folder with whether it has packed values for them.
fn listing() -> Vec<(GgmlType, bool)> {
    let index = golden_json("quant/index.json");
    let rows = index.as_object().unwrap().iter();
    let listing: Vec<_> = rows
        .map(|(name, row)| {
            let ty = GgmlType::from_name(name).unwrap();
            assert_eq!(row["ggml_type"], ty.id());
            assert_eq!(row["block"], ty.block_len());
            assert_eq!(row["block_bytes"], ty.block_bytes());
            (ty, row["quantize"].as_bool().unwrap())
        })
        .collect();
    assert_eq!(listing.len(), 14);
    listing
}

fn arrays(ty: GgmlType) -> Arrays {
    Arrays::open(&format!("quant/{ty}.safetensors"))
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Decodes all rows of `packed`, shape (n_rows, bytes), into one vector.
fn decode(ty: GgmlType, packed: &[u8], n_rows: usize) -> Vec<f32> {
    let n_cols = packed.len() / n_rows / ty.block_bytes() * ty.block_len();
    let mat = MatView::new(ty, n_cols, n_rows, packed).unwrap();
    let mut out = vec![0.0; n_rows * n_cols];
    for (i, row) in out.chunks_exact_mut(n_cols).enumerate() {
        mat.row_f32(i, row).unwrap();
    }
    out
}

fn encode(ty: GgmlType, x: &[f32], n_rows: usize) -> Vec<u8> {
    let n_cols = x.len() / n_rows;
    let row_bytes = ty.row_bytes(n_cols).unwrap();
    let mut out = vec![0; n_rows * row_bytes];
    for (row, dst) in x.chunks_exact(n_cols).zip(out.chunks_exact_mut(row_bytes)) {
        quantize_row(ty, row, dst, None).unwrap();
    }
    out
}

#[test]
fn decoding_matches_bit_for_bit() {
    for (ty, _) in listing() {
        let arrays = arrays(ty);
        for (packed, values) in [("packed", "dequant"), ("random_packed", "random_dequant")] {
            if ty.block_len() == 1 && packed == "random_packed" || !arrays.has(packed) {
                assert!(arrays.has("packed") || arrays.has("random_packed"), "{ty} has something to decode");
                continue;
            }
            let got = decode(ty, &arrays.u8(packed), arrays.shape(packed)[0]);
            let want = arrays.f32(values);
            let differing = got.iter().zip(&want).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            assert_eq!((differing, got.len()), (0, want.len()), "{ty} {packed}");
        }
    }
}

#[test]
fn encoding_matches_byte_for_byte() {
    let types: Vec<_> = listing().into_iter().filter(|row| row.1).map(|row| row.0).collect();
    assert_eq!(types.len(), 7);
    for ty in types {
        let arrays = arrays(ty);
        let n_rows = arrays.shape("x")[0];
        let (got, want) = (encode(ty, &arrays.f32("x"), n_rows), arrays.u8("packed"));
        let row_bytes = want.len() / n_rows;
        for i in 0..want.len() {
            assert_eq!(got[i], want[i], "{ty} row {} byte {}", i / row_bytes, i % row_bytes);
        }
        if ty.block_len() == 1 {
            let (x, want) = (arrays.f32("special_x"), arrays.u8("special_packed"));
            for (i, (got, want)) in encode(ty, &x, 1).chunks(2).zip(want.chunks(2)).enumerate() {
                assert_eq!(got, want, "{ty} of {:e} ({:#x})", x[i], x[i].to_bits());
            }
        }
    }
}

#[test]
fn f32_rows_keep_every_bit() {
    let x = [0.0f32, -0.0, 1.5, f32::MIN_POSITIVE / 4.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    let packed = encode(GgmlType::F32, &x, 1);
    let mut back = [0.0; 7];
    dequantize_row(GgmlType::F32, &packed, &mut back).unwrap();
    assert_eq!(bits(&back), bits(&x));
}

/// Root mean square error with the squares weighted by `w`.
fn rmse(x: &[f32], y: &[f32], w: &[f32]) -> f64 {
    let square = x.iter().zip(y).zip(w).map(|((x, y), w)| *w as f64 * (*x as f64 - *y as f64).powi(2));
    (square.sum::<f64>() / w.iter().map(|w| *w as f64).sum::<f64>()).sqrt()
}

#[test]
fn searches_are_as_good_as_the_reference() {
    // Always the committed files: they are no part of the whole golden folder.
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/quant_reference");
    let text = std::fs::read_to_string(format!("{folder}/reference.json")).unwrap();
    let reference: serde_json::Value = serde_json::from_str(&text).unwrap();
    let arrays = Arrays::open(&format!("{folder}/inputs.safetensors"));
    let (x, importance) = (arrays.f32("x"), arrays.f32("importance"));
    let n_cols = importance.len();
    let ones = vec![1.0; n_cols];
    let mut failures = Vec::new();
    assert_eq!(reference.as_object().unwrap().len(), 7);
    for (name, entry) in reference.as_object().unwrap() {
        let ty = GgmlType::from_name(name).unwrap();
        for (kind, importance) in [("plain", None), ("weighted", Some(&importance[..]))] {
            let mut ratios = Vec::new();
            let want = entry[kind].as_array().unwrap();
            assert_eq!(want.len(), x.len() / n_cols);
            for (i, (row, want)) in x.chunks_exact(n_cols).zip(want).enumerate() {
                let mut packed = vec![0; ty.row_bytes(n_cols).unwrap()];
                let mut back = vec![0.0; n_cols];
                quantize_row(ty, row, &mut packed, importance).unwrap();
                dequantize_row(ty, &packed, &mut back).unwrap();
                let (got, want) = (rmse(row, &back, importance.unwrap_or(&ones)), want.as_f64().unwrap());
                // Constants may be off by the rounding of an f16 scale.
                let largest = row.iter().fold(0.0f32, |max, x| max.max(x.abs()));
                let tiny = 1e-7 * largest as f64;
                if got > want * 1.005 + tiny {
                    failures.push(format!("{ty} {kind} row {i}: {got:e} against {want:e} ({:.4})", got / want));
                }
                if want > 0.0 {
                    ratios.push(got / want);
                }
            }
            let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
            let worst = ratios.iter().fold(0.0f64, |a, b| a.max(*b));
            println!("{ty:>6} {kind:>8}: error / reference error, mean {mean:.4}, worst row {worst:.4}");
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn products_with_decoded_rows_match() {
    let mut n_products = 0;
    for (ty, _) in listing().into_iter().filter(|row| row.0.block_len() > 1) {
        let arrays = arrays(ty);
        let (n_rows, n_act) = (arrays.shape("random_packed")[0], arrays.shape("act")[0]);
        let weights = decode(ty, &arrays.u8("random_packed"), n_rows);
        let (act, want, scale) = (arrays.f32("act"), arrays.f64("act_out"), arrays.f64("act_abs"));
        let n_cols = weights.len() / n_rows;
        for (ia, act) in act.chunks_exact(n_cols).enumerate() {
            for (iw, row) in weights.chunks_exact(n_cols).enumerate() {
                let got: f64 = act.iter().zip(row).map(|(a, b)| *a as f64 * *b as f64).sum();
                let at = ia * n_rows + iw;
                // Products are exact in f64; n additions in another order differ by at most n roundings.
                let tolerance = scale[at] * n_cols as f64 * f64::EPSILON;
                assert!((got - want[at]).abs() <= tolerance, "{ty} {ia} {iw}: {got} {}", want[at]);
                n_products += 1;
            }
        }
        assert_eq!(want.len(), n_act * n_rows);
    }
    assert!(n_products >= 12 * 9);
}

#[test]
fn errors_of_the_simple_formats_are_known() {
    let index = golden_json("quant/index.json");
    let mut n_types = 0;
    for (name, row) in index.as_object().unwrap() {
        let Some(want) = row["rmse_per_row"].as_array() else { continue };
        let ty = GgmlType::from_name(name).unwrap();
        let x = arrays(ty).f32("x");
        let n_cols = x.len() / want.len();
        let back = decode(ty, &encode(ty, &x, want.len()), want.len());
        let ones = vec![1.0; n_cols];
        for (i, want) in want.iter().enumerate() {
            let got = rmse(&x[i * n_cols..][..n_cols], &back[i * n_cols..][..n_cols], &ones);
            let want = want.as_f64().unwrap();
            assert!((got - want).abs() <= 1e-6 * want, "{ty} row {i}: {got:e} against {want:e}");
        }
        n_types += 1;
    }
    assert_eq!(n_types, 5);
}

#[test]
fn types_without_a_codec_are_refused() {
    for ty in TYPES {
        assert!(can_quantize(ty), "{ty}");
    }
    for ty in [Q8_1, Q8_K, I8, I32, F64] {
        assert!(!can_quantize(ty), "{ty}");
        let (mut bytes, mut x) = (vec![0; ty.block_bytes()], vec![0.0; ty.block_len()]);
        assert_eq!(dequantize_row(ty, &bytes, &mut x).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(quantize_row(ty, &x, &mut bytes, None).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn blocks_do_not_depend_on_their_neighbours() {
    for ty in TYPES {
        let (len, bytes) = (ty.block_len(), ty.block_bytes());
        for n_blocks in [0, 1, 3, 7] {
            let x: Vec<f32> =
                (0..n_blocks * len).map(|i| ((i * i) as f32 * 0.37).sin() * (1 + i / 50) as f32).collect();
            let importance: Vec<f32> = (0..x.len()).map(|i| 1.0 + (i as f32).cos()).collect();
            for importance in [None, Some(&importance[..])] {
                let mut whole = vec![0xaa; n_blocks * bytes];
                quantize_row(ty, &x, &mut whole, importance).unwrap();
                let mut back = vec![0.0; x.len()];
                dequantize_row(ty, &whole, &mut back).unwrap();
                for i in 0..n_blocks {
                    let (mut one, mut back_one) = (vec![0x55; bytes], vec![0.0; len]);
                    let part = i * len..(i + 1) * len;
                    quantize_row(ty, &x[part.clone()], &mut one, importance.map(|w| &w[part.clone()])).unwrap();
                    assert_eq!(one, whole[i * bytes..][..bytes], "{ty} block {i} of {n_blocks}");
                    dequantize_row(ty, &one, &mut back_one).unwrap();
                    assert_eq!(bits(&back_one), bits(&back[part]), "{ty} block {i} of {n_blocks}");
                }
            }
        }
    }
}

#[test]
fn special_rows_survive() {
    for ty in TYPES {
        let row = |x: &[f32]| decode(ty, &encode(ty, x, 1), 1);
        assert!(row(&[0.0; 256]).iter().all(|x| *x == 0.0), "{ty} zeros");
        assert!(row(&[-0.0; 256]).iter().all(|x| *x == 0.0), "{ty} negative zeros");
        for value in [0.37f32, -2.5, 1.0, 0.05, -4e4] {
            // One value can be hit as closely as f16 (bf16) scales allow.
            let tolerance = value.abs() * if ty == BF16 { 2f32.powi(-8) } else { 2f32.powi(-10) } + 2f32.powi(-25);
            for x in row(&[value; 256]) {
                assert!((x - value).abs() <= tolerance, "{ty} constant {value}: {x}");
            }
        }
        // Subnormal f32: nothing but F32 and BF16 comes near them. Others make them zero.
        let tiny: Vec<f32> =
            (0..256).map(|i| f32::from_bits(i * 1234 + 1) * if i % 3 == 0 { -1.0 } else { 1.0 }).collect();
        assert!(row(&tiny).iter().all(|x| x.abs() < 1e-37), "{ty} subnormal");
        let normal_beside_tiny: Vec<f32> =
            tiny.iter().enumerate().map(|(i, x)| if i == 77 { 1.0 } else { *x }).collect();
        let back = row(&normal_beside_tiny);
        assert!((back[77] - 1.0).abs() < 0.01 && back[76].abs() < 0.01, "{ty} one among subnormals: {}", back[77]);
    }
}

#[test]
fn numbers_that_do_not_fit_are_named() {
    for ty in TYPES {
        for (index, value) in
            [(0, f32::NAN), (255, f32::INFINITY), (100, f32::NEG_INFINITY), (31, 1e30), (32, f32::MIN)]
        {
            let mut x = [0.5; 256];
            x[index] = value;
            let mut bytes = vec![0; ty.row_bytes(256).unwrap()];
            let result = quantize_row(ty, &x, &mut bytes, None);
            if ty.block_len() == 1 {
                result.unwrap();
                let mut back = [0.0; 256];
                dequantize_row(ty, &bytes, &mut back).unwrap();
                assert_eq!(back[index].is_nan(), value.is_nan(), "{ty} {value}");
                assert!(value.is_nan() || back[index].signum() == value.signum(), "{ty} {value}");
            } else {
                let err = result.unwrap_err();
                assert_eq!(err.kind(), ErrorKind::BadInput);
                assert!(err.to_string().contains(&format!("index {index}:")), "{ty} {value}: {err}");
            }
        }
        for value in [f32::NAN, f32::INFINITY, -1.0] {
            let (x, mut importance) = ([0.5; 256], [1.0; 256]);
            importance[41] = value;
            let mut bytes = vec![0; ty.row_bytes(256).unwrap()];
            let err = quantize_row(ty, &x, &mut bytes, Some(&importance)).unwrap_err();
            assert!(err.to_string().contains("index 41:"), "{ty} {value}: {err}");
        }
    }
}

#[test]
fn importance_moves_the_error_elsewhere() {
    for ty in [Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS] {
        let x: Vec<f32> = (0..512).map(|i| ((i * i) as f32 * 0.61).sin()).collect();
        // A few columns matter, one of them more than anything a number can say; and no column matters at all.
        let mut importance: Vec<f32> = (0..512).map(|i| if i % 11 == 0 { 1e3 } else { 0.0 }).collect();
        importance[256] = f32::MAX;
        let pack = |importance: Option<&[f32]>| {
            let mut bytes = vec![0; ty.row_bytes(512).unwrap()];
            quantize_row(ty, &x, &mut bytes, importance).unwrap();
            decode(ty, &bytes, 1)
        };
        let (plain, weighted) = (pack(None), pack(Some(&importance)));
        let judge: Vec<f32> = (0..512).map(|i| if i % 11 == 0 && i < 256 { 1.0 } else { 0.0 }).collect();
        let (before, after) = (rmse(&x, &plain, &judge), rmse(&x, &weighted, &judge));
        assert!(after < 0.8 * before, "{ty}: {before} before, {after} after");
        assert_eq!(bits(&pack(Some(&[0.0; 512]))), bits(&plain), "{ty} without any importance");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_decode(bytes in prop::collection::vec(any::<u8>(), 4096), n_blocks in 0usize..16) {
        for ty in TYPES {
            let mut out = vec![0.0; n_blocks * ty.block_len()];
            dequantize_row(ty, &bytes[..n_blocks * ty.block_bytes()], &mut out).unwrap();
        }
    }

    #[test]
    fn any_numbers_encode(x in prop::collection::vec(-1.0f32..1.0, 256), power in -12i32..12, weighted: bool) {
        let factor = 2f32.powi(power);
        let x: Vec<f32> = x.iter().map(|x| x * factor).collect();
        let importance: Vec<f32> = x.iter().rev().map(|x| x * x).collect();
        for ty in TYPES {
            let mut bytes = vec![0; ty.row_bytes(256).unwrap()];
            quantize_row(ty, &x, &mut bytes, weighted.then_some(&importance)).unwrap();
            let back = decode(ty, &bytes, 1);
            prop_assert!(back.iter().all(|x| x.is_finite()), "{ty}");
            let error = rmse(&x, &back, &[1.0; 256]);
            // An f16 scale is off by up to 2^-25, and Q8_0 multiplies it by up to 127.
            let bound = coarsest(ty) * factor as f64 * if weighted { 2.0 } else { 1.0 } + 127.0 * 2f64.powi(-25);
            prop_assert!(error <= bound, "{ty}: error {error:e}, expected at most {bound:e}");
        }
    }

    #[test]
    fn any_number_that_fits_decodes_to_a_finite_one(bits in prop::collection::vec(any::<u32>(), 256)) {
        // Every bit pattern, that is every magnitude, brought into the range that all formats share.
        let x: Vec<f32> = bits.iter().map(|b| f32::from_bits(*b)).map(|x| if x.abs() <= 65504.0 { x } else { 1.0 }).collect();
        for ty in TYPES {
            prop_assert!(decode(ty, &encode(ty, &x, 1), 1).iter().all(|x| x.is_finite()), "{ty}");
        }
    }
}

/// Formats that are read and not made here, with blocks that another implementation decoded (`tests/formats`).
const READ_ONLY: [GgmlType; 13] = [
    GgmlType::IQ1_S,
    GgmlType::IQ1_M,
    GgmlType::IQ2_XXS,
    GgmlType::IQ2_XS,
    GgmlType::IQ2_S,
    GgmlType::IQ3_XXS,
    GgmlType::IQ3_S,
    GgmlType::TQ1_0,
    GgmlType::TQ2_0,
    GgmlType::Q1_0,
    GgmlType::Q2_0,
    GgmlType::MXFP4,
    GgmlType::NVFP4,
];

#[test]
fn formats_that_are_only_read_decode_bit_for_bit() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/formats/blocks.safetensors");
    let arrays = Arrays::at(path.as_ref());
    for ty in READ_ONLY {
        let (packed, want) = (arrays.u8(&format!("{ty}.packed")), arrays.f32(&format!("{ty}.values")));
        let mut got = vec![f32::NAN; want.len()];
        dequantize_row(ty, &packed, &mut got).unwrap();
        // A zero may have either sign: codes are integers here.
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!(got.to_bits() == want.to_bits() || (*got == 0.0 && *want == 0.0), "{ty} {i}: {got} for {want}");
        }
        assert!(can_dequantize(ty) && !can_quantize(ty));
        let err = quantize_row(ty, &want[..ty.block_len()], &mut vec![0; ty.block_bytes()], None).unwrap_err();
        assert!(err.to_string().contains(ty.name()) && err.to_string().contains("not made"), "{err}");
    }
    let others =
        (0..64).filter_map(|id| GgmlType::from_id(id).ok()).filter(|ty| can_dequantize(*ty) && !can_quantize(*ty));
    assert_eq!(others.count(), READ_ONLY.len());
}
