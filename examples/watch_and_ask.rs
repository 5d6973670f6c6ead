//! Watches a video once, keeps what was seen in a take, and asks about it, as another program could on another day.

use longtake::stream::Event;
use longtake::{Longtake, Result};

fn main() -> Result<()> {
    let longtake = Longtake::open("assets/symbols/symbols.gguf")?;
    let take = std::env::temp_dir().join(format!("longtake-example-{}.take", std::process::id()));
    let watching = longtake.watch("assets/symbols/symbols.mp4").on_event(|event| {
        if let Event::Prefilled { n_done, n_total } = event {
            println!("{n_done} of {n_total} tokens");
        }
    });
    let watched = watching.into_take(&take)?;
    println!("watched {} tokens", watched.n_tokens);
    for question in ["What shape is shown?", "What color is shown?"] {
        println!("{question} {}", longtake.chat_about(&take)?.ask(question)?.into_text()?);
    }
    Ok(std::fs::remove_file(&take)?)
}
