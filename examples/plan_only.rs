//! Tells what a question about a video will cost, without reading any of it, and what becomes of the video in less memory.

use longtake::{ChatOptions, Longtake, Result};

fn main() -> Result<()> {
    let longtake = Longtake::open("assets/symbols/symbols.gguf")?;
    for bytes in [None, Some(50 << 20)] {
        let options = bytes.map_or_else(ChatOptions::default, |n| ChatOptions::default().max_memory(n));
        let mut chat = longtake.chat().options(options.max_tokens(64)).video("assets/symbols/symbols.mp4");
        let plan = chat.plan("What shape is shown?")?;
        for medium in &plan.media {
            println!(
                "{}: {} frames of {}x{}, {} tokens",
                medium.label, medium.n_frames, medium.width, medium.height, medium.n_tokens
            );
        }
        println!("{} MiB, {:?}", plan.cost.memory() >> 20, plan.cost.reduced);
    }
    Ok(())
}
