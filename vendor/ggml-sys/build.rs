//! Runs bindgen over the headers that `llama-cpp-sys-2` installed beside the libraries it compiled.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=wrapper.h");
    let cmake_dir = std::env::var_os("DEP_LLAMA_GGML_CMAKE_DIR").expect("llama-cpp-sys-2 says where it installed ggml");
    let include = Path::new(&cmake_dir).join("../../include");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("bindings.rs");
    bindgen::Builder::default()
        .header("wrapper.h")
        .clang_arg(format!("-I{}", include.display()))
        .allowlist_item("(ggml|gguf|llama|GGML|GGUF|LLAMA)_.*")
        // The layout checks of bindgen are for its own bugs, and its comments are in Doxygen.
        .layout_tests(false)
        .generate_comments(false)
        .prepend_enum_name(false)
        .merge_extern_blocks(true)
        .generate()
        .expect("the headers of ggml can be read (bindgen needs libclang: `apt-get install libclang-dev`)")
        .write_to_file(&out)
        .expect("OUT_DIR can be written");
}
