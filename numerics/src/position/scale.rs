//! The temporal scale: a number, or a preset by task (HoPE paper, dynamic temporal scaling).

use crate::{Error, Result};

/// Presets by task, with the values that the paper uses at inference.
const PRESETS: [(&str, f64); 2] = [("understanding", 1.5), ("retrieval", 0.75)];
/// The range in which HoPE models are trained.
const TRAINED: std::ops::RangeInclusive<f64> = 0.5..=1.5;

/// A temporal scale from the command line or a request: a positive number or a preset's name.
///
/// # Errors
/// `BadInput` for zero, negative, NaN, infinite or unknown words.
pub fn parse_temporal_scale(text: &str) -> Result<f64> {
    if let Some((_, value)) = PRESETS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
        return Ok(*value);
    }
    match text.parse::<f64>() {
        Ok(value) => check_temporal_scale(value),
        Err(_) => Err(Error::bad_input(format!(
            "temporal scale `{text}` is neither a number nor a preset (`understanding`, `retrieval`)"
        ))),
    }
}

/// Refuses scales that place no time: everything that is not positive and finite.
pub fn check_temporal_scale(value: f64) -> Result<f64> {
    if value > 0.0 && value.is_finite() {
        Ok(value)
    } else {
        Err(Error::bad_input(format!("temporal scale `{value}` must be a positive finite number")))
    }
}

/// What to tell the user about a scale that no HoPE model was trained with.
pub fn scale_warning(value: f64) -> Option<String> {
    (!TRAINED.contains(&value)).then(|| {
        format!(
            "temporal scale {value} lies outside {} to {}, the range HoPE is trained in",
            TRAINED.start(),
            TRAINED.end()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_numbers_and_nonsense() {
        assert_eq!(parse_temporal_scale("understanding").unwrap(), 1.5);
        assert_eq!(parse_temporal_scale("retrieval").unwrap(), 0.75);
        assert_eq!(parse_temporal_scale("1.25").unwrap(), 1.25);
        for bad in ["0", "-1", "NaN", "inf", "fast", ""] {
            assert!(parse_temporal_scale(bad).is_err(), "{bad}");
        }
        assert!(scale_warning(4.0).is_some() && scale_warning(0.75).is_none());
    }
}
