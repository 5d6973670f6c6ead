//! What the tables of instruction sets are written with: vector operations a line each, as the implementations of
//! [`Simd`](super::attention::simd::Simd) and [`Lanes`](super::matmul::lanes::Lanes) list them, and the call of a function
//! that is compiled for an instruction set.

/// `vector_fns! { unsafe; fn name(args) -> type { body } … }`: functions that are always inlined, their bodies being unsafe
/// code. With `safe` for the first word they are safe to call, as far as only code that is compiled for the instruction set
/// names the type that they belong to.
macro_rules! vector_fns {
    (unsafe; $($fns:tt)*) => { $crate::kernels::vector_fns::vector_fns! { @all (unsafe) $($fns)* } };
    (safe; $($fns:tt)*) => { $crate::kernels::vector_fns::vector_fns! { @all () $($fns)* } };
    (@all $unsafe:tt $(
        fn $name:ident $(<const $n:ident: u32>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? { $($body:tt)* }
    )*) => {
        $($crate::kernels::vector_fns::vector_fns! { @one $unsafe $name ($($n)?) ($($arg: $ty),*) ($($ret)?) { $($body)* } })*
    };
    (@one ($($unsafe:tt)?) $name:ident ($($n:ident)?) ($($arg:ident: $ty:ty),*) ($($ret:ty)?) { $($body:tt)* }) => {
        #[inline(always)]
        $($unsafe)? fn $name $(<const $n: u32>)? ($($arg: $ty),*) $(-> $ret)? {
            // SAFETY: only code compiled for the instruction set inlines this, as the trait asks; where there are pointers,
            // the caller vouches for the elements that the trait names, and arrays are loaded and stored whole.
            #[allow(unused_unsafe)]
            unsafe { $($body)* }
        }
    };
}

/// Calls a function that is compiled for an instruction set, from the table of that instruction set.
macro_rules! detected {
    ($call:expr) => {{
        // SAFETY: this stands in functions that are made `Unproven`, which nobody can call before the CPU was found to have the
        // features that they are compiled with; the scalar ones need none.
        #[allow(unused_unsafe)]
        let result = unsafe { $call };
        result
    }};
}

pub(super) use {detected, vector_fns};
