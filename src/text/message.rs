//! Conversations in the Qwen spelling: `[{"role", "content": "..." | [{"type": "text"|"image"|"video", ...}]}]`.

use crate::Result;

/// One turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub role: String,
    pub content: Content,
}

/// A turn's content: plain text, or parts in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A piece of a turn. Media carry their source and options as they were given.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    Text(String),
    Image { source: String, options: serde_json::Map<String, serde_json::Value> },
    Video { source: String, options: serde_json::Map<String, serde_json::Value> },
}

/// Parses a conversation, refusing anything it does not know by its path (`messages[2].content[0].type`).
pub fn parse_messages(json: &str) -> Result<Vec<Message>> {
    let _ = json;
    todo!()
}
