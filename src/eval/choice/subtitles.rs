//! Subtitle files: SubRip, and the lines that were on screen at given times.

use std::path::Path;

use crate::error::Context;
use crate::files::input::{decode_text, read_capped};
use crate::{Error, Result};

/// Longest subtitle file, in bytes, and most lines of it.
const MAX_BYTES: u64 = 16 << 20;
const MAX_LINES: usize = 1 << 17;
/// Longest text of subtitles in a prompt, in bytes.
const MAX_PROMPT: usize = 1 << 20;

/// Text on screen from one second to another.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub start: f64,
    pub end: f64,
    pub text: String,
}

/// Reads a SubRip file.
///
/// # Errors
/// An unreadable file, one that is not UTF-8 or beyond the caps.
pub(super) fn read_srt(path: &Path) -> Result<Vec<Line>> {
    let place = || path.display().to_string();
    let text = read_capped(path, MAX_BYTES).and_then(decode_text).at(place)?;
    parse_srt(&text).at(place)
}

/// Blocks of a number, a time range and text. What is between a range and the next blank line is text; blocks without a range
/// are passed over, as players do.
pub(super) fn parse_srt(text: &str) -> Result<Vec<Line>> {
    let mut lines: Vec<Line> = Vec::new();
    let mut open: Option<Line> = None;
    for row in text.lines().map(|row| row.trim_start_matches('\u{feff}').trim()).chain([""]) {
        if let Some((start, end)) = row.split_once("-->").and_then(|(a, b)| Some((seconds(a)?, seconds(b)?))) {
            lines.extend(open.take().filter(|line| !line.text.is_empty()));
            open = Some(Line { start, end, text: String::new() });
        } else if row.is_empty() {
            lines.extend(open.take().filter(|line| !line.text.is_empty()));
        } else if let Some(line) = &mut open {
            let plain = without_tags(row);
            if !line.text.is_empty() && !plain.is_empty() {
                line.text.push(' ');
            }
            line.text.push_str(plain.trim());
        }
        if lines.len() > MAX_LINES {
            return Err(Error::limit(format!("more than {MAX_LINES} subtitle lines")));
        }
    }
    Ok(lines)
}

/// `01:02:03,456`, also with a dot, in seconds.
fn seconds(text: &str) -> Option<f64> {
    let text = text.split_whitespace().next()?.replace(',', ".");
    let parts: Vec<f64> = text.split(':').map(|p| p.parse().ok()).collect::<Option<_>>()?;
    let total = parts.iter().fold(0.0, |sum, part| sum * 60.0 + part);
    (parts.len() <= 3 && total.is_finite() && parts.iter().all(|p| *p >= 0.0)).then_some(total)
}

/// Text without `<font …>` and its like.
fn without_tags(text: &str) -> String {
    let (mut plain, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('<') {
        let Some((_, after)) = after.split_once('>') else { break };
        plain.push_str(before);
        rest = after;
    }
    plain.push_str(rest);
    plain
}

/// The texts on screen at any of `times`, each once, in order of the file.
///
/// # Errors
/// More text than a prompt may have.
pub(super) fn at_times(lines: &[Line], times: &[f64]) -> Result<String> {
    let mut all = String::new();
    for line in lines.iter().filter(|line| times.iter().any(|t| (line.start..=line.end).contains(t))) {
        if !all.is_empty() {
            all.push('\n');
        }
        all.push_str(&line.text);
        if all.len() > MAX_PROMPT {
            return Err(Error::limit(format!("more than {MAX_PROMPT} bytes of subtitles for one prompt")));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_on_screen_at_a_frame_come_without_their_tags() {
        let srt = "\u{feff}1\r\n00:00:01,000 --> 00:00:02,500\r\n<font color=\"white\" size=\".72c\">Hello</font>\r\n\r\n\
                   2\n00:00:03.000 --> 00:00:04.000\n<i>two</i>\nrows < 3\n\n3\nno range\n\n\
                   4\n1:00:00,000 --> 1:00:01,000\nlate";
        let lines = parse_srt(srt).unwrap();
        let texts: Vec<&str> = lines.iter().map(|l| l.text.as_str()).collect();
        assert_eq!(texts, ["Hello", "two rows < 3", "late"]);
        assert_eq!((lines[2].start, lines[2].end), (3600.0, 3601.0));
        assert_eq!(at_times(&lines, &[0.0, 2.0, 2.5, 2.7]).unwrap(), "Hello");
        assert_eq!(at_times(&lines, &[3.5, 3600.0]).unwrap(), "two rows < 3\nlate");
        assert_eq!(at_times(&lines, &[]).unwrap(), "");
        assert!(parse_srt("1\n-1:0 --> NaN\nx\n").unwrap().is_empty());
    }
}
