//! What a client is told that asked for something it cannot have: a status, a code, a text, the parameter.

use serde_json::{Value, json};

use crate::{Error, ErrorKind};

/// A refusal. Its text never holds a path or an address of this machine.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fault {
    pub code: Code,
    pub message: String,
    /// The field that is wrong, where one is.
    pub param: Option<String>,
    /// Seconds after which it is worth to ask again.
    pub retry_after: Option<u64>,
}

/// What is wrong, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Code {
    InvalidJson,
    InvalidValue,
    UnsupportedParameter,
    UnsupportedContentPart,
    InvalidSchema,
    InvalidMedia,
    MediaUrlNotAllowed,
    MediaNotFound,
    VideoDoesNotFit,
    ContextLengthExceeded,
    TakePrefixMismatch,
    TakeNotReady,
    InvalidApiKey,
    HostNotAllowed,
    OriginNotAllowed,
    ModelNotFound,
    FileNotFound,
    TakeNotFound,
    BatchNotFound,
    UnknownRoute,
    WrongMethod,
    LengthRequired,
    BodyTooLarge,
    FileTooLarge,
    BodyTooSlow,
    WrongContentType,
    QueueFull,
    TooManyBytes,
    InternalError,
    Loading,
    Draining,
    StorageFull,
}

impl Code {
    /// Its HTTP status. Never 409, nor 408, which clients take as a call to try again.
    pub(crate) fn status(self) -> u16 {
        use Code::*;
        match self {
            InvalidJson
            | InvalidValue
            | UnsupportedParameter
            | UnsupportedContentPart
            | InvalidSchema
            | InvalidMedia
            | MediaUrlNotAllowed
            | MediaNotFound
            | VideoDoesNotFit
            | ContextLengthExceeded
            | TakePrefixMismatch
            | TakeNotReady
            | BodyTooSlow => 400,
            InvalidApiKey => 401,
            HostNotAllowed | OriginNotAllowed => 403,
            ModelNotFound | FileNotFound | TakeNotFound | BatchNotFound | UnknownRoute => 404,
            WrongMethod => 405,
            LengthRequired => 411,
            BodyTooLarge | FileTooLarge => 413,
            WrongContentType => 415,
            QueueFull | TooManyBytes => 429,
            InternalError => 500,
            Loading | Draining => 503,
            StorageFull => 507,
        }
    }

    /// As it is spelt.
    pub(crate) fn name(self) -> &'static str {
        use Code::*;
        match self {
            InvalidJson => "invalid_json",
            InvalidValue => "invalid_value",
            UnsupportedParameter => "unsupported_parameter",
            UnsupportedContentPart => "unsupported_content_part",
            InvalidSchema => "invalid_schema",
            InvalidMedia => "invalid_media",
            MediaUrlNotAllowed => "media_url_not_allowed",
            MediaNotFound => "media_not_found",
            VideoDoesNotFit => "video_does_not_fit",
            ContextLengthExceeded => "context_length_exceeded",
            TakePrefixMismatch => "take_prefix_mismatch",
            TakeNotReady => "take_not_ready",
            InvalidApiKey => "invalid_api_key",
            HostNotAllowed => "host_not_allowed",
            OriginNotAllowed => "origin_not_allowed",
            ModelNotFound => "model_not_found",
            FileNotFound => "file_not_found",
            TakeNotFound => "take_not_found",
            BatchNotFound => "batch_not_found",
            UnknownRoute => "unknown_route",
            WrongMethod => "wrong_method",
            LengthRequired => "length_required",
            BodyTooLarge => "body_too_large",
            FileTooLarge => "file_too_large",
            BodyTooSlow => "body_too_slow",
            WrongContentType => "wrong_content_type",
            QueueFull => "queue_full",
            TooManyBytes => "too_many_bytes",
            InternalError => "internal_error",
            Loading => "loading",
            Draining => "draining",
            StorageFull => "storage_full",
        }
    }

    fn kind(self) -> &'static str {
        match self.status() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// Whether the very same request may go better later. A full disk does not empty itself.
    pub(crate) fn is_passing(self) -> bool {
        matches!(self, Code::QueueFull | Code::TooManyBytes | Code::Loading | Code::Draining)
    }
}

impl Fault {
    /// Says it.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Fault {
        Fault { code, message: message.into(), param: None, retry_after: None }
    }

    /// A value that is not what its field takes.
    pub(crate) fn value(param: impl Into<String>, message: impl Into<String>) -> Fault {
        Fault::new(Code::InvalidValue, message).of(param)
    }

    /// The same, of a field.
    pub(crate) fn of(mut self, param: impl Into<String>) -> Fault {
        self.param = Some(param.into());
        self
    }

    /// The same, with seconds to wait.
    pub(crate) fn after(mut self, seconds: u64) -> Fault {
        self.retry_after = Some(seconds);
        self
    }

    /// What the library says of a request. Its words are kept where they are about the request alone; where they may name
    /// files of this machine, only the message is, without the places that it passed.
    pub(crate) fn from_error(err: &Error) -> Fault {
        let code = match err.kind() {
            ErrorKind::BadInput => Code::InvalidValue,
            ErrorKind::Format | ErrorKind::Unsupported | ErrorKind::Mismatch => Code::InvalidMedia,
            ErrorKind::Limit => Code::VideoDoesNotFit,
            _ => Code::InternalError,
        };
        let message = match code {
            Code::InternalError => "something failed here; the server's log says what".to_string(),
            _ => without_paths(err.message()),
        };
        Fault::new(code, message)
    }

    /// The body.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "error": {
            "message": self.message, "type": self.code.kind(), "param": self.param, "code": self.code.name(),
        } })
    }
}

/// Words with everything that may be a path or an address of this machine left out.
fn without_paths(words: &str) -> String {
    let is_telling = |word: &str| {
        let word = word.trim_matches(|c: char| "`'\"(),;:".contains(c));
        (word.starts_with('/') && word.len() > 1)
            || word.starts_with("0x")
            || word.contains(":\\")
            || word.contains("/.")
    };
    let words: Vec<&str> = words.split(' ').map(|word| if is_telling(word) { "…" } else { word }).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_four_keys_and_no_paths() {
        let fault = Fault::value("stop[3]", "is empty");
        let body = fault.to_json();
        assert_eq!(body["error"]["code"], "invalid_value");
        assert_eq!(body["error"]["param"], "stop[3]");
        assert_eq!(body["error"]["type"], "invalid_request_error");
        assert!(Fault::new(Code::QueueFull, "x").to_json()["error"]["param"].is_null());
        let err = Error::format("`/home/me/secret.mp4` is cut off at 0x7fff: see /etc/passwd")
            .at("/var/lib/longtake/files/x");
        let words = Fault::from_error(&err).message;
        assert_eq!(words, "… is cut off at … see …");
        assert!(Fault::from_error(&Error::new(ErrorKind::Io, "open /x: denied")).message.contains("log"));
    }
}
