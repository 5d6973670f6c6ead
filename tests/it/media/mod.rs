//! Tests of the room `media`.

mod image_file;
mod preprocess;
mod faults;
mod ffmpeg;
mod video;
