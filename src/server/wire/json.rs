//! JSON as it comes in: strings that are borrowed where they can be, so that a video in base64 is not copied; no field
//! twice; few values and little depth, whatever the length.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{Code, Fault};
use crate::server::limits::{MAX_JSON_DEPTH, MAX_JSON_VALUES};

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

impl<'a> Json<'a> {
    /// Reads a whole body.
    ///
    /// # Errors
    /// `invalid_json`, with the place; too deep, too many values, a field twice.
    pub(crate) fn parse(body: &'a [u8]) -> Result<Json<'a>, Fault> {
        let wrong = |message: String| Fault::new(Code::InvalidJson, message);
        let text = std::str::from_utf8(body)
            .map_err(|err| wrong(format!("the body is not UTF-8: byte `{}` begins no character", err.valid_up_to())))?;
        let n_values = Cell::new(0);
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let value = Any { n_values: &n_values, depth: 0 }.deserialize(&mut deserializer);
        let value = value.and_then(|value| deserializer.end().map(|()| value));
        value.map_err(|err| wrong(format!("the body is not the JSON that is expected: {err}")))
    }

    /// What it is, in a word.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "a bool",
            Json::Number(_) => "a number",
            Json::Text(_) => "a string",
            Json::List(_) => "a list",
            Json::Object(_) => "an object",
        }
    }

    /// Whether it says nothing: null, false, an empty list or object.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Json::Null | Json::Bool(false) => true,
            Json::List(list) => list.is_empty(),
            Json::Object(fields) => fields.is_empty(),
            _ => false,
        }
    }

    /// The text of a string.
    pub(crate) fn as_text(&self) -> Option<&str> {
        if let Json::Text(text) = self { Some(text) } else { None }
    }

    /// A field of an object; null counts as none.
    pub(crate) fn get(&self, key: &str) -> Option<&Json<'a>> {
        let Json::Object(fields) = self else { return None };
        fields.iter().find(|(name, _)| name == key).map(|(_, value)| value).filter(|value| **value != Json::Null)
    }

    /// A copy that lends nothing.
    pub(crate) fn to_value(&self) -> Value {
        match self {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => Value::Number(n.clone()),
            Json::Text(text) => Value::String(text.to_string()),
            Json::List(list) => list.iter().map(Json::to_value).collect(),
            Json::Object(fields) => Value::Object(
                fields.iter().map(|(key, value)| (key.to_string(), value.to_value())).collect::<Map<_, _>>(),
            ),
        }
    }
}

/// Reads one value, counts it, and knows how deep it is.
#[derive(Clone, Copy)]
struct Any<'c> {
    n_values: &'c Cell<usize>,
    depth: usize,
}

impl Any<'_> {
    fn below<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_JSON_DEPTH {
            return Err(E::custom(format!("nested more than {MAX_JSON_DEPTH} deep")));
        }
        Ok(Any { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Any<'_> {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        self.n_values.set(self.n_values.get() + 1);
        if self.n_values.get() > MAX_JSON_VALUES {
            return Err(D::Error::custom(format!("more than {MAX_JSON_VALUES} values")));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any<'_> {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(v.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Json<'de>, E> {
        Number::from_f64(v).map(Json::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(v)))
    }

    fn visit_str<E>(self, v: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(v.to_string())))
    }

    fn visit_string<E>(self, v: String) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(v)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json<'de>, A::Error> {
        let below = self.below()?;
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(below)? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let below = self.below()?;
        let (mut fields, mut names) = (Vec::new(), std::collections::HashSet::new());
        while let Some(key) = map.next_key_seed(Key)? {
            if !names.insert(key.clone()) {
                return Err(A::Error::custom(format!("the field `{}` stands there twice", short(&key))));
            }
            fields.push((key, map.next_value_seed(below)?));
        }
        Ok(Json::Object(fields))
    }
}

/// A name of a field, borrowed where it has no escapes.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(v))
    }

    fn visit_str<E>(self, v: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(v.to_string()))
    }
}

/// At most 40 characters of a word that comes from outside, without control characters.
pub(crate) fn short(word: &str) -> String {
    word.chars().filter(|c| !c.is_control()).take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_borrowed_and_values_are_what_they_are() {
        let body = br#"{"a":[1,-2,0.5,true,null,"x\ny"],"long":"AAAA"}"#;
        let json = Json::parse(body).unwrap();
        assert!(matches!(json.get("long"), Some(Json::Text(Cow::Borrowed("AAAA")))));
        assert_eq!(json.to_value(), serde_json::from_slice::<Value>(body).unwrap());
        assert!(json.get("b").is_none());
    }

    #[test]
    fn deep_wide_and_double_bodies_are_refused_by_name() {
        let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
        let bomb = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        let wide = format!("[{}1]", "1,".repeat(MAX_JSON_VALUES));
        for (body, why) in [
            (deep.as_str(), "64 deep"),
            (bomb.as_str(), "64 deep"),
            (wide.as_str(), "values"),
            (r#"{"a":1,"a":2}"#, "twice"),
            ("{} x", "trailing"),
            ("", "EOF"),
            ("{\"a\":1e999}", "number"),
        ] {
            let fault = Json::parse(body.as_bytes()).unwrap_err();
            assert_eq!(fault.code, Code::InvalidJson);
            assert!(fault.message.contains(why), "{}", fault.message);
        }
        assert!(Json::parse(b"\"\xff\"").unwrap_err().message.contains("UTF-8"));
        let fits = format!("{}{}", "[".repeat(64), "]".repeat(64));
        assert!(Json::parse(fits.as_bytes()).is_ok());
    }
}
