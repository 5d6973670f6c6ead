//! Pictures and videos in a request, in every spelling that clients use. What a medium is follows from its bytes, never from
//! the name of its part.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};

use super::{Code, Fault, Json, fields, short};
use crate::server::limits::{MAX_LISTED_FRAMES, MAX_NAME_BYTES};

type Result<T> = std::result::Result<T, Fault>;

const PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
/// The one alphabet that URLs of this kind have, padded or not.
const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, PADDING);

/// A picture or a video of a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MediaPart {
    /// What its part says that it is; its bytes count.
    pub named: Named,
    pub from: From,
    /// Qwen's names (`fps`, `nframes`, `max_frames`, `video_start`, …), with numbers.
    pub options: Map<String, Value>,
    /// Another name of this content, for later parts without data.
    pub uuid: Option<String>,
    /// Its place in the request, for complaints.
    pub at: String,
}

/// What a part says that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    Image,
    Video,
    File,
}

/// Where a medium is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum From {
    /// Here.
    Data(Bytes),
    /// Pictures that are the frames of a video.
    Frames(Vec<From>),
    /// A file that was uploaded: its id.
    File(String),
    /// A take: its id.
    Take(String),
    /// A `file:` URL, for servers that were given a folder.
    Path(String),
    /// Nowhere but under its other name.
    Uuid,
}

/// Bytes that are never shown.
#[derive(Clone, PartialEq)]
pub(crate) struct Bytes(pub Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// The types of parts, and the field that holds the medium.
const TYPES: [(&str, Named, &str); 8] = [
    ("image_url", Named::Image, "image_url"),
    ("input_image", Named::Image, "image_url"),
    ("image", Named::Image, "image"),
    ("video_url", Named::Video, "video_url"),
    ("input_video", Named::Video, "input_video"),
    ("video", Named::Video, "video"),
    ("file", Named::File, "file"),
    ("input_file", Named::File, "file"),
];

/// Options of a medium, and Qwen's name of each.
const OPTIONS: [(&str, &str); 17] = [
    ("fps", "fps"),
    ("nframes", "nframes"),
    ("num_frames", "nframes"),
    ("min_frames", "min_frames"),
    ("max_frames", "max_frames"),
    ("start", "video_start"),
    ("video_start", "video_start"),
    ("end", "video_end"),
    ("video_end", "video_end"),
    ("min_pixels", "min_pixels"),
    ("max_pixels", "max_pixels"),
    ("total_pixels", "total_pixels"),
    ("resized_height", "resized_height"),
    ("resized_width", "resized_width"),
    ("temporal_scale", "temporal_scale"),
    ("dedup", "dedup"),
    ("keep_share", "keep_share"),
];

/// Fields that say nothing here.
const HARMLESS: [&str; 5] = ["type", "detail", "filename", "format", "cache_control"];

impl MediaPart {
    /// The medium of a part of type `name`.
    ///
    /// # Errors
    /// A type, an option or a URL that is not known; what is no base64.
    pub(crate) fn parse(name: &str, part: &Json<'_>, at: &str) -> Result<MediaPart> {
        let Some((_, named, field)) = TYPES.into_iter().find(|(known, ..)| *known == name) else {
            let message = format!(
                "a part of type `{}` is not known, expected text, image_url, video_url, input_video, video or file",
                short(name)
            );
            return Err(Fault::new(Code::UnsupportedContentPart, message).of(format!("{at}.type")));
        };
        let (mut from, mut uuid, mut options) = (None, None, Map::new());
        for (key, value) in fields::object(part, at)? {
            let here = format!("{at}.{key}");
            match &**key {
                // Tables with one column for each field of any part have nulls in all others.
                _ if *value == Json::Null => {}
                // Clients mix them up: the names of all that hold a medium are understood in each.
                "image_url" | "video_url" | "input_video" | "input_image" | "image" | "video" | "file" | "url"
                | "file_id" | "file_data" => {
                    if from.is_some() {
                        return Err(Fault::value(here, "a part holds one medium, this one holds two"));
                    }
                    from = Some(medium(key, value, named, &here, &mut options)?);
                }
                "uuid" => uuid = Some(fields::text(value, &here, MAX_NAME_BYTES)?.to_string()),
                known if HARMLESS.contains(&known) => {}
                _ => option(key, value, at, &mut options)?,
            }
        }
        let from = match (from, &uuid) {
            (Some(from), _) => from,
            (None, Some(_)) => From::Uuid,
            (None, None) => return Err(Fault::value(format!("{at}.{field}"), format!("`{at}.{field}` is missing"))),
        };
        Ok(MediaPart { named, from, options, uuid, at: at.to_string() })
    }
}

/// What stands in the field `key` of a part.
fn medium(key: &str, value: &Json<'_>, named: Named, at: &str, options: &mut Map<String, Value>) -> Result<From> {
    match value {
        Json::Text(id) if key == "file_id" => parse_id(id, at),
        Json::Text(data) if key == "file_data" => url_or_base64(data, at),
        Json::Text(text) => url(text, at),
        Json::List(frames) if named == Named::Video => {
            if frames.is_empty() || frames.len() > MAX_LISTED_FRAMES {
                let message = format!("`{at}` has `{}` frames, expected 1 to {MAX_LISTED_FRAMES}", frames.len());
                return Err(Fault::value(at, message));
            }
            let one = |(i, frame): (usize, &Json<'_>)| {
                let at = format!("{at}[{i}]");
                match url(fields::text(frame, &at, usize::MAX)?, &at)? {
                    from @ (From::Data(_) | From::File(_) | From::Path(_)) => Ok(from),
                    _ => Err(Fault::value(&at, format!("`{at}` is no picture"))),
                }
            };
            Ok(From::Frames(frames.iter().enumerate().map(one).collect::<Result<_>>()?))
        }
        Json::Object(inner) => {
            let mut from = None;
            for (key, value) in inner {
                let here = format!("{at}.{key}");
                match (&**key, value) {
                    (_, Json::Null) => {}
                    ("url" | "file_id" | "file_data" | "data", Json::Text(text)) => {
                        if from.is_some() {
                            return Err(Fault::value(here, "a part holds one medium, this one holds two"));
                        }
                        from = Some(match &**key {
                            "url" => url(text, &here)?,
                            "file_id" => parse_id(text, &here)?,
                            _ => url_or_base64(text, &here)?,
                        });
                    }
                    (known, _) if HARMLESS.contains(&known) => {}
                    _ => option(key, value, at, options)?,
                }
            }
            from.ok_or_else(|| Fault::value(at, format!("`{at}` holds no url, data, file_id or file_data")))
        }
        other => Err(fields::wrong(other, at, "a URL or an object with one")),
    }
}

/// Notes an option under Qwen's name.
pub(super) fn option(key: &str, value: &Json<'_>, at: &str, options: &mut Map<String, Value>) -> Result<()> {
    let Some((_, name)) = OPTIONS.into_iter().find(|(known, _)| *known == key) else {
        return Err(fields::unknown(at, key));
    };
    let here = format!("{at}.{key}");
    let number = match (name, value) {
        (_, Json::Null) => return Ok(()),
        ("temporal_scale", Json::Text(preset)) => Value::from(short(preset)),
        ("fps" | "video_start" | "video_end" | "temporal_scale", _) => fields::number(value, &here, (0.0, 1e9))?.into(),
        // All of them.
        ("nframes", _) if fields::count(value, &here, (-1, 1 << 40))? == -1 => {
            options.insert("max_frames".to_string(), crate::media::limits::MAX_FRAMES.into());
            return Ok(());
        }
        _ => fields::count(value, &here, (0, 1 << 50))?.into(),
    };
    options.insert(name.to_string(), number);
    Ok(())
}

/// An id of the store: of a file or a take.
///
/// # Errors
/// Anything else.
pub(crate) fn parse_id(id: &str, at: &str) -> Result<From> {
    let is_id = |kind: &str| {
        id.strip_prefix(kind).is_some_and(|hex| hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    match id {
        _ if is_id("file-") => Ok(From::File(id.to_string())),
        _ if is_id("take-") => Ok(From::Take(id.to_string())),
        _ => {
            let message = format!("`{}` is no id of a file or a take", short(id));
            Err(Fault::new(Code::MediaNotFound, message).of(at))
        }
    }
}

/// Base64 with or without the head of a URL.
fn url_or_base64(text: &str, at: &str) -> Result<From> {
    if text.contains(':') { url(text, at) } else { Ok(From::Data(base64(text, at)?)) }
}

fn url(text: &str, at: &str) -> Result<From> {
    let (scheme, rest) = text.split_once(':').unwrap_or(("", text));
    match scheme.to_ascii_lowercase().as_str() {
        "data" => data(rest, at),
        "longtake" => parse_id(rest, at),
        "file" => Ok(From::Path(text.to_string())),
        "http" | "https" | "ftp" | "ftps" | "s3" | "gs" => {
            let message = "this server fetches nothing: upload the file to /v1/files and name its id";
            Err(Fault::new(Code::MediaUrlNotAllowed, message).of(at))
        }
        _ => {
            let message = "expected a data: URL, longtake:file-… or longtake:take-…";
            Err(Fault::new(Code::MediaUrlNotAllowed, message).of(at))
        }
    }
}

/// What stands behind `data:`.
fn data(rest: &str, at: &str) -> Result<From> {
    let invalid = |message: &str| Fault::new(Code::InvalidMedia, message).of(at);
    let (head, payload) = rest.split_once(',').ok_or_else(|| invalid("a data: URL without a comma"))?;
    let mut words = head.split(';').map(str::trim);
    let media_type = words.next().unwrap_or_default().to_ascii_lowercase();
    if !words.any(|word| word.eq_ignore_ascii_case("base64")) {
        return Err(invalid("a data: URL that is not base64"));
    }
    if media_type != "video/jpeg" {
        return Ok(From::Data(base64(payload, at)?));
    }
    let n_frames = payload.bytes().filter(|b| *b == b',').count() + 1;
    if n_frames > MAX_LISTED_FRAMES {
        return Err(Fault::value(at, format!("`{n_frames}` frames, at most {MAX_LISTED_FRAMES}")));
    }
    let frames = payload.split(',').map(|frame| Ok(From::Data(base64(frame, at)?)));
    Ok(From::Frames(frames.collect::<Result<_>>()?))
}

fn base64(text: &str, at: &str) -> Result<Bytes> {
    let invalid = |message: &str| Fault::new(Code::InvalidMedia, message).of(at);
    let bytes = BASE64.decode(text).map_err(|_| invalid("what should be base64 is not"))?;
    if bytes.is_empty() {
        return Err(invalid("a medium without a byte"));
    }
    Ok(Bytes(bytes))
}

/// What bytes are, by how they begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Image,
    Video,
    /// A picture that may move, where it was sent as a video.
    Animation,
    Unknown,
}

/// Looks at the beginning of a file.
pub(crate) fn kind_of(start: &[u8]) -> Kind {
    let at = |offset: usize, sign: &[u8]| start.get(offset..).is_some_and(|rest| rest.starts_with(sign));
    let is = |sign: &[u8]| at(0, sign);
    let brand = |names: &[&[u8]]| at(4, b"ftyp") && names.iter().any(|name| at(8, name));
    match () {
        () if is(b"\x89PNG") || is(b"GIF8") || (is(b"RIFF") && at(8, b"WEBP")) => Kind::Animation,
        () if is(b"\xff\xd8\xff") || is(b"BM") || is(b"\0\0\x01\0") || is(b"II*\0") || is(b"MM\0*") => Kind::Image,
        () if start.len() > 2
            && start[0] == b'P'
            && (b'1'..=b'7').contains(&start[1])
            && start[2].is_ascii_whitespace() =>
        {
            Kind::Image
        }
        () if brand(&[b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1"]) || is(b"\0\0\0\x0cjP  ") => Kind::Image,
        () if at(4, b"ftyp") || at(4, b"moov") || at(4, b"mdat") || at(4, b"wide") || at(4, b"free") => Kind::Video,
        () if is(b"\x1aE\xdf\xa3") || is(b"YUV4MPEG2") || (is(b"RIFF") && at(8, b"AVI ")) || is(b"FLV\x01") => {
            Kind::Video
        }
        () if is(b"\0\0\x01\xba") || is(b"\0\0\x01\xb3") || is(b"OggS") || is(b"0&\xb2u") => Kind::Video,
        () if is(b"G") && (start.len() < 189 || at(188, b"G")) => Kind::Video,
        () => Kind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(part: &str) -> Result<MediaPart> {
        let json = Json::parse(part.as_bytes()).unwrap();
        let name = json.get("type").and_then(Json::as_text).unwrap().to_string();
        MediaPart::parse(&name, &json, "messages[0].content[1]")
    }

    #[test]
    fn every_dialect_is_understood() {
        let data = From::Data(Bytes(vec![0, 1, 2]));
        let id = "0123456789abcdef0123456789abcdef";
        let (file, take) = (From::File(format!("file-{id}")), From::Take(format!("take-{id}")));
        for (part, named, from) in [
            (
                r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AAEC","detail":"low"}}"#.to_string(),
                Named::Image,
                &data,
            ),
            (r#"{"type":"image_url","image_url":"data:image/png;base64,AAEC"}"#.to_string(), Named::Image, &data),
            (r#"{"type":"input_image","image_url":"data:;base64,AAEC"}"#.to_string(), Named::Image, &data),
            (
                r#"{"type":"video_url","video_url":{"url":"DATA:video/mp4;base64,AAEC"},"uuid":"x"}"#.to_string(),
                Named::Video,
                &data,
            ),
            (r#"{"type":"input_video","input_video":{"data":"AAEC"}}"#.to_string(), Named::Video, &data),
            (
                r#"{"type":"input_video","input_video":{"url":"data:video/mp4;base64,AAEC"}}"#.to_string(),
                Named::Video,
                &data,
            ),
            (r#"{"type":"video","video":"data:video/mp4;base64,AAEC","fps":1.5}"#.to_string(), Named::Video, &data),
            (
                r#"{"type":"file","file":{"file_data":"data:video/mp4;base64,AAEC","filename":"a.mp4"}}"#.to_string(),
                Named::File,
                &data,
            ),
            (r#"{"type":"video_url","video_url":null,"uuid":"x"}"#.to_string(), Named::Video, &From::Uuid),
            (
                r#"{"type":"video_url","text":null,"image_url":null,"video_url":{"url":"data:;base64,AAEC","data":null},"uuid":null}"#
                    .to_string(),
                Named::Video,
                &data,
            ),
            (format!(r#"{{"type":"file","file":{{"file_id":"file-{id}"}}}}"#), Named::File, &file),
            (format!(r#"{{"type":"video_url","video_url":{{"url":"longtake:file-{id}"}}}}"#), Named::Video, &file),
            (format!(r#"{{"type":"file","file":{{"file_id":"take-{id}"}}}}"#), Named::File, &take),
            (
                r#"{"type":"video_url","video_url":{"url":"file:///v/a.mp4"}}"#.to_string(),
                Named::Video,
                &From::Path("file:///v/a.mp4".into()),
            ),
        ] {
            let part = parse(&part).unwrap_or_else(|fault| panic!("{part}: {fault:?}"));
            assert_eq!((part.named, &part.from), (named, from));
        }
        let frames = parse(r#"{"type":"video_url","video_url":{"url":"data:video/jpeg;base64,AAEC,AAED"}}"#).unwrap();
        let two = From::Frames(vec![data.clone(), From::Data(Bytes(vec![0, 1, 3]))]);
        assert_eq!(frames.from, two);
        let listed = parse(r#"{"type":"video","video":["data:image/jpeg;base64,AAEC","data:image/jpeg;base64,AAED"]}"#);
        assert_eq!(listed.unwrap().from, two);
    }

    #[test]
    fn options_have_qwens_names_and_no_others_pass() {
        let part = r#"{"type":"video_url","video_url":{"url":"data:;base64,AAEC"},"fps":2,"start":1.5,"video_end":9,"max_frames":20.0,"min_pixels":100}"#;
        let got = Value::Object(parse(part).unwrap().options);
        let want =
            serde_json::json!({"fps": 2.0, "video_start": 1.5, "video_end": 9.0, "max_frames": 20, "min_pixels": 100});
        assert_eq!(got, want);
        for (field, code, param) in [
            (r#""nfps":2"#, Code::UnsupportedParameter, "nfps"),
            (r#""fps":-1"#, Code::InvalidValue, "fps"),
            (r#""fps":"2""#, Code::InvalidValue, "fps"),
            (r#""max_frames":1.5"#, Code::InvalidValue, "max_frames"),
            (r#""min_pixels":1e300"#, Code::InvalidValue, "min_pixels"),
        ] {
            let part = format!(r#"{{"type":"video","video":"data:;base64,AAEC",{field}}}"#);
            let fault = parse(&part).unwrap_err();
            assert_eq!((fault.code, fault.param.unwrap()), (code, format!("messages[0].content[1].{param}")));
        }
    }

    #[test]
    fn nothing_is_fetched_and_nothing_odd_is_believed() {
        for (url, code) in [
            ("https://example.com/a.mp4", Code::MediaUrlNotAllowed),
            ("HTTP:\\\\127.0.0.1@example.com", Code::MediaUrlNotAllowed),
            ("http://169.254.169.254/latest/meta-data", Code::MediaUrlNotAllowed),
            ("//example.com/a.png", Code::MediaUrlNotAllowed),
            ("/etc/passwd", Code::MediaUrlNotAllowed),
            ("gopher://x", Code::MediaUrlNotAllowed),
            ("data:image/png,abc", Code::InvalidMedia),
            ("data:image/png;base64,A A=", Code::InvalidMedia),
            ("data:image/png;base64,", Code::InvalidMedia),
            ("data:image/png;base64", Code::InvalidMedia),
            ("longtake:file-../../etc/passwd", Code::MediaNotFound),
            ("longtake:take-0123456789abcdef0123456789abcdef0", Code::MediaNotFound),
        ] {
            let url = url.replace('\\', "\\\\");
            let part = format!(r#"{{"type":"video_url","video_url":{{"url":"{url}"}}}}"#);
            assert_eq!(parse(&part).unwrap_err().code, code, "{url}");
        }
        let many = format!("data:video/jpeg;base64,{}", vec!["AAEC"; MAX_LISTED_FRAMES + 1].join(","));
        let fault = parse(&format!(r#"{{"type":"video_url","video_url":{{"url":"{many}"}}}}"#)).unwrap_err();
        assert!(fault.message.contains("769"));
        let two = r#"{"type":"image_url","image_url":"data:;base64,AAEC","video_url":"data:;base64,AAEC"}"#;
        assert!(parse(two).is_err());
    }

    #[test]
    fn bytes_say_what_they_are() {
        for (bytes, kind) in [
            (&b"\x89PNG\r\n\x1a\n"[..], Kind::Animation),
            (b"\xff\xd8\xff\xe0", Kind::Image),
            (b"\0\0\0\x20ftypisom", Kind::Video),
            (b"\0\0\0\x20ftypavif", Kind::Image),
            (b"\x1aE\xdf\xa3", Kind::Video),
            (b"YUV4MPEG2 W4", Kind::Video),
            (b"P6\n", Kind::Image),
            (b"", Kind::Unknown),
            (b"hello", Kind::Unknown),
        ] {
            assert_eq!(kind_of(bytes), kind, "{bytes:x?}");
        }
    }
}
