//! Tests of the room `media`.

mod animation;
mod boxes;
mod image_file;
mod pictures;
mod preprocess;
mod containers;
mod faults;
mod families;
mod ffmpeg;
mod mp4;
mod mp4_cost;
mod safe_decode;
mod video;
mod y4m;
