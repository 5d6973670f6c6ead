//! Drawn video as an .mp4 file: H.264 as a camera writes it, so that what reads it is what reads any recording.

use std::io::{BufWriter, Write};
use std::path::Path;

use mp4::{AvcConfig, MediaConfig, Mp4Config, Mp4Sample, Mp4Writer, TrackConfig, TrackType};
use openh264::OpenH264API;
use openh264::encoder::{Encoder, EncoderConfig, FrameRate, FrameType, IntraFramePeriod, RateControlMode, VuiConfig};
use openh264::formats::{RgbSliceU8, YUVBuffer};
use rayon::prelude::*;

use super::symbols::{DrawnVideo, FPS};
use crate::files::atomic::write_beside_in_place;
use crate::kernels::threads::in_rayon;
use crate::{Error, ErrorKind, Result};

/// Frames drawn at once, on all threads, before they are encoded in order.
const AT_ONCE: usize = 16;
/// A frame that needs no other comes at least so often.
const INTRA_PERIOD: u32 = 32;
/// Ticks of the file's clock in a second.
const TIMESCALE: u32 = 1000;

// Types of network abstraction layer units (H.264, table 7-1).
const SPS: u8 = 7;
const PPS: u8 = 8;

/// Writes `video` to `path`, whole or not at all. `on_frames` is told how many frames are done and may stop the work.
///
/// # Errors
/// A disk that refuses, an encoder that fails, whatever `on_frames` returns.
pub fn write_mp4(video: &DrawnVideo, path: &Path, on_frames: &mut dyn FnMut(usize) -> Result<()>) -> Result<()> {
    write_beside_in_place(path, 0, |file| {
        let encoded =
            |err: openh264::Error| Error::new(ErrorKind::Mismatch, format!("the H.264 encoder failed: {err}"));
        let config = EncoderConfig::new()
            .max_frame_rate(FrameRate::from_hz(FPS as f32))
            .rate_control_mode(RateControlMode::Off)
            .skip_frames(false)
            .intra_frame_period(IntraFramePeriod::from_num_frames(INTRA_PERIOD))
            .vui(VuiConfig::bt601());
        let mut encoder = Encoder::with_api_config(OpenH264API::from_source(), config).map_err(encoded)?;
        let brand = |name: &[u8; 4]| (*name).into();
        let config = Mp4Config {
            major_brand: brand(b"isom"),
            minor_version: 512,
            compatible_brands: vec![brand(b"isom"), brand(b"iso2"), brand(b"avc1"), brand(b"mp41")],
            timescale: TIMESCALE,
        };
        let mut writer = Mp4Writer::write_start(BufWriter::new(file), &config).map_err(written)?;
        let mut has_track = false;
        for start in (0..video.n_frames()).step_by(AT_ONCE) {
            let end = video.n_frames().min(start + AT_ONCE);
            let frames: Vec<Vec<u8>> = in_rayon(|| (start..end).into_par_iter().map(|i| video.frame(i)).collect())?;
            for (i, rgb) in (start..end).zip(&frames) {
                let yuv = YUVBuffer::from_rgb8_source(RgbSliceU8::new(rgb, (video.width, video.height)));
                let stream = encoder.encode(&yuv).map_err(encoded)?;
                let is_sync = matches!(stream.frame_type(), FrameType::IDR | FrameType::I);
                let units = Units::of(&stream.to_vec());
                if !has_track {
                    let (Some(sps), Some(pps)) = (units.sps, units.pps) else {
                        return Err(Error::new(ErrorKind::Mismatch, "the H.264 encoder sent no parameter sets"));
                    };
                    writer.add_track(&track(video, sps, pps)).map_err(written)?;
                    has_track = true;
                }
                let ticks = TIMESCALE / FPS;
                let sample = Mp4Sample {
                    start_time: i as u64 * u64::from(ticks),
                    duration: ticks,
                    rendering_offset: 0,
                    is_sync,
                    bytes: units.slices.into(),
                };
                writer.write_sample(1, &sample).map_err(written)?;
            }
            on_frames(end)?;
        }
        writer.write_end().map_err(written)?;
        Ok(writer.into_writer().flush()?)
    })
}

fn written(err: mp4::Error) -> Error {
    match err {
        mp4::Error::IoError(err) => err.into(),
        err => Error::new(ErrorKind::Mismatch, format!("the mp4 file cannot be written: {err}")),
    }
}

fn track(video: &DrawnVideo, sps: Vec<u8>, pps: Vec<u8>) -> TrackConfig {
    // Sides are at most 4096.
    let (width, height) = (video.width as u16, video.height as u16);
    TrackConfig {
        track_type: TrackType::Video,
        timescale: TIMESCALE,
        language: "und".to_string(),
        media_conf: MediaConfig::AvcConfig(AvcConfig { width, height, seq_param_set: sps, pic_param_set: pps }),
    }
}

/// What an encoder sends for one frame: parameter sets, and slices with their lengths before them.
#[derive(Default)]
struct Units {
    sps: Option<Vec<u8>>,
    pps: Option<Vec<u8>>,
    slices: Vec<u8>,
}

impl Units {
    /// From a byte stream with start codes (H.264, annex B).
    fn of(stream: &[u8]) -> Units {
        let mut units = Units::default();
        let starts: Vec<usize> =
            (0..stream.len().saturating_sub(2)).filter(|&i| stream[i..i + 3] == [0, 0, 1]).map(|i| i + 3).collect();
        for (k, &start) in starts.iter().enumerate() {
            let end = starts.get(k + 1).map_or(stream.len(), |next| next - 3);
            // A start code may have a third zero, which belongs to no unit.
            let unit = &stream[start..end];
            let unit = &unit[..unit.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1)];
            match unit.first().map(|b| b & 31) {
                None => {}
                Some(SPS) => units.sps = Some(unit.to_vec()),
                Some(PPS) => units.pps = Some(unit.to_vec()),
                Some(_) => {
                    units.slices.extend((unit.len() as u32).to_be_bytes());
                    units.slices.extend(unit);
                }
            }
        }
        units
    }
}
