#![no_main]

longtake_fuzz::fuzz!("config");
