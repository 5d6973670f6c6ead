//! Every kernel by its name, numbered, so that a GPU finds one it has looked up before without searching.

use std::ffi::CStr;

use crate::gguf::GgmlType;

/// A kernel: what its `.cu` file calls it, and its number.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    name: &'static CStr,
    id: usize,
}

impl Kernel {
    /// As the driver finds it.
    pub(super) fn c_name(self) -> &'static CStr {
        self.name
    }

    /// As errors call it.
    pub(super) fn name(self) -> &'static str {
        self.name.to_str().expect("names of kernels are plain words")
    }

    /// Below [`Kernel::COUNT`].
    pub(super) fn id(self) -> usize {
        self.id
    }

    /// How many there are.
    pub(super) const COUNT: usize = FIXED + TYPES.len() * PER_TYPE;
}

macro_rules! kernels {
    ($($NAME:ident: $name:literal,)*) => {
        /// The numbers of kernels that are there once.
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Id { $($NAME,)* Count }

        impl Kernel {
            $(pub(super) const $NAME: Kernel = Kernel { name: $name, id: Id::$NAME as usize };)*
        }

        const FIXED: usize = Id::Count as usize;
    };
}

kernels! {
    RMS_NORM: c"rms_norm",
    LAYER_NORM: c"layer_norm",
    SILU_MUL: c"silu_mul",
    ADD: c"add",
    QUICK_GELU: c"quick_gelu",
    GELU_ERF: c"gelu_erf",
    TAKE_QUERIES: c"take_queries",
    GATE_HEADS: c"gate_heads",
    REORDER_ROWS: c"reorder_rows",
    ADD_POSITIONS: c"add_positions",
    TOP_K: c"top_k",
    ROTATE_ROWS: c"rotate_rows",
    HADAMARD_ROWS: c"hadamard_rows",
    KV_WRITE: c"kv_write",
    QUANTIZE_ROWS: c"quantize_rows",
    ATTENTION_FLASH_32: c"attention_flash_32",
    ATTENTION_FLASH_64: c"attention_flash_64",
    ATTENTION_FLASH_80: c"attention_flash_80",
    ATTENTION_FLASH_128: c"attention_flash_128",
    ATTENTION_SPLIT_F16: c"attention_split_f16",
    ATTENTION_SPLIT_Q8_0: c"attention_split_q8_0",
    ATTENTION_SPLIT_ANY: c"attention_split_any",
    ATTENTION_SPLIT_WIDE: c"attention_split_wide",
    DELTA_CONV: c"delta_conv",
    DELTA_UNIT: c"delta_unit",
    DELTA_SCAN_128: c"delta_scan_128",
    DELTA_SCAN_256: c"delta_scan_256",
    DELTA_NORM: c"delta_norm",
    CHOOSE_EXPERTS: c"choose_experts",
    GROUP_PAIRS: c"group_pairs",
    ADD_PAIRS: c"add_pairs",
    GATE_ROWS: c"gate_rows",
    ATTENTION_MERGE: c"attention_merge",
}

/// The kernels of a type of weights.
pub(super) struct TypeKernels {
    pub embed: Kernel,
    /// For one token, and for up to eight.
    pub matvec_1: Kernel,
    pub matvec_8: Kernel,
    pub matmul: Kernel,
}

const PER_TYPE: usize = 4;

const fn c_name(name: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(name.as_bytes()) {
        Ok(name) => name,
        Err(_) => panic!("the macro below ends every name"),
    }
}

macro_rules! type_kernels {
    ($($i:literal $TYPE:ident $word:literal,)*) => {
        /// The types that kernels know.
        static TYPES: [(GgmlType, TypeKernels); [$($i),*].len()] = [$((GgmlType::$TYPE, TypeKernels {
            embed: Kernel { name: c_name(concat!("embed_", $word, "\0")), id: FIXED + PER_TYPE * $i },
            matvec_1: Kernel { name: c_name(concat!("matvec_", $word, "_1\0")), id: FIXED + PER_TYPE * $i + 1 },
            matvec_8: Kernel { name: c_name(concat!("matvec_", $word, "_8\0")), id: FIXED + PER_TYPE * $i + 2 },
            matmul: Kernel { name: c_name(concat!("matmul_", $word, "\0")), id: FIXED + PER_TYPE * $i + 3 },
        }),)*];
    };
}

type_kernels! {
    0 F32 "f32",
    1 F16 "f16",
    2 BF16 "bf16",
    3 Q4_0 "q4_0",
    4 Q4_1 "q4_1",
    5 Q5_0 "q5_0",
    6 Q5_1 "q5_1",
    7 Q8_0 "q8_0",
    8 Q2_K "q2_k",
    9 Q3_K "q3_k",
    10 Q4_K "q4_k",
    11 Q5_K "q5_k",
    12 Q6_K "q6_k",
    13 IQ4_NL "iq4_nl",
    14 IQ4_XS "iq4_xs",
}

/// The kernels of `ty`, where there are any.
pub(super) fn of_type(ty: GgmlType) -> Option<&'static TypeKernels> {
    TYPES.iter().find(|(known, _)| *known == ty).map(|(_, kernels)| kernels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_has_a_number_of_its_own() {
        let mut ids: Vec<usize> = TYPES
            .iter()
            .flat_map(|(_, k)| [k.embed.id(), k.matvec_1.id(), k.matvec_8.id(), k.matmul.id()])
            .chain(0..FIXED)
            .collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..Kernel::COUNT).collect::<Vec<_>>());
        assert_eq!(Kernel::ATTENTION_MERGE.id() + 1, FIXED);
        assert_eq!(of_type(GgmlType::Q4_K).unwrap().matvec_8.name(), "matvec_q4_k_8");
    }
}
