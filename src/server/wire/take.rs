//! A request to read a video into a take.

use serde_json::{Map, Value};

use super::chat::{context, scale};
use super::media::{From, option};
use super::{Fault, Json, fields};
use crate::server::limits::MAX_NAME_BYTES;

type Result<T> = std::result::Result<T, Fault>;

/// A checked request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TakeRequest {
    /// An upload, or a file below the folder of the server.
    pub from: From,
    pub options: Map<String, Value>,
    pub system_prompt: Option<String>,
    pub temporal_scale: Option<f64>,
    pub context: Option<usize>,
    /// Names of types.
    pub cache_type_k: Option<String>,
    pub cache_type_v: Option<String>,
    pub max_memory: Option<u64>,
    /// Seconds.
    pub max_time: Option<f64>,
    pub reserve: Option<usize>,
    pub name: Option<String>,
}

impl TakeRequest {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// What is wrong with the first field that is; no file.
    pub(crate) fn parse(body: &Json<'_>) -> Result<TakeRequest> {
        let mut from = None;
        let mut request = TakeRequest {
            from: From::Uuid,
            options: Map::new(),
            system_prompt: None,
            temporal_scale: None,
            context: None,
            cache_type_k: None,
            cache_type_v: None,
            max_memory: None,
            max_time: None,
            reserve: None,
            name: None,
        };
        for (key, value) in fields::object(body, "body")? {
            let at: &str = key;
            let word = |most| fields::text(value, at, most).map(|text| Some(text.to_string()));
            match at {
                _ if *value == Json::Null => {}
                "file_id" => {
                    let id = fields::text(value, at, 64)?;
                    from = Some(match super::media::parse_id(id, at)? {
                        file @ From::File(_) => file,
                        _ => return Err(Fault::value(at, "`file_id` names a take, expected a file")),
                    });
                }
                "path" => from = Some(From::Path(fields::text(value, at, 4096)?.to_string())),
                "options" => {
                    for (key, value) in fields::object(value, at)? {
                        option(key, value, at, &mut request.options)?;
                    }
                }
                "system_prompt" => request.system_prompt = word(1 << 16)?,
                "temporal_scale" => request.temporal_scale = Some(scale(value, at)?),
                "context" => request.context = Some(context(value, at)?),
                "cache_type_k" => request.cache_type_k = word(16)?,
                "cache_type_v" => request.cache_type_v = word(16)?,
                "max_memory" => request.max_memory = Some(fields::bytes(value, at)?),
                "max_time" => request.max_time = Some(fields::seconds(value, at)?),
                "reserve" => request.reserve = Some(context(value, at)?),
                "name" => request.name = word(MAX_NAME_BYTES)?,
                other => return Err(fields::unknown("body", other)),
            }
        }
        request.from = from.ok_or_else(|| Fault::value("file_id", "`file_id` or `path` is missing"))?;
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_or_refused_by_name() {
        let of = |body: &str| TakeRequest::parse(&Json::parse(body.as_bytes()).unwrap());
        let id = "file-0123456789abcdef0123456789abcdef";
        let request =
            of(&format!(r#"{{"file_id":"{id}","options":{{"fps":1}},"context":8192,"cache_type_k":"q8_0"}}"#)).unwrap();
        assert_eq!((request.from, request.context), (From::File(id.into()), Some(8192)));
        for (body, param) in [
            ("{}", "file_id"),
            (r#"{"file_id":"x"}"#, "file_id"),
            (r#"{"file_id":"take-0123456789abcdef0123456789abcdef"}"#, "file_id"),
            (r#"{"path":"a.mp4","optoins":{}}"#, "body.optoins"),
            (r#"{"path":"a.mp4","options":{"fsp":1}}"#, "options.fsp"),
            (r#"{"path":"a.mp4","context":0}"#, "context"),
            (r#"{"path":"a.mp4","max_memory":"lots"}"#, "max_memory"),
        ] {
            assert_eq!(of(body).expect_err(body).param.as_deref(), Some(param), "{body}");
        }
    }
}
