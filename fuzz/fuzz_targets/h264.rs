#![no_main]

longtake_fuzz::fuzz!("h264");
