//! What `ffprobe` knows of a video file: its size, and the frames that decoding gives, with their times.
//!
//! A container's own words about its length are not enough: they count the start time as content, they forget what comes
//! after a clock that begins anew, and of a recording that begins in the middle they count what nobody can decode. So the
//! packets are listed, which reads the file but decodes nothing (an hour takes a second), and made into frames by
//! [`Listing`]. Where the beginning does not look as if decoding could start there, a few packets are decoded to see.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::child::{self, Process};
use super::ffmpeg::{Tools, input};
use super::image_file::check_size;
use super::limits::{MAX_FPS, MAX_FRAMES};
use super::packets::{Clock, Frames, Listing, Packet, parse_packet};
use super::video::Merit;
use crate::{Error, Result};

/// Bytes that `ffprobe` may answer to a question other than for all packets.
const MAX_ANSWER: usize = 1 << 20;
/// Longest line about a packet.
const MAX_LINE: usize = 1024;
/// Answers and pieces of them that may wait.
const N_WAITING: usize = 16;
/// Packets after the first key frame that are decoded to see which of them give a frame, and how many may come before it.
const N_TRIED: usize = 64;
const MAX_TRIED: usize = 4096;

/// All video streams except covers and thumbnails, as a specifier of streams.
const FILMS: &str = "V";

/// A video as `ffprobe` sees it.
pub(super) struct Found {
    /// Which stream of the file is shown.
    pub stream: u64,
    pub codec: String,
    /// After rotation.
    pub height: usize,
    pub width: usize,
    /// Whether the picture is shown otherwise than it is stored.
    pub is_turned: bool,
    pub frames: Frames,
    /// Whether `ffmpeg` is older than its option `-fps_mode`.
    pub is_old: bool,
}

/// Asks about a file.
///
/// # Errors
/// `Format` when there is no video in it that could be decoded, `Limit` beyond the caps, `Io` when the tool does not start or
/// does not answer.
pub(super) fn find(path: &Path, tools: &Tools) -> Result<Found> {
    let entries = "stream=index,codec_name,width,height,avg_frame_rate,r_frame_rate,duration,nb_frames,time_base:\
         stream_disposition=default:stream_side_data=rotation:stream_tags=rotate,DURATION:\
         format=format_name,start_time,duration:program_version=version";
    let answer = ask((path, FILMS), tools, &["-show_entries", entries], tools.timeout)?;
    let stream = pick(&answer["streams"]).ok_or_else(|| Error::format("no video in it"))?;
    let index = stream["index"].as_u64().unwrap_or(0);
    let file = (path, &*index.to_string());
    let side = |name: &str| stream[name].as_u64().unwrap_or(0);
    // No size at all: nothing in the file tells it, which the packets may explain.
    let is_known = side("height") > 0 || side("width") > 0;
    if is_known {
        check_size(side("height"), side("width"))?;
    }
    let rates = ["avg_frame_rate", "r_frame_rate"].map(|name| rate(stream[name].as_str().unwrap_or_default()));
    let clock = Clock {
        ticks_per_second: ticks_per_second(stream["time_base"].as_str().unwrap_or_default()),
        start: answer["format"]["start_time"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0.0),
        end: stream["tags"]["DURATION"].as_str().and_then(seconds),
        rates: rates.into_iter().flatten().collect(),
        is_broadcast: matches!(answer["format"]["format_name"].as_str(), Some("mpegts" | "mpegtsraw" | "mpeg")),
    };
    let claimed = claimed_frames(stream, &answer, &clock)?;
    let packets = list(file, tools)?;
    let frames = match Listing::new(packets) {
        None => Frames::even(claimed.unwrap_or(0), &clock),
        Some(listing) => {
            let n = listing.n_to_try(&clock, N_TRIED).filter(|n| *n <= MAX_TRIED);
            let tried = n.map(|n| try_beginning(file, tools, n)).transpose()?;
            if tried.is_none_or(|tried| tried.n_frames == 0) && !listing.has_key() {
                let message = "no key frame in it, where decoding could begin: the part before one is missing";
                return Err(Error::format(message));
            }
            listing.frames(&clock, tried)
        }
    };
    check_size(side("height"), side("width"))?;
    let frames = frames.ok_or_else(|| Error::format("the video has no frames"))?;
    let (mut height, mut width) = (side("height") as usize, side("width") as usize);
    let angle = angle(stream);
    if (angle.rem_euclid(180.0) - 90.0).abs() < 1.0 {
        (height, width) = (width, height);
    }
    let version = answer["program_version"]["version"].as_str().unwrap_or_default();
    Ok(Found {
        stream: index,
        codec: stream["codec_name"].as_str().unwrap_or("unknown").chars().take(20).collect(),
        height,
        width,
        is_turned: has_matrix(stream),
        frames,
        is_old: is_old(version),
    })
}

/// Frames by the container's own words, should it list no packets.
fn claimed_frames(stream: &Value, answer: &Value, clock: &Clock) -> Result<Option<usize>> {
    let duration = [&stream["duration"], &stream["tags"]["DURATION"], &answer["format"]["duration"]]
        .into_iter()
        .find_map(|value| seconds(value.as_str()?));
    let counted = number(&stream["nb_frames"]).filter(|&n| n > 0);
    let Some(n) = counted.map(|n| n as f64).or(duration.map(|s| (s * clock.fps()).round().max(1.0))) else {
        return Ok(None);
    };
    if n > MAX_FRAMES as f64 {
        return Err(Error::limit(format!("the video has `{n}` frames, expected at most {MAX_FRAMES}")));
    }
    Ok(Some(n as usize))
}

/// What the decoder made of the first packets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tried {
    pub n_packets: usize,
    pub n_frames: usize,
    /// When the first of the frames is shown, in ticks, where that is known.
    pub first: Option<i64>,
}

/// Decodes the first `n` packets.
fn try_beginning(file: (&Path, &str), tools: &Tools, n: usize) -> Result<Tried> {
    let interval = format!("%+#{n}");
    let entries = "stream=nb_read_packets,nb_read_frames:frame=best_effort_timestamp";
    let wanted = ["-count_packets", "-count_frames", "-read_intervals", &interval, "-show_entries", entries];
    let answer = ask(file, tools, &wanted, tools.timeout)?;
    let count = |name: &str| number(&answer["streams"][0][name]).unwrap_or(0).min(n as u64) as usize;
    let first = answer["frames"].as_array().into_iter().flatten().find_map(|f| f["best_effort_timestamp"].as_i64());
    Ok(Tried { n_packets: count("nb_read_packets"), n_frames: count("nb_read_frames"), first })
}

/// The stream to show, of those that `ffprobe` lists.
fn pick(streams: &Value) -> Option<&Value> {
    let merit = |stream: &Value| {
        let side = |name: &str| stream[name].as_u64().unwrap_or(0);
        Merit {
            is_enabled: stream["disposition"]["default"].as_u64() == Some(1),
            is_film: !matches!(stream["codec_name"].as_str(), Some("mjpeg" | "png" | "tiff" | "gif")),
            area: side("width").saturating_mul(side("height")),
        }
    };
    // Of equals, `max_by_key` takes the last.
    streams.as_array()?.iter().rev().max_by_key(|stream| merit(stream))
}

/// Starts `ffprobe` on the streams of a file that a specifier names.
fn start(
    (path, streams): (&Path, &str),
    tools: &Tools,
    wanted: &[&str],
    style: &str,
) -> Result<(Process, child::Output<Vec<u8>>)> {
    let mut args: Vec<OsString> = ["-select_streams", streams, "-of", style].map(OsString::from).to_vec();
    args.extend(wanted.iter().map(OsString::from));
    args.extend(input(path));
    Process::start(&tools.ffprobe, &args, Stdio::null(), N_WAITING, child::chunk)
}

/// Asks for JSON.
fn ask(file: (&Path, &str), tools: &Tools, wanted: &[&str], timeout: Duration) -> Result<Value> {
    let (mut process, mut output) = start(file, tools, wanted, "json")?;
    let text = output.all(&mut process, MAX_ANSWER, timeout, &|| false)?;
    let status = process.finish(timeout)?;
    if !status.success() {
        return Err(refusal(&process.complaints(), status));
    }
    serde_json::from_slice(&text).map_err(|_| Error::format("ffprobe gave an answer that is not JSON"))
}

/// Why a file cannot be opened, in short.
fn refusal(complaints: &str, status: std::process::ExitStatus) -> Error {
    let words = child::last_words(complaints);
    Error::format(match no_video(complaints) {
        Some(why) => why,
        None if words.is_empty() => format!("ffprobe ended with {status}"),
        None => format!("ffprobe cannot open it: {words}"),
    })
}

/// The kind of file that one which is not opened was taken for, where the complaints name it.
pub(super) fn taken_for(complaints: &str) -> Option<String> {
    // "[mp3 @ 0x55…] Format not …".
    let (before, _) = complaints.split_once("Format not on whitelist")?;
    let tag = before.rsplit('[').next().and_then(|part| part.split_once(" @ "));
    Some(tag.map_or("unknown", |(name, _)| name).chars().filter(char::is_ascii_graphic).take(40).collect())
}

/// That there is no video, where the complaints of `ffmpeg` or `ffprobe` say so in one way or another.
pub(super) fn no_video(complaints: &str) -> Option<String> {
    if let Some(name) = taken_for(complaints) {
        return Some(format!("no video in it: `{name}` is not one of the kinds of video that are opened"));
    }
    if complaints.contains("matches no streams") {
        return Some("no video in it".into());
    }
    let is_unknown = complaints.contains("Invalid data found when processing input");
    is_unknown.then(|| "no video in it: ffmpeg cannot tell what it is, or it is damaged".into())
}

/// All packets in the order of the file; none where the answer holds no list.
fn list(file: (&Path, &str), tools: &Tools) -> Result<Vec<Packet>> {
    let wanted = ["-show_entries", "packet=pts,dts,duration,flags"];
    let (mut process, mut output) = start(file, tools, &wanted, "compact=p=0")?;
    let (mut packets, mut line) = (Vec::new(), Vec::new());
    while let Some(chunk) = output.next(&mut process, Some(tools.timeout), "packet", &|| false)? {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(piece);
            if line.len() > MAX_LINE {
                return Err(process.fault("ffprobe gave a list of packets that is none, it was stopped".into()));
            }
            if line.ends_with(b"\n") {
                packets.extend(std::str::from_utf8(&line).ok().and_then(parse_packet));
                line.clear();
            }
        }
        if packets.len() > MAX_FRAMES {
            return Err(Error::limit(format!("the video has more than {MAX_FRAMES} frames")));
        }
    }
    let status = process.finish(tools.timeout)?;
    if !status.success() && packets.is_empty() {
        return Err(refusal(&process.complaints(), status));
    }
    Ok(packets)
}

/// `N/D` as frames per second, and in the form to pass on.
fn rate(text: &str) -> Option<(f64, String)> {
    let (n, d) = text.split_once('/')?;
    let (n, d) = (n.parse::<u32>().ok()?, d.parse::<u32>().ok()?);
    let fps = f64::from(n) / f64::from(d);
    (fps > 0.0 && fps <= MAX_FPS).then(|| (fps, format!("{n}/{d}")))
}

/// Ticks per second of a time base `N/D`; 0 for none.
fn ticks_per_second(text: &str) -> f64 {
    let parts = text.split_once('/').and_then(|(n, d)| Some((n.parse::<u32>().ok()?, d.parse::<u32>().ok()?)));
    parts.filter(|(n, _)| *n > 0).map_or(0.0, |(n, d)| f64::from(d) / f64::from(n))
}

/// Seconds from a plain number or `HH:MM:SS.fraction`.
fn seconds(text: &str) -> Option<f64> {
    let total = text.split(':').try_fold(0.0, |total, part| Some(total * 60.0 + part.trim().parse::<f64>().ok()?))?;
    (total > 0.0 && total.is_finite()).then_some(total)
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Degrees by which the picture is turned on display.
fn angle(stream: &Value) -> f64 {
    let side_data = stream["side_data_list"].as_array().into_iter().flatten();
    let angle = side_data.filter_map(|data| data["rotation"].as_f64()).next();
    angle.or_else(|| stream["tags"]["rotate"].as_str()?.parse().ok()).unwrap_or(0.0)
}

/// Whether anything says how to turn the picture.
fn has_matrix(stream: &Value) -> bool {
    let mut side_data = stream["side_data_list"].as_array().into_iter().flatten();
    side_data.any(|data| !data["rotation"].is_null()) || !stream["tags"]["rotate"].is_null()
}

/// Whether a version of ffmpeg is below 5.1; what has no number is newer.
fn is_old(version: &str) -> bool {
    let mut parts = version.trim_start_matches('n').split(|c: char| !c.is_ascii_digit());
    let mut part = || parts.next().and_then(|part| part.parse::<u32>().ok());
    part().is_some_and(|major| (major, part().unwrap_or(0)) < (5, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_with_care() {
        assert_eq!(rate("30000/1001").map(|r| r.1), Some("30000/1001".into()));
        for bad in ["0/0", "1/0", "0/1", "-1/1", "x/1", "25", "5000/1", "1/99999999999"] {
            assert_eq!(rate(bad), None, "{bad}");
        }
        assert_eq!(seconds("00:01:30.500000000"), Some(90.5));
        assert_eq!(seconds("8.5"), Some(8.5));
        for bad in ["N/A", "", "-3", "nan", "inf"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
        assert_eq!((ticks_per_second("1/90000"), ticks_per_second("0/1"), ticks_per_second("")), (90000.0, 0.0, 0.0));
    }

    #[test]
    fn versions_are_compared_by_number() {
        for (version, old) in [
            ("4.4.2-0ubuntu0.22.04.1", true),
            ("5.0", true),
            ("5.1.9-0+deb12u1", false),
            ("n7.1", false),
            ("10.0", false),
            ("N-113007-g8d24a28d06", false),
            ("", false),
        ] {
            assert_eq!(is_old(version), old, "{version}");
        }
    }
}
