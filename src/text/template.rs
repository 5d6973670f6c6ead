//! Chat templates: minijinja with limits on steps, depth and output, and nothing of the host in reach.

use super::{Message, Tokenizer};
use crate::Result;
use crate::gguf::Metadata;

/// A piece of a rendered and tokenized conversation, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    Tokens(Vec<u32>),
    /// Where the `n`-th image of the conversation goes (in place of one `<|image_pad|>`).
    Image(usize),
    /// Where the `n`-th video goes.
    Video(usize),
}

/// A compiled template.
pub struct ChatTemplate {
    _private: (),
}

/// How to render.
#[derive(Debug, Clone, Copy, Default)]
pub struct RenderOptions {
    pub add_generation_prompt: bool,
    pub add_vision_id: bool,
}

impl ChatTemplate {
    /// The template stored in the file, or the Qwen2-VL one when it stores none.
    pub fn from_metadata(meta: &Metadata) -> Result<ChatTemplate> {
        let _ = meta;
        todo!()
    }

    /// Compiles `source`.
    pub fn new(source: &str) -> Result<ChatTemplate> {
        let _ = source;
        todo!()
    }

    /// The conversation as one string, exactly as the reference renders it.
    pub fn render(&self, messages: &[Message], options: RenderOptions) -> Result<String> {
        let _ = (messages, options);
        todo!()
    }

    /// The conversation as tokens and media slots. Special tokens written by the user inside message text stay text; only
    /// those that the template writes become special. Errors when slots and media parts do not match one to one.
    pub fn tokenize(&self, tokenizer: &Tokenizer, messages: &[Message], options: RenderOptions) -> Result<Vec<Piece>> {
        let _ = (tokenizer, messages, options);
        todo!()
    }
}
