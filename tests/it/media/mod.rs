//! Tests of the room `media`.

mod image_file;
mod preprocess;
mod ffmpeg;
mod video;
