//! Y4M (YUV4MPEG2): uncompressed video with a line of text before each frame.
//!
//! 4:2:0, 4:1:1, 4:2:2, 4:4:4 and mono of 8 to 16 bits; what is above 8 bits is rounded to 8. Of a file ([`Y4mSource`]) only the header lines are read at first, to find the frames;
//! pixels are read one frame at a time. A frame that is cut off at the end of the file is left out and counted. A stream
//! ([`Y4mStream`]) is read once, in order; a frame that is cut off is an error there.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::Rgb;
use super::image_file::check_size;
use super::limits::{MAX_FPS, MAX_FRAMES, MAX_Y4M_LINE};
use super::video::{FrameSource, VideoInfo};
use super::yuv::{Color, Plane, Planes, to_rgb};
use crate::error::Context;
use crate::{Error, Result};

/// How every such file begins.
pub(super) const MAGIC: &[u8] = b"YUV4MPEG2 ";
/// How every frame begins.
const FRAME: &[u8] = b"FRAME";

/// A Y4M file being read.
pub struct Y4mSource {
    info: VideoInfo,
    name: String,
    file: File,
    layout: Layout,
    /// Where the pixels of each frame begin.
    offsets: Vec<u64>,
    buffer: Vec<u8>,
    skipped: usize,
}

/// What the first line says.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Layout {
    height: usize,
    width: usize,
    fps: f64,
    samples: Samples,
    full_range: bool,
}

/// How a frame is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Samples {
    /// Luma samples per chroma sample as powers of two, vertically and horizontally; `None` for mono.
    shift: Option<(u32, u32)>,
    /// 8 to 16; above 8 a sample is two bytes, the low one first.
    bits: u32,
}

impl Y4mSource {
    /// Opens a file and finds its frames.
    ///
    /// # Errors
    /// `Format` for a damaged header or no whole frame, `Unsupported` for other colour layouts, `Limit` beyond the caps.
    pub fn open(path: &Path) -> Result<Y4mSource> {
        Y4mSource::open_unnamed(path).at(|| path.display().to_string())
    }

    fn open_unnamed(path: &Path) -> Result<Y4mSource> {
        let file = File::open(path)?;
        let file_len = file.metadata()?.len();
        let mut reader = BufReader::new(file);
        let layout = Layout::parse(&read_line(&mut reader)?)?;
        let frame_len = layout.frame_len();
        let mut offsets = Vec::new();
        let mut skipped = 0;
        while reader.stream_position()? < file_len {
            let line = read_line(&mut reader).at(|| format!("frame {}", offsets.len()))?;
            if !line.starts_with(FRAME) {
                return Err(Error::format(format!("frame `{}` does not begin with `FRAME`", offsets.len())));
            }
            let at = reader.stream_position()?;
            if file_len - at < frame_len {
                skipped += 1;
                break;
            }
            if offsets.len() == MAX_FRAMES {
                return Err(Error::limit(format!("the video has more than {MAX_FRAMES} frames")));
            }
            offsets.push(at);
            reader.seek_relative(frame_len as i64)?;
        }
        if offsets.is_empty() {
            return Err(Error::format("the file holds no whole frame"));
        }
        let info = VideoInfo {
            n_frames: offsets.len(),
            fps: layout.fps,
            duration: offsets.len() as f64 / layout.fps,
            height: layout.height,
            width: layout.width,
            decoder: "y4m (built-in)".into(),
        };
        let name = path.display().to_string();
        Ok(Y4mSource { info, name, file: reader.into_inner(), layout, offsets, buffer: Vec::new(), skipped })
    }

    fn read(&mut self, index: usize) -> Result<Rgb> {
        let offset = *self
            .offsets
            .get(index)
            .ok_or_else(|| Error::bad_input(format!("frame `{index}` of a video of {}", self.info.n_frames)))?;
        self.buffer.resize(self.layout.frame_len() as usize, 0);
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.read_exact(&mut self.buffer)?;
        Ok(self.layout.to_rgb(&self.buffer))
    }
}

/// A Y4M stream being read.
pub struct Y4mStream<R> {
    reader: R,
    layout: Layout,
    buffer: Vec<u8>,
    /// Frames read so far.
    n_read: u64,
}

impl<R: BufRead> Y4mStream<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// `Format` for a damaged header, `Unsupported` for other colour layouts, `Limit` beyond the caps.
    pub fn new(mut reader: R) -> Result<Y4mStream<R>> {
        let layout = Layout::parse(&read_line(&mut reader)?)?;
        Ok(Y4mStream { reader, layout, buffer: Vec::new(), n_read: 0 })
    }

    /// (height, width) of every frame.
    pub fn size(&self) -> (usize, usize) {
        (self.layout.height, self.layout.width)
    }

    /// Frames per second.
    pub fn fps(&self) -> f64 {
        self.layout.fps
    }

    /// Reads the next frame; false at the end. Its pixels stay where they are until [`Y4mStream::rgb`] asks for them.
    ///
    /// # Errors
    /// `Format` with the frame's number for a frame that is cut off, or for what is no frame.
    pub fn advance(&mut self) -> Result<bool> {
        let more = self.read_frame().at(|| format!("frame {}", self.n_read))?;
        self.n_read += u64::from(more);
        Ok(more)
    }

    fn read_frame(&mut self) -> Result<bool> {
        if self.reader.fill_buf()?.is_empty() {
            return Ok(false);
        }
        let line = read_line(&mut self.reader)?;
        if line.starts_with(MAGIC) {
            return Err(Error::format("another Y4M header in place of a frame, the size of a stream cannot change"));
        }
        if !line.starts_with(FRAME) {
            return Err(Error::format("does not begin with `FRAME`"));
        }
        let len = self.layout.frame_len();
        self.buffer.clear();
        // Grows with what arrives: a header alone claims no memory.
        let n = (&mut self.reader).take(len).read_to_end(&mut self.buffer)?;
        if n as u64 != len {
            return Err(Error::format(format!("is cut off after `{n}` of {len} bytes")));
        }
        Ok(true)
    }

    /// The frame that was read last, as a picture.
    pub fn rgb(&self) -> Rgb {
        self.layout.to_rgb(&self.buffer)
    }
}

impl FrameSource for Y4mSource {
    fn info(&self) -> &VideoInfo {
        &self.info
    }

    fn frame(&mut self, index: usize) -> Result<Rgb> {
        self.read(index).at(|| format!("frame {index}")).at(|| self.name.clone())
    }

    fn skipped(&self) -> usize {
        self.skipped
    }
}

impl Layout {
    fn parse(line: &[u8]) -> Result<Layout> {
        let text = std::str::from_utf8(line).map_err(|_| Error::format("the Y4M header is not text"))?;
        let mut layout = Layout { height: 0, width: 0, fps: 25.0, samples: Samples::DEFAULT, full_range: false };
        let (mut name, mut older_name) = (None, None);
        let mut words = text.split(' ').filter(|word| !word.is_empty());
        if words.next().map(str::as_bytes) != Some(MAGIC.trim_ascii_end()) {
            return Err(Error::format("the file does not begin with `YUV4MPEG2`"));
        }
        for word in words {
            let bad = || Error::format(format!("the Y4M header field `{}` makes no sense", word.escape_debug()));
            let Some(kind) = word.chars().next() else { continue };
            let value = &word[kind.len_utf8()..];
            match kind {
                'W' => layout.width = value.parse().map_err(|_| bad())?,
                'H' => layout.height = value.parse().map_err(|_| bad())?,
                'F' => layout.fps = rate(value).ok_or_else(bad)?,
                'C' => name = Some(value.to_string()),
                'X' => match value.split_once('=') {
                    Some(("COLORRANGE", range)) => layout.full_range = range == "FULL",
                    // How writers said it before `C` could; some say both.
                    Some(("YSCSS", value)) => older_name = Some(value.to_ascii_lowercase()),
                    _ => {}
                },
                // Field order, pixel shape and comments do not matter here.
                _ => {}
            }
        }
        check_size(layout.height as u64, layout.width as u64)?;
        if let Some(name) = name.or(older_name) {
            layout.samples = Samples::parse(&name)?;
        }
        Ok(layout)
    }

    /// Samples of one chroma plane, per column and per row.
    fn chroma_size(&self) -> (usize, usize) {
        self.samples.shift.map_or((0, 0), |(v, h)| (self.height.div_ceil(1 << v), self.width.div_ceil(1 << h)))
    }

    /// Bytes of a frame; sizes are capped, so this cannot overflow.
    fn frame_len(&self) -> u64 {
        let (height, width) = self.chroma_size();
        ((self.height * self.width + 2 * height * width) * self.sample_len()) as u64
    }

    fn sample_len(&self) -> usize {
        if self.samples.bits > 8 { 2 } else { 1 }
    }

    fn to_rgb(self, frame: &[u8]) -> Rgb {
        let (height, width) = self.chroma_size();
        let narrow: Vec<u8>;
        let mut frame = frame;
        if self.sample_len() > 1 {
            let shift = self.samples.bits - 8;
            let round = |&sample| ((u32::from(u16::from_le_bytes(sample)) + (1 << shift >> 1)) >> shift).min(255) as u8;
            narrow = frame.as_chunks::<2>().0.iter().map(round).collect();
            frame = &narrow;
        }
        let (y, chroma) = frame.split_at(self.height * self.width);
        let (cb, cr) = chroma.split_at(height * width);
        let planes = Planes {
            height: self.height,
            width: self.width,
            y: Plane { data: y, stride: self.width },
            chroma: self.samples.shift.map(|_| [cb, cr].map(|data| Plane { data, stride: width })),
            shift: self.samples.shift.unwrap_or_default(),
        };
        to_rgb(&planes, Color { matrix: 2, full_range: self.full_range })
    }
}

/// `N:D` frames a second; `0:0` is unknown and read as 25.
fn rate(value: &str) -> Option<f64> {
    let (n, d) = value.split_once(':')?;
    let (n, d) = (n.parse::<u32>().ok()?, d.parse::<u32>().ok()?);
    if (n, d) == (0, 0) {
        return Some(25.0);
    }
    Some(f64::from(n) / f64::from(d)).filter(|fps| *fps > 0.0 && *fps <= MAX_FPS)
}

impl Samples {
    /// What a header without a word about it means.
    const DEFAULT: Samples = Samples { shift: Some((1, 1)), bits: 8 };

    /// A colour layout by its name in the header: `420jpeg`, `422p10`, `mono12`.
    fn parse(name: &str) -> Result<Samples> {
        let layouts = [
            ("420jpeg", Some((1, 1))),
            ("420mpeg2", Some((1, 1))),
            ("420paldv", Some((1, 1))),
            ("420", Some((1, 1))),
            ("411", Some((0, 2))),
            ("422", Some((0, 1))),
            ("444", Some((0, 0))),
            ("mono", None),
        ];
        let found = layouts.into_iter().find_map(|(base, shift)| {
            let bits = match name.strip_prefix(base)? {
                "" => 8,
                // All but mono have a `p` before more bits.
                more if shift.is_none() => more.parse().ok()?,
                more => more.strip_prefix('p')?.parse().ok()?,
            };
            (8..=16).contains(&bits).then_some(Samples { shift, bits })
        });
        found.ok_or_else(|| {
            Error::unsupported(format!(
                "Y4M colour layout `{}`, expected 420, 411, 422, 444 or mono with 8 to 16 bits",
                name.escape_debug()
            ))
        })
    }
}

/// Reads up to a line feed, which is not returned.
fn read_line(reader: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    reader.take(MAX_Y4M_LINE as u64).read_until(b'\n', &mut line)?;
    match line.pop() {
        Some(b'\n') => Ok(line),
        _ => Err(Error::format(format!("a Y4M header line is cut off or longer than {MAX_Y4M_LINE} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let parse = |text: &str| Layout::parse(text.as_bytes());
        let plain = parse("YUV4MPEG2 W4 H2 F30000:1001 Ip A1:1 C420jpeg XYSCSS=420JPEG").unwrap();
        assert_eq!((plain.width, plain.height, plain.samples, plain.frame_len()), (4, 2, Samples::DEFAULT, 12));
        assert!((plain.fps - 29.97).abs() < 0.001);
        assert_eq!(parse("YUV4MPEG2 W5 H3 C422").unwrap().frame_len(), 15 + 2 * 9);
        assert_eq!(parse("YUV4MPEG2 W5 H3 Cmono XCOLORRANGE=FULL").unwrap().frame_len(), 15);
        for (fields, shift, bits, len) in [
            ("", Some((1, 1)), 8, 15 + 12),
            ("C420p10 XYSCSS=420P10", Some((1, 1)), 10, 54),
            ("XYSCSS=NONSENSE C420p12", Some((1, 1)), 12, 54),
            ("XYSCSS=422", Some((0, 1)), 8, 15 + 18),
            ("C422p14 Xanything Ip A0:0", Some((0, 1)), 14, 66),
            ("It C444p16", Some((0, 0)), 16, 90),
            ("Ib C411", Some((0, 2)), 8, 15 + 12),
            ("Cmono9 X X=", None, 9, 30),
            ("Cmono16", None, 16, 30),
        ] {
            let layout = parse(&format!("YUV4MPEG2 W5  H3 {fields}")).unwrap();
            assert_eq!((layout.samples, layout.frame_len()), (Samples { shift, bits }, len), "{fields}");
        }
        for bad in [
            "",
            "YUV4MPEG W1 H1",
            "YUV4MPEG2",
            "YUV4MPEG2 W4",
            "YUV4MPEG2 W-4 H2",
            "YUV4MPEG2 W0 H9",
            "YUV4MPEG2 W4 H2 F1:0",
            "YUV4MPEG2 W4 H2 F-1:1",
            "YUV4MPEG2 W4 H2 Fx",
            "YUV4MPEG2 W99999999 H99999999",
            "YUV4MPEG2 W18446744073709551615 H2",
            "YUV4MPEG2 W4 H2 XYSCSS=NONSENSE",
            "YUV4MPEG2 W4 H2 C420p7",
            "YUV4MPEG2 W4 H2 C420p17",
            "YUV4MPEG2 W4 H2 C420jpeg10",
            "YUV4MPEG2 W4 H2 C422p",
            "YUV4MPEG2 W4 H2 C422p99999999999",
            "YUV4MPEG2 W4 H2 Cmonop10",
            "YUV4MPEG2 W4 H2 C444alpha",
            "YUV4MPEG2 W4 H2 F9999:1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
