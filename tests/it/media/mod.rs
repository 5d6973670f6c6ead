//! Tests of the room `media`.

mod image_file;
mod preprocess;
mod containers;
mod faults;
mod ffmpeg;
mod video;
