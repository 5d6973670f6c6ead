#![no_main]

longtake_fuzz::fuzz!("tables");
