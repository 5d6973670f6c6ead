//! Tests of the room `media`.

mod image_file;
mod pictures;
mod preprocess;
mod faults;
mod ffmpeg;
mod video;
