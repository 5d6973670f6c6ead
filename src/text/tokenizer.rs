//! Byte-level BPE from GGUF keys, through the `tokenizers` crate.

use crate::Result;
use crate::gguf::Metadata;

/// Text to ids and back.
pub struct Tokenizer {
    _private: (),
}

impl Tokenizer {
    /// Builds the tokenizer from `tokenizer.ggml.*` keys.
    pub fn from_metadata(meta: &Metadata) -> Result<Tokenizer> {
        let _ = meta;
        todo!()
    }

    /// Ids of `text`. With `parse_special`, special tokens written in the text become their ids; without, they are
    /// ordinary text.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>> {
        let _ = (text, parse_special);
        todo!()
    }

    /// Text of `ids`; ill-formed bytes become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let _ = (ids, skip_special);
        todo!()
    }

    /// Raw bytes of one token (special tokens: their text).
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let _ = id;
        todo!()
    }

    /// The id of the token spelled exactly so.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        let _ = token;
        todo!()
    }

    /// Rows of the vocabulary, padding included.
    pub fn n_vocab(&self) -> usize {
        todo!()
    }

    /// Whether generation ends at `id`.
    pub fn is_stop(&self, id: u32) -> bool {
        let _ = id;
        todo!()
    }
}

/// Turns a stream of tokens into text that is always whole UTF-8.
pub struct StreamDecoder {
    _private: (),
}

impl StreamDecoder {
    pub fn new() -> StreamDecoder {
        todo!()
    }

    /// Feeds one token; returns what has become printable (possibly nothing).
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        let _ = (tokenizer, id);
        todo!()
    }

    /// What is left at the end, with incomplete bytes as U+FFFD.
    pub fn finish(&mut self) -> String {
        todo!()
    }
}
