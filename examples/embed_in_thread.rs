//! Answers on a thread of its own, as a program with a window would want it: pieces come through a channel, and a handle stops
//! it.

use std::sync::mpsc::channel;
use std::thread;

use longtake::{ErrorKind, Longtake, Result};

fn main() -> Result<()> {
    let longtake = Longtake::open("assets/symbols/symbols.gguf")?;
    let mut chat = longtake.chat().video("assets/symbols/symbols.mp4");
    let cancel = chat.cancel();
    let (send, pieces) = channel();
    let worker = thread::spawn(move || -> Result<_> {
        for piece in chat.ask("What shape is shown?")? {
            // Nobody listens any more.
            if send.send(piece?).is_err() {
                break;
            }
        }
        Ok(chat)
    });
    println!("{}", pieces.iter().collect::<String>());
    let mut chat = worker.join().expect("it does not panic")?;
    // A talk that was stopped ends the next question at once, until it may go on.
    cancel.cancel();
    let stopped = chat.ask("What color is shown?").err().map(|error| error.kind());
    println!("stopped: {}", stopped == Some(ErrorKind::Cancelled));
    cancel.clear();
    println!("{}", chat.ask("What color is shown?")?.into_text()?);
    Ok(())
}
