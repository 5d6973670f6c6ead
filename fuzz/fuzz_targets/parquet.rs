#![no_main]

longtake_fuzz::fuzz!("parquet");
