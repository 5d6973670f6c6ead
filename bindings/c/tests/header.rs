//! `include/longtake.h` is what cbindgen makes of `src/ffi`.

use std::path::Path;

#[test]
fn the_header_is_that_of_the_sources() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.join("../..");
    let config = cbindgen::Config::from_file(here.join("cbindgen.toml")).expect("cbindgen.toml");
    let mut builder = cbindgen::Builder::new().with_config(config);
    // In the order in which people read it.
    for file in ["call", "options", "progress", "model", "chat", "answer"] {
        builder = builder.with_src(root.join("src/ffi").join(file).with_extension("rs"));
    }
    let mut made = Vec::new();
    builder.generate().expect("bindings").write(&mut made);
    // What Rust's own tools call a section is a word to C's readers.
    let made = String::from_utf8(made).expect("UTF-8").replace("// # Safety", "// The caller promises:");
    let path = root.join("include/longtake.h");
    if std::env::var_os("LONGTAKE_HEADER").is_some_and(|word| word == "write") {
        std::fs::write(&path, &made).expect("include/longtake.h");
    }
    let kept = std::fs::read_to_string(&path).expect("include/longtake.h");
    let differs = made.lines().zip(kept.lines()).find(|(made, kept)| made != kept);
    assert!(
        made == kept,
        "include/longtake.h is old: {differs:?}; LONGTAKE_HEADER=write cargo test -p longtake-c makes it again"
    );
}
