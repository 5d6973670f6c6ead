//! The C functions as bindgen writes them.
#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals, dead_code)]
#![allow(clippy::all, missing_docs)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
