//! Still images in formats that are not built in (tiff, avif, heic, …): decoded by `ffmpeg`, under the same guard as videos.
//!
//! The child may open this file alone and only as one picture: the demuxers of picture formats, which know a file by its
//! content, or the one of AVIF and HEIC, which is that of MP4, where the file says that it is a picture. Alpha is kept and
//! composited on white here. The orientation is applied here, too, from the tags of TIFF and the boxes of AVIF and HEIC, since
//! releases of ffmpeg differ in whether they do.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;

use image::metadata::Orientation;
use serde_json::Value;

use super::Rgb;
use super::child::{self, Process, last_words};
use super::ffmpeg::Tools;
use super::image_file::{BUILT_IN, Decoded, check_size, first_bytes, on_white, shown, smaller, turned};
use super::limits::MAX_IMAGE_ALLOC;
use crate::{Error, Result};

/// Demuxers of one picture each, which know their format by content. Left out on purpose are those that need a name to guess by,
/// numbered files and formats with a language in them (svg).
const PICTURES: &str = "tiff_pipe,bmp_pipe,ppm_pipe,pgm_pipe,pbm_pipe,pam_pipe,pgmyuv_pipe,phm_pipe,pfm_pipe,jpegxl_pipe,\
     j2k_pipe,jpegls_pipe,exr_pipe,hdr_pipe,psd_pipe,qoi_pipe,dds_pipe,sgi_pipe,sunrast_pipe,pcx_pipe,dpx_pipe,xbm_pipe,\
     xpm_pipe,xwd_pipe,webp_pipe,png_pipe,jpeg_pipe,gif_pipe,photocd_pipe,pictor_pipe,ico";
/// The demuxer of AVIF and HEIC.
const BOXES: &str = "mov";
/// Brands of files in boxes that hold a picture, not a film.
const PICTURE_BRANDS: [&[u8]; 7] = [b"avif", b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2"];
/// Bytes that `ffprobe` may answer.
const MAX_ANSWER: usize = 1 << 20;
/// Pieces of an answer that may wait.
const N_WAITING: usize = 4;

/// A picture that `ffprobe` knows.
#[derive(Debug)]
pub(super) struct ForeignImage {
    tools: Tools,
    demuxers: &'static str,
    /// As it is stored.
    height: usize,
    width: usize,
    orientation: Orientation,
    /// Whether transparency is a picture of its own, which ffmpeg does not bring together with the first.
    has_mask: bool,
}

/// Whether a file that begins like this is a picture in boxes (AVIF, HEIC), by its main brand.
pub(super) fn is_picture_in_boxes(head: &[u8]) -> bool {
    head.get(4..8) == Some(b"ftyp") && head.get(8..12).is_some_and(|brand| PICTURE_BRANDS.contains(&brand))
}

impl ForeignImage {
    /// Asks `ffprobe` about a file with the content `bytes`.
    ///
    /// # Errors
    /// `Unsupported` without the tools and for what they do not know, either of which says what to do; `Limit` beyond the caps.
    pub(super) fn open(path: &Path, bytes: &[u8], tools: Option<&Tools>) -> Result<ForeignImage> {
        let begins = first_bytes(bytes);
        let first_box = bytes.get(4..8).unwrap_or_default();
        let is_film = matches!(first_box, b"ftyp" | b"moov" | b"mdat" | b"wide" | b"free" | b"skip" | b"pnot")
            && !is_picture_in_boxes(bytes);
        if is_film || bytes.starts_with(b"\x1a\x45\xdf\xa3") || bytes.starts_with(super::y4m::MAGIC) {
            return Err(Error::bad_input("a video, expected a picture; give it as a video instead"));
        }
        let Some(tools) = tools.filter(|_| !bytes.is_empty()) else {
            let message = format!(
                "the file begins with `{begins}`, expected {BUILT_IN}; install ffmpeg (with ffprobe) so that it is on the \
                 PATH for others, or convert the picture to png"
            );
            return Err(Error::unsupported(message));
        };
        let demuxers = if is_picture_in_boxes(bytes) { BOXES } else { PICTURES };
        if demuxers == BOXES && is_tiled(bytes) {
            let message = "a heic or avif picture in tiles, of which ffmpeg would give one; convert it to png or jpeg";
            return Err(Error::unsupported(message));
        }
        let stream = probe(path, tools, demuxers).map_err(|err| {
            let newer = if demuxers == BOXES { " (heic needs a recent ffmpeg)" } else { "" };
            let message = format!(
                "the file begins with `{begins}`, expected {BUILT_IN}, and ffmpeg reads no picture from it: {}; convert it to \
                 png{newer}",
                err.message()
            );
            Error::unsupported(message)
        })?;
        let side = |name: &str| stream[name].as_u64().unwrap_or(0);
        if side("height") == 0 || side("width") == 0 {
            let message = "the picture is damaged or cut off: ffmpeg finds one in the file, but not how large it is";
            return Err(Error::format(message));
        }
        check_size(side("height"), side("width")).map_err(smaller)?;
        let (height, width) = (side("height") as usize, side("width") as usize);
        let orientation = if demuxers == BOXES { boxes_orientation(bytes) } else { tiff_orientation(bytes) };
        let orientation = orientation.unwrap_or(Orientation::NoTransforms);
        let has_mask = demuxers == BOXES && has_mask(bytes);
        Ok(ForeignImage { tools: tools.clone(), demuxers, height, width, orientation, has_mask })
    }

    /// (height, width) as it is shown.
    pub(super) fn size(&self) -> (usize, usize) {
        shown((self.height, self.width), self.orientation)
    }

    /// Decodes the picture.
    ///
    /// # Errors
    /// What `ffmpeg` says; `Cancelled` once `stopped` says so.
    pub(super) fn decode(&self, path: &Path, stopped: &dyn Fn() -> bool) -> Result<Decoded> {
        let mut args: Vec<OsString> = ["-nostdin", "-hide_banner", "-noautorotate"].map(OsString::from).to_vec();
        args.extend(input(path, self.demuxers));
        let (height, width) = (self.height, self.width);
        let to =
            ["-map", "0:v:0", "-frames:v", "1", "-an", "-sn", "-dn", "-f", "rawvideo", "-pix_fmt", "rgba", "pipe:1"];
        args.extend(to.map(OsString::from));
        let n_bytes = height * width * 4;
        if n_bytes as u64 > MAX_IMAGE_ALLOC {
            return Err(Error::limit(format!("{n_bytes} bytes of pixels, expected at most {MAX_IMAGE_ALLOC}")));
        }
        let (mut process, mut output) =
            Process::start(&self.tools.ffmpeg, &args, Stdio::null(), N_WAITING, child::chunk)?;
        let rgba = output.all(&mut process, n_bytes, self.tools.timeout, stopped)?;
        let status = process.finish(self.tools.timeout)?;
        if rgba.len() != n_bytes {
            let why = if status.success() { "no whole picture".to_string() } else { format!("{status}") };
            return Err(Error::format(process.fault(format!("ffmpeg gave {why}")).message().to_string()));
        }
        let words = last_words(&process.complaints());
        let rgb = turned(Rgb { height, width, data: on_white(&rgba) }, self.orientation)?;
        let warning = match (words.is_empty(), self.has_mask) {
            (false, _) => Some(format!("ffmpeg decoded it and said: {words}")),
            (true, true) => Some("its transparency is ignored, ffmpeg gives it apart; convert it to png".to_string()),
            (true, false) => None,
        };
        Ok(Decoded { rgb, warning })
    }
}

/// Arguments that name the input: errors only, this file only, as one of `demuxers` only.
fn input(path: &Path, demuxers: &str) -> Vec<OsString> {
    let mut name = OsString::from("file:");
    name.push(path);
    let mut args: Vec<OsString> = ["-v", "error", "-protocol_whitelist", "file", "-format_whitelist", demuxers, "-i"]
        .map(OsString::from)
        .to_vec();
    args.push(name);
    args
}

/// What `ffprobe` says about the picture.
fn probe(path: &Path, tools: &Tools, demuxers: &str) -> Result<Value> {
    let wanted = ["-select_streams", "v:0", "-of", "json", "-show_entries", "stream=width,height"];
    let args: Vec<OsString> = wanted.map(OsString::from).into_iter().chain(input(path, demuxers)).collect();
    let (mut process, mut output) = Process::start(&tools.ffprobe, &args, Stdio::null(), N_WAITING, child::chunk)?;
    let text = output.all(&mut process, MAX_ANSWER, tools.timeout, &|| false)?;
    if !process.finish(tools.timeout)?.success() {
        return Err(process.fault("ffprobe knows no such format".into()));
    }
    let answer: Value = serde_json::from_slice(&text).unwrap_or_default();
    match answer["streams"].get(0) {
        Some(stream) => Ok(stream.clone()),
        None => Err(Error::format("ffprobe finds nothing")),
    }
}

/// The orientation tag of a TIFF file; what EXIF calls a chunk is such a file.
fn tiff_orientation(bytes: &[u8]) -> Option<Orientation> {
    let is_tiff = bytes.starts_with(b"II*\0") || bytes.starts_with(b"MM\0*");
    if is_tiff { Orientation::from_exif_chunk(bytes) } else { None }
}

/// How AVIF and HEIC files turn (`irot`, anticlockwise) and then mirror (`imir`) their picture: the first such properties, which
/// in files of cameras and editors are those of the main picture.
fn boxes_orientation(bytes: &[u8]) -> Option<Orientation> {
    let properties = find_box(bytes, b"meta").and_then(|meta| find_box(meta.get(4..)?, b"iprp"));
    let properties = properties.and_then(|iprp| find_box(iprp, b"ipco"))?;
    let turns = find_box(properties, b"irot").and_then(|irot| Some(irot.first()? & 3)).unwrap_or(0);
    let mirror = find_box(properties, b"imir").and_then(|imir| Some(imir.first()? & 1));
    // EXIF's numbers: for no mirror, for a mirror that exchanges left and right, for one that exchanges top and bottom.
    let exif = match (turns, mirror) {
        (0, None) => 1,
        (1, None) => 8,
        (2, None) => 3,
        (_, None) => 6,
        (0, Some(1)) | (2, Some(0)) => 2,
        (2, Some(1)) | (0, Some(0)) => 4,
        (1, Some(1)) | (3, Some(0)) => 7,
        (_, Some(_)) => 5,
    };
    Orientation::from_exif(exif)
}

/// Whether a picture in boxes has transparency.
fn has_mask(bytes: &[u8]) -> bool {
    let properties = find_box(bytes, b"meta").and_then(|meta| find_box(meta.get(4..)?, b"iprp"));
    properties.is_some_and(|iprp| iprp.windows(16).any(|name| name == b":auxiliary:alpha"))
}

/// Whether a picture in boxes is put together from others, as those of phones are: ffmpeg knows its tiles as separate streams.
fn is_tiled(bytes: &[u8]) -> bool {
    let items = find_box(bytes, b"meta").and_then(|meta| find_box(meta.get(4..)?, b"iinf"));
    items.is_some_and(|items| items.windows(4).any(|kind| kind == b"grid"))
}

/// The content of the first box of a kind among boxes that follow each other.
fn find_box<'a>(mut bytes: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    loop {
        let (head, rest) = bytes.split_at_checked(8)?;
        let size = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        // Zero: to the end of the file. One: a length of 64 bits, which no box of properties needs.
        let len = if size == 0 { rest.len() } else { size.checked_sub(8)? };
        if &head[4..8] == kind {
            return rest.get(..len);
        }
        bytes = rest.get(len..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_say_how_a_picture_is_turned() {
        let boxed =
            |kind: &[u8; 4], content: &[u8]| [&(content.len() as u32 + 8).to_be_bytes()[..], kind, content].concat();
        let file = |properties: &[u8]| {
            let meta = [&[0; 4][..], &boxed(b"iprp", &boxed(b"ipco", properties))].concat();
            [boxed(b"ftyp", b"avif\0\0\0\0"), boxed(b"meta", &meta)].concat()
        };
        use Orientation::*;
        for (properties, want) in [
            (boxed(b"ispe", &[0; 12]), NoTransforms),
            (boxed(b"irot", &[1]), Rotate270),
            (boxed(b"irot", &[2]), Rotate180),
            ([boxed(b"ispe", &[0; 12]), boxed(b"irot", &[3])].concat(), Rotate90),
            (boxed(b"imir", &[1]), FlipHorizontal),
            (boxed(b"imir", &[0]), FlipVertical),
        ] {
            assert_eq!(boxes_orientation(&file(&properties)), Some(want));
            // Cut off anywhere: nothing, or what was said already.
            let whole = file(&properties);
            assert!((0..whole.len()).all(|cut| boxes_orientation(&whole[..cut]) != Some(Rotate90FlipH)));
        }
        assert_eq!(boxes_orientation(b"\0\0\0\x01ftyp"), None);
        let items = |kind: &[u8; 4]| {
            let item = boxed(b"infe", &[&[2, 0, 0, 0, 0, 1, 0, 0], &kind[..], &[0]].concat());
            let meta = [&[0; 4][..], &boxed(b"iinf", &[&[0, 0, 0, 0, 0, 1][..], &item].concat())].concat();
            [boxed(b"ftyp", b"heic\0\0\0\0"), boxed(b"meta", &meta)].concat()
        };
        assert!(is_tiled(&items(b"grid")) && !is_tiled(&items(b"hvc1")) && !is_tiled(&file(&[])));
    }
}
