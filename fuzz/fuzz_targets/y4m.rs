#![no_main]

longtake_fuzz::fuzz!("y4m");
