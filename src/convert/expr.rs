//! The small sums that a family description writes for shapes: names and numbers joined by `*`, `/`, `+` and `-`.
//! Products bind tighter than sums, divisions must be exact, and every step is checked.

use crate::{Error, Result};

/// A parsed sum of products, such as `3 * v_n_embd` or `n_embd / n_head`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Expr {
    text: String,
    terms: Vec<(Sign, Vec<(Op, Atom)>)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Sign {
    Plus,
    Minus,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Op {
    Times,
    Over,
}

#[derive(Debug, Clone, PartialEq)]
enum Atom {
    Number(u64),
    Name(String),
}

impl Expr {
    /// Parses `text`.
    ///
    /// # Errors
    /// `Format` naming the text, for anything that is not operands and operators in turn.
    pub(crate) fn parse(text: &str) -> Result<Expr> {
        let wrong = |why: String| Error::format(format!("expression `{text}`: {why}"));
        let mut terms = vec![(Sign::Plus, Vec::new())];
        let mut op = Op::Times;
        let mut want_operand = true;
        let mut rest = text.trim_start();
        while let Some(c) = rest.chars().next() {
            let len = if c.is_ascii_alphanumeric() || c == '_' {
                rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len())
            } else {
                c.len_utf8()
            };
            let word = &rest[..len];
            rest = rest[len..].trim_start();
            if want_operand {
                let atom = if c.is_ascii_digit() {
                    Atom::Number(word.parse().map_err(|_| wrong(format!("`{word}` is not a number")))?)
                } else if c.is_ascii_alphabetic() || c == '_' {
                    Atom::Name(word.to_string())
                } else {
                    return Err(wrong(format!("expected a name or a number, found `{word}`")));
                };
                terms.last_mut().expect("never empty").1.push((op, atom));
            } else {
                match c {
                    '*' => op = Op::Times,
                    '/' => op = Op::Over,
                    '+' => terms.push((Sign::Plus, Vec::new())),
                    '-' => terms.push((Sign::Minus, Vec::new())),
                    _ => return Err(wrong(format!("expected one of `* / + -`, found `{word}`"))),
                }
                if matches!(c, '+' | '-') {
                    op = Op::Times;
                }
            }
            want_operand = !want_operand;
        }
        if want_operand {
            return Err(wrong("it ends where a name or a number is expected".to_string()));
        }
        Ok(Expr { text: text.to_string(), terms })
    }

    /// The names that it mentions.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().flat_map(|term| &term.1).filter_map(|(_, atom)| match atom {
            Atom::Name(name) => Some(name.as_str()),
            Atom::Number(_) => None,
        })
    }

    /// Its value, where `value_of` gives the value of a name.
    ///
    /// # Errors
    /// `Mismatch` with both numbers when a division leaves a rest; `Limit` on overflow or a negative result; `Format`
    /// for a name without a value.
    pub(crate) fn eval(&self, value_of: impl Fn(&str) -> Option<u64>) -> Result<u64> {
        let beyond = || Error::limit(format!("`{}` has no value between 0 and 2^64", self.text));
        let mut sum = 0u64;
        for (sign, factors) in &self.terms {
            let mut product = 1u64;
            for (op, atom) in factors {
                let (value, name) = match atom {
                    Atom::Number(n) => (*n, n.to_string()),
                    Atom::Name(name) => {
                        let unknown = || Error::format(format!("`{}`: `{name}` has no value", self.text));
                        (value_of(name).ok_or_else(unknown)?, name.clone())
                    }
                };
                product = match op {
                    Op::Times => product.checked_mul(value).ok_or_else(beyond)?,
                    Op::Over if value == 0 => return Err(Error::mismatch(format!("`{name}` is 0 in `{}`", self.text))),
                    Op::Over if !product.is_multiple_of(value) => {
                        return Err(Error::mismatch(format!(
                            "`{}`: `{product}` is not a multiple of {name} = `{value}`",
                            self.text
                        )));
                    }
                    Op::Over => product / value,
                };
            }
            sum = match sign {
                Sign::Plus => sum.checked_add(product),
                Sign::Minus => sum.checked_sub(product),
            }
            .ok_or_else(beyond)?;
        }
        Ok(sum)
    }
}

impl std::fmt::Display for Expr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(text: &str) -> Result<u64> {
        Expr::parse(text)?.eval(|name| match name {
            "n" => Some(12),
            "big" => Some(u64::MAX),
            "zero" => Some(0),
            _ => None,
        })
    }

    #[test]
    fn products_bind_tighter_than_sums() {
        for (text, want) in [("3 * n", 36), ("n/4", 3), ("n*n - 4 + 1", 141), (" 7 ", 7), ("1 + n / 3 * 2", 9)] {
            assert_eq!(eval(text).unwrap(), want, "{text}");
        }
        assert_eq!(Expr::parse("n * 2 + m").unwrap().names().collect::<Vec<_>>(), ["n", "m"]);
    }

    #[test]
    fn nonsense_and_overflow_are_errors() {
        for text in [
            "",
            "n n",
            "* n",
            "n *",
            "n % 2",
            "n / 5",
            "n / zero",
            "big + 1",
            "big * 2",
            "1 - n",
            "other",
            "99999999999999999999",
        ] {
            assert!(eval(text).is_err(), "{text}");
        }
        assert!(eval("n / 5").unwrap_err().to_string().contains("multiple"));
    }
}
