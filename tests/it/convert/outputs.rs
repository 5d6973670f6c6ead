//! Where `convert` and `quantize` write: folders are made, everything is checked before the work, and nothing stays of a
//! run that failed.

use std::path::{Path, PathBuf};

use longtake::convert::{ConvertOptions, FileType, Progress, QuantizeOptions, convert, quantize};
use longtake::gguf::Gguf;
use longtake::{Error, ErrorKind, Result};

use super::source::{Folder, Source};

/// Fails with the first byte of work, so that an error that comes first is another one.
struct NoWork;

impl Progress for NoWork {
    fn advance(&mut self, _: &str, _: u64) -> Result<()> {
        Err(Error::new(ErrorKind::Cancelled, "work has begun"))
    }
}

fn q8_0() -> FileType {
    FileType::from_name("q8_0").unwrap()
}

/// All paths below the folder that the checkpoint lies in, without the checkpoint.
fn paths(folder: &Folder) -> Vec<PathBuf> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("tiny-c") {
                walk(&path, out);
            }
            out.push(path);
        }
    }
    let mut out = Vec::new();
    walk(&folder.beside(""), &mut out);
    out.retain(|path| !path.ends_with("tiny-c"));
    out.sort();
    out
}

#[test]
fn folders_that_are_absent_are_made() {
    let folder = Source::tiny_c().write();
    for (out, text, mmproj) in [
        ("out/", "out/tiny-c-BF16.gguf", "out/mmproj-tiny-c-BF16.gguf"),
        ("deep/er/", "deep/er/tiny-c-BF16.gguf", "deep/er/mmproj-tiny-c-BF16.gguf"),
        ("no/such/c.gguf", "no/such/c.gguf", "no/such/mmproj-c.gguf"),
        ("out", "out/tiny-c-BF16.gguf", "out/mmproj-tiny-c-BF16.gguf"),
    ] {
        let options = ConvertOptions::new(&folder.dir, folder.beside(out));
        let report = convert(&options, &mut ()).unwrap_or_else(|err| panic!("{out}: {err}"));
        assert_eq!((&report.text.path, &report.mmproj.path), (&folder.beside(text), &folder.beside(mmproj)));
        assert!(Gguf::open(&report.text.path).is_ok() && Gguf::open(&report.mmproj.path).is_ok());
    }
    let mut options = ConvertOptions::new(&folder.dir, folder.beside("a/c.gguf"));
    options.mmproj_output = Some(folder.beside("b/p.gguf"));
    convert(&options, &mut ()).unwrap();
    let to = QuantizeOptions::new(folder.beside("a/c.gguf"), folder.beside("q/c.gguf"), q8_0());
    quantize(&to, &mut ()).unwrap();
    let names: Vec<PathBuf> = paths(&folder).into_iter().filter(|path| path.is_file()).collect();
    assert_eq!(names.len(), 9, "{names:?}");
}

#[test]
fn a_run_that_fails_takes_its_folders_with_it() {
    let folder = Source::tiny_c().write();
    for out in ["out/", "deep/er/", "no/such/c.gguf"] {
        let err = convert(&ConvertOptions::new(&folder.dir, folder.beside(out)), &mut NoWork).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Cancelled, "{err}");
        assert_eq!(paths(&folder), Vec::<PathBuf>::new(), "{out}");
    }
    // A folder that was there stays.
    std::fs::create_dir(folder.beside("mine")).unwrap();
    convert(&ConvertOptions::new(&folder.dir, folder.beside("mine/")), &mut NoWork).unwrap_err();
    assert_eq!(paths(&folder), [folder.beside("mine")]);
}

#[test]
fn outputs_that_cannot_be_written_are_refused_before_the_work() {
    let folder = Source::tiny_c().write();
    std::fs::write(folder.beside("notes"), "precious").unwrap();
    std::fs::create_dir(folder.beside("dir")).unwrap();
    convert(&ConvertOptions::new(&folder.dir, folder.beside("c.gguf")), &mut ()).unwrap();
    let before = paths(&folder);
    let mut bad = vec![
        (folder.beside("notes"), "not a GGUF file"),
        (folder.beside("notes/c.gguf"), "notes"),
        (folder.beside("notes/deeper/c.gguf"), "notes"),
        (PathBuf::from(""), "names no file"),
        (folder.beside(".."), ".."),
    ];
    if cfg!(unix) {
        // Of our own: the machine's devices are none of a test's business.
        let pipe = folder.beside("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        bad.push((pipe, "device, pipe or socket"));
    }
    let before = { before.into_iter().chain(cfg!(unix).then(|| folder.beside("pipe"))).collect::<Vec<_>>() };
    for (path, want) in &bad {
        let refused = |err: Error| {
            assert!(err.kind() != ErrorKind::Cancelled && err.to_string().contains(want), "{}: {err}", path.display());
        };
        // As the folder that it is, `..` is a place to write to.
        if !path.ends_with("..") {
            refused(convert(&ConvertOptions::new(&folder.dir, path), &mut NoWork).unwrap_err());
        }
        let mut options = ConvertOptions::new(&folder.dir, folder.beside("new/c.gguf"));
        options.mmproj_output = Some(path.clone());
        refused(convert(&options, &mut NoWork).unwrap_err());
        refused(quantize(&QuantizeOptions::new(folder.beside("c.gguf"), path, q8_0()), &mut NoWork).unwrap_err());
    }
    for out in ["dir", "dir/", "q/"] {
        let to = QuantizeOptions::new(folder.beside("c.gguf"), folder.beside(out), q8_0());
        let err = quantize(&to, &mut NoWork).unwrap_err();
        assert!(err.to_string().contains("expected"), "{err}");
    }
    // Written under two spellings of one name.
    let mut options = ConvertOptions::new(&folder.dir, folder.beside("x/y.gguf"));
    options.mmproj_output = Some(folder.beside("x/./y.gguf"));
    assert!(convert(&options, &mut NoWork).unwrap_err().to_string().contains("both"));
    let same = QuantizeOptions::new(folder.beside("c.gguf"), folder.beside("dir/../c.gguf"), q8_0());
    assert!(quantize(&same, &mut NoWork).unwrap_err().to_string().contains("both input and output"));
    let mut before = before;
    before.sort();
    assert_eq!(paths(&folder), before);
    assert_eq!(std::fs::read(folder.beside("notes")).unwrap(), b"precious");
}

#[test]
#[cfg(unix)]
fn when_one_of_the_two_cannot_have_its_name_neither_has() {
    /// Puts a folder where the text model is to go, when the work is nearly done.
    struct InTheWay(PathBuf, usize);

    impl Progress for InTheWay {
        fn advance(&mut self, _: &str, _: u64) -> Result<()> {
            self.1 += 1;
            if self.1 == 60 {
                std::fs::create_dir(&self.0)?;
            }
            Ok(())
        }
    }
    let folder = Source::tiny_c().write();
    let target = folder.beside("out/c.gguf");
    let err = convert(&ConvertOptions::new(&folder.dir, &target), &mut InTheWay(target.clone(), 0)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Io, "{err}");
    assert_eq!(paths(&folder), [folder.beside("out"), target]);
}
