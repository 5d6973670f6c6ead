//! Tests of the room `tensor`: every block format against independent packers and unpackers.

use longtake::gguf::GgmlType;
use longtake::tensor::{MatView, dequantize_row, quantize_row};

use crate::common::{Arrays, golden_json};

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
