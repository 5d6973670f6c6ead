//! Rows of numbers: packing, decoding and products, as ggml does them.

use std::ffi::c_void;

use crate::sys;
use crate::system::start;

/// ggml's number of an element type.
pub type TypeId = u32;

/// Memory for packed blocks, aligned for all of them.
struct Blocks(Vec<u64>);

impl Blocks {
    fn new(n_bytes: usize) -> Blocks {
        Blocks(vec![0; n_bytes.div_ceil(8)])
    }

    fn from(bytes: &[u8]) -> Blocks {
        let mut blocks = Blocks::new(bytes.len());
        // SAFETY: both are at least that long, and a new vector overlaps nothing.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), blocks.as_mut_ptr().cast(), bytes.len()) };
        blocks
    }

    fn as_ptr(&self) -> *const c_void {
        self.0.as_ptr().cast()
    }

    fn as_mut_ptr(&mut self) -> *mut c_void {
        self.0.as_mut_ptr().cast()
    }

    fn to_bytes(&self, n_bytes: usize) -> Vec<u8> {
        assert!(n_bytes <= self.0.len() * 8);
        // SAFETY: that many bytes were allocated, and bytes have no invalid values.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), n_bytes) }.to_vec()
    }
}

fn traits(ty: TypeId) -> &'static sys::ggml_type_traits {
    start();
    assert!(ty < sys::GGML_TYPE_COUNT, "ggml has no type `{ty}`");
    // SAFETY: a row of a constant table, checked to be inside.
    unsafe { &*sys::ggml_get_type_traits(ty) }
}

fn cpu_traits(ty: TypeId) -> &'static sys::ggml_type_traits_cpu {
    let _ = traits(ty);
    // SAFETY: a row of a constant table, checked to be inside.
    unsafe { &*sys::ggml_get_type_traits_cpu(ty) }
}

/// Bytes of a row of `n` elements.
///
/// # Panics
/// When `n` is not a whole number of blocks, or ggml has no such type.
pub fn row_bytes(ty: TypeId, n: usize) -> usize {
    let block = traits(ty).blck_size as usize;
    assert!(block > 0 && n.is_multiple_of(block), "`{n}` elements of type `{ty}` are not whole blocks");
    n / block * traits(ty).type_size
}

/// Packs rows of `n_per_row` elements, as `llama-quantize` does: with its search, and with one importance per column where
/// given.
///
/// # Panics
/// When the lengths disagree, or the type cannot be packed without importance.
pub fn quantize(ty: TypeId, src: &[f32], n_per_row: usize, importance: Option<&[f32]>) -> Vec<u8> {
    let bytes = row_bytes(ty, n_per_row);
    let n_rows = src.len() / n_per_row;
    assert_eq!(src.len(), n_rows * n_per_row, "whole rows");
    assert!(importance.is_none_or(|w| w.len() == n_per_row), "one importance per column");
    // SAFETY: a function of the number alone, which `traits` has checked.
    let needs = unsafe { sys::ggml_quantize_requires_imatrix(ty) };
    assert!(importance.is_some() || !needs, "type `{ty}` needs importance");
    if ty == sys::GGML_TYPE_F32 {
        return src.iter().flat_map(|x| x.to_le_bytes()).collect();
    }
    let mut out = Blocks::new(n_rows * bytes);
    // SAFETY: `src` holds `n_rows` rows, `out` has room for them packed, `importance` holds a row or is absent.
    let written = unsafe {
        sys::ggml_quantize_chunk(
            ty,
            src.as_ptr(),
            out.as_mut_ptr(),
            0,
            n_rows as i64,
            n_per_row as i64,
            importance.map_or(std::ptr::null(), |w| w.as_ptr()),
        )
    };
    assert_eq!(written, n_rows * bytes, "type `{ty}` is not among those that ggml packs");
    out.to_bytes(written)
}

/// Converts one row as the CPU backend does in a graph: how llama.cpp writes its cache.
///
/// # Panics
/// When `src` is not whole blocks, or the backend does not write this type.
pub fn convert(ty: TypeId, src: &[f32]) -> Vec<u8> {
    let n_bytes = row_bytes(ty, src.len());
    let from_float = cpu_traits(ty).from_float.expect("the CPU backend writes this type");
    let mut out = Blocks::new(n_bytes);
    // SAFETY: `out` has room for `src` packed.
    unsafe { from_float(src.as_ptr(), out.as_mut_ptr(), src.len() as i64) };
    out.to_bytes(n_bytes)
}

/// Decodes `n` elements.
///
/// # Panics
/// When the lengths disagree.
pub fn dequantize(ty: TypeId, packed: &[u8], n: usize) -> Vec<f32> {
    assert_eq!(packed.len(), row_bytes(ty, n), "bytes of `{n}` elements of type `{ty}`");
    let Some(to_float) = traits(ty).to_float else {
        assert_eq!(ty, sys::GGML_TYPE_F32, "only F32 needs no decoding");
        return packed.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    };
    let (packed, mut out) = (Blocks::from(packed), vec![0f32; n]);
    // SAFETY: `packed` holds `n` elements and `out` has room for them.
    unsafe { to_float(packed.as_ptr(), out.as_mut_ptr(), n as i64) };
    out
}

/// Whether ggml finds the blocks well formed (scales that are finite numbers, for instance).
///
/// # Panics
/// When `packed` is not whole blocks.
pub fn valid_rows(ty: TypeId, packed: &[u8]) -> bool {
    assert!(packed.len().is_multiple_of(traits(ty).type_size), "whole blocks");
    // SAFETY: the pointer and the length belong together.
    unsafe { sys::ggml_validate_row_data(ty, Blocks::from(packed).as_ptr(), packed.len()) }
}

/// The product of one packed row with activations, as the CPU backend computes it: activations are packed first, in the type
/// that it pairs with `ty`.
///
/// # Panics
/// When the lengths disagree, or the backend has no product for this type.
pub fn dot(ty: TypeId, row: &[u8], x: &[f32]) -> f32 {
    assert_eq!(row.len(), row_bytes(ty, x.len()), "bytes of `{}` elements of type `{ty}`", x.len());
    let traits = cpu_traits(ty);
    let vec_dot = traits.vec_dot.expect("the CPU backend multiplies with this type");
    let x_packed = Blocks::from(&convert(traits.vec_dot_type, x));
    let (row, mut out) = (Blocks::from(row), 0f32);
    // SAFETY: both operands hold `x.len()` elements in the types that the table pairs; with one row the strides are unused.
    unsafe { vec_dot(x.len() as i32, &mut out, 0, row.as_ptr(), 0, x_packed.as_ptr(), 0, 1) };
    out
}
