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
    // Of all talks together: there is room for the least one, whose question is empty, or the model is not opened.
    let within = |n_bytes: u64| Longtake::open_with(MODEL, longtake::OpenOptions::default().max_memory(n_bytes));
    assert_eq!(text(&mut within(1 << 30).unwrap().chat().video(VIDEO), SHAPE), "ring");
    assert_eq!(within(24 << 20).err().unwrap().kind(), ErrorKind::Limit);
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
fn media_are_looked_at_before_they_are_asked_about() {
    let mut chat = longtake().chat().options(ChatOptions::default().ctx_size(2600));
    assert_eq!(chat.start().unwrap(), 2600);
    chat = chat.video(VIDEO);
    let loaded = chat.load().unwrap();
    let [(medium, cost)] = loaded.as_slice() else { panic!("{loaded:?}") };
    assert_eq!((medium.n_tokens, medium.n_pairs(), medium.frames.len()), (1152, 8, 16));
    assert!(cost.reduced.is_empty() && cost.n_ctx == 2600);
    // What is at fault is dropped, what was there stays; what is loaded is not planned again.
    chat = chat.video("no/such/video.mp4");
    assert_eq!(chat.load().err().unwrap().kind(), ErrorKind::NotFound);
    assert!(chat.load().unwrap().is_empty() && chat.plan("").unwrap().media.is_empty());
    assert_eq!(text(&mut chat, SHAPE), "ring");
    // Of what is left another has half: 2600 without 1152 of the first, what was said, and an eighth for answers.
    let another = chat.video(VIDEO).load().unwrap();
    assert!(another[0].0.n_tokens < 700 && !another[0].1.reduced.is_empty(), "{another:?}");
}

#[test]
fn a_question_is_taken_back_and_a_talk_begins_anew() {
    let mut chat = longtake().chat().options(ChatOptions::default().ctx_size(3000)).system("Be brief.").video(VIDEO);
    let (shape, usage) = {
        let mut answer = chat.ask(SHAPE).unwrap();
        assert!(answer.by_ref().all(|piece| piece.is_ok()));
        (answer.text().to_string(), answer.usage())
    };
    assert_eq!(chat.messages().unwrap().len(), 3);
    chat.take_back().unwrap();
    assert_eq!(chat.messages().unwrap().len(), 1);
    // The video waits again, and its rows are there.
    let mut again = chat.ask(SHAPE).unwrap();
    assert!(again.by_ref().all(|piece| piece.is_ok()) && again.text() == shape);
    assert!(again.usage().prompt_tokens == usage.prompt_tokens && again.usage().cached_tokens > 1152);
    drop(again);
    assert_eq!(chat.media().unwrap().len(), 1);
    chat.clear().unwrap();
    assert!(chat.media().unwrap().is_empty() && chat.messages().unwrap().len() == 1);
    let plain = chat.ask("Hello?").unwrap().usage();
    assert!(plain.cached_tokens == 0 && plain.prompt_tokens < 100, "{plain:?}");
}

#[test]
fn a_conversation_is_answered_as_it_stands_and_as_it_was_planned() {
    use longtake::text::{Content, MediaSource, Message, Part};
    let source = MediaSource::Path(std::path::Path::new(VIDEO).into());
    let video = Part::Video { source, options: Default::default() };
    let parts = vec![video, Part::Text(SHAPE.to_string())];
    let turns = vec![Message::new("user", Content::Parts(parts))];
    let mut chat = longtake().chat().conversation(turns.clone());
    let planned = chat.plan("").unwrap();
    let mut answer = chat.ask("").unwrap();
    assert_eq!(chat.media().err().unwrap().kind(), ErrorKind::Busy);
    assert!(answer.by_ref().all(|piece| piece.is_ok()) && answer.text() == "ring");
    assert_eq!(chat.media().unwrap(), planned.media);
    // It goes on like any talk, and says the same as one that was held here.
    let said = text(&mut chat, COLOR);
    let mut other = longtake().chat().video(VIDEO);
    assert_eq!((text(&mut other, SHAPE).as_str(), text(&mut other, COLOR)), ("ring", said));
    assert_eq!(chat.messages().unwrap()[0], turns[0]);
    // Its last turn is taken back like a question of this talk, and is there to be answered again.
    let mut again = longtake().chat().conversation(turns.clone());
    assert_eq!(text(&mut again, ""), "ring");
    again.take_back().unwrap();
    assert_eq!((text(&mut again, "").as_str(), again.messages().unwrap().len()), ("ring", 2));
    // A flag of the program's stops it.
    static STOP: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(true);
    let mut stopped = longtake().chat().conversation(turns).cancelled_by(longtake::Cancel::from_static(&STOP));
    assert_eq!(stopped.ask("").err().unwrap().kind(), ErrorKind::Cancelled);
    stopped.cancel().clear();
    assert_eq!(text(&mut stopped, ""), "ring");
}

#[test]
fn a_take_is_opened_before_it_is_watched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("symbols.take");
    let longtake = longtake();
    let open = longtake.watch(VIDEO).open(&path).unwrap();
    let plan = open.plan().unwrap();
    assert_eq!((plan.media[0].n_tokens, open.n_before(), open.n_total()), (1152, 0, None));
    assert!(!path.exists());
    let watched = open.run().unwrap();
    let open = longtake.watch(VIDEO).open(&path).unwrap();
    assert!(open.plan().is_none() && open.n_before() == watched.n_tokens && open.n_total() == Some(watched.n_tokens));
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
