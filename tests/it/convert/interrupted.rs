//! Item 25 of the fault checklist: a conversion that fails or is killed leaves nothing under the final names.

use std::path::Path;
use std::process::{Command, Stdio};

use longtake::convert::{ConvertOptions, FileType, Progress, QuantizeOptions, convert, quantize};
use longtake::gguf::Gguf;
use longtake::random::Rng;
use longtake::{Error, ErrorKind, Result};

use super::source::Source;

/// Stops after a number of steps.
struct StopAfter(usize);

impl Progress for StopAfter {
    fn advance(&mut self, _: &str, _: u64) -> Result<()> {
        if self.0 == 0 {
            return Err(Error::new(ErrorKind::Cancelled, "stopped"));
        }
        self.0 -= 1;
        Ok(())
    }
}

#[test]
fn item_25_a_conversion_that_is_stopped_leaves_nothing() {
    let folder = Source::tiny_c().write();
    let options = ConvertOptions::new(&folder.dir, folder.beside("c.gguf"));
    // 40 tensors of the projector, then 26 of the text model.
    for n in [0, 1, 39, 40, 65] {
        let err = convert(&options, &mut StopAfter(n)).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Cancelled, "{err}");
        assert!(folder.names_beside().is_empty(), "{n}: {:?}", folder.names_beside());
    }
    convert(&options, &mut StopAfter(66)).unwrap();
    // Earlier files stay as they were when a later run fails.
    let before = std::fs::read(folder.beside("c.gguf")).unwrap();
    let mut other = options.clone();
    other.outtype = Some(FileType::from_name("q8_0").unwrap());
    convert(&other, &mut StopAfter(65)).unwrap_err();
    assert!(std::fs::read(folder.beside("c.gguf")).unwrap() == before);
    let file_type = FileType::from_name("q8_0").unwrap();
    let to = QuantizeOptions::new(folder.beside("c.gguf"), folder.beside("q.gguf"), file_type);
    quantize(&to, &mut StopAfter(10)).unwrap_err();
    assert_eq!(folder.names_beside(), ["c.gguf", "mmproj-c.gguf"]);
}

fn longtake() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Whatever stands under the name is a whole file.
fn check_whole(path: &Path) -> bool {
    match path.exists() {
        true => Gguf::open(path).map(|gguf| assert!(!gguf.tensors().is_empty())).map(|()| true).unwrap(),
        false => false,
    }
}

#[test]
fn item_25_a_killed_conversion_leaves_whole_files_or_none_and_the_next_run_clears_up() {
    let folder = Source::tiny_c().write();
    let (text, mmproj) = (folder.beside("c.gguf"), folder.beside("mmproj-c.gguf"));
    let start = std::time::Instant::now();
    let convert = || {
        let mut command = longtake();
        command.arg("convert").arg(&folder.dir).arg("-o").arg(&text).args(["--outtype", "q8_0"]);
        command
    };
    assert!(convert().status().unwrap().success());
    let whole = start.elapsed();
    let mut n_killed = 0;
    for i in 0..12 {
        let _ = std::fs::remove_file(&text);
        let _ = std::fs::remove_file(&mmproj);
        let mut child = convert().spawn().unwrap();
        std::thread::sleep(whole.mul_f64(f64::from(i) / 10.0));
        child.kill().unwrap();
        let finished = child.wait().unwrap().success();
        let there = (check_whole(&mmproj), check_whole(&text));
        assert!(!finished || there == (true, true));
        n_killed += u32::from(!finished);
    }
    assert!(n_killed > 0, "no run was killed in time");
    assert!(convert().status().unwrap().success());
    assert_eq!(folder.names_beside(), ["c.gguf", "mmproj-c.gguf"]);
}

#[cfg(unix)]
#[test]
fn item_25_a_file_that_cannot_grow_is_an_error_and_leaves_nothing() {
    let folder = Source::tiny_c().write();
    let text = folder.beside("c.gguf");
    // A limit on the size of files stands in for a full disk; the signal that comes with it is ignored, so that writing
    // fails as it does there. The projector (2.2 MB) fits under the second limit, the text model (2.9 MB) does not.
    for blocks in [1000, 5200] {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_longtake"), "convert"]);
        let out = command.arg(&folder.dir).arg("-o").arg(&text).output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        let err = String::from_utf8(out.stderr).unwrap();
        assert!(err.contains("c.gguf") && err.to_lowercase().contains("large"), "{err}");
        assert!(folder.names_beside().is_empty(), "{:?}", folder.names_beside());
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_with_130_and_leaves_nothing() {
    const ENOUGH: usize = 3;
    let folder = Source::tiny_c().write();
    let text = folder.beside("c.gguf");
    let convert = || {
        let mut command = longtake();
        command.arg("convert").arg(&folder.dir).arg("-o").arg(&text).args(["--outtype", "Q3_K"]);
        command.spawn().unwrap()
    };
    let start = std::time::Instant::now();
    assert!(convert().wait().unwrap().success());
    let (whole, mut random, mut n_interrupted) = (start.elapsed(), Rng(130), 0);
    // How long each part takes depends on what else this machine does: moments are drawn until enough of them were good ones.
    for _ in 0..400 {
        folder.names_beside().iter().for_each(|name| std::fs::remove_file(folder.beside(name)).unwrap());
        let mut child = convert();
        std::thread::sleep(whole.mul_f64(random.unit()));
        Command::new("kill").arg("-INT").arg(child.id().to_string()).status().unwrap();
        match child.wait().unwrap().code() {
            Some(0) => continue,
            Some(130) => n_interrupted += 1,
            // Before the handler stands, the signal itself ends the process.
            None => {}
            code => panic!("exit code {code:?}"),
        }
        assert!(folder.names_beside().is_empty(), "{:?}", folder.names_beside());
        if n_interrupted == ENOUGH {
            return;
        }
    }
    panic!("{n_interrupted} of 400 runs within {whole:?} were interrupted, seed 130");
}

#[test]
fn exit_codes_and_streams() {
    let folder = Source::tiny_c().write();
    let run = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_longtake")).args(args).output().unwrap();
        (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    let (dir, c, q) = (folder.dir.to_str().unwrap(), folder.beside("c.gguf"), folder.beside("q.gguf"));
    let (c, q) = (c.to_str().unwrap(), q.to_str().unwrap());
    let (code, out, err) = run(&["convert", dir, "-o", c, "--rope", "hope", "--temporal-scale", "retrieval"]);
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    assert!(err.contains("c.gguf: BF16, 26 tensors") && err.contains("mmproj-c.gguf"), "{err}");
    let meta = Gguf::open(Path::new(c)).unwrap().meta().clone();
    assert_eq!(meta.float("qwen2vl-hope.rope.temporal_scale").unwrap(), Some(0.75));
    for args in [
        vec!["convert", dir, "-o", c, "--rope", "spiral"],
        vec!["convert", dir, "-o", c, "--outtype", "q9"],
        vec!["convert", dir, "-o", c, "--temporal-scale", "-1", "--rope", "hope"],
        vec!["convert", dir],
        vec!["quantize", c, c, "Q8_0"],
        vec!["quantize", c, q, "Q8_0", "--tensor-type", "ffn"],
        vec!["quantize", c, q, "Q8_0", "--tensor-type", "(=q8_0"],
    ] {
        let (code, out, err) = run(&args);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
    }
    assert_eq!(run(&["convert", "/no/such/folder", "-o", c]).0, 1);
    let (code, out, err) = run(&["quantize", c, q, "q8_0", "--json"]);
    assert_eq!(code, 0, "{err}");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["tensors"].as_array().unwrap().len(), 26);
    assert_eq!(report["file_bytes"].as_u64().unwrap(), std::fs::metadata(q).unwrap().len());
    let embd = report["tensors"].as_array().unwrap().iter().find(|t| t["name"] == "token_embd.weight").unwrap();
    assert_eq!((&embd["from"], &embd["to"]), (&"BF16".into(), &"Q8_0".into()));
    assert!(err.contains("blk.1.ffn_down.weight") && err.contains("nmse"), "{err}");
}
