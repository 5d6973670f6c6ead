//! Asks a model every question of a collection. The questions of one video share its filled cache.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::{Collection, Item, Log, Picked, Task, Words, pick, subtitles};
use crate::stream::{
    Engine, Event, Events, GenerateOptions, MediaOptions, MediaPlan, Prompt, Session, SessionOptions, Unit,
    conversation,
};
use crate::text::template::RenderOptions;
use crate::text::{Sampler, SamplerOptions};
use crate::{Error, ErrorKind, Result};

/// How to ask.
#[derive(Debug, Clone)]
pub struct RunOptions {
    pub media: MediaOptions,
    /// Sizes of the session; 0 slots: what a video and its questions need.
    pub session: SessionOptions,
    /// Tokens of an answer at most.
    pub n_predict: usize,
    pub words: Words,
    /// Put subtitles into the prompt, where the collection knows how.
    pub subtitles: bool,
    /// The first so many questions only.
    pub limit: Option<usize>,
    /// Seed of guessed letters.
    pub seed: u64,
}

/// What happens while questions are asked.
pub enum Step<'a> {
    /// So many questions are answered, of so many whose videos are there.
    Answered { n_done: usize, n_total: usize, id: &'a str },
    /// A question could not be asked; the run goes on.
    Failed { id: &'a str, error: &'a Error },
    /// What the session does.
    Session(Event),
}

/// What became of the questions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Answered in this run, and in earlier ones.
    pub n_answered: usize,
    pub n_before: usize,
    /// Without their video.
    pub n_missing: usize,
    /// Whose video could not be read.
    pub n_failed: usize,
}

/// Asks what has no response in `log` yet, and writes each response there at once.
///
/// # Errors
/// What ends the whole run: a model that fails, memory, a results file that cannot be written, cancellation. A video that
/// cannot be read only fails its questions.
pub fn run(
    engine: &Arc<Engine>,
    collection: &mut Collection,
    options: &RunOptions,
    log: &mut Log,
    cancel: &AtomicBool,
    tell: &mut dyn FnMut(Step<'_>),
) -> Result<Outcome> {
    let items: Vec<Item> = collection.items.iter().take(options.limit.unwrap_or(usize::MAX)).cloned().collect();
    let mut outcome = Outcome::default();
    // Videos in the order in which they first appear, each with all its questions.
    let (mut videos, mut at): (Vec<Vec<&Item>>, HashMap<&str, usize>) = (Vec::new(), HashMap::new());
    for item in &items {
        let index = *at.entry(item.video.as_str()).or_insert(videos.len());
        if index == videos.len() {
            videos.push(Vec::new());
        }
        videos[index].push(item);
    }
    let mut found = Vec::new();
    for mut questions in videos {
        match collection.video(questions[0])? {
            None => outcome.n_missing += questions.len(),
            Some(path) => {
                let n = questions.len();
                questions.retain(|item| !log.responses().contains_key(&item.id));
                outcome.n_before += n - questions.len();
                found.push((path, questions));
            }
        }
    }
    let n_total = outcome.n_before + found.iter().map(|(_, questions)| questions.len()).sum::<usize>();
    let mut session: Option<Session> = None;
    for (path, questions) in found.iter().filter(|(_, questions)| !questions.is_empty()) {
        let mut prepared = match Prepared::new(engine, collection, options, path, questions) {
            Ok(prepared) => prepared,
            Err(error) => {
                for item in questions {
                    tell(Step::Failed { id: &item.id, error: &error });
                }
                outcome.n_failed += questions.len();
                continue;
            }
        };
        let n_ctx = if options.session.n_ctx > 0 { options.session.n_ctx } else { prepared.n_ctx };
        if session.as_ref().is_none_or(|session| session.n_ctx() < n_ctx) {
            // The old cache goes before the new one comes.
            drop(session.take());
            session = Some(Session::new(engine, SessionOptions { n_ctx, ..options.session })?);
        }
        let session = session.as_mut().expect("it was made above");
        for (item, units) in questions.iter().zip(std::mem::take(&mut prepared.units)) {
            prepared.prompt.units = units;
            let started = Instant::now();
            let fed = session.feed(&mut prepared.prompt, &mut Events::new(&mut |e| tell(Step::Session(e)), cancel));
            if let Err(error) = fed {
                if error.kind() == ErrorKind::Cancelled {
                    return Err(error);
                }
                tell(Step::Failed { id: &item.id, error: &error });
                outcome.n_failed += 1;
                // Frames are read forward only: what was begun cannot be gone on with.
                match Prepared::new(engine, collection, options, path, &[]) {
                    Ok(again) => prepared.prompt.videos = again.prompt.videos,
                    Err(_) => continue,
                }
                continue;
            }
            let n_prompt = session.n_past();
            let mut sampler = Sampler::new(SamplerOptions { temp: 0.0, ..SamplerOptions::default() })?;
            let generate = GenerateOptions { n_predict: options.n_predict, ignore_eos: false };
            let mut text = String::new();
            let mut keep = |piece: &str| {
                text.push_str(piece);
                ControlFlow::Continue(())
            };
            let mut sink = |e| tell(Step::Session(e));
            let mut events = Events::new(&mut sink, cancel);
            session.generate(&mut sampler, generate, &mut events, &mut keep)?;
            let more = describe(collection.task, item, &text, options.seed, n_prompt, started);
            log.push(&item.id, &text, more)?;
            outcome.n_answered += 1;
            tell(Step::Answered { n_done: outcome.n_before + outcome.n_answered, n_total, id: &item.id });
        }
    }
    Ok(outcome)
}

/// What a line of results says besides the response.
fn describe(task: Task, item: &Item, text: &str, seed: u64, n_prompt: usize, started: Instant) -> Map<String, Value> {
    let Picked { letter, harness, guessed } = pick(task, item, text, seed);
    let groups: Map<String, Value> = item.groups.iter().map(|(kind, name)| (kind.to_string(), json!(name))).collect();
    let key = item.letter();
    let line = json!({
        "video": item.video, "letter": letter, "harness_letter": harness, "guessed": guessed, "answer": key,
        "right": key.map(|key| letter == Some(key)), "n_prompt": n_prompt,
        "seconds": (started.elapsed().as_secs_f64() * 1e3).round() / 1e3, "groups": groups,
    });
    match line {
        Value::Object(line) => line,
        _ => unreachable!("it was written as a map"),
    }
}

/// A video and its questions, ready to be fed.
struct Prepared {
    prompt: Prompt,
    /// Of each question.
    units: Vec<Vec<Unit>>,
    /// Slots for the longest of them and its answer.
    n_ctx: usize,
}

impl Prepared {
    fn new(
        engine: &Engine,
        collection: &Collection,
        options: &RunOptions,
        path: &Path,
        questions: &[&Item],
    ) -> Result<Prepared> {
        let plan = MediaPlan::video(path, &options.media, engine.need_vision()?)?;
        let lines = match questions.first() {
            Some(item) if options.subtitles => subtitle_lines(collection, item, &plan)?,
            _ => None,
        };
        let render = RenderOptions { add_generation_prompt: true, add_vision_id: false, special: false, tools: &[] };
        let units = |item: &&Item| {
            let text = collection.task.prompt(item, &options.words, lines.as_deref());
            Prompt::units(engine, &conversation(None, &path.display().to_string(), &text), render)
        };
        let units = questions.iter().map(units).collect::<Result<Vec<_>>>()?;
        // The video takes the place of one unit.
        let longest = units.iter().map(Vec::len).max().unwrap_or(1);
        let n_ctx = longest.saturating_sub(1) + plan.n_tokens + options.n_predict;
        Ok(Prepared { prompt: Prompt { units: Vec::new(), images: Vec::new(), videos: vec![plan] }, units, n_ctx })
    }
}

/// The subtitles that are on screen at the frames of `plan`, if there are any.
fn subtitle_lines(collection: &Collection, item: &Item, plan: &MediaPlan) -> Result<Option<String>> {
    let (Some(path), Some(info)) = (collection.subtitles(item)?, &plan.info) else { return Ok(None) };
    let times: Vec<f64> = plan.frames.iter().map(|frame| *frame as f64 / info.fps).collect();
    let lines = subtitles::at_times(&subtitles::read_srt(&path)?, &times)?;
    Ok((!lines.is_empty()).then_some(lines))
}
