//! x86-64 tables.

mod attention_avx2;
mod attention_avx512;
pub mod avx2;
pub mod avx512;
pub mod avx512vnni;
