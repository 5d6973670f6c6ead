//! Strings that end an answer. Nothing of one is ever shown, not even its beginning while it may still become whole.

/// Watches text as it comes.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    /// Text that may be the beginning of one of them.
    held: String,
}

impl StopStrings {
    /// Watches for `stops`; empty ones never come.
    pub fn new(stops: Vec<String>) -> StopStrings {
        StopStrings { stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(), held: String::new() }
    }

    /// Takes the next text. Returns what may be shown, and whether the answer ends with it.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        if self.stops.is_empty() {
            return (text.to_string(), false);
        }
        self.held.push_str(text);
        // The one that is whole first, however the text was cut.
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str()).map(|at| (at + stop.len(), at)));
        if let Some((_, at)) = found.min() {
            let shown = self.held[..at].to_string();
            self.held.clear();
            return (shown, true);
        }
        let n_kept = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - n_kept);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What is left at the end of an answer.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes at the end of `text` that `stop` begins with, without being all of it.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    (1..=longest)
        .rev()
        .find(|n| text.as_bytes().ends_with(&stop.as_bytes()[..*n]) && stop.is_char_boundary(*n))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in every way to cut it in three, and one character at a time.
    fn check(stops: &[&str], text: &str, shown: &str, ends: bool) {
        let run = |pieces: &[&str]| {
            let mut stop = StopStrings::new(stops.iter().map(|s| s.to_string()).collect());
            let mut all = String::new();
            for piece in pieces {
                let (text, end) = stop.push(piece);
                all.push_str(&text);
                assert!(shown.starts_with(&all), "{pieces:?} showed {all:?}");
                if end {
                    return (all, true);
                }
            }
            all.push_str(&stop.finish());
            (all, false)
        };
        let cuts: Vec<usize> = (0..=text.len()).filter(|i| text.is_char_boundary(*i)).collect();
        for a in &cuts {
            for b in cuts.iter().filter(|b| *b >= a) {
                assert_eq!(
                    run(&[&text[..*a], &text[*a..*b], &text[*b..]]),
                    (shown.to_string(), ends),
                    "{text:?} at {a}, {b}"
                );
            }
        }
    }

    #[test]
    fn nothing_of_a_stop_string_is_shown() {
        check(&["STOP"], "one STOP two", "one ", true);
        check(&["STOP"], "one STO", "one STO", false);
        check(&["STOP"], "STSTOP", "ST", true);
        check(&["aab"], "aaab", "a", true);
        check(&["\n\n", "End"], "a\nEnb\n\nc", "a\nEnb", true);
        check(&["bc", "abcd"], "xabcd", "xa", true);
        check(&["é!"], "caf\u{e9}\u{e9}!", "café", true);
        check(&[""], "all", "all", false);
        check(&[], "all", "all", false);
    }
}
