//! The byte-level alphabet of GPT-2: every byte has a printable character that stands for it in vocabularies and merges.

use std::sync::LazyLock;

/// Code points at and above this one stand for the bytes that do not print.
const FIRST_SUBSTITUTE: u32 = 256;
/// One past the last character of the alphabet.
const END: usize = 324;

/// Whether the byte stands for itself: the printable part of Latin-1, without the soft hyphen.
fn prints(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// The character of each byte: itself if it prints, else the next free code point from 256 on.
static CHARS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut substitutes = (FIRST_SUBSTITUTE..).filter_map(char::from_u32);
    std::array::from_fn(|i| {
        let byte = i as u8;
        if prints(byte) { char::from(byte) } else { substitutes.next().unwrap_or_default() }
    })
});

/// The byte of each character of the alphabet.
static BYTES: LazyLock<[Option<u8>; END]> = LazyLock::new(|| {
    let mut bytes = [None; END];
    for (byte, c) in (0..=255u8).zip(CHARS.iter()) {
        bytes[*c as usize] = Some(byte);
    }
    bytes
});

/// The character that stands for `byte`.
pub(super) fn char_of(byte: u8) -> char {
    CHARS[usize::from(byte)]
}

/// Appends the bytes that `token` stands for. A token with a character outside the alphabet stands for its own UTF-8, as
/// in the reference.
pub(super) fn push_bytes(token: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for c in token.chars() {
        match BYTES.get(c as usize).copied().flatten() {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                out.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_is_one_to_one() {
        for byte in 0..=255u8 {
            let mut out = Vec::new();
            push_bytes(&char_of(byte).to_string(), &mut out);
            assert_eq!(out, [byte]);
        }
        assert_eq!((char_of(b' '), char_of(b'\n'), char_of(0), char_of(0xad)), ('Ġ', 'Ċ', 'Ā', 'Ń'));
        let mut out = b"x".to_vec();
        push_bytes("Ġa", &mut out);
        push_bytes("Ġ a", &mut out); // a space is not in the alphabet
        assert_eq!(out, "x aĠ a".as_bytes());
    }
}
