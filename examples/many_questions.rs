//! Asks several questions about one video, which is read once: what a talk has in common with its next question stays.

use longtake::{Longtake, Result};

fn main() -> Result<()> {
    let longtake = Longtake::open("assets/symbols/symbols.gguf")?;
    let mut chat = longtake.chat().video("assets/symbols/symbols.mp4");
    for question in ["What shape is shown?", "What color is shown?", "What shape is shown?"] {
        let mut answer = chat.ask(question)?;
        print!("{question} ");
        for piece in &mut answer {
            print!("{}", piece?);
        }
        let usage = answer.usage();
        println!(" ({} tokens, {} of them read before)", usage.prompt_tokens, usage.cached_tokens);
    }
    Ok(())
}
