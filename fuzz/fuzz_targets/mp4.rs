#![no_main]

longtake_fuzz::fuzz!("mp4");
