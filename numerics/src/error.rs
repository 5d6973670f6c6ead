//! One error type for the whole library: what kind of fault, what happened, and where.
#![forbid(unsafe_code)]

use std::fmt;

/// Shorthand used everywhere in the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of fault an [`Error`] reports. Front doors map kinds to exit codes and HTTP statuses.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The operating system refused: a disk is full, a pipe broke, a file may not be read.
    Io,
    /// A file is missing.
    NotFound,
    /// A file or stream is not what its format says it should be.
    Format,
    /// Well-formed, but outside what this program can do.
    Unsupported,
    /// Beyond a stated cap or a budget: a size, a count, the context, memory.
    Limit,
    /// Two things that must agree do not: a projector and a text model, a count and a grid.
    Mismatch,
    /// The caller asked for something that makes no sense; on the command line, exit code 2.
    BadInput,
    /// Somebody else is at it: asking again later may do.
    Busy,
    /// The user or the caller asked to stop.
    Cancelled,
    /// A promise of this program to itself is broken: a fault that is worth a report.
    Internal,
}

impl ErrorKind {
    /// Every kind: for tests that each of them is thought of where kinds become something else.
    #[doc(hidden)]
    pub const ALL: [ErrorKind; 10] = [
        ErrorKind::Io,
        ErrorKind::NotFound,
        ErrorKind::Format,
        ErrorKind::Unsupported,
        ErrorKind::Limit,
        ErrorKind::Mismatch,
        ErrorKind::BadInput,
        ErrorKind::Busy,
        ErrorKind::Cancelled,
        ErrorKind::Internal,
    ];
}

/// An error with its kind, a message, and the places it passed through on its way out
/// (file, tensor, layer, byte), outermost first when printed.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    context: Vec<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`. Messages: lower case, the offending value in backticks, what was expected, no final period.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, message: message.into(), context: Vec::new(), source: None }))
    }

    /// A malformed file or stream.
    pub fn format(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Format, message)
    }

    /// A well-formed thing that this program cannot handle.
    pub fn unsupported(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Unsupported, message)
    }

    /// A value beyond a cap.
    pub fn limit(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Limit, message)
    }

    /// Two things that do not belong together.
    pub fn mismatch(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Mismatch, message)
    }

    /// A request that makes no sense.
    pub fn bad_input(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::BadInput, message)
    }

    /// Somebody else is at it.
    pub fn busy(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Busy, message)
    }

    /// A broken promise of this program to itself.
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Internal, message)
    }

    /// The same with what caused it.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    /// What kind of fault this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message without its context.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Says where this happened; called once per level as the error travels outwards.
    pub fn at(mut self, place: impl Into<String>) -> Error {
        self.0.context.push(place.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in self.0.context.iter().rev() {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<std::io::Error> for Error {
    fn from(err: std::io::Error) -> Error {
        let kind = if err.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Io };
        Error::new(kind, err.to_string()).caused_by(err)
    }
}

/// Adds a place to the error of a `Result`: for the crates of this workspace.
#[doc(hidden)]
pub trait Context<T> {
    /// Wraps the error, if any, with a place; the closure runs only then.
    fn at<S: Into<String>>(self, place: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn at<S: Into<String>>(self, place: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|err| err.into().at(place()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_are_listed() {
        use ErrorKind::*;
        // A new kind is missing here first.
        let number = |kind: ErrorKind| match kind {
            Io => 0,
            NotFound => 1,
            Format => 2,
            Unsupported => 3,
            Limit => 4,
            Mismatch => 5,
            BadInput => 6,
            Busy => 7,
            Cancelled => 8,
            Internal => 9,
        };
        assert!(ErrorKind::ALL.into_iter().map(number).eq(0..10));
    }

    #[test]
    fn causes_are_kept() {
        use std::error::Error as _;
        let err = std::fs::read("no such file").map_err(Error::from).unwrap_err().at("model.gguf");
        assert_eq!(err.kind(), ErrorKind::NotFound);
        let cause = err.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
        assert_eq!(cause.map(std::io::Error::kind), Some(std::io::ErrorKind::NotFound));
        assert!(Error::busy("later").source().is_none());
    }

    #[test]
    fn context_prints_outermost_first() {
        let err = Error::format("version `9` is unknown").at("header").at("model.gguf");
        assert_eq!(err.to_string(), "model.gguf: header: version `9` is unknown");
        assert_eq!(err.kind(), ErrorKind::Format);
    }
}
