//! Compiles the kernels of `src/kernels/cuda`: with nvcc for GPUs where the feature is `cuda`, and with the C++ compiler, too,
//! for the emulated GPU of the tests where it is `cuda-emulation`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Set by cargo-fuzz.
    println!("cargo:rustc-check-cfg=cfg(fuzzing)");
    #[cfg(feature = "cuda")]
    cuda::build();
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::env;
    use std::hash::{DefaultHasher, Hash, Hasher};
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::Mutex;

    const SOURCES: &str = "src/kernels/cuda";
    /// GPUs of compute capability 7.5, 8.x and 9.0, and newer ones through PTX.
    const TARGETS: &str =
        "arch=compute_75,code=sm_75 arch=compute_80,code=[sm_80,compute_80] arch=compute_80,code=sm_90";

    pub fn build() {
        // Not the folder itself, which holds Rust as well.
        for path in sources().iter().map(|path| path.display().to_string()) {
            println!("cargo:rerun-if-changed={path}");
        }
        for variable in ["NVCC", "CUDA_HOME", "XDG_CACHE_HOME"] {
            println!("cargo:rerun-if-env-changed={variable}");
        }
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
        let names = names();
        // Lints run no kernel, and cargo gives what they build a folder of its own: images are empty there.
        if env::var("RUSTC_WORKSPACE_WRAPPER").is_ok_and(|wrapper| wrapper.contains("clippy")) {
            names.iter().for_each(|name| std::fs::write(image(name, &out), "").expect("OUT_DIR can be written"));
            return list(&names, &out);
        }
        std::thread::scope(|scope| {
            #[cfg(feature = "cuda-emulation")]
            scope.spawn(|| emulation(&names, &out));
            scope.spawn(|| images(&names, &out));
        });
    }

    /// The `.cu` files and what they include.
    fn sources() -> Vec<PathBuf> {
        let entries = std::fs::read_dir(SOURCES).expect("the folder of kernels").flatten().map(|entry| entry.path());
        let mut sources: Vec<PathBuf> =
            entries.filter(|path| path.extension().is_some_and(|e| e == "cu" || e == "cuh")).collect();
        sources.sort();
        sources
    }

    /// The `.cu` files, without their extension.
    fn names() -> Vec<String> {
        let kernels = sources().into_iter().filter(|path| path.extension().is_some_and(|e| e == "cu"));
        kernels.filter_map(|path| Some(path.file_stem()?.to_str()?.to_string())).collect()
    }

    /// One image per file with code for all targets, and the table of them for `driver.rs`; ptxas's report of registers and
    /// spills lies beside each image for `.ci/cuda`.
    fn images(names: &[String], out: &Path) {
        let nvcc = nvcc();
        println!("cargo:rerun-if-changed={}", nvcc.display());
        let waiting = Mutex::new(names.to_vec());
        let n_jobs = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize);
        std::thread::scope(|scope| {
            for _ in 0..n_jobs.min(names.len()) {
                scope.spawn(|| {
                    loop {
                        let Some(name) = waiting.lock().expect("no job panics with it").pop() else { break };
                        compile(&nvcc, &name, out);
                    }
                });
            }
        });
        list(names, out);
    }

    fn image(name: &str, out: &Path) -> PathBuf {
        out.join(format!("{name}.fatbin"))
    }

    /// The table of images.
    fn list(names: &[String], out: &Path) {
        let mut table =
            String::from("/// Every file of kernels with its image.\nstatic MODULES: &[(&str, &[u8])] = &[\n");
        for name in names {
            let path = image(name, out);
            table += &format!("    ({name:?}, include_bytes!({:?})),\n", path.display().to_string());
        }
        std::fs::write(out.join("cuda_modules.rs"), table + "];\n").expect("OUT_DIR can be written");
    }

    fn compile(nvcc: &Path, name: &str, out: &Path) {
        // An image of the same sources is kept: nvcc takes most of a minute for all.
        let (key_path, key) = (out.join(format!("{name}.key")), key(nvcc, name));
        if std::fs::read_to_string(&key_path).is_ok_and(|old| old == key) {
            return;
        }
        let mut command = Command::new(nvcc);
        command.args(["-O3", "-std=c++17", "-fatbin", "-Werror", "all-warnings", "-Xptxas", "-v"]);
        for target in TARGETS.split_whitespace() {
            command.args(["-gencode", target]);
        }
        command.arg("-o").arg(image(name, out)).arg(format!("{SOURCES}/{name}.cu"));
        let done = command.output().unwrap_or_else(|err| panic!("{} does not run: {err}", nvcc.display()));
        let log = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "nvcc refuses {name}.cu:\n{}{log}", String::from_utf8_lossy(&done.stdout));
        std::fs::write(out.join(format!("{name}.log")), log.as_bytes()).expect("OUT_DIR can be written");
        std::fs::write(key_path, key).expect("OUT_DIR can be written");
    }

    /// What an image depends on.
    fn key(nvcc: &Path, name: &str) -> String {
        let mut hash = DefaultHasher::new();
        (nvcc, TARGETS).hash(&mut hash);
        let wanted = |path: &PathBuf| {
            path.extension().is_some_and(|e| e == "cuh") || path.file_stem().is_some_and(|s| s == name)
        };
        for path in sources().iter().filter(|path| wanted(path)) {
            std::fs::read(path).expect("a source that was listed").hash(&mut hash);
        }
        format!("{:016x}", hash.finish())
    }

    /// `NVCC`, that of `CUDA_HOME`, that of `PATH`, or that which `tests/gpu/toolkit.sh` unpacked.
    fn nvcc() -> PathBuf {
        if let Some(path) = env::var_os("NVCC") {
            return PathBuf::from(path);
        }
        let homes = env::var_os("CUDA_HOME").map(PathBuf::from).into_iter();
        let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
        let unpacked = cache.map(|cache| cache.join("longtake/cuda"));
        let path = env::var_os("PATH").unwrap_or_default();
        let places = homes
            .map(|home| home.join("bin"))
            .chain(env::split_paths(&path))
            .chain(unpacked.map(|dir| dir.join("bin")))
            .map(|dir| dir.join("nvcc"));
        places.into_iter().find(|nvcc| nvcc.is_file()).unwrap_or_else(|| {
            panic!(
                "the feature `cuda` needs nvcc 12 or later: install NVIDIA's CUDA toolkit and set CUDA_HOME, or run \
                 tests/gpu/toolkit.sh, which unpacks one into ~/.cache/longtake/cuda without root"
            )
        })
    }

    #[cfg(feature = "cuda-emulation")]
    fn emulation(names: &[String], out: &Path) {
        const EMULATION: &str = "tests/cuda_emu";
        let os = env::var("CARGO_CFG_TARGET_OS").expect("cargo sets CARGO_CFG_TARGET_OS");
        assert!(os == "linux", "the feature `cuda-emulation` is for Linux, not for {os}");
        println!("cargo:rerun-if-changed={EMULATION}");
        // Each file with a name of its own, which the scheduler asks for.
        let mut list = String::from("namespace emu {\n");
        let mut units = Vec::new();
        for name in names {
            list += &format!("extern const int file_{name};\n");
            let unit = format!(
                "#include \"emulation.h\"\n#include \"{name}.cu\"\n\
                 namespace emu {{\nextern const int file_{name};\nconst int file_{name} = 1;\n}}\n"
            );
            units.push(out.join(format!("emulated_{name}.cpp")));
            std::fs::write(&units[units.len() - 1], unit).expect("OUT_DIR can be written");
        }
        let all = names.iter().map(|name| format!("&file_{name}")).collect::<Vec<_>>().join(", ");
        list += &format!("__attribute__((used)) static const int *const files[] = {{{all}}};\n}} // namespace emu\n");
        std::fs::write(out.join("kernel_files.h"), list).expect("OUT_DIR can be written");
        cc::Build::new()
            .cpp(true)
            .std("c++17")
            .opt_level(2)
            .define("LONGTAKE_EMULATION", None)
            // Products and sums round as the kernels say, on every machine.
            .flag("-ffp-contract=off")
            .flag("-Wno-unknown-pragmas")
            // A GPU stops at loads that are not aligned, where this machine would go on; so does the emulation.
            .flag_if_supported("-fsanitize=alignment,bounds")
            .flag_if_supported("-fsanitize-undefined-trap-on-error")
            .include(EMULATION)
            .include(SOURCES)
            .include(out)
            .file(format!("{EMULATION}/emulation.cpp"))
            .files(units)
            .compile("longtake_cuda_emulation");
    }
}
