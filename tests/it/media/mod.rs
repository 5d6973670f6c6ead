//! Tests of the room `media`.

mod animation;
mod boxes;
mod image_file;
mod preprocess;
mod faults;
mod ffmpeg;
mod mp4;
mod mp4_cost;
mod video;
mod y4m;
