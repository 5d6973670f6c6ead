//! Media: image and video files become frames, frames become the patch rows that the vision tower eats.
//! In: paths. Out: [`Rgb`] frames one at a time, then `pixel_values` rows and a [`Grid`].
//! Start reading at [`open_video`] and [`patch::pixel_values`]. Every cap stands in [`limits`].
//! One file per decoder; what each decides about odd files stands at its top.
//! On purpose absent here: the model, any network, threads (except those that watch an external decoder or a pipe).
#![forbid(unsafe_code)]

pub mod limits;
pub mod image_file;
mod whole;
mod large_image;
mod foreign_image;
pub mod resize;
pub mod patch;
mod picture_bytes;
pub mod sample;
pub mod yuv;
mod timeline;
pub mod video;
pub mod y4m;
pub mod mp4;
mod h264;
pub mod animation;
mod gif;
mod webp;
mod apng;
pub mod folder;
mod child;
mod packets;
mod ffprobe;
pub mod ffmpeg;
pub mod live;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

pub use child::kill_children;
pub use h264::{DECODE_COMMAND, SafeDecoder, serve_h264};
pub use image_file::{ImageFile, load_image, load_image_with};
pub use patch::Grid;
pub use resize::smart_resize;
pub use video::{Decoders, FrameSource, Shown, VideoInfo, open_video};

/// An 8-bit RGB picture: `data` is (height, width, 3).
#[derive(Clone, PartialEq, Eq)]
pub struct Rgb {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Red, green and blue of each pixel: (height, width, 3).
    pub data: Vec<u8>,
}

/// The size only: nobody wants to read megabytes of pixels in a failed assertion.
impl std::fmt::Debug for Rgb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rgb {{ height: {}, width: {} }}", self.height, self.width)
    }
}
