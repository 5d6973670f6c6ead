//! What is refused says what it is and what to do instead; what fits is not refused.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use image::GrayImage;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/symbols/symbols.gguf");

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longtake"));
    command.args(args).stdin(Stdio::null());
    command
}

fn words(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// Asks about a picture or a video, with these flags besides.
fn run(flag: &str, path: &Path, more: &[&str]) -> Output {
    let flags = ["run", "-m", MODEL, "-p", "x", "-n", "1", "--max-pixels", "200000"];
    command(&flags).args(more).arg(flag).arg(path).output().unwrap()
}

/// Memory is counted as decoding takes it: pictures that are shrunk on the way fit where they would not fit whole.
#[test]
fn shrunk_pictures_fit_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    for (name, width, height) in [("wide.png", 10_000, 7000), ("tall.jpg", 7000, 10_000), ("square.png", 8300, 8300)] {
        let path = dir.path().join(name);
        GrayImage::from_pixel(width, height, image::Luma([90])).save(&path).unwrap();
        let out = run("--image", &path, &["--max-memory", "100M"]);
        assert!(out.status.success(), "{name}: {}", words(&out));
        assert!(!words(&out).contains("reduced"), "{name}: {}", words(&out));
    }
    // A picture that is decoded whole counts whole.
    let path = dir.path().join("whole.jpg");
    GrayImage::from_pixel(8000, 4000, image::Luma([90])).save(&path).unwrap();
    let out = run("--image", &path, &["--max-memory", "100M"]);
    assert!(!out.status.success() && words(&out).contains("raise --max-memory"), "{}", words(&out));
}

#[test]
fn pictures_beyond_a_cap_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    // Too many bytes whatever they are: a hole.
    for name in ["large.bmp", "large.tif", "large.png"] {
        let path = dir.path().join(name);
        std::fs::File::create(&path).unwrap().set_len((256 << 20) + 1).unwrap();
        let out = run("--image", &path, &[]);
        assert!(words(&out).contains("at most 268435456; make it smaller first"), "{}", words(&out));
    }
    // A header of too many pixels, in a format that only ffmpeg reads.
    let mut tiff = b"II*\0\x08\0\0\0\x09\0".to_vec();
    let entries = [
        (256u16, 10_000u32),
        (257, 9000),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, 9000),
        (279, 90_000_000),
    ];
    for (tag, value) in entries {
        tiff.extend(tag.to_le_bytes());
        tiff.extend([4, 0, 1, 0, 0, 0]);
        tiff.extend(value.to_le_bytes());
    }
    tiff.extend([0; 4]);
    let path = dir.path().join("wide.tif");
    std::fs::write(&path, &tiff).unwrap();
    // Its pixels are a hole, too.
    std::fs::File::options().write(true).open(&path).unwrap().set_len(90_000_200).unwrap();
    let out = run("--image", &path, &[]);
    match longtake::media::ffmpeg::Tools::on_path() {
        Some(_) => assert!(words(&out).contains("pixels; make it smaller first"), "{}", words(&out)),
        None => eprintln!("without ffmpeg, tiff is not read"),
    }
}

#[test]
fn still_pictures_are_no_videos_whoever_decodes_them() {
    let dir = tempfile::tempdir().unwrap();
    let heads: [(&str, &[u8]); 6] = [
        ("a.tif", b"II*\0\x08\0\0\0"),
        ("b.tif", b"MM\0*\0\0\0\x08"),
        ("c.avif", b"\0\0\0\x1cftypavif\0\0\0\0"),
        ("d.heic", b"\0\0\0\x18ftypheic\0\0\0\0"),
        ("e.psd", b"8BPS\0\x01"),
        ("f.jp2", b"\0\0\0\x0cjP  \r\n\x87\n"),
    ];
    for (name, head) in heads {
        let path = dir.path().join(name);
        std::fs::write(&path, [head, &[0; 200]].concat()).unwrap();
        let out = run("--video", &path, &[]);
        assert!(
            words(&out).contains("a still image, expected a video; give it as an image"),
            "{name}: {}",
            words(&out)
        );
    }
    // A folder of them.
    let folder = dir.path().join("frames");
    std::fs::create_dir(&folder).unwrap();
    for name in ["1.tif", "2.tif"] {
        std::fs::write(folder.join(name), heads[0].1).unwrap();
    }
    let out = run("--video", &folder, &[]);
    assert!(words(&out).contains("must be of a built-in kind: convert them"), "{}", words(&out));
}

#[test]
fn a_talk_about_a_take_says_that_it_takes_no_other_media() {
    let dir = tempfile::tempdir().unwrap();
    let asset = |name: &str| format!("{}/tests/random_model/{name}", env!("CARGO_MANIFEST_DIR"));
    let (model, video) = (asset("demo.gguf"), asset("demo.mp4"));
    let take = dir.path().join("a.take").display().to_string();
    let watch = ["watch", "-m", &model, &video, "-o", &take, "--nframes", "4", "--reserve", "100"];
    let out = command(&watch).output().unwrap();
    assert!(out.status.success(), "{}", words(&out));

    let mut chat = command(&["chat", "--take", &take, "-m", &model, "-n", "1"]);
    let mut chat = chat.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    chat.stdin.take().unwrap().write_all(format!("/image x.png\n/video {video}\n/help\n/quit\n").as_bytes()).unwrap();
    let said = words(&chat.wait_with_output().unwrap());
    assert_eq!(said.matches("takes no other pictures and videos").count(), 2, "{said}");
    assert!(!said.contains("/video FILE") && !said.contains("/image FILE") && said.contains("/save FILE"), "{said}");

    let out = command(&[&watch[..], &["--no-mmproj"]].concat()).output().unwrap();
    assert!(words(&out).contains(", this is `none`"), "{}", words(&out));
    // The reserve is what does not fit; a video that does not fit itself is another matter.
    let given = ["--reserve", "4096"];
    let plan = |n_ctx: &str| {
        words(&command(&[&["plan", "-m", &model, &video, "-c", n_ctx], &given[..]].concat()).output().unwrap())
    };
    assert!(plan("3000").contains("raise -c or lower --reserve (`4096` of the tokens)"), "{}", plan("3000"));
    assert!(plan("3").contains("raise -c,") && !plan("3").contains("--reserve"), "{}", plan("3"));
    // Where nobody says how much, a small context leaves room for both.
    let out = command(&["plan", "-m", &model, &video, "-c", "3000", "--no-time"]).output().unwrap();
    assert!(out.status.success() && words(&out).contains("a context of 3000"), "{}", words(&out));
}

/// Bytes of a URL lie in a file of our own while programs look at them: its name is nobody's business.
#[test]
fn what_is_wrong_with_a_data_url_is_said_of_it() {
    for flag in ["--image", "--video"] {
        for content in ["aGVsbG8gd29ybGQsIGhlbGxv", "AQIDBAUGBwgJCgsMDQ4PEA==", "RklMRSBvZiBhbm90aGVyIGtpbmQ="] {
            let out = run(flag, Path::new(&format!("data:image/x;base64,{content}")), &[]);
            let said = words(&out);
            assert!(said.starts_with("error: data:image/x;"), "{said}");
            let scratch = std::env::temp_dir().display().to_string();
            assert!(!said.contains("file:") && !said.contains(&scratch) && !said.contains("said: it"), "{said}");
        }
    }
}

#[test]
fn the_manual_names_the_folder_that_it_cannot_write_to() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a file");
    std::fs::write(&file, "x").unwrap();
    for path in [file.clone(), file.join("below")] {
        let out = command(&["man", "-o"]).arg(&path).output().unwrap();
        assert!(!out.status.success() && words(&out).contains(&*path.display().to_string()), "{}", words(&out));
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"x");
}
