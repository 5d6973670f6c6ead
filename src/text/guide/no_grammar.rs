//! What stands for `grammar.rs` in a build without it.

use super::{Form, Guide, Tokenizer};
use crate::{Error, Result};

/// Nothing can be made.
pub(crate) enum Compiler {}

/// Nothing is said to what is not there.
#[cfg(feature = "server")]
pub(crate) fn settle(_: &mut serde_json::Value) {}

impl Compiler {
    /// # Errors
    /// Always.
    pub(crate) fn new(_: &Tokenizer) -> Result<Compiler> {
        Err(Error::unsupported("answers of a demanded form need a build with the feature `grammar`"))
    }

    /// Never called: there is none.
    pub(crate) fn guide(&self, _: &Form) -> Result<Box<dyn Guide>> {
        match *self {}
    }
}
