//! Tests of the room `media`.

mod animation;
mod image_file;
mod preprocess;
mod faults;
mod ffmpeg;
mod video;
mod y4m;
