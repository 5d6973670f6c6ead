//! The facade on the embedded model: talks, plans, takes, stops.

use std::sync::{Arc, Mutex};

use longtake::stream::{Event, Finish};
use longtake::text::Form;
use longtake::{Answer, Chat, ChatOptions, ErrorKind, Longtake};

const VIDEO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/symbols/symbols.mp4");
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/symbols/symbols.gguf");
const SHAPE: &str = "What shape is shown?";
const COLOR: &str = "What color is shown?";

fn longtake() -> Longtake {
    crate::common::choose_kernels();
    Longtake::open(MODEL).unwrap()
}

fn text(chat: &mut Chat, question: &str) -> String {
    chat.ask(question).unwrap().into_text().unwrap()
}

#[test]
fn talks_and_answers_go_wherever_they_are_wanted() {
    fn anywhere<T: Send + 'static>() {}
    anywhere::<Chat>();
    anywhere::<Answer>();
    anywhere::<Longtake>();
}

#[test]
fn a_talk_reads_its_video_once() {
    let mut chat = longtake().chat().video(VIDEO);
    let mut answer = chat.ask(SHAPE).unwrap();
    let pieces: Vec<String> = answer.by_ref().map(|piece| piece.unwrap()).collect();
    assert_eq!(pieces.concat(), "ring");
    let first = answer.usage();
    assert!(first.prompt_tokens > 1152 && first.cached_tokens == 0 && first.completion_tokens > 0, "{first:?}");
    assert_eq!((answer.text(), answer.finish()), ("ring", Some(Finish::Stop)));
    let mut answer = chat.ask(COLOR).unwrap();
    assert!(answer.by_ref().all(|piece| piece.is_ok()));
    // The question and answer before it are part of the talk.
    let second = answer.usage();
    assert!(second.cached_tokens > 1152 && second.prompt_tokens > first.prompt_tokens + 10, "{second:?}");
}

#[test]
fn a_plan_reads_nothing_and_limits_hold() {
    let events = Arc::new(Mutex::new(0));
    let count = Arc::clone(&events);
    let mut chat = longtake().chat().video(VIDEO).on_event(move |_| *count.lock().unwrap() += 1);
    let plan = chat.plan("").unwrap();
    let [medium] = plan.media.as_slice() else { panic!("{plan:?}") };
    assert_eq!((medium.n_frames, medium.n_tokens), (16, 1152));
    assert!(plan.cost.memory() > 0 && plan.cost.reduced.is_empty() && *events.lock().unwrap() == 0);
    let tight = ChatOptions::default().ctx_size(700).max_tokens(16);
    let mut chat = longtake().chat().options(tight).video(VIDEO);
    let plan = chat.plan(SHAPE).unwrap();
    assert!(plan.media[0].n_tokens < 700 && !plan.cost.reduced.is_empty() && plan.cost.n_ctx == 700, "{plan:?}");
    chat.ask(SHAPE).unwrap().into_text().unwrap();
    let mut chat = longtake().chat().options(ChatOptions::default().max_memory(1 << 20)).video(VIDEO);
    assert_eq!(chat.ask(SHAPE).err().unwrap().kind(), ErrorKind::Limit);
}

#[test]
fn answers_stop_and_talks_go_on() {
    let mut chat = longtake().chat().video(VIDEO);
    // One at a time.
    let answer = chat.ask(SHAPE).unwrap();
    assert_eq!(chat.ask(COLOR).err().unwrap().kind(), ErrorKind::Busy);
    drop(answer);
    let want = text(&mut longtake().chat().video(VIDEO).text("Look closely."), SHAPE);
    // A stopped question did not happen: what waited for it waits for the next one.
    let mut chat = longtake().chat().video(VIDEO).text("Look closely.");
    let cancel = chat.cancel();
    cancel.cancel();
    assert_eq!(chat.ask(COLOR).err().unwrap().kind(), ErrorKind::Cancelled);
    cancel.clear();
    assert_eq!(text(&mut chat, SHAPE), want);
    // Stopped while it reads, from where its events are told.
    let mut slow = longtake().chat().options(ChatOptions::default().batch_size(64)).video(VIDEO);
    let stop = slow.cancel();
    slow = slow.on_event(move |event| {
        if matches!(event, Event::Prefilled { n_done, .. } if n_done >= 512) {
            stop.cancel();
        }
    });
    assert_eq!(slow.ask(SHAPE).err().unwrap().kind(), ErrorKind::Cancelled);
    slow.cancel().clear();
    slow = slow.on_event(|_| {});
    assert_eq!(text(&mut slow, SHAPE), "ring");
    // Stopped by who reads it.
    let mut answer = slow.ask(SHAPE).unwrap();
    answer.stop();
    assert!(answer.next().is_none() && answer.finish() == Some(Finish::Caller));
}

#[test]
fn a_take_is_watched_once_and_asked_often() {
    let dir = tempfile::tempdir().unwrap();
    let take = dir.path().join("symbols.take");
    let longtake = longtake();
    let first = longtake.watch(VIDEO).into_take(&take).unwrap();
    assert!(first.n_before == 0 && first.n_tokens > 1152);
    let again = longtake.watch(VIDEO).into_take(&take).unwrap();
    assert_eq!((again.n_before, again.n_tokens), (first.n_tokens, first.n_tokens));
    let mut about = longtake.chat_about(&take).unwrap();
    assert_eq!(text(&mut about, SHAPE), "ring");
    let mut answer = about.ask(COLOR).unwrap();
    assert!(answer.usage().cached_tokens > first.n_tokens && answer.next().is_some());
    assert_eq!(longtake.chat_about(dir.path().join("none")).err().unwrap().kind(), ErrorKind::NotFound);
}

#[test]
fn faults_are_told_by_the_question() {
    let mut chat = longtake().chat().video("no/such/video.mp4");
    let error = chat.ask(SHAPE).err().unwrap();
    assert!(error.kind() == ErrorKind::NotFound && error.to_string().contains("video.mp4"), "{error}");
    let mut chat = longtake().chat().options(ChatOptions::default().batch_size(0));
    assert_eq!(chat.ask(SHAPE).err().unwrap().kind(), ErrorKind::BadInput);
    let mut chat = longtake().chat().system("Be brief.").system("Be long.");
    assert_eq!(chat.ask(SHAPE).err().unwrap().kind(), ErrorKind::BadInput);
    assert_eq!(Longtake::open("none.gguf").err().unwrap().kind(), ErrorKind::NotFound);
}

#[test]
fn an_answer_has_the_form_that_is_demanded() {
    let ask = |form: Form| {
        let mut chat = longtake().chat().options(ChatOptions::default().form(form)).video(VIDEO);
        text(&mut chat, SHAPE)
    };
    assert_eq!(ask(Form::Choice(vec!["triangle".into(), "ring".into()])), "ring");
    let schema = serde_json::json!({ "type": "object", "properties": { "shape": { "enum": ["ring", "star"] } }, "required": ["shape"], "additionalProperties": false });
    let answer: serde_json::Value = serde_json::from_str(&ask(Form::Schema(schema))).unwrap();
    assert_eq!(answer["shape"], "ring");
    let broken = ChatOptions::default().form(Form::Grammar("root ::= nobody".into()));
    assert_eq!(longtake().chat().options(broken).ask("?").err().unwrap().kind(), ErrorKind::BadInput);
}
