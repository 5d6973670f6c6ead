//! Names the shared library as programs will look for it: by what it breaks, the minor version until 1.0.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let part = |name: &str| std::env::var(name).expect("cargo sets the parts of the version");
    let version = format!("{}.{}", part("CARGO_PKG_VERSION_MAJOR"), part("CARGO_PKG_VERSION_MINOR"));
    match part("CARGO_CFG_TARGET_OS").as_str() {
        "linux" | "freebsd" | "android" => {
            println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,liblongtake.so.{version}");
        }
        "macos" => println!("cargo:rustc-cdylib-link-arg=-Wl,-install_name,@rpath/liblongtake.{version}.dylib"),
        _ => {}
    }
}
