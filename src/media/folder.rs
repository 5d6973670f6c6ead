//! A folder of images as a video: its frames, sorted by name.
//!
//! Decisions: names are ordered as people count (`frame2` before `frame10`). What a file is follows from its content, so a
//! picture is a frame whatever it is called; and what is called a picture must be one, all of one size, or the folder is
//! refused before anything is decoded, naming the entry. Anything else (notes, metadata, folders, pipes) is left out, and
//! said to be; hidden files (a leading dot) and the two files that Windows hides in folders are left out without a word. The
//! rate is nominal, two frames a second, as the reference assumes for lists, unless it is said.

use std::cmp::Ordering;
use std::io::Read;
use std::path::{Path, PathBuf};

use image::ImageFormat;

use super::Rgb;
use super::image_file::{image_size, load_image, read_file, sniff};
use super::limits::MAX_FOLDER_FRAMES;
use super::sample::FPS;
use super::video::{FrameSource, VideoInfo};
use crate::error::Context;
use crate::files::input::open_regular;
use crate::{Error, ErrorKind, Result};

/// A folder of images.
pub struct FolderSource {
    info: VideoInfo,
    paths: Vec<PathBuf>,
}

impl FolderSource {
    /// Lists a folder and reads the header of every image.
    ///
    /// # Errors
    /// `BadInput` for an empty folder, `Mismatch` for a picture of another size, `Limit` beyond the caps, and whatever is
    /// wrong with a single entry.
    pub fn open(folder: &Path) -> Result<FolderSource> {
        FolderSource::open_unnamed(folder).at(|| folder.display().to_string())
    }

    fn open_unnamed(folder: &Path) -> Result<FolderSource> {
        let (mut paths, mut others) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if is_hidden(&path) {
                continue;
            }
            if paths.len() + others.len() == MAX_FOLDER_FRAMES {
                return Err(Error::limit(format!("the folder has more than {MAX_FOLDER_FRAMES} entries")));
            }
            let list = if is_called_picture(&path) || is_picture(&path) { &mut paths } else { &mut others };
            list.push(path);
        }
        for list in [&mut paths, &mut others] {
            list.sort_by(|a, b| natural_order(&file_name(a), &file_name(b)));
        }
        let left_out = others.first().map(|first| {
            let more = if others.len() > 1 { format!(" and {} more", others.len() - 1) } else { String::new() };
            format!("`{}`{more} left out, not a picture", file_name(first))
        });
        if let (true, Some(left_out)) = (paths.is_empty(), &left_out) {
            return Err(Error::bad_input(format!("there are no images ({left_out})")));
        }
        let mut source = FolderSource::from_files(paths)?;
        if let Some(left_out) = left_out {
            source.info.decoder = format!("images, {left_out}");
        }
        Ok(source)
    }

    /// Pictures as frames, in the order given; reads the header of every one.
    ///
    /// # Errors
    /// Those of [`FolderSource::open`].
    pub fn from_files(paths: Vec<PathBuf>) -> Result<FolderSource> {
        if paths.len() > MAX_FOLDER_FRAMES {
            return Err(Error::limit(format!("`{}` frames are more than {MAX_FOLDER_FRAMES}", paths.len())));
        }
        let mut first = None;
        for (i, path) in paths.iter().enumerate() {
            let place = || format!("frame {i} (`{}`)", path.display());
            let size = read_file(path).and_then(|bytes| frame_size(&bytes)).at(place)?;
            let (height, width) = *first.get_or_insert(size);
            if size != (height, width) {
                return Err(Error::mismatch(format!(
                    "a picture of `{}x{}` among pictures of {width}x{height}",
                    size.1, size.0
                ))
                .at(place()));
            }
        }
        let (height, width) = first.ok_or_else(|| Error::bad_input("there are no images"))?;
        let info = VideoInfo {
            n_frames: paths.len(),
            fps: FPS,
            duration: paths.len() as f64 / FPS,
            height,
            width,
            decoder: "images".into(),
        };
        Ok(FolderSource { info, paths })
    }
}

impl FrameSource for FolderSource {
    fn info(&self) -> &VideoInfo {
        &self.info
    }

    fn frame(&mut self, index: usize) -> Result<Rgb> {
        let path = self
            .paths
            .get(index)
            .ok_or_else(|| Error::bad_input(format!("frame `{index}` of a folder of {}", self.paths.len())))?;
        let rgb = load_image(path).at(|| format!("frame {index}"))?;
        if (rgb.height, rgb.width) != (self.info.height, self.info.width) {
            return Err(Error::mismatch("the picture has another size than when the folder was opened")
                .at(format!("frame {index} (`{}`)", path.display())));
        }
        Ok(rgb)
    }

    fn is_frame_list(&self) -> bool {
        true
    }

    fn set_rate(&mut self, fps: f64) {
        self.info.fps = fps;
        self.info.duration = self.paths.len() as f64 / fps;
    }
}

/// The (height, width) of a picture that is one of many frames.
///
/// # Errors
/// Those of [`image_size`]; for a format that is not built in, what to do.
pub fn frame_size(bytes: &[u8]) -> Result<(usize, usize)> {
    image_size(bytes).map_err(|err| match err.kind() {
        ErrorKind::Unsupported => Error::unsupported(format!(
            "{}; the frames of a folder or a list must be of a built-in kind: convert them, for instance to png",
            err.message()
        )),
        _ => err,
    })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether a file's name promises a picture, of any kind: then it must be one that can be read.
fn is_called_picture(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    ImageFormat::from_extension(&extension).is_some() || ["heic", "heif", "jxl", "jp2", "jpe"].contains(&&*extension)
}

/// Whether a regular file begins as a picture does.
fn is_picture(path: &Path) -> bool {
    let mut head = Vec::new();
    let begun = open_regular(path).and_then(|(file, _)| Ok(file.take(32).read_to_end(&mut head)?));
    begun.is_ok() && sniff(&head).is_some()
}

/// Whether a file of a folder is none of its pictures: hidden, or left there by a file manager.
pub fn is_hidden(path: &Path) -> bool {
    let name = file_name(path).to_ascii_lowercase();
    name.starts_with('.') || name == "thumbs.db" || name == "desktop.ini"
}

/// Runs of digits compare as numbers of any length, everything else by character; equal numbers with different leading zeros
/// are told apart by the plain order at the end.
fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a, b);
    loop {
        let (run_x, run_y) = (digits(x), digits(y));
        if !run_x.is_empty() && !run_y.is_empty() {
            let (number_x, number_y) = (run_x.trim_start_matches('0'), run_y.trim_start_matches('0'));
            let order = number_x.len().cmp(&number_y.len()).then_with(|| number_x.cmp(number_y));
            if order != Ordering::Equal {
                return order;
            }
            (x, y) = (&x[run_x.len()..], &y[run_y.len()..]);
            continue;
        }
        let (mut chars_x, mut chars_y) = (x.chars(), y.chars());
        match (chars_x.next(), chars_y.next()) {
            (Some(p), Some(q)) if p == q => (x, y) = (chars_x.as_str(), chars_y.as_str()),
            (None, None) => return a.cmp(b),
            (p, q) => return p.cmp(&q),
        }
    }
}

/// The digits that a text begins with.
fn digits(text: &str) -> &str {
    &text[..text.bytes().take_while(u8::is_ascii_digit).count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_people_count() {
        let mut names = vec![
            "f10.png",
            "f2.png",
            "f1.png",
            "F1.png",
            "f02.png",
            "f.png",
            "a9999999999999999999999.png",
            "a10000000000000000000000.png",
            "f1b.png",
            "ü2.png",
            "ü10.png",
        ];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(
            names,
            [
                "F1.png",
                "a9999999999999999999999.png",
                "a10000000000000000000000.png",
                "f.png",
                "f1.png",
                "f1b.png",
                "f02.png",
                "f2.png",
                "f10.png",
                "ü2.png",
                "ü10.png"
            ]
        );
    }
}
