//! Takes over HTTP: read once, asked often, gone on with after anything.

use std::time::Instant;

use longtake::gguf::Gguf;
use longtake::random::Rng;
use serde_json::{Value, json};

use crate::client::{Server, content, events, question, times, video};

/// The cache of a take: what the model saw, to the byte.
fn cache(server: &Server, id: &str) -> Vec<u8> {
    let file = Gguf::open(&server.data.join("takes").join(format!("{id}.take"))).unwrap();
    let of = |name: &str| file.data(file.tensor(name).unwrap()).to_vec();
    [of("cache.k"), of("cache.v")].concat()
}

fn status(server: &Server, id: &str) -> String {
    server.get(&format!("/v1/takes/{id}")).json()["status"].as_str().unwrap().to_string()
}

fn ready(server: &Server, id: &str) {
    server.until("ready", || {
        let take = server.get(&format!("/v1/takes/{id}")).json();
        assert_ne!(take["status"], "failed", "{take}");
        take["status"] == "ready"
    });
}

fn id_of(reply: &Value) -> String {
    reply["id"].as_str().unwrap().to_string()
}

#[test]
fn a_video_is_read_once_and_asked_at_once() {
    let server = Server::start(&[]);
    let video = video(6);
    let file = server.upload(&video.bytes, "v.mp4");
    let wanted = json!({ "file_id": file, "name": "clip", "reserve": 256, "system_prompt": "Be brief." });
    let reply = server.post("/v1/takes", &wanted);
    assert_eq!(reply.status, 202);
    let take = reply.json();
    let id = id_of(&take);
    assert_eq!(take["plan"]["media"][0]["frames"], video.n_frames);
    // Events say how it goes, and end.
    let told = events(&server.get(&format!("/v1/takes/{id}/events")).text());
    assert_eq!(told.last().unwrap()["status"], "ready");
    // The same again is the same take.
    let again = server.post("/v1/takes", &wanted);
    assert_eq!((again.status, id_of(&again.json())), (200, id.clone()));
    assert_eq!(server.get("/v1/takes").json()["data"].as_array().unwrap().len(), 1);
    let other = server.post("/v1/takes", &json!({ "file_id": file, "options": { "fps": 1 }, "reserve": 256 })).json();
    assert_ne!(other["id"], id.as_str());
    ready(&server, &id_of(&other));

    let read = server.frames_read();
    for part in [
        json!({ "type": "file", "file": { "file_id": id } }),
        json!({ "type": "video_url", "video_url": { "url": format!("longtake:{id}") } }),
    ] {
        let body =
            json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": video.question }, part] }] });
        let answer = server.ask(&body);
        assert_eq!(content(&answer), video.answer);
        let usage = &answer["usage"];
        let (n, cached) = (
            usage["prompt_tokens"].as_f64().unwrap(),
            usage["prompt_tokens_details"]["cached_tokens"].as_f64().unwrap(),
        );
        assert!(cached >= 0.9 * n && answer["longtake"]["media"][0]["source"] == "take", "{answer}");
    }
    assert_eq!(server.frames_read(), read);

    // A conversation goes on; two about one take do not meet.
    let turn = |text: &str, more: &[Value]| {
        let first = json!({ "role": "user", "content": [{ "type": "file", "file": { "file_id": id } }, { "type": "text", "text": text }] });
        let turns = [&[first], more].concat();
        json!({ "messages": turns, "max_tokens": 4 })
    };
    let more = [json!({ "role": "assistant", "content": "red" }), json!({ "role": "user", "content": video.question })];
    assert_eq!(content(&server.ask(&turn("Hello", &more))), content(&server.ask(&turn("Hello", &more))));

    // What would need another beginning is refused, and says why.
    let video_part = json!({ "type": "file", "file": { "file_id": id } });
    let refused = |messages: Value| {
        server.post("/v1/chat/completions", &json!({ "messages": messages })).refused(400, "take_prefix_mismatch")
    };
    refused(json!([{ "role": "system", "content": "Be verbose." }, { "role": "user", "content": [video_part] }]));
    refused(
        json!([{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": "Hi" }, { "role": "user", "content": [video_part] }]),
    );
    refused(json!([{ "role": "user", "content": [video_part, { "type": "file", "file": { "file_id": file } }] }]));
    refused(json!([{ "role": "user", "content": [{ "type": "file", "file": { "file_id": id }, "fps": 1 }] }]));
    let same = json!({ "messages": [{ "role": "system", "content": "Be brief." }, { "role": "user", "content": [video_part, { "type": "text", "text": video.question }] }] });
    assert_eq!(content(&server.ask(&same)), video.answer);
    // The context of a take is its own.
    let long = turn(&"diamond ".repeat(2000), &[]);
    server.post("/v1/chat/completions", &long).refused(400, "context_length_exceeded");

    // Everything is there after a kill, without the upload, too.
    assert_eq!(server.delete(&format!("/v1/files/{file}")).status, 200);
    let server = server.kill_and_restart();
    assert_eq!(content(&server.ask(&question(&id, &video.question))), video.answer);
    assert_eq!(server.frames_read(), 0.0);
    assert_eq!(server.delete(&format!("/v1/takes/{id}")).status, 200);
    server.post("/v1/chat/completions", &question(&id, "?")).refused(404, "take_not_found");
    server.get(&format!("/v1/takes/{id}")).refused(404, "take_not_found");
}

#[test]
fn a_kill_while_it_is_read_loses_a_checkpoint_at_most_and_changes_no_byte() {
    let video = video(40);
    let wanted = |file: &str| json!({ "file_id": file, "reserve": 64 });
    let calm = Server::start(&[]);
    let id = id_of(&calm.post("/v1/takes", &wanted(&calm.upload(&video.bytes, "v.mp4"))).json());
    ready(&calm, &id);
    let whole = cache(&calm, &id);
    drop(calm);

    let mut server = Server::start(&["--checkpoint", "0"]);
    let file = server.upload(&video.bytes, "v.mp4");
    let id = id_of(&server.post("/v1/takes", &wanted(&file)).json());
    for share in [0.1, 0.4, 0.7] {
        let progress = |server: &Server| {
            let take = server.get(&format!("/v1/takes/{id}")).json();
            take["progress"]["processed"].as_f64().unwrap_or(f64::MAX)
                / take["progress"]["total"].as_f64().unwrap_or(1.0).max(1.0)
        };
        server.until("some progress", || status(&server, &id) == "ready" || progress(&server) > share);
        server = server.kill_and_restart();
        // The same request finds it where it was.
        assert_eq!(id_of(&server.post("/v1/takes", &wanted(&file)).json()), id);
    }
    ready(&server, &id);
    assert!(cache(&server, &id) == whole, "the bytes differ");
    // It did not begin anew: fewer frames than there are went through the tower after the last kill.
    assert!(server.frames_read() < video.n_frames as f64);
    assert_eq!(content(&server.ask(&question(&id, &video.question))), video.answer);
}

/// Whatever it is doing: before the take is begun, within a checkpoint, or when it is just ready.
#[test]
fn kills_at_random_moments_change_no_byte() {
    let video = video(40);
    let mut server = Server::start(&["--checkpoint", "0"]);
    let wanted = json!({ "file_id": server.upload(&video.bytes, "v.mp4"), "reserve": 64 });
    let begin = |server: &Server| id_of(&server.post("/v1/takes", &wanted).json());
    let began = Instant::now();
    let id = begin(&server);
    ready(&server, &id);
    let (time, whole) = (began.elapsed(), cache(&server, &id));
    server.delete(&format!("/v1/takes/{id}"));
    let mut rng = Rng(11);
    let mut moment = || time.mul_f64(rng.below(1000) as f64 / 2000.0);
    let mut id = begin(&server);
    for _ in 0..times("LONGTAKE_SERVER_KILLS", 3) {
        std::thread::sleep(moment());
        server = server.kill_and_restart();
        // The same request finds it where it was.
        assert_eq!(begin(&server), id);
        if status(&server, &id) == "ready" {
            assert!(cache(&server, &id) == whole, "the bytes differ");
            server.delete(&format!("/v1/takes/{id}"));
            id = begin(&server);
        }
    }
    ready(&server, &id);
    assert!(cache(&server, &id) == whole, "the bytes differ");
    assert_eq!(content(&server.ask(&question(&id, &video.question))), video.answer);
}

#[test]
fn reading_can_be_paused_and_goes_on() {
    let server = Server::start(&["--checkpoint", "0"]);
    let file = server.upload(&video(40).bytes, "v.mp4");
    let id = id_of(&server.post("/v1/takes", &json!({ "file_id": file, "reserve": 64 })).json());
    server.until("reading", || {
        server.get(&format!("/v1/takes/{id}")).json()["progress"]["processed"].as_u64() > Some(600)
    });
    assert_eq!(server.post(&format!("/v1/takes/{id}/cancel"), &json!({})).json()["status"], "paused");
    let error = server.post("/v1/chat/completions", &question(&id, "?")).refused(400, "take_not_ready");
    assert!(error["message"].as_str().unwrap().contains("paused"), "{error}");
    // Somebody who asks while it is read waits for it, and hears of it.
    assert_eq!(server.post(&format!("/v1/takes/{id}/resume"), &json!({})).status, 200);
    let mut body = question(&id, &video(40).question);
    body["longtake"] = json!({ "wait": false });
    server.post("/v1/chat/completions", &body).refused(400, "take_not_ready");
    body["longtake"] = json!({});
    body["stream"] = json!(true);
    body["return_progress"] = json!(true);
    let chunks = events(&server.post("/v1/chat/completions", &body).text());
    let said: String =
        chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str().map(str::to_string)).collect();
    assert_eq!(said, video(40).answer);
    assert!(chunks[0].get("prompt_progress").is_some());
    server.get("/v1/takes/take-00000000000000000000000000000000").refused(404, "take_not_found");
    server
        .post("/v1/takes", &json!({ "file_id": "file-00000000000000000000000000000000" }))
        .refused(404, "file_not_found");
    server.post("/v1/takes", &json!({ "file_id": file, "optoins": {} })).refused(400, "unsupported_parameter");
}

#[test]
fn takes_that_the_command_line_wrote_are_there_to_ask_and_damage_is_told() {
    let server = Server::start(&[]);
    let file = server.upload(&video(6).bytes, "v.mp4");
    let id = id_of(&server.post("/v1/takes", &json!({ "file_id": file, "reserve": 64 })).json());
    ready(&server, &id);
    let takes = server.data.join("takes");
    let bytes = std::fs::read(takes.join(format!("{id}.take"))).unwrap();
    std::fs::write(takes.join("film.take"), &bytes).unwrap();
    let mut damaged = bytes;
    let at = damaged.len() / 4;
    damaged[at] ^= 1;
    std::fs::write(takes.join("film2.take"), &damaged).unwrap();
    let server = server.kill_and_restart();
    let of = |name: &str| {
        server.get("/v1/takes").json()["data"].as_array().unwrap().iter().find(|t| t["name"] == name).unwrap().clone()
    };
    server.until("looked at", || of("film.take")["status"] == "ready" && of("film2.take")["status"] == "failed");
    let (film, damaged) = (id_of(&of("film.take")), id_of(&of("film2.take")));
    assert_eq!(content(&server.ask(&question(&film, &video(6).question))), video(6).answer);
    server.post("/v1/chat/completions", &question(&damaged, "?")).refused(400, "take_not_ready");
    server.delete(&format!("/v1/takes/{film}")).refused(400, "invalid_value");
}
