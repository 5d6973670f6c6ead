//! Watching a video into a take, and going on where that was left.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::{
    Budget, Cost, Engine, Events, IfExists, Limits, MediaKind, MediaPlan, Prompt, Session, SessionOptions, Take,
    TakeHeader, TakeWriter, Unit, WatchRequest, fingerprint,
};
use crate::error::Context;
use crate::text::template::RenderOptions;
use crate::text::{Content, MediaSource, Message, Part};
use crate::{Error, Result};

/// A video on its way into a take.
pub struct Watch {
    session: Session,
    prompt: Prompt,
    header: TakeHeader,
    /// The video's file, and what the system said of it before it was hashed.
    video: PathBuf,
    stamp: Option<Stamp>,
}

/// Size and time of change.
type Stamp = (u64, Option<SystemTime>);

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = path.metadata().ok()?;
    Some((meta.len(), meta.modified().ok()))
}

/// Token ids that surround a video, whatever the question.
pub struct Around {
    /// Before it.
    pub before: Vec<u32>,
    /// Behind it.
    pub after: Vec<u32>,
}

impl Around {
    /// What the chat template puts around a video under this system prompt.
    ///
    /// # Errors
    /// Template errors; a template that puts the question before the video.
    pub fn of(engine: &Engine, system_prompt: Option<&str>) -> Result<Around> {
        let units = |question: &str| question_units(engine, system_prompt, "", question, false);
        let (one, other) = (units("Who?")?, units("1 + 1 =")?);
        let same = one.iter().zip(&other).take_while(|(a, b)| a == b).map(|(unit, _)| *unit);
        let (mut around, mut seen) = (Around { before: Vec::new(), after: Vec::new() }, false);
        for unit in same {
            match unit {
                Unit::Token(id) if seen => around.after.push(id),
                Unit::Token(id) => around.before.push(id),
                Unit::Media { .. } => seen = true,
            }
        }
        if !seen {
            return Err(Error::unsupported("the chat template puts the question before the video"));
        }
        Ok(around)
    }

    /// Tokens.
    pub fn n_tokens(&self) -> usize {
        self.before.len() + self.after.len()
    }

    /// The prompt of the video alone, with what is around it, which is less where stamps replace the template's markers.
    fn join(self, engine: &Engine, plan: MediaPlan) -> Result<(Around, Prompt)> {
        let mut prompt = self.around(plan);
        prompt.tell_time(&engine.tokenizer)?;
        let at = prompt.units.iter().position(|unit| matches!(unit, Unit::Media { .. })).unwrap_or(0);
        let ids = |units: &[Unit]| -> Vec<u32> {
            units.iter().filter_map(|unit| if let Unit::Token(id) = unit { Some(*id) } else { None }).collect()
        };
        Ok((Around { before: ids(&prompt.units[..at]), after: ids(&prompt.units[at..]) }, prompt))
    }

    /// The same of words as they are.
    fn around(&self, plan: MediaPlan) -> Prompt {
        let tokens = |ids: &[u32]| ids.iter().map(|id| Unit::Token(*id)).collect::<Vec<_>>();
        let video = Unit::Media { kind: MediaKind::Video, index: 0 };
        let units = [tokens(&self.before), vec![video], tokens(&self.after)].concat();
        Prompt { units, images: Vec::new(), videos: vec![plan] }
    }
}

/// The conversation in which a question about a watched video is asked.
pub fn conversation(system_prompt: Option<&str>, video: &str, question: &str) -> Vec<Message> {
    let source = MediaSource::Path(video.into());
    let parts = vec![Part::Video { source, options: serde_json::Map::new() }, Part::Text(question.to_string())];
    let system = system_prompt.map(|text| Message::new("system", Content::Text(text.into())));
    system.into_iter().chain([Message::new("user", Content::Parts(parts))]).collect()
}

fn question_units(
    engine: &Engine,
    system_prompt: Option<&str>,
    video: &str,
    question: &str,
    special: bool,
) -> Result<Vec<Unit>> {
    let render = RenderOptions { add_generation_prompt: true, add_vision_id: false, special, tools: &[] };
    Prompt::units(engine, &conversation(system_prompt, video, question), render)
}

/// A question about the video of a take, for a session [from it](Session::from_take); `special` as in [`RenderOptions`].
///
/// # Errors
/// Template errors.
pub fn question(engine: &Engine, header: &TakeHeader, question: &str, special: bool) -> Result<Prompt> {
    let units = question_units(engine, header.system_prompt.as_deref(), &header.source, question, special)?;
    let mut prompt = Prompt { units, images: Vec::new(), videos: vec![MediaPlan::watched(header)] };
    prompt.tell_time(&engine.tokenizer)?;
    Ok(prompt)
}

impl Watch {
    /// Makes a new take of what was planned for `request`, between the tokens `around`, in a context of `n_ctx` slots.
    ///
    /// # Errors
    /// A take that may not be replaced or cannot be written, a context that is too small, memory that cannot be had.
    pub fn begin(
        engine: &Arc<Engine>,
        request: &WatchRequest<'_>,
        (plan, around, n_ctx): (MediaPlan, Around, usize),
        (take, if_exists): (&Path, IfExists),
    ) -> Result<Watch> {
        let stamp = stamp(request.video);
        let (source_fingerprint, source_bytes) = fingerprint::content(request.video)?;
        let options = SessionOptions { n_ctx, ..request.options };
        let (around, prompt) = around.join(engine, plan)?;
        let plan = &prompt.videos[0];
        let header = TakeHeader {
            source: request.video.display().to_string(),
            source_bytes,
            source_fingerprint,
            asked: Some(request.asked(&engine.need_vision()?.hparams().video.form)),
            ..TakeHeader::of(engine, plan, &options, (&around.before, &around.after), request.system_prompt)?
        };
        let mut session = Session::new(engine, options)?;
        session.record(TakeWriter::create(take, &header, if_exists)?);
        Ok(Watch::new(session, header, prompt, (request.video, stamp)))
    }

    /// What going on with an incomplete take will cost.
    ///
    /// # Errors
    /// Those of [`Budget::fit_video`].
    pub fn cost_of_rest(engine: &Arc<Engine>, request: &WatchRequest<'_>, take: &Take) -> Result<Cost> {
        let limits = Limits { n_ctx: Some(take.header.shape.n_ctx), ..Limits::default() };
        Ok(Budget::new(engine, limits, request.options).fit_video(request.video, request.media, 0)?.1)
    }

    /// Goes on with an incomplete take, as it was planned.
    ///
    /// # Errors
    /// A take of anything else than `request` asks for ([`Take::check_same`]); a take that somebody else is using.
    pub fn resume(engine: &Arc<Engine>, request: &WatchRequest<'_>, take: Take) -> Result<Watch> {
        let stamp = stamp(request.video);
        take.check_same(engine, request)?;
        let header = take.header.clone();
        let plan = MediaPlan::again(request.video, request.media, &header, engine.need_vision()?)?;
        if header.n_encode != Session::pairs_at_once(plan.grid.h, plan.grid.w) {
            let message = format!("was begun with steps of `{}` frame pairs", header.n_encode);
            return Err(Error::mismatch(message).at(take.path().display().to_string()));
        }
        let mut session = Session::from_take(engine, &take)?;
        session.record(TakeWriter::resume(take)?);
        let prompt = Around { before: header.before.clone(), after: header.after.clone() }.around(plan);
        Ok(Watch::new(session, header, prompt, (request.video, stamp)))
    }

    fn new(session: Session, header: TakeHeader, prompt: Prompt, (file, stamp): (&Path, Option<Stamp>)) -> Watch {
        Watch { session, prompt, header, video: file.to_path_buf(), stamp }
    }

    /// Time between checkpoints.
    pub fn set_interval(&mut self, every: std::time::Duration) {
        self.session.recorder_mut().expect("it is being recorded").set_interval(every);
    }

    /// Tokens when the whole video is in; at most, as long as it is not, where something is left out.
    pub fn n_total(&self) -> usize {
        self.header.n_tokens()
    }

    /// Tokens that are in.
    pub fn n_done(&self) -> usize {
        self.session.n_past()
    }

    /// Watches to the end.
    ///
    /// # Errors
    /// What [`Session::feed`] says; the take holds what was watched until then. A video that was written to meanwhile.
    pub fn run(&mut self, events: &mut Events<'_>) -> Result<()> {
        let place = || self.video.display().to_string();
        self.session.feed(&mut self.prompt, events).at(place)?;
        // One that is gone was open, and is what it was.
        if stamp(&self.video).is_some_and(|now| Some(now) != self.stamp) {
            let message = "changed while it was watched: the take may hold frames of both; pass --again to watch anew";
            return Err(Error::mismatch(message).at(place()));
        }
        if self.header.leaves_out() && self.header.kept.is_none() {
            // Now it is known how much was read.
            self.header.kept.clone_from(&self.prompt.videos[0].kept);
            self.session.finish_record(&self.header)?;
        }
        Ok(())
    }
}
