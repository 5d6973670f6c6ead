//! Bodies of requests from bytes, for `crate::fuzzing`.

use super::{ChatRequest, Json, TakeRequest};
use crate::server::limits::{MAX_MESSAGES, MAX_PARTS, MAX_STOPS, MAX_TOP_LOGPROBS};

/// A body, as a question and as a request for a take.
pub(crate) fn request(input: &[u8]) {
    let Ok(body) = Json::parse(input).inspect_err(|fault| assert!(fault.code.status() == 400)) else { return };
    // What was read is what serde reads.
    let value: serde_json::Value = serde_json::from_slice(input).expect("a body that was read is JSON");
    assert_eq!(body.to_value(), value);
    match ChatRequest::parse(&body) {
        Ok(request) => {
            let n_parts: usize = request.turns.iter().map(|turn| turn.parts.len()).sum();
            assert!((1..=MAX_MESSAGES).contains(&request.turns.len()) && n_parts <= MAX_PARTS);
            assert!(request.stop.len() <= MAX_STOPS && request.top_logprobs <= MAX_TOP_LOGPROBS);
            assert!(request.max_tokens != Some(0));
        }
        Err(fault) => {
            let body = fault.to_json();
            assert!(fault.code.status() == 400 && body["error"]["code"].is_string() && fault.message.len() < 4096);
        }
    }
    if let Err(fault) = TakeRequest::parse(&body) {
        assert!(fault.code.status() == 400);
    }
}

pub(crate) fn request_seeds() -> Vec<Vec<u8>> {
    let id = "0123456789abcdef0123456789abcdef";
    [
        r#"{"messages":[{"role":"user","content":"Hi"}],"stream":true,"max_tokens":5,"temperature":0.5,"stop":["a"],"seed":-1}"#.to_string(),
        r#"{"messages":[{"role":"system","content":"x"},{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAEC"}}]}],"logprobs":true,"top_logprobs":2,"logit_bias":{"5":1}}"#.to_string(),
        r#"{"messages":[{"role":"user","content":[{"type":"video_url","video_url":{"url":"data:video/jpeg;base64,AAEC,AAED"},"fps":2,"uuid":"u"}]}],"longtake":{"max_memory":"3G","max_time":"20m","media_order":"as-sent"},"media_io_kwargs":{"video":{"num_frames":-1}}}"#.to_string(),
        format!(r#"{{"messages":[{{"role":"user","content":[{{"type":"file","file":{{"file_id":"take-{id}"}}}},{{"type":"input_video","input_video":{{"data":"AAEC"}}}}]}}],"response_format":{{"type":"json_object","schema":{{}}}}}}"#),
        format!(r#"{{"file_id":"file-{id}","options":{{"fps":1,"start":2}},"context":4096,"cache_type_k":"q8_0","reserve":64,"name":"n"}}"#),
    ]
    .map(String::into_bytes)
    .to_vec()
}
