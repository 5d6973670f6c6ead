//! Tokens as they are generated, printed only in whole characters.

use super::Tokenizer;

/// Turns a stream of tokens into text that is always whole UTF-8. All it returns, joined, is what
/// [`Tokenizer::decode`] says of the same ids.
#[derive(Debug, Clone, Default)]
pub struct StreamDecoder {
    /// The beginning of a character whose other bytes are still to come: at most three bytes between calls.
    pending: Vec<u8>,
    with_special: bool,
}

impl StreamDecoder {
    /// A decoder that leaves control tokens out, as printed answers want it.
    pub fn new() -> StreamDecoder {
        StreamDecoder::default()
    }

    /// A decoder that prints control tokens too.
    pub fn with_special() -> StreamDecoder {
        StreamDecoder { with_special: true, ..StreamDecoder::default() }
    }

    /// Feeds one token; returns what has become printable (possibly nothing).
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        if self.with_special || !tokenizer.is_control(id) {
            self.pending.extend_from_slice(tokenizer.token_bytes(id));
        }
        let keep = unfinished_tail(&self.pending);
        let text = String::from_utf8_lossy(&self.pending[..self.pending.len() - keep]).into_owned();
        self.pending.drain(..self.pending.len() - keep);
        text
    }

    /// What is left at the end, with incomplete bytes as U+FFFD.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

/// How many bytes at the end begin a character that more bytes could complete.
fn unfinished_tail(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    loop {
        match std::str::from_utf8(rest) {
            Ok(_) => return 0,
            Err(err) => match err.error_len() {
                None => return rest.len() - err.valid_up_to(),
                Some(n) => rest = &rest[err.valid_up_to() + n..],
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_kept_only_while_they_can_be_completed() {
        for (bytes, want) in [
            (&b""[..], 0),
            (b"a", 0),
            ("é".as_bytes(), 0),
            (b"a\xc3", 1),
            (b"\xe2\x82", 2),
            (b"\xf0\x9f\x99", 3),
            (b"\xff", 0),
            (b"\xff\xc3", 1),
            (b"\xc3a", 0),
            (b"\xe0\x80", 0), // no character begins like this
            (b"\x80\x80", 0),
        ] {
            assert_eq!(unfinished_tail(bytes), want, "{bytes:x?}");
        }
    }
}
