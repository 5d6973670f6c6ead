//! Every writer killed without warning at random moments: afterwards the name stands for nothing, for what it stood for before,
//! or for all of it; and the same command ends with what a run in peace gives.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use longtake::random::Rng;
use longtake::stream::Take;

use super::{SMALL, asset, count, longtake, names, said, stream, with_model};

/// A command that writes `output` in its folder, and how what it wrote is looked at.
struct Writer {
    name: &'static str,
    command: fn(&Path) -> Command,
    output: &'static str,
    /// The content of the output, where it is whole.
    content: fn(&Path) -> Option<Vec<u8>>,
    /// Whether the output grows in place, so that a killed run may leave a beginning.
    grows: bool,
}

fn bytes(path: &Path) -> Option<Vec<u8>> {
    std::fs::read(path).ok()
}

/// Header and rows: when it was written, and how long that took, is another with every run.
fn take(path: &Path) -> Option<Vec<u8>> {
    path.exists().then_some(())?;
    let take = Take::open(path, true).unwrap();
    let cache = take.cache().unwrap();
    let rows = cache.runs(0..cache.len()).flat_map(|(_, _, bytes)| bytes.to_vec());
    take.is_complete().then(|| format!("{:?}", take.header).into_bytes().into_iter().chain(rows).collect())
}

/// Results line by line, and what is drawn from them.
fn niah(path: &Path) -> Option<Vec<u8>> {
    let file = |name: &str| std::fs::read(path.join(name));
    Some(
        [
            file("trials.jsonl").ok()?,
            file("all_accuracies.json").ok()?,
            file("heatmap.svg").ok()?,
            file("heatmap.png").ok()?,
        ]
        .concat(),
    )
}

const WRITERS: [Writer; 8] = [
    Writer {
        name: "watch",
        command: |dir| {
            let mut command =
                with_model(dir, &["watch", &asset("demo.mp4"), "-o", "out", "-b", "32", "--checkpoint", "0"]);
            command.args(SMALL).args(["--reserve", "200"]);
            command
        },
        output: "out",
        content: take,
        grows: true,
    },
    Writer {
        name: "watch -",
        command: |dir| {
            let mut command =
                with_model(dir, &["watch", "-", "-o", "out", "--again", "-b", "16", "--save-every", "0.02"]);
            command.args(SMALL).args(["-c", "300", "--reserve", "60", "--when-full", "forget"]);
            command.stdin(std::fs::File::open(stream(dir, 120)).unwrap());
            command
        },
        output: "out",
        content: take,
        grows: true, // each save is a whole take of the stream so far
    },
    Writer {
        name: "quantize",
        command: |dir| longtake(dir, &["quantize", &asset("mmproj-demo.gguf"), "out", "Q8_0"]),
        output: "out",
        content: bytes,
        grows: false,
    },
    Writer {
        name: "convert",
        command: |dir| {
            let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints/tiny-b");
            longtake(dir, &["convert", checkpoint.to_str().unwrap(), "-o", "out", "--mmproj-out", "mmproj"])
        },
        output: "out",
        content: bytes,
        grows: false,
    },
    Writer {
        name: "niah",
        command: |dir| {
            longtake(dir, &["eval", "niah", "-o", "out", "--lengths", "2:8:2", "--depths", "0,0.5,1", "-t", "1"])
        },
        output: "out",
        content: niah,
        grows: true,
    },
    Writer {
        name: "demo -o",
        command: |dir| longtake(dir, &["demo", "--tokens", "2304", "-o", "out", "-t", "1", "-n", "1"]),
        output: "out",
        content: bytes,
        grows: false,
    },
    Writer {
        name: "--dump",
        command: |dir| {
            let mut command =
                with_model(dir, &["run", "--video", &asset("demo.mp4"), "-p", "x", "-n", "2", "--dump", "out"]);
            command.args(SMALL);
            command
        },
        output: "out",
        content: bytes,
        grows: false,
    },
    Writer {
        name: "chat /save",
        command: |dir| {
            let path = dir.join("tmp").join("said");
            std::fs::create_dir_all(dir.join("tmp")).unwrap();
            std::fs::write(&path, "Who is it?\n/save out\nAnd why?\n/save out2\n/quit\n").unwrap();
            let mut command = with_model(dir, &["chat", "-n", "4", "-c", "512"]);
            command.stdin(std::fs::File::open(path).unwrap());
            command
        },
        output: "out",
        content: bytes,
        grows: false,
    },
];

/// `LONGTAKE_KILLS` says how many, over all writers.
#[test]
fn killed_at_any_moment_every_writer_ends_with_what_a_run_in_peace_gives() {
    let n_each = count("LONGTAKE_KILLS", 24).div_ceil(WRITERS.len());
    let mut random = Rng(3);
    let mut total = 0;
    for Writer { name, command, output, content, grows } in &WRITERS {
        let dir = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let peace = dir.path().join("peace");
        std::fs::create_dir(&peace).unwrap();
        let run = |dir: &Path| {
            let out = command(dir).output().unwrap();
            assert!(out.status.success(), "{name}: {}", said(&out));
        };
        run(&peace);
        let (whole_time, want, want_names) = (started.elapsed(), content(&peace.join(output)).unwrap(), names(&peace));
        let room = dir.path().join("room");
        std::fs::create_dir(&room).unwrap();
        let (mut kills, mut finished, mut left) = (0, 0, 0);
        while kills < n_each {
            let mut child = command(&room).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(whole_time.mul_f64(random.unit()));
            let was_running = child.try_wait().unwrap().is_none();
            if was_running {
                child.kill().unwrap();
                kills += 1;
            }
            let status = child.wait().unwrap();
            assert!(was_running || status.success(), "{name} after {kills} kills: {status}");
            // Whatever stands under the name is all of it, or a beginning that is known to be one.
            let now = content(&room.join(output));
            assert!(*grows || now.as_ref().is_none_or(|now| *now == want), "{name} after {kills} kills");
            left += usize::from(names(&room).iter().any(|name| name.starts_with('.')));
            if !was_running || random.below(4) == 0 {
                // To the end, over whatever was left, and from the start again.
                run(&room);
                assert!(content(&room.join(output)).as_ref() == Some(&want), "{name} after {kills} kills");
                assert_eq!(names(&room), want_names, "{name} after {kills} kills");
                std::fs::remove_dir_all(&room).unwrap();
                std::fs::create_dir(&room).unwrap();
                finished += 1;
            }
        }
        run(&room);
        assert!(content(&room.join(output)).as_ref() == Some(&want), "{name} at the end");
        assert_eq!(names(&room), want_names, "{name} at the end");
        total += kills;
        let _ = writeln!(
            std::io::stderr(),
            "{name}: {kills} kills, {left} left a temporary file until the next run, {} runs to the end, all as in peace",
            finished + 1
        );
    }
    let _ = writeln!(std::io::stderr(), "{total} kills");
}
