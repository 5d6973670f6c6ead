//! Memory against files that promise more than they hold: whatever a file says, reading it takes at most 64 MiB and four times
//! its bytes. For a picture its pixels count, too: four times what it is as 8-bit RGB.
//!
//! Each file is read by this test binary run once more, so that its peak is its own: what the system says it was.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use longtake::convert::{ConvertOptions, convert};
use longtake::eval::choice::table;
use longtake::gguf::{GgmlType, Gguf, GgufWriter, Metadata};
use longtake::media::load_image;
use longtake::media::video::open_video_with;
use longtake::text::{ChatTemplate, Tokenizer, message::parse_messages};
use parquet::basic::{Compression, ZstdLevel};

use crate::common::golden;
use crate::eval::{Column, parquet_of};
use crate::gguf::build::{Build, array, string};

const FREE: u64 = 64 << 20;
const PER_BYTE: u64 = 4;
/// What is read, and the name of its file: set where this binary runs itself.
const TASK: &str = "LONGTAKE_TEST_CAPS";

/// The other process: reads one file and says what came of it and what it took. Without a task, no test.
#[test]
fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    let (kind, path) = task.split_once(':').unwrap();
    let path = Path::new(path);
    if kind == "gguf" {
        // The program's own pages come into memory as they are first used, many at a time: they are no part of what a file takes.
        let small = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(small.path(), GgufWriter::new(vocabulary(300)).front().unwrap()).unwrap();
        read(kind, small.path()).unwrap();
    }
    let before = memory("VmHWM");
    let outcome = match read(kind, path) {
        Ok(()) => "read".to_string(),
        Err(err) => err.to_string().replace('\n', " "),
    };
    println!("PEAK {} {outcome}", memory("VmHWM").saturating_sub(before));
}

fn read(kind: &str, path: &Path) -> longtake::Result<()> {
    match kind {
        "gguf" => {
            let file = Gguf::open(path)?;
            ChatTemplate::from_metadata(file.meta())?;
            Tokenizer::from_metadata(file.meta()).map(drop)
        }
        "take" => longtake::stream::Take::open(path, true).map(drop),
        "video" => {
            let mut source = open_video_with(path, None)?;
            let last = source.info().n_frames - 1;
            source.frame(0)?;
            source.frame(last).map(drop)
        }
        "image" => load_image(path).map(drop),
        "checkpoint" => convert(&ConvertOptions::new(path, path.join("out.gguf")), &mut ()).map(drop),
        "table" => table::read(path, &["question", "options"]).map(drop),
        "messages" => parse_messages(&std::fs::read_to_string(path)?).map(drop),
        "hog" => {
            std::hint::black_box(vec![1u8; 80 << 20]);
            Ok(())
        }
        other => panic!("no kind `{other}`"),
    }
}

/// A field of /proc/self/status, in bytes.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a system with /proc");
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Reads `path` as `kind` in another process and judges its peak, where a picture of so many pixels comes out; the outcome must
/// hold `want`. Says what is wrong.
fn judge(kind: &str, path: &Path, n_pixels: u64, want: &str) -> Option<String> {
    let child = std::env::current_exe().unwrap();
    let out = Command::new(child)
        .args(["caps::child", "--exact", "--nocapture", "--test-threads=1"])
        .env(TASK, format!("{kind}:{}", path.display()))
        // One thread: each has stacks and arenas of its own.
        .env("RAYON_NUM_THREADS", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    let line = said.lines().find_map(|line| line.split_once("PEAK ").map(|(_, rest)| rest));
    let line = line.unwrap_or_else(|| panic!("{}: {said}{}", path.display(), String::from_utf8_lossy(&out.stderr)));
    let (peak, outcome) = line.split_once(' ').unwrap();
    let peak: u64 = peak.parse().unwrap();
    let n_file = if path.is_dir() { folder_bytes(path) } else { path.metadata().unwrap().len() };
    let most = FREE + PER_BYTE * n_file.max(3 * n_pixels);
    eprintln!("{kind:<10} {:>10} bytes {:>5} MiB of {:>5}  {outcome:.100}", n_file, peak >> 20, most >> 20);
    let name = path.display();
    let kept = peak <= most && outcome.contains(want);
    (!kept).then(|| format!("{name}: {} MiB, at most {} MiB: {outcome}, expected `{want}`", peak >> 20, most >> 20))
}

fn folder_bytes(path: &Path) -> u64 {
    std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// A folder for one test's files, and what was wrong with some of them; said at the end.
struct Room(tempfile::TempDir, RefCell<Vec<String>>);

impl Drop for Room {
    fn drop(&mut self) {
        let wrong = self.1.take();
        assert!(wrong.is_empty() || std::thread::panicking(), "{}", wrong.join("\n"));
    }
}

impl Room {
    fn new() -> Room {
        Room(tempfile::tempdir().unwrap(), RefCell::default())
    }

    /// See [`judge`].
    fn check(&self, kind: &str, path: &Path, n_pixels: u64, want: &str) {
        self.1.borrow_mut().extend(judge(kind, path, n_pixels, want));
    }

    /// A file of `bytes`, and zeros up to `len`, which take no room on disk.
    fn file(&self, name: &str, bytes: &[u8], len: u64) -> std::path::PathBuf {
        let path = self.0.path().join(name);
        let mut file = File::create(&path).unwrap();
        file.write_all(bytes).unwrap();
        if len > bytes.len() as u64 {
            file.set_len(len).unwrap();
        }
        path
    }
}

#[test]
fn gguf_counts_and_lengths() {
    let room = Room::new();
    let huge = 1u64 << 60;
    let key = |ty: u32, value: &[u8]| Build::new().key("k", ty, value);
    for (name, build, want) in [
        ("tensors", Build { n_tensors: Some(huge), ..Build::new() }, "tensors"),
        ("keys", Build { n_keys: Some(huge), ..Build::new() }, "metadata keys"),
        ("many-tensors", Build { n_tensors: Some(1 << 18), ..Build::new() }, "tensors"),
        ("string", key(8, &huge.to_le_bytes()), "ends inside"),
        ("strings", key(9, &array(8, huge, &[])), "array elements"),
        ("bytes", key(9, &array(0, huge, &[])), "array elements"),
        ("dims", Build::new().tensor("t", &[huge, huge], 0, 0), "overflows"),
        ("data", Build::new().tensor("t", &[1 << 40], 0, 0), "past the end"),
    ] {
        let path = room.file(name, &build.bytes(), 0);
        room.check("gguf", &path, 0, want);
        // The same with room for something: zeros as far as one can see.
        room.check("gguf", &room.file(name, &build.bytes(), 48 << 20), 0, "");
    }
}

#[test]
fn gguf_tables_at_their_caps() {
    let room = Room::new();
    // Empty strings: the smallest in a file.
    let strings = array(8, 4 << 20, &vec![0; 32 << 20]);
    room.check("gguf", &room.file("strings", &Build::new().key("k", 9, &strings).bytes(), 0), 0, "missing");
    let tensors = (0..1 << 18).fold(Build::new(), |mut build, i: u32| {
        let name = format!("{i:x}");
        build = build.tensor(name, &[1], 0, u64::from(i) * 32);
        build
    });
    let bytes = tensors.bytes();
    let len = bytes.len() as u64 + (32 << 18);
    room.check("gguf", &room.file("tensors", &bytes, len), 0, "missing");
    let keys = (0..1 << 16).fold(Build::new(), |build, i: u32| build.key(format!("{i:x}"), 0, &[1]));
    room.check("gguf", &room.file("keys", &keys.bytes(), 0), 0, "missing");
    // One string as long as they come, and then as a template.
    let long = string(vec![b'a'; 60 << 20]);
    room.check("gguf", &room.file("string", &Build::new().key("k", 8, &long).bytes(), 0), 0, "missing");
    room.check(
        "gguf",
        &room.file("t", &Build::new().key("tokenizer.chat_template", 8, &long).bytes(), 0),
        0,
        "at most",
    );
}

/// A vocabulary of `n` tokens that nobody would want.
fn vocabulary(n: u32) -> Metadata {
    let bytes = (0..=255u8).map(|b| match b {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(b),
        b => {
            let n = (0..b).filter(|b| !matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)).count() as u32;
            char::from_u32(256 + n).unwrap()
        }
    });
    let mut tokens: Vec<String> = bytes.map(String::from).collect();
    tokens.extend((256..n).map(|i| format!("{i:x}aa")));
    let mut meta = Metadata::default();
    meta.set("tokenizer.ggml.model", "gpt2");
    meta.set("tokenizer.ggml.pre", "qwen2");
    meta.set("tokenizer.ggml.token_type", vec![1u8; tokens.len()]);
    meta.set("tokenizer.ggml.tokens", tokens);
    meta.set("tokenizer.ggml.merges", Vec::<&str>::new());
    meta
}

#[test]
fn gguf_vocabularies() {
    let room = Room::new();
    for (n, want) in [(1 << 18, "read"), ((1 << 18) + 1, "at most"), (1 << 21, "at most")] {
        let bytes = GgufWriter::new(vocabulary(n)).front().unwrap();
        room.check("gguf", &room.file("v", &bytes, 0), 0, want);
    }
}

#[test]
fn takes() {
    let room = Room::new();
    let header = |n_ctx: u64| {
        let mut meta = Metadata::default();
        meta.set("general.architecture", "longtake-take");
        meta.set("take.version", 1u32);
        meta.set("take.cache.n_ctx", n_ctx);
        let mut writer = GgufWriter::new(meta);
        writer.tensor("cache.k", GgmlType::F16, &[32, 1 << 20]).unwrap();
        let front = writer.front().unwrap();
        (front, writer.file_bytes().unwrap())
    };
    let (front, len) = header(1 << 60);
    room.check("take", &room.file("a.take", &front, len), 0, "missing");
}

#[test]
fn safetensors_headers() {
    let folder = |name: &str, bytes: &[u8], len: u64| {
        let room = Room::new();
        std::fs::copy(golden().join("checkpoints/tiny-b/config.json"), room.0.path().join("config.json")).unwrap();
        room.file("model.safetensors", bytes, len);
        assert!(!name.is_empty());
        room
    };
    let with = |header: &str| [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    let entries = |n: u32| {
        let all: Vec<String> =
            (0..n).map(|i| format!(r#""{i:x}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{}]}}"#, i + 1)).collect();
        format!("{{{}}}", all.join(","))
    };
    let many = entries(1 << 17);
    for (name, bytes, len, want) in [
        ("length", u64::MAX.to_le_bytes().to_vec(), 0, "exceeds"),
        ("length within a sparse file", 99_999_999u64.to_le_bytes().to_vec(), 100 << 20, "does not start"),
        ("data", with(r#"{"a":{"dtype":"F32","shape":[4294967296],"data_offsets":[0,17179869184]}}"#), 0, "cover"),
        ("shape", with(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#), 0, "overflow"),
        ("nested", with(&format!(r#"{{"a":{}"#, "[".repeat(1 << 20))), 0, "header"),
        ("numbers", with(&format!(r#"{{"a":{{"dtype":"U8","shape":[{}1]}}}}"#, "1,".repeat(1 << 20))), 0, ""),
        ("tensors", with(&many), with(&many).len() as u64 + (1 << 17), "tensor"),
    ] {
        let room = folder(name, &bytes, len);
        room.check("checkpoint", room.0.path(), 0, want);
    }
}

/// A box of an MP4 file.
fn mp4_box(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    [&(content.len() as u32 + 8).to_be_bytes()[..], name, content].concat()
}

/// `bytes` with the content of the first box called `name` replaced and all sizes around it made to fit.
fn with_box(bytes: &[u8], name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let at = bytes.windows(4).position(|w| w == name).unwrap() - 4;
    let size = |at: usize| u32::from_be_bytes(*bytes[at..].first_chunk().unwrap()) as usize;
    let mut out = [&bytes[..at], &mp4_box(name, content)[..], &bytes[at + size(at)..]].concat();
    let grown = out.len() as i64 - bytes.len() as i64;
    for parent in [b"moov", b"trak", b"mdia", b"minf", b"stbl"] {
        let at = bytes.windows(4).position(|w| w == parent).unwrap() - 4;
        out[at..at + 4].copy_from_slice(&((size(at) as i64 + grown) as u32).to_be_bytes());
    }
    out
}

#[test]
fn mp4_tables() {
    let room = Room::new();
    let good = std::fs::read(golden().join("media/baseline.mp4")).unwrap();
    let words = |list: &[u32]| -> Vec<u8> { list.iter().flat_map(|n| n.to_be_bytes()).collect() };
    let n = 8 << 20;
    // Sizes that one number gives to all, in chunks of one entry.
    let uniform = |size: u32| {
        let sized = with_box(&good, b"stsz", &words(&[0, size, n]));
        with_box(&sized, b"stsc", &words(&[0, 1, 1, n, 1]))
    };
    room.check("video", &room.file("zero.mp4", &uniform(0), 0), 0, "");
    room.check("video", &room.file("one.mp4", &uniform(1), 9 << 20), 0, "");
    room.check("video", &room.file("two.mp4", &uniform(2), 17 << 20), 0, "");
    room.check("video", &room.file("lost.mp4", &uniform(1 << 20), 0), 0, "");
    let lies = |name: &[u8; 4], size: u32| {
        let mut bytes = good.clone();
        let at = good.windows(4).position(|w| w == name).unwrap();
        bytes[at - 4..at].copy_from_slice(&size.to_be_bytes());
        bytes
    };
    for (i, name) in [b"moov", b"trak", b"stbl", b"stsz", b"stts", b"ctts", b"avcC"].iter().enumerate() {
        let Some(_) = good.windows(4).position(|w| w == **name) else { continue };
        room.check("video", &room.file(&format!("{i}.mp4"), &lies(name, u32::MAX), 0), 0, "");
        room.check("video", &room.file(&format!("{i}s.mp4"), &lies(name, u32::MAX), 32 << 20), 0, "");
    }
    let counts = with_box(&good, b"stts", &words(&[0, u32::MAX, u32::MAX, 1]));
    room.check("video", &room.file("counts.mp4", &counts, 0), 0, "");
    // Fragments: each a box of its own.
    let traf = |n: u32| {
        let tfhd = mp4_box(b"tfhd", &words(&[0x2_0000 | 0x10, 1, 1]));
        mp4_box(b"moof", &mp4_box(b"traf", &[tfhd, mp4_box(b"trun", &words(&[0, n]))].concat()))
    };
    let fragments = [good.clone(), traf(u32::MAX), traf(8 << 20)].concat();
    room.check("video", &room.file("fragments.mp4", &fragments, 12 << 20), 0, "");
    let empty = mp4_box(b"moof", &[]).repeat(100_000);
    room.check("video", &room.file("moofs.mp4", &[&good[..], &empty].concat(), 0), 0, "");
}

#[test]
fn y4m_headers() {
    let room = Room::new();
    room.check("video", &room.file("a.y4m", b"YUV4MPEG2 W65536 H65536 C444\nFRAME\n", 0), 0, "at most");
    room.check("video", &room.file("b.y4m", b"YUV4MPEG2 W8192 H8192 C444\nFRAME\n", 0), 0, "no whole frame");
    // A whole one: the pixels are in the file.
    room.check("video", &room.file("c.y4m", b"YUV4MPEG2 W4096 H4096 C444\nFRAME\n", 33 + (3 << 24)), 0, "read");
    let tiny = [&b"YUV4MPEG2 W1 H1 Cmono\n"[..], &b"FRAME\n\x07".repeat(2 << 20)].concat();
    room.check("video", &room.file("d.y4m", &tiny, 0), 0, "read");
    room.check("video", &room.file("e.y4m", &[b'a'; 1 << 20], 0), 0, "");
}

/// A PNG of `width` x `height` zeros of so many bytes a pixel, made without holding it.
fn png(room: &Room, (width, height): (u32, u32), color: image::ExtendedColorType) -> std::path::PathBuf {
    use image::ImageEncoder;
    use image::codecs::png::{CompressionType, FilterType, PngEncoder};
    let path = room.0.path().join("bomb.png");
    let encoder =
        PngEncoder::new_with_quality(File::create(&path).unwrap(), CompressionType::Fast, FilterType::NoFilter);
    let n = width as usize * height as usize * usize::from(color.bits_per_pixel()) / 8;
    encoder.write_image(&vec![0; n], width, height, color).unwrap();
    path
}

#[test]
fn pictures_that_inflate() {
    use image::ExtendedColorType::{L8, Rgb8, Rgba8, Rgba16};
    let room = Room::new();
    for color in [L8, Rgb8, Rgba8, Rgba16] {
        room.check("image", &png(&room, (4096, 4096), color), 1 << 24, "read");
    }
    // More than the cap: refused by the header.
    let mut large = std::fs::read(png(&room, (8192, 16), Rgb8)).unwrap();
    large[20..24].copy_from_slice(&1_000_000u32.to_be_bytes());
    room.check("image", &room.file("large.png", &large, 0), 0, "");
    // What a header promises and the data do not hold.
    let mut empty = std::fs::read(png(&room, (4096, 1), Rgb8)).unwrap();
    empty[20..24].copy_from_slice(&4096u32.to_be_bytes());
    room.check("image", &room.file("empty.png", &empty, 0), 1 << 24, "");

    let mut webp = Vec::new();
    let picture = image::RgbaImage::new(4096, 4096);
    image::codecs::webp::WebPEncoder::new_lossless(&mut webp).encode(&picture, 4096, 4096, Rgba8).unwrap();
    assert!(webp.len() < 1 << 16);
    room.check("image", &room.file("bomb.webp", &webp, 0), 1 << 24, "read");

    // A canvas of the largest size around one pixel.
    let mut gif = b"GIF89a\0\x20\0\x20\x80\0\0\0\0\0\xff\xff\xff".to_vec();
    gif.extend(b",\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0;");
    room.check("image", &room.file("canvas.gif", &gif, 0), 1 << 26, "");
    room.check("video", &room.file("canvas.gif", &gif, 0), 1 << 26, "");
    // A frame far beyond a small canvas.
    let mut beyond = gif.clone();
    beyond[6..10].copy_from_slice(&[16, 0, 16, 0]);
    beyond[24..28].copy_from_slice(&[0, 0x20, 0, 0x20]);
    room.check("video", &room.file("beyond.gif", &beyond, 0), 256, "on a canvas of 16x16");
    room.check("image", &room.file("beyond.gif", &beyond, 0), 256, "its canvas of `16x16`");
    // Many frames of it: a number nobody means to show.
    let (head, frame) = gif[..gif.len() - 1].split_at(19);
    let frames = [head, &frame.repeat(60_000)].concat();
    room.check("video", &room.file("frames.gif", &frames, 0), 0, "at most");
}

/// A progressive JPEG with its size changed and its last scan repeated.
fn jpeg(size: Option<u16>, n_scans: usize) -> Vec<u8> {
    let good = std::fs::read(golden().join("media/progressive.jpg")).unwrap();
    let mut bytes = good.clone();
    let sof = good.windows(2).position(|w| w == [0xff, 0xc2]).unwrap();
    if let Some(size) = size {
        bytes[sof + 5..sof + 7].copy_from_slice(&size.to_be_bytes());
        bytes[sof + 7..sof + 9].copy_from_slice(&size.to_be_bytes());
    }
    let sos = good.windows(2).rposition(|w| w == [0xff, 0xda]).unwrap();
    let scan = bytes[sos..bytes.len() - 2].to_vec();
    bytes.truncate(bytes.len() - 2);
    bytes.extend(scan.repeat(n_scans));
    bytes.extend([0xff, 0xd9]);
    bytes
}

#[test]
fn jpegs_of_many_scans() {
    let room = Room::new();
    let started = std::time::Instant::now();
    room.check("image", &room.file("scans.jpg", &jpeg(None, 20_000), 0), 0, "");
    room.check("image", &room.file("large.jpg", &jpeg(Some(4096), 0), 0), 1 << 24, "");
    room.check("image", &room.file("both.jpg", &jpeg(Some(4096), 500), 0), 1 << 24, "");
    room.check("image", &room.file("huge.jpg", &jpeg(Some(65_535), 0), 0), 0, "at most");
    assert!(started.elapsed().as_secs() < 60, "took {:?}", started.elapsed());
}

#[test]
fn tables() {
    let room = Room::new();
    let zstd = Compression::ZSTD(ZstdLevel::try_new(1).unwrap());
    // One long text, named by every row.
    let long = Column::Text("question", vec!["x".repeat(64 << 10); 8192]);
    room.check("table", &room.file("long.parquet", &parquet_of(&[long], zstd), 0), 0, "");
    let unique = Column::Text("question", (0..64).map(|i| format!("{i}{}", "x".repeat(2 << 20))).collect());
    room.check("table", &room.file("unique.parquet", &parquet_of(&[unique], zstd), 0), 0, "");
    let rows = Column::Text("question", vec![String::new(); 100_000]);
    room.check("table", &room.file("rows.parquet", &parquet_of(&[rows], zstd), 0), 0, "");
    let lists = Column::List("options", vec![vec!["a".to_string(); 1000]; 1000]);
    room.check("table", &room.file("lists.parquet", &parquet_of(&[lists], zstd), 0), 0, "");

    for (name, text) in [
        ("rows.json", format!("[{}{{}}]", r#"{"question":"","options":[]},"#.repeat(100_000))),
        ("empty.json", format!("[{}{{}}]", "{},".repeat(1 << 20))),
        ("items.json", format!(r#"[{{"options":[{}1]}}]"#, "1,".repeat(2 << 20))),
        ("rows.jsonl", "{\"question\":1}\n".repeat(200_000)),
        ("rows.tsv", format!("question\toptions\n{}", "\t\n".repeat(1 << 20))),
        ("names.tsv", format!("question{}\n", "\tq".repeat(8 << 20))),
    ] {
        room.check("table", &room.file(name, text.as_bytes(), 0), 0, "");
    }
}

#[test]
fn conversations() {
    let room = Room::new();
    let turn = |content: &str| format!(r#"[{{"role":"user","content":{content}}}]"#);
    for (name, text) in [
        ("numbers", format!("[{}1]", "1,".repeat(8 << 20))),
        ("objects", format!("[{}1]", r#"{"a":1},"#.repeat(2 << 20))),
        ("options", turn(&format!(r#"[{{"type":"image","image":"i"{}}}]"#, r#","a":[1]"#))),
        ("deep", "[".repeat(8 << 20)),
        ("text", turn(&format!("\"{}\"", "a".repeat(16 << 20)))),
        ("frames", turn(&format!(r#"[{{"type":"video","video":[{}"f"]}}]"#, r#""f","#.repeat(1 << 20)))),
    ] {
        room.check("messages", &room.file(name, text.as_bytes(), 0), 0, "");
    }
}

/// The measure itself: a process that takes what it must not is seen.
#[test]
#[should_panic(expected = "MiB, at most 64 MiB")]
fn the_bound_can_fail() {
    let room = Room::new();
    room.check("hog", &room.file("empty", b"", 0), 0, "read");
}
