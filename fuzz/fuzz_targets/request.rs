#![no_main]

longtake_fuzz::fuzz!("request");
