//! Asks about a video: `cargo run --example ask_video -- model.gguf video.mp4 "What happens?"`.

use longtake::{Longtake, Result};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut arg = |default: &str| args.next().unwrap_or_else(|| default.to_string());
    let longtake = Longtake::open(arg("assets/symbols/symbols.gguf"))?;
    let mut chat = longtake.chat().video(arg("assets/symbols/symbols.mp4"));
    for piece in chat.ask(arg("What shape is shown?"))? {
        print!("{}", piece?);
    }
    println!();
    Ok(())
}
