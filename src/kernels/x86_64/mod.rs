//! x86-64 tables.

pub mod avx2;
pub mod avx512;
