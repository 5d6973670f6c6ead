#![no_main]

longtake_fuzz::fuzz!("hf_tokenizer");
