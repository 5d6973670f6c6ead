//! Answers: every way to send a video, streamed and not, with and without a beginning that is known.

use base64::Engine as _;
use serde_json::{Value, json};

use crate::client::{PER_PAIR, Server, content, events, question, video};

#[test]
fn the_symbol_is_found_through_every_dialect_and_read_once() {
    let server = Server::start(&[]);
    let video = video(6);
    let data = format!("data:video/mp4;base64,{}", base64::prelude::BASE64_STANDARD.encode(&video.bytes));
    let raw = base64::prelude::BASE64_STANDARD.encode(&video.bytes);
    let id = server.upload(&video.bytes, "v.mp4");
    let parts = [
        json!({ "type": "video_url", "video_url": { "url": data } }),
        json!({ "type": "video_url", "video_url": { "url": format!("longtake:{id}") } }),
        json!({ "type": "image_url", "image_url": { "url": data } }),
        json!({ "type": "input_video", "input_video": { "data": raw } }),
        json!({ "type": "video", "video": data }),
        json!({ "type": "file", "file": { "file_data": data, "filename": "v.mp4" } }),
        json!({ "type": "file", "file": { "file_id": id } }),
        json!({ "type": "video_url", "video_url": { "url": data }, "uuid": "clip" }),
        json!({ "type": "video_url", "video_url": null, "uuid": "clip" }),
    ];
    for (i, part) in parts.iter().enumerate() {
        // Text before the video, as clients send it.
        let body =
            json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": video.question }, part] }] });
        let answer = server.ask(&body);
        assert_eq!(content(&answer), video.answer, "{part:.80}");
        let usage = &answer["usage"];
        let (n, cached) = (
            usage["prompt_tokens"].as_u64().unwrap(),
            usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap(),
        );
        let own = &answer["longtake"];
        assert_eq!(own["order"], "video-first");
        assert_eq!(own["media"][0]["tokens"], 6 * PER_PAIR);
        assert_eq!(own["media"][0]["frames"], video.n_frames);
        assert_eq!(own["media"][0]["source"], if i == 0 { "read" } else { "cache" });
        let ms = |name: &str| answer["timings"][name].as_f64().unwrap();
        assert_eq!(ms("encode_ms") > 0.0, i == 0);
        assert!(ms("decode_ms") + ms("encode_ms") <= ms("prompt_ms"), "{}", answer["timings"]);
        if i > 0 {
            assert!(cached * 100 >= n * 99, "{cached} of {n} were there");
        }
    }
    // Its frames were read once, and those that are drawn alike were decoded alike and encoded once.
    assert_eq!(server.frames_read(), video.n_frames as f64);
    assert!(server.metric("longtake_frames_reused_total") > 0.0);
    // As sent, the text comes first, and nothing is shared.
    let mut body = question(&id, &video.question);
    body["longtake"] = json!({ "media_order": "as-sent" });
    let answer = server.ask(&body);
    assert_eq!(answer["longtake"]["order"], "as-sent");
    assert!(answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() < 100);
}

#[test]
fn a_streamed_answer_is_the_whole_one_in_pieces() {
    let server = Server::start(&["--alias", "gpt-4o"]);
    let id = server.upload(&video(6).bytes, "v.mp4");
    let mut body = question(&id, &video(6).question);
    body["model"] = json!("gpt-4o");
    body["ignore_eos"] = json!(true);
    body["logprobs"] = json!(true);
    body["top_logprobs"] = json!(3);
    let whole = server.ask(&body);
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(whole["usage"]["completion_tokens"], 8);
    body["stream"] = json!(true);
    body["return_progress"] = json!(true);
    body["stream_options"] = json!({ "include_usage": true });
    body["cache_prompt"] = json!(false);
    let reply = server.post("/v1/chat/completions", &body);
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    assert_eq!((reply.header("x-accel-buffering"), reply.header("cache-control")), (Some("no"), Some("no-store")));
    assert!(reply.text().starts_with(": queued\n\n"));
    let chunks = events(&reply.text());
    let of = |chunk: &Value| chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_string();
    assert_eq!(chunks.iter().map(of).collect::<String>(), content(&whole));
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"] && chunk["object"] == "chat.completion.chunk"));
    let first = chunks.iter().find(|chunk| chunk.get("prompt_progress").is_none()).unwrap();
    assert_eq!(first["choices"][0]["delta"]["role"], "assistant");
    let usage = chunks.last().unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(8)));
    let end = &chunks[chunks.len() - 2];
    assert_eq!(end["choices"][0]["finish_reason"], "length");
    assert_eq!(end["longtake"]["media"][0]["name"], "v.mp4");
    // Progress only goes on, and says what is done.
    let progress: Vec<&Value> = chunks.iter().filter_map(|chunk| chunk.get("prompt_progress")).collect();
    assert!(!progress.is_empty());
    let processed: Vec<u64> = progress.iter().map(|p| p["processed"].as_u64().unwrap()).collect();
    assert!(processed.is_sorted(), "{processed:?}");
    // Log probabilities are in OpenAI's form, the same in both, and add up to no more than one.
    let logs = |chunks: &[Value]| -> Vec<Value> {
        chunks
            .iter()
            .flat_map(|c| c["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default())
            .collect()
    };
    let (streamed, at_once) = (logs(&chunks), logs(std::slice::from_ref(&whole)));
    assert_eq!(streamed.len(), 8);
    assert_eq!(streamed, at_once);
    for log in &streamed {
        let top = log["top_logprobs"].as_array().unwrap();
        let sum: f64 = top.iter().map(|t| t["logprob"].as_f64().unwrap().exp()).sum();
        assert!(top.len() == 3 && sum <= 1.0 + 1e-4, "{log}");
        assert_eq!(log["token"], top[0]["token"], "greedy is the likeliest");
    }
}

#[test]
fn stop_strings_end_an_answer_and_never_show() {
    let server = Server::start(&["--no-store"]);
    let body = json!({ "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 12, "ignore_eos": true });
    let whole = content(&server.ask(&body)).to_string();
    let words: Vec<char> = whole.chars().collect();
    assert!(words.len() > 4, "{whole:?}");
    let stop: String = words[2..4].iter().collect();
    let at = whole.find(&stop).unwrap();
    for is_stream in [false, true] {
        let mut body = body.clone();
        body["stop"] = json!([stop, "never"]);
        body["stream"] = json!(is_stream);
        let reply = server.post("/v1/chat/completions", &body);
        let said = match is_stream {
            false => content(&reply.json()).to_string(),
            true => events(&reply.text())
                .iter()
                .filter_map(|c| c["choices"][0]["delta"]["content"].as_str().map(str::to_string))
                .collect(),
        };
        assert_eq!(said, whole[..at]);
        assert!(reply.text().contains("\"finish_reason\":\"stop\""));
    }
    // A seed makes a draw the same again.
    let drawn = |seed: u64| {
        let mut body = body.clone();
        (body["temperature"], body["seed"]) = (json!(5.0), json!(seed));
        content(&server.ask(&body)).to_string()
    };
    assert_eq!(drawn(7), drawn(7));
    assert!((0..8).any(|seed| drawn(seed) != drawn(7)));
}

#[test]
fn what_does_not_fit_is_said_with_numbers_before_anything_is_read() {
    let server = Server::start(&["-c", "2048"]);
    let id = server.upload(&video(40).bytes, "long.mp4");
    let plan = server.post("/v1/plan", &question(&id, "What?")).json();
    assert!(plan["n_media"].as_u64().unwrap() < 2048 && !plan["reduced"].as_array().unwrap().is_empty(), "{plan}");
    let medium = &plan["media"][0];
    assert!(medium["reduced"] == plan["reduced"] && medium["id"].as_str().unwrap().len() == 32, "{plan}");
    assert_eq!(plan["n_ctx"], 2048);
    let n = server.post("/v1/chat/completions/input_tokens", &question(&id, "What?")).json();
    assert_eq!(n["input_tokens"], plan["n_prompt"]);
    let mut body = question(&id, "What?");
    body["longtake"] = json!({ "context": 64 });
    server.post("/v1/chat/completions", &body).refused(400, "video_does_not_fit");
    body["longtake"] = json!({ "max_memory": "1M" });
    let error = server.post("/v1/chat/completions", &body).refused(400, "video_does_not_fit");
    assert!(error["message"].as_str().unwrap().contains("1048576"), "{error}");
    body["longtake"] = json!({ "context": 4096 });
    server.post("/v1/chat/completions", &body).refused(400, "invalid_value");
    let long = json!({ "messages": [{ "role": "user", "content": "diamond ".repeat(4000) }] });
    server.post("/v1/chat/completions", &long).refused(400, "context_length_exceeded");
    let mut other = question(&id, "What?");
    other["model"] = json!("gpt-5");
    let error = server.post("/v1/chat/completions", &other).refused(404, "model_not_found");
    assert!(error["message"].as_str().unwrap().contains("symbols"), "{error}");
    assert_eq!(server.frames_read(), 0.0);
    // Tokens are counted as the model counts them.
    let tokens = server.post("/v1/tokenize", &json!({ "content": "diamond diamond" })).json();
    assert_eq!(tokens["count"].as_u64().unwrap() as usize, tokens["tokens"].as_array().unwrap().len());
}

#[test]
fn pictures_and_lists_of_frames_are_media_like_others() {
    let server = Server::start(&["--no-store"]);
    let picture = |shade: u8| {
        let mut png = Vec::new();
        let image = image::RgbImage::from_pixel(56, 56, image::Rgb([shade, 0, 0]));
        image.write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
        base64::prelude::BASE64_STANDARD.encode(png)
    };
    let url = |shade: u8| format!("data:image/png;base64,{}", picture(shade));
    let ask = |part: Value| {
        let answer = server.ask(&json!({ "messages": [{ "role": "user", "content": [part, { "type": "text", "text": "?" }] }], "max_tokens": 2 }));
        answer["longtake"]["media"][0].clone()
    };
    let one = ask(json!({ "type": "image_url", "image_url": { "url": url(1), "detail": "low" } }));
    assert_eq!((&one["type"], &one["frames"], &one["name"]), (&json!("image"), &json!(1), &json!("picture 1")));
    let four = ask(json!({ "type": "video", "video": [url(1), url(2), url(3), url(4)] }));
    assert_eq!((&four["type"], &four["frames"]), (&json!("video"), &json!(4)));
    let jpegs = ask(
        json!({ "type": "video_url", "video_url": { "url": format!("data:video/jpeg;base64,{},{}", picture(5), picture(6)) } }),
    );
    assert_eq!((&jpegs["type"], &jpegs["frames"]), (&json!("video"), &json!(2)));
}

#[test]
fn where_an_answer_looked_is_told_to_who_asks_and_to_nobody_else() {
    let server = Server::start(&["--parallel", "4"]);
    let video = video(6);
    let id = server.upload(&video.bytes, "v.mp4");
    let body = |looks: bool| {
        let mut body = question(&id, &video.question);
        if looks {
            body["longtake"] = json!({ "where": true });
        }
        body
    };
    let plain = server.ask(&body(false));
    assert!(plain["longtake"].get("where").is_none());
    let whole = server.ask(&body(true));
    assert_eq!(content(&whole), content(&plain));
    let looked = &whole["longtake"]["where"];
    let sum = |shares: &mut dyn Iterator<Item = f64>| -> f64 { shares.sum() };
    let shares = sum(&mut looked["shares"].as_object().unwrap().values().map(|share| share.as_f64().unwrap()));
    assert!((shares - 1.0).abs() < 1e-9, "{looked}");
    let medium = &looked["media"][0];
    let pairs = medium["pairs"].as_array().unwrap();
    assert_eq!((pairs.len(), &medium["source"]), (6, &json!("v.mp4")));
    assert!((sum(&mut pairs.iter().map(|pair| pair["among"].as_f64().unwrap())) - 1.0).abs() < 1e-9, "{looked}");
    assert_eq!(looked["tokens"], whole["usage"]["completion_tokens"]);
    // Streamed, it comes with the last chunk of the answer.
    let mut streamed = body(true);
    streamed["stream"] = json!(true);
    let chunks = events(&server.post("/v1/chat/completions", &streamed).text());
    let told: Vec<&Value> = chunks.iter().filter_map(|chunk| chunk["longtake"].get("where")).collect();
    assert_eq!(told.len(), 1);
    assert!(chunks.last().unwrap()["longtake"].get("where").is_some() && told[0]["text"] == looked["text"]);
    // Several at once, of which some ask: each gets its own, and the answers are the same. Some read the video anew, many tokens
    // a step, where attention rounds otherwise than over the last token alone: figures agree, not their last digits.
    let among = |looked: &Value| -> Vec<f64> {
        let pairs = looked["media"][0]["pairs"].as_array().unwrap();
        pairs.iter().map(|pair| pair["among"].as_f64().unwrap()).collect()
    };
    std::thread::scope(|scope| {
        let (server, body) = (&server, &body);
        let ask = |looks: bool| (looks, scope.spawn(move || server.ask(&body(looks))));
        for (looks, asked) in [true, false, true, false].map(ask) {
            let answer = asked.join().unwrap();
            assert_eq!(content(&answer), content(&plain));
            let told = answer["longtake"].get("where");
            assert_eq!(told.is_some(), looks);
            let Some(told) = told else { continue };
            assert_eq!((&told["tokens"], told["text"].is_string()), (&looked["tokens"], true));
            let (told, whole) = (among(told), among(looked));
            assert_eq!(told.len(), whole.len());
            assert!(told.iter().zip(&whole).all(|(a, b)| (a - b).abs() < 1e-3), "{told:?} and alone {whole:?}");
        }
    });
    let mut wrong = body(false);
    wrong["longtake"] = json!({ "where": "yes" });
    assert_eq!(server.post("/v1/chat/completions", &wrong).refused(400, "invalid_value")["param"], "longtake.where");
}
