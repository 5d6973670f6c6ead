//! Bytes and times as people write them.

use std::time::Duration;

use crate::{Error, Result};

/// `3G`, `1.5GB`, `900MiB`, `1000000`: powers of 1024.
///
/// # Errors
/// Anything else; nothing at all, and more than there could be.
pub fn bytes(text: &str) -> Result<u64> {
    let wrong = || Error::bad_input(format!("`{text}` is no number of bytes, expected something like 3G or 1500M"));
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().map_err(|_| wrong())?;
    let power = match text[end..].trim().to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I') {
        "" => 0,
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        _ => return Err(wrong()),
    };
    let n = number * 1024f64.powi(power);
    if (1.0..1e18).contains(&n) { Ok(n as u64) } else { Err(wrong()) }
}

/// `90`, `90s`, `20m`, `1h30m`.
///
/// # Errors
/// Anything else; no time at all.
pub fn duration(text: &str) -> Result<Duration> {
    let wrong = || Error::bad_input(format!("`{text}` is no time, expected something like 90s, 20m or 1h30m"));
    let (mut seconds, mut rest) = (0.0, text.trim());
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
        let unit = rest[end..].chars().next();
        seconds += number
            * match unit {
                None | Some('s') => 1.0,
                Some('m') => 60.0,
                Some('h') => 3600.0,
                Some(_) => return Err(wrong()),
            };
        rest = &rest[end + unit.map_or(0, char::len_utf8)..];
    }
    if seconds > 0.0 && seconds < 1e9 { Ok(Duration::from_secs_f64(seconds)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read_or_refused_by_name() {
        assert_eq!(bytes("3G").unwrap(), 3 << 30);
        assert_eq!(bytes("1.5gib").unwrap(), 3 << 29);
        assert_eq!(bytes("1500 MB").unwrap(), 1500 << 20);
        assert_eq!(bytes("77").unwrap(), 77);
        for wrong in ["", "G", "-1", "3X", "0", "1e30", "NaN", "3GG"] {
            assert!(bytes(wrong).unwrap_err().to_string().contains(&format!("`{wrong}`")), "{wrong}");
        }
        assert_eq!(duration("1h30m").unwrap().as_secs(), 5400);
        assert_eq!(duration("90").unwrap().as_secs(), 90);
        assert_eq!(duration("0.5m").unwrap().as_secs(), 30);
        for wrong in ["", "m", "-1s", "5d", "0", "1h-2m"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
