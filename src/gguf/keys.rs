//! The metadata table and typed access to it. Keys that this project invents are listed in `docs/gguf-keys.md`.
#![forbid(unsafe_code)]

use super::{Array, Value};
use crate::{Error, Result};

/// Key-value pairs in file order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    pairs: Vec<(String, Value)>,
}

impl Metadata {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// A table of pairs whose keys the reader has already found to be distinct.
    pub(super) fn from_distinct(pairs: Vec<(String, Value)>) -> Metadata {
        Metadata { pairs }
    }

    /// Sets `key`, replacing an earlier value in place.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        match self.pairs.iter_mut().find(|(k, _)| *k == key) {
            Some(pair) => pair.1 = value,
            None => self.pairs.push((key, value)),
        }
    }

    /// Removes `key`.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.pairs.iter().position(|(k, _)| k == key)?;
        Some(self.pairs.remove(at).1)
    }

    /// All pairs in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Reads `key` with `read`, which says no by `None`; `what` names the wanted type in the error.
    fn typed<'a, T>(&'a self, key: &str, what: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || Error::format(format!("key `{key}` is `{}`, expected {what}", value.type_name()));
        read(value).map(Some).ok_or_else(wrong)
    }

    /// A string; an error naming the key when it is of another type, `None` when absent. The other getters alike.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", |v| match v {
            Value::String(s) => Some(s.as_str()),
            _ => None,
        })
    }

    /// An unsigned integer of any stored integer width (negative values are an error).
    pub fn uint(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "an unsigned integer", |v| v.as_int().and_then(|i| u64::try_from(i).ok()))
    }

    /// A float of either width, or an integer.
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_float)
    }

    /// A bool.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a bool", |v| match v {
            Value::Bool(b) => Some(*b),
            _ => None,
        })
    }

    /// An array of bools.
    pub fn bools(&self, key: &str) -> Result<Option<&[bool]>> {
        self.typed(key, "an array of bools", |v| match v {
            Value::Array(Array::Bool(list)) => Some(list.as_slice()),
            _ => None,
        })
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>> {
        self.typed(key, "an array of strings", |v| match v {
            Value::Array(Array::String(s)) => Some(s.as_slice()),
            _ => None,
        })
    }

    /// An array of integers of any width, or a scalar integer as an array of one.
    pub fn ints(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.typed(key, "an array of integers", |v| match v {
            Value::Array(a) => a.to_ints(),
            scalar => scalar.as_int().and_then(|i| i64::try_from(i).ok()).map(|i| vec![i]),
        })
    }

    /// An array of floats of either width.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.typed(key, "an array of floats", |v| match v {
            Value::Array(Array::F32(f)) => Some(f.iter().map(|x| f64::from(*x)).collect()),
            Value::Array(Array::F64(f)) => Some(f.clone()),
            _ => None,
        })
    }

    /// `str`, but absence is an error that names the key. The other `need_` getters alike.
    pub fn need_str(&self, key: &str) -> Result<&str> {
        self.str(key)?.ok_or_else(|| missing(key))
    }

    /// See [`Metadata::need_str`].
    pub fn need_uint(&self, key: &str) -> Result<u64> {
        self.uint(key)?.ok_or_else(|| missing(key))
    }

    /// See [`Metadata::need_str`].
    pub fn need_float(&self, key: &str) -> Result<f64> {
        self.float(key)?.ok_or_else(|| missing(key))
    }

    /// See [`Metadata::need_str`].
    pub fn need_strings(&self, key: &str) -> Result<&[String]> {
        self.strings(key)?.ok_or_else(|| missing(key))
    }
}

fn missing(key: &str) -> Error {
    Error::format(format!("key `{key}` is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn getters_accept_every_width_and_name_the_key_otherwise() {
        let mut meta = Metadata::default();
        meta.set("a", 7u32);
        meta.set("b", -7i32);
        meta.set("c", 0.5f32);
        meta.set("d", "text");
        assert_eq!(meta.uint("a").unwrap(), Some(7));
        assert!(meta.uint("b").unwrap_err().to_string().contains("`b`"));
        assert_eq!(meta.float("c").unwrap(), Some(0.5));
        assert_eq!(meta.float("a").unwrap(), Some(7.0));
        assert_eq!(meta.ints("b").unwrap(), Some(vec![-7]));
        assert_eq!(meta.need_str("d").unwrap(), "text");
        assert!(meta.need_str("e").unwrap_err().to_string().contains("`e` is missing"));
        meta.set("a", 8u64);
        assert_eq!(meta.iter().next().unwrap().0, "a");
        assert_eq!(meta.remove("a"), Some(Value::U64(8)));
    }
}
