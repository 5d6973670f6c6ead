//! Tests of the room `media`.

mod boxes;
mod image_file;
mod preprocess;
mod faults;
mod ffmpeg;
mod mp4;
mod mp4_cost;
mod video;
