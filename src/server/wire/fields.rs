//! Fields with a type and a range. Every complaint names the field by its path.

use super::{Fault, Json, short};

type Result<T> = std::result::Result<T, Fault>;

/// A bool.
///
/// # Errors
/// Anything else.
pub(crate) fn flag(value: &Json<'_>, at: &str) -> Result<bool> {
    match value {
        Json::Bool(b) => Ok(*b),
        other => Err(wrong(other, at, "true or false")),
    }
}

/// A finite number in a range.
///
/// # Errors
/// Anything else.
pub(crate) fn number(value: &Json<'_>, at: &str, (least, most): (f64, f64)) -> Result<f64> {
    let range = || format!("a number from {least} to {most}");
    let Json::Number(given) = value else { return Err(wrong(value, at, &range())) };
    let number = given.as_f64().filter(|n| (least..=most).contains(n));
    number.ok_or_else(|| Fault::value(at, format!("`{at}` is `{given}`, expected {}", range())))
}

/// A whole number in a range; `1.0` is one, too.
///
/// # Errors
/// Anything else.
pub(crate) fn count(value: &Json<'_>, at: &str, (least, most): (i64, i64)) -> Result<i64> {
    let range = || format!("a whole number from {least} to {most}");
    let Json::Number(given) = value else { return Err(wrong(value, at, &range())) };
    let whole =
        given.as_i64().or_else(|| given.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9e15).map(|n| n as i64));
    let whole = whole.filter(|n| (least..=most).contains(n));
    whole.ok_or_else(|| Fault::value(at, format!("`{at}` is `{given}`, expected {}", range())))
}

/// A string of at most so many bytes.
///
/// # Errors
/// Anything else.
pub(crate) fn text<'j>(value: &'j Json<'_>, at: &str, most: usize) -> Result<&'j str> {
    let Json::Text(text) = value else { return Err(wrong(value, at, "a string")) };
    if text.len() > most {
        return Err(Fault::value(at, format!("`{at}` has `{}` bytes, at most {most}", text.len())));
    }
    Ok(text)
}

/// The fields of an object.
///
/// # Errors
/// Anything else.
pub(crate) fn object<'j, 'a>(value: &'j Json<'a>, at: &str) -> Result<&'j [(std::borrow::Cow<'a, str>, Json<'a>)]> {
    let Json::Object(fields) = value else { return Err(wrong(value, at, "an object")) };
    Ok(fields)
}

/// The items of a list.
///
/// # Errors
/// Anything else.
pub(crate) fn list<'j, 'a>(value: &'j Json<'a>, at: &str) -> Result<&'j [Json<'a>]> {
    let Json::List(items) = value else { return Err(wrong(value, at, "a list")) };
    Ok(items)
}

/// Bytes as a number, or as people write them (`3G`, `1500M`): powers of 1024.
///
/// # Errors
/// Anything else.
pub(crate) fn bytes(value: &Json<'_>, at: &str) -> Result<u64> {
    let Json::Text(text) = value else { return Ok(count(value, at, (1, 1 << 60))?.unsigned_abs()) };
    crate::text::units::bytes(text).map_err(|err| Fault::value(at, err.message()))
}

/// Seconds as a number, or as people write them (`90s`, `20m`, `1h30m`).
///
/// # Errors
/// Anything else.
pub(crate) fn seconds(value: &Json<'_>, at: &str) -> Result<f64> {
    let Json::Text(text) = value else { return number(value, at, (0.001, 1e9)) };
    crate::text::units::duration(text).map(|time| time.as_secs_f64()).map_err(|err| Fault::value(at, err.message()))
}

/// The complaint about a value of another type.
pub(crate) fn wrong(value: &Json<'_>, at: &str, expected: &str) -> Fault {
    Fault::value(at, format!("`{at}` is {}, expected {expected}", value.kind()))
}

/// The complaint about a field that is not known where every field has to be.
pub(crate) fn unknown(at: &str, key: &str) -> Fault {
    let key = short(key);
    let fault = Fault::new(super::Code::UnsupportedParameter, format!("`{at}.{key}` is not known here"));
    fault.of(format!("{at}.{key}"))
}
