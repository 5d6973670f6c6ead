//! Values that a family computes from others: a sum of products, or one of a few named functions of earlier values.

use std::borrow::Cow;

use serde::Deserialize;

use super::expr::Expr;
use super::family::KeyType;
use crate::gguf::{Array, Value};
use crate::{Error, Result};

/// Most entries of an array that a function makes.
const MAX_ENTRIES: u64 = 1 << 16;

/// How a value follows from others.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Derive {
    /// `n_embd / n_head`.
    Sum(Expr),
    /// `flags(v_deepstack, v_n_layer)`.
    Call { function: Function, args: Vec<String>, text: String },
}

/// The functions, all of values that are defined before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    /// `length(list)`: the number of entries; 0 when the list is absent.
    Length,
    /// `flags(indexes, n)`: `n` bools, true at the indexes.
    Flags,
    /// `all_but_every(k, n)`: `n` bools, false at `k - 1`, `2 k - 1`, ...
    AllButEvery,
    /// `period(indexes, n)`: the `k` for which the indexes below `n` are `k - 1`, `2 k - 1`, ...; absent when there is none.
    Period,
    /// `first(a, b)`: `a`, or `b` where `a` is absent.
    First,
    /// `without(a, b)`: `a` where `b` is absent, else absent.
    Without,
    /// `scaled(n, x)`: the whole number `n * x`.
    Scaled,
    /// `side(n)`: the whole number whose square is `n`.
    Side,
}

impl Function {
    const ALL: &[(&str, Function, usize)] = &[
        ("length", Function::Length, 1),
        ("flags", Function::Flags, 2),
        ("all_but_every", Function::AllButEvery, 2),
        ("period", Function::Period, 2),
        ("first", Function::First, 2),
        ("without", Function::Without, 2),
        ("scaled", Function::Scaled, 2),
        ("side", Function::Side, 1),
    ];

    /// The type of what it gives; `None`: that of its first argument.
    fn ty(self) -> Option<KeyType> {
        match self {
            Function::Length | Function::Period | Function::Scaled | Function::Side => Some(KeyType::U32),
            Function::Flags | Function::AllButEvery => Some(KeyType::Bools),
            Function::First | Function::Without => None,
        }
    }
}

impl Derive {
    /// Parses `text`.
    ///
    /// # Errors
    /// `Format` naming the text: an unknown function, a wrong number of arguments, what [`Expr::parse`] says.
    pub(crate) fn parse(text: &str) -> Result<Derive> {
        let Some((name, rest)) = text.split_once('(') else { return Expr::parse(text).map(Derive::Sum) };
        let wrong = |why: String| Error::format(format!("expression `{text}`: {why}"));
        let found = Function::ALL.iter().find(|(known, ..)| *known == name.trim());
        let Some((_, function, n_args)) = found else {
            let known: Vec<&str> = Function::ALL.iter().map(|row| row.0).collect();
            return Err(wrong(format!("`{}` is no function, expected one of {}", name.trim(), known.join(", "))));
        };
        let inner = rest.trim_end().strip_suffix(')').ok_or_else(|| wrong("it does not end in `)`".to_string()))?;
        let args: Vec<String> = inner.split(',').map(|arg| arg.trim().to_string()).collect();
        let is_name = |arg: &String| !arg.is_empty() && arg.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if args.len() != *n_args || !args.iter().all(is_name) {
            return Err(wrong(format!("`{}` takes {n_args} names", name.trim())));
        }
        Ok(Derive::Call { function: *function, args, text: text.to_string() })
    }

    /// The names that it mentions.
    pub(crate) fn names(&self) -> Vec<&str> {
        match self {
            Derive::Sum(expr) => expr.names().collect(),
            Derive::Call { args, .. } => args.iter().map(String::as_str).collect(),
        }
    }

    /// The type of the value, where `ty_of` gives the types of earlier ones.
    pub(crate) fn ty(&self, ty_of: impl Fn(&str) -> Option<KeyType>) -> Option<KeyType> {
        match self {
            Derive::Sum(_) => Some(KeyType::U32),
            Derive::Call { function, args, .. } => function.ty().or_else(|| ty_of(&args[0])),
        }
    }

    /// Its value, or `None` where it is absent.
    ///
    /// # Errors
    /// What [`Expr::eval`] says; `Format`, `Mismatch` or `Limit` naming the expression and the number that does not fit.
    pub(crate) fn eval<'a>(&self, value_of: impl Fn(&str) -> Option<&'a Value>) -> Result<Option<Value>> {
        let uint = |name: &str| value_of(name).and_then(Value::as_int).and_then(|n| u64::try_from(n).ok());
        let (function, args, text) = match self {
            Derive::Sum(expr) => {
                let n = expr.eval(uint)?;
                let n = u32::try_from(n).map_err(|_| Error::limit(format!("`{n}` exceeds 2^32 - 1")))?;
                return Ok(Some(n.into()));
            }
            Derive::Call { function, args, text } => (*function, args, text),
        };
        let wrong = |why: String| Error::mismatch(format!("`{text}`: {why}"));
        let need = |at: usize| uint(&args[at]).ok_or_else(|| wrong(format!("`{}` has no whole value", args[at])));
        let list = |at: usize| match value_of(&args[at]) {
            None => Ok(Vec::new()),
            Some(Value::Array(array)) => {
                array.to_ints().ok_or_else(|| wrong(format!("`{}` has no whole entries", args[at])))
            }
            Some(_) => Err(wrong(format!("`{}` is no array", args[at]))),
        };
        // Indexes into `n` places, each once.
        let indexes = || {
            let n = need(1)?;
            if n > MAX_ENTRIES {
                return Err(Error::limit(format!("`{text}`: `{n}` entries, at most {MAX_ENTRIES}")));
            }
            let list = list(0)?;
            let mut flags = vec![false; n as usize];
            for index in &list {
                let flag = usize::try_from(*index).ok().and_then(|i| flags.get_mut(i));
                let flag = flag.ok_or_else(|| wrong(format!("index `{index}`, expected one below {n}")))?;
                if std::mem::replace(flag, true) {
                    return Err(wrong(format!("index `{index}` is given twice")));
                }
            }
            Ok(flags)
        };
        Ok(match function {
            Function::Length => match value_of(&args[0]) {
                None => Some(0u32.into()),
                Some(Value::Array(array)) => Some((array.len() as u32).into()),
                Some(_) => return Err(wrong(format!("`{}` is no array", args[0]))),
            },
            Function::Flags => Some(Array::Bool(indexes()?).into()),
            Function::AllButEvery => {
                let (k, n) = (need(0)?, need(1)?);
                if k == 0 || n > MAX_ENTRIES {
                    return Err(wrong(format!("every `{k}` of `{n}` has no meaning")));
                }
                Some(Array::Bool((0..n).map(|i| !(i + 1).is_multiple_of(k)).collect()).into())
            }
            Function::Period => {
                let flags = indexes()?;
                let period = flags.iter().position(|flag| *flag).map(|first| first + 1);
                let fits = |k: &usize| flags.iter().enumerate().all(|(i, flag)| *flag == (i + 1).is_multiple_of(*k));
                period.filter(fits).map(|k| (k as u32).into())
            }
            Function::First => value_of(&args[0]).or_else(|| value_of(&args[1])).cloned(),
            Function::Without => value_of(&args[0]).filter(|_| value_of(&args[1]).is_none()).cloned(),
            Function::Scaled => {
                let x = value_of(&args[1]).and_then(Value::as_float);
                let x = x.ok_or_else(|| wrong(format!("`{}` is no number", args[1])))?;
                let n = need(0)?;
                let product = n as f64 * x;
                // The factor was rounded to f32.
                let whole = product.round();
                if !(whole >= 0.0 && whole <= f64::from(u32::MAX) && (product - whole).abs() <= product.abs() * 1e-6) {
                    return Err(wrong(format!("`{n}` times `{x}` is no whole number")));
                }
                Some((whole as u32).into())
            }
            Function::Side => {
                let n = need(0)?;
                let side = n.isqrt();
                if side * side != n {
                    return Err(wrong(format!("`{n}` is no square")));
                }
                Some((side as u32).into())
            }
        })
    }

    /// As a family file spells it.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        match self {
            Derive::Sum(expr) => Cow::Owned(expr.to_string()),
            Derive::Call { text, .. } => Cow::Borrowed(text),
        }
    }
}

impl<'de> Deserialize<'de> for Derive {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Derive, D::Error> {
        let text = String::deserialize(deserializer)?;
        Derive::parse(&text).map_err(|err| serde::de::Error::custom(err.message()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(text: &str) -> Result<Option<Value>> {
        let values: Vec<(&str, Value)> = vec![
            ("n", 6u32.into()),
            ("k", 3u32.into()),
            ("zero", 0u32.into()),
            ("quarter", 0.25f32.into()),
            ("head", 256u32.into()),
            ("ends", vec![2i32, 5].into()),
            ("odd", vec![0i32, 2, 3].into()),
            ("beyond", vec![6i32].into()),
            ("twice", vec![1i32, 1].into()),
            ("below", vec![-1i32].into()),
            ("empty", Vec::<i32>::new().into()),
        ];
        let found = |name: &str| values.iter().find(|(known, _)| *known == name).map(|(_, value)| value);
        Derive::parse(text)?.eval(found)
    }

    #[test]
    fn functions_of_earlier_values() {
        let bools = |flags: &[bool]| Some(Array::Bool(flags.to_vec()).into());
        let rows: &[(&str, Option<Value>)] = &[
            ("n * k", Some(18u32.into())),
            ("length(odd)", Some(3u32.into())),
            ("length(nothing)", Some(0u32.into())),
            ("flags(odd, n)", bools(&[true, false, true, true, false, false])),
            ("flags(empty, k)", bools(&[false; 3])),
            ("flags(nothing, k)", bools(&[false; 3])),
            ("all_but_every(k, n)", bools(&[true, true, false, true, true, false])),
            ("period(ends, n)", Some(3u32.into())),
            ("period(odd, n)", None),
            ("period(empty, n)", None),
            ("first(nothing, k)", Some(3u32.into())),
            ("first(n, k)", Some(6u32.into())),
            ("without(ends, n)", None),
            ("without(ends, nothing)", Some(vec![2i32, 5].into())),
            ("scaled(head, quarter)", Some(64u32.into())),
            ("side(head)", Some(16u32.into())),
        ];
        for (text, want) in rows {
            assert_eq!(eval(text).unwrap(), *want, "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        for text in [
            "root(n)",
            "flags(odd)",
            "flags(odd, n",
            "flags(odd, )",
            "length(a b)",
            "flags(beyond, n)",
            "flags(twice, n)",
            "flags(below, n)",
            "flags(k, n)",
            "flags(odd, nothing)",
            "all_but_every(zero, n)",
            "scaled(k, quarter)",
            "scaled(k, ends)",
            "side(n)",
        ] {
            assert!(eval(text).is_err(), "{text}");
        }
    }
}
