//! Answers of a form that is demanded: JSON of a schema, a grammar, a regular expression, one of a few words.
//!
//! A [`Form`] says what is wanted, [`Form::guide`] makes a [`Guide`] of it, and a [`Sampler`](super::Sampler) asks the guide
//! before every choice which tokens may come. Forms come from outside, so compiling one is bounded in time and memory, and
//! what cannot be followed is an error, never an answer without form.

#[cfg(feature = "grammar")]
mod gbnf;
#[cfg(feature = "grammar")]
mod grammar;
#[cfg(not(feature = "grammar"))]
#[path = "no_grammar.rs"]
mod grammar;

use serde_json::Value;

use super::Tokenizer;
use crate::{Error, Result};

pub(crate) use grammar::Compiler;
#[cfg(feature = "server")]
pub(crate) use grammar::settle;

/// Longest form, in bytes.
pub const MAX_FORM_BYTES: usize = 64 << 10;
/// Deepest nesting of a schema.
pub const MAX_SCHEMA_DEPTH: usize = 64;

/// What form an answer has to have.
#[derive(Debug, Clone, PartialEq)]
pub enum Form {
    /// Any JSON object.
    Object,
    /// JSON of this schema.
    Schema(Value),
    /// Text that this regular expression matches whole.
    Regex(String),
    /// One of these.
    Choice(Vec<String>),
    /// Text of a grammar: llama.cpp's GBNF where `::=` defines its rules, llguidance's Lark otherwise.
    Grammar(String),
    /// Text of a grammar in llguidance's Lark, whatever it holds.
    Lark(String),
}

/// Says before every token of an answer which may come.
pub trait Guide: Send {
    /// The tokens that may come, one bit for each: token `id` is bit `id % 32` of word `id / 32`. Tokens that end an answer are
    /// among them where it may end.
    ///
    /// # Errors
    /// A form that takes more steps to follow than are allowed.
    fn allowed(&mut self) -> Result<&[u32]>;

    /// Hears which one came.
    ///
    /// # Errors
    /// One that may not come.
    fn accept(&mut self, id: u32) -> Result<()>;
}

impl Form {
    /// A guide for one answer.
    ///
    /// # Errors
    /// `BadInput` for a form that is malformed, too large, or asks for what cannot be followed; `Unsupported` where this is not
    /// built in.
    pub fn guide(&self, tokenizer: &Tokenizer) -> Result<Box<dyn Guide>> {
        self.check()?;
        tokenizer.compiler()?.guide(self)
    }

    /// # Errors
    /// More bytes or depth than a form may have.
    fn check(&self) -> Result<()> {
        let n_bytes = match self {
            Form::Object => 0,
            Form::Schema(schema) => {
                check_depth(schema, 0)?;
                serde_json::to_string(schema).map_or(usize::MAX, |text| text.len())
            }
            Form::Regex(text) | Form::Grammar(text) | Form::Lark(text) => text.len(),
            Form::Choice(words) if words.is_empty() => {
                return Err(Error::bad_input("a choice of no words, expected at least one"));
            }
            Form::Choice(words) => words.iter().map(|word| word.len() + 8).sum(),
        };
        if n_bytes > MAX_FORM_BYTES {
            return Err(Error::bad_input(format!("the form has `{n_bytes}` bytes, at most {MAX_FORM_BYTES}")));
        }
        Ok(())
    }
}

fn check_depth(value: &Value, depth: usize) -> Result<()> {
    if depth > MAX_SCHEMA_DEPTH {
        return Err(Error::bad_input(format!("the schema is nested more than {MAX_SCHEMA_DEPTH} deep")));
    }
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| check_depth(item, depth + 1)),
        Value::Object(fields) => fields.values().try_for_each(|value| check_depth(value, depth + 1)),
        _ => Ok(()),
    }
}
