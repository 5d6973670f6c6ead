//! Keeps control tokens that users type apart from those that a template writes.
//!
//! Before rendering, a mark is put into every piece of user text that could spell a control token, alone or together
//! with what the template puts before or after it. The marked text no longer spells the token; after the rendered prompt
//! has been cut at its control tokens, the marks are taken out again. The mark is a Unicode noncharacter that neither the
//! conversation nor the template contains, so that everything users type survives unharmed.

use std::collections::HashSet;

/// Where control tokens begin and end: their first and last two characters.
#[derive(Debug, Default)]
pub(super) struct Mask {
    starts: HashSet<(char, char)>,
    ends: HashSet<(char, char)>,
    first: HashSet<char>,
    last: HashSet<char>,
    /// Control tokens of one character: nothing can be put inside them.
    single: HashSet<char>,
}

impl Mask {
    pub(super) fn new<'a>(control_tokens: impl Iterator<Item = &'a str>) -> Mask {
        let mut mask = Mask::default();
        for token in control_tokens {
            let mut chars = token.chars();
            match (chars.next(), chars.next()) {
                (Some(a), Some(b)) => {
                    let mut back = token.chars().rev();
                    let (z, y) = (back.next().unwrap_or(b), back.next().unwrap_or(a));
                    mask.starts.insert((a, b));
                    mask.first.insert(a);
                    mask.ends.insert((y, z));
                    mask.last.insert(z);
                }
                (Some(a), None) => {
                    mask.single.insert(a);
                }
                _ => {}
            }
        }
        mask
    }

    /// A control token of one character in `text`, which no mark can take apart.
    pub(super) fn single_in(&self, text: &str) -> Option<char> {
        if self.single.is_empty() { None } else { text.chars().find(|c| self.single.contains(c)) }
    }

    /// `text` with marks: after each character that begins a control token together with the next one (or the unknown
    /// text after the end), and before each that ends one together with the one before (or the text before the start).
    pub(super) fn apply(&self, text: &str, mark: char) -> String {
        let mut out = String::with_capacity(text.len());
        let mut before = None;
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let ends = before.map_or_else(|| self.last.contains(&c), |b| self.ends.contains(&(b, c)));
            if ends {
                out.push(mark);
            }
            out.push(c);
            let begins = chars.peek().map_or_else(|| self.first.contains(&c), |n| self.starts.contains(&(c, *n)));
            if begins {
                out.push(mark);
            }
            before = Some(c);
        }
        out
    }
}

/// A noncharacter that none of `texts` contains; there are 66 in Unicode.
pub(super) fn unused_mark<'a>(texts: impl Iterator<Item = &'a str>) -> Option<char> {
    let planes = (0..=0x10u32).flat_map(|plane| [plane << 16 | 0xfffe, plane << 16 | 0xffff]);
    let mut free: Vec<char> = (0xfdd0..=0xfdefu32).chain(planes).filter_map(char::from_u32).collect();
    for text in texts {
        // Texts with noncharacters are rare: most are looked through once.
        if text.chars().any(is_noncharacter) {
            free.retain(|mark| !text.contains(*mark));
        }
    }
    free.first().copied()
}

fn is_noncharacter(c: char) -> bool {
    let c = c as u32;
    c & 0xfffe == 0xfffe || (0xfdd0..=0xfdef).contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_stand_wherever_a_token_could_begin_or_end() {
        let mask = Mask::new(["<|im_start|>", "<|im_end|>"].into_iter());
        for (text, want) in [
            ("plain <b>bold</b> a < b > c </think>", "plain <b>bold</b> a < b > c </think>"),
            ("<|im_end|>", "<#|im_end|#>"),
            ("a <|im_", "a <#|im_"),
            ("a <", "a <#"),
            ("end|> b", "end|#> b"),
            ("> b", "#> b"),
            ("|", "|"),
            ("", ""),
        ] {
            assert_eq!(mask.apply(text, '#'), want);
        }
        assert_eq!(Mask::new(["§"].into_iter()).single_in("a§"), Some('§'));
        assert_eq!(Mask::new([].into_iter()).apply("<|im_end|>", '#'), "<|im_end|>");
    }

    #[test]
    fn mark_is_a_noncharacter_that_nobody_uses() {
        assert_eq!(unused_mark(["a"].into_iter()), Some('\u{fdd0}'));
        assert_eq!(unused_mark(["\u{fdd0}", "b\u{fdd1}"].into_iter()), Some('\u{fdd2}'));
        let all: String = (0..=0x10ffff).filter_map(char::from_u32).filter(|c| is_noncharacter(*c)).collect();
        assert_eq!(all.chars().count(), 66);
        assert_eq!(unused_mark([all.as_str()].into_iter()), None);
        assert_eq!(unused_mark([&all[..all.len() - 4]].into_iter()), Some('\u{10ffff}'));
    }
}
