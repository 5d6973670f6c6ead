//! What becomes of a stream's past when the context is full: drawn streams several times longer than the memory, with a symbol at any
//! depth, watched in the ways that there are and in others that a way to choose has to beat, all of them with as many slots. All
//! ways answer the same question about the same stream, so they are compared as [`left_out`](super::left_out) compares its own.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::drawn::AROUND;
use crate::drawn::hard::{Hard, HardVideo};
use crate::drawn::symbols::FPS;
use crate::media::sample::SampleOptions;
use crate::random::Rng;
use crate::stream::{
    Around, Control, Engine, Events, LiveEnd, LiveOptions, LivePlan, MediaOptions, Prompt, Session, SessionOptions,
    WhenFull, WholeVideo, Window, Worth, log_softmax, top,
};
use crate::text::template::RenderOptions;
use crate::text::{Content, MediaSource, Message, Part};
use crate::{Error, Result};

/// What is drawn, and how much of it can be remembered.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// Width and height of frames.
    pub frame: (usize, usize),
    /// Frame pairs of a stream.
    pub n_pairs: usize,
    /// Frame pairs for which there is room.
    pub n_room: usize,
    /// Of the session; its slots are as many as the room needs.
    pub session: SessionOptions,
    /// Of all that is drawn.
    pub seed: u64,
}

/// A way to remember a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// All of it, which takes more room than the others have.
    Whole,
    /// The newest pairs.
    Forget,
    /// What changed most.
    Compress,
    /// Every second pair, every fourth, and so on.
    Pairs,
    /// Tokens at random.
    Random,
    /// All frames, as small as they must be to fit, which only who knows the length can choose.
    Smaller,
}

impl Memory {
    /// All of them.
    pub const ALL: [Memory; 6] =
        [Memory::Whole, Memory::Forget, Memory::Compress, Memory::Pairs, Memory::Random, Memory::Smaller];

    /// As reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Memory::Whole => "whole",
            Memory::Forget => "forget",
            Memory::Compress => "compress",
            Memory::Pairs => "fewer pairs",
            Memory::Random => "tokens at random",
            Memory::Smaller => "smaller frames",
        }
    }

    fn when_full(self, seed: u64) -> WhenFull {
        match self {
            Memory::Whole => WhenFull::Stop,
            Memory::Forget | Memory::Smaller => WhenFull::Forget,
            Memory::Compress => WhenFull::Compress(Worth::Change),
            Memory::Pairs => WhenFull::Compress(Worth::Pairs),
            Memory::Random => WhenFull::Compress(Worth::Random(seed)),
        }
    }
}

/// How a stream went.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamOutcome {
    /// What was drawn.
    pub kind: Hard,
    /// Which of them.
    pub trial: u64,
    /// How far into the stream the symbol is, 0 to 1.
    pub depth: f64,
    /// How it was remembered.
    pub memory: Memory,
    /// The likeliest word was the right one.
    pub right: bool,
    /// Visual tokens in the context at the end.
    pub n_tokens: usize,
    /// Pairs that have any of them.
    pub n_pairs: usize,
    /// Tokens of the pair that shows the symbol.
    pub n_shown: usize,
}

/// Stream number `trial` of `n` of a kind, whose symbols are each in a part of its own of as many, remembered in every way.
///
/// # Errors
/// Sizes that cannot be drawn, a room that is too small, activations that are not finite, whatever is said through `cancel`.
pub fn trial(
    engine: &Arc<Engine>,
    options: &StreamOptions,
    (kind, trial, n): (Hard, u64, u64),
    cancel: &AtomicBool,
) -> Result<Vec<StreamOutcome>> {
    let place = Hard::ALL.iter().position(|known| *known == kind).unwrap_or_default() as u64;
    let seed = options.seed.wrapping_mul(1 << 32).wrapping_add((trial << 8) + place);
    // Anywhere in its part of the stream: even distances would meet the even distances of what is kept.
    let depth = (trial as f64 + Rng::new(seed ^ (0x44 << 56)).unit()) / n as f64;
    let video = Arc::new(HardVideo::new(seed, kind, options.frame, options.n_pairs, Some(depth))?);
    let asked = video.question().ok_or_else(|| Error::internal("a video with a symbol and no question"))?;
    let answer = engine.tokenizer.encode(asked.answer, false)?[0];
    let shown = video.needles()[0].pair;
    let depth = shown as f64 / options.n_pairs as f64;
    let mut outcomes = Vec::new();
    for memory in Memory::ALL {
        let (window, plan, session) = watch(engine, options, &video, (memory, seed), &asked.text, cancel)?;
        let right = top(&log_softmax(session.context().logits())) as u32 == answer;
        let n_held = window.n_pairs - window.n_forgotten;
        let tokens: Vec<usize> = (0..n_held).map(|pair| plan.videos[0].n_visual(pair)).collect();
        // The number of a pair's first frame says which it is.
        let is_shown = |held: &usize| plan.videos[0].frames[2 * held] / 2 == shown;
        let n_shown = (0..n_held).find(is_shown).map_or(0, |held| tokens[held]);
        let (n_tokens, n_pairs) = (tokens.iter().sum(), tokens.iter().filter(|n| **n > 0).count());
        outcomes.push(StreamOutcome { kind, trial, depth, memory, right, n_tokens, n_pairs, n_shown });
    }
    Ok(outcomes)
}

/// Watches a drawn stream and asks about it.
fn watch(
    engine: &Arc<Engine>,
    options: &StreamOptions,
    video: &Arc<HardVideo>,
    (memory, seed): (Memory, u64),
    question: &str,
    cancel: &AtomicBool,
) -> Result<(Window, Prompt, Session)> {
    let &StreamOptions { frame: (width, height), n_pairs, n_room, .. } = options;
    let hp = engine.need_vision()?.hparams();
    let sample = SampleOptions {
        fps: Some(f64::from(FPS)),
        resized_width: Some(width),
        resized_height: Some(height),
        ..SampleOptions::default()
    };
    let open = |sample: &SampleOptions| {
        let media = MediaOptions { sample: sample.clone(), ..MediaOptions::default() };
        let frames = Frames::of(Arc::clone(video), (width, height), 2 * n_pairs);
        LivePlan::open(frames, "drawn", &media, engine.need_vision()?, &|| false)
    };
    let mut live = open(&sample)?;
    let per_pair = live.shape.per_pair;
    if memory == Memory::Smaller {
        let whole = WholeVideo::of(&live.shape.seen(Window { n_pairs, ..Window::default() }), hp);
        let fits = |sample: &SampleOptions| {
            let n = [sample.resized_height, sample.resized_width].map(|side| side.unwrap_or(0) / hp.factor());
            n[0] * n[1] * n_pairs <= n_room * per_pair
        };
        // Grids are rounded up.
        let few = (1..=n_room * per_pair / n_pairs).rev().map(|n| {
            let few = whole.as_few(n * n_pairs, Control::Smaller, &MediaOptions::default()).0.sample;
            SampleOptions { resized_width: few.resized_width, resized_height: few.resized_height, ..sample.clone() }
        });
        let few = few.into_iter().find(fits);
        live = open(&few.ok_or_else(|| Error::bad_input("the room is less than a token for each frame pair"))?)?;
    }
    let n_held = if memory == Memory::Whole { n_pairs } else { n_room };
    live.tell_time(&engine.tokenizer)?;
    let before = Around::of(engine, None)?.before;
    let n_ctx = before.len() + n_held * (per_pair + live.shape.n_stamp) + AROUND;
    // Rows that wait for a step have slots already.
    let n_batch = options.session.n_batch.min((n_ctx / 16).max(1));
    let mut session = Session::new(engine, SessionOptions { n_ctx, n_batch, ..options.session })?;
    let mut sink = |_| {};
    let mut events = Events::new(&mut sink, cancel);
    let how = LiveOptions { when_full: memory.when_full(seed), reserve: AROUND };
    let (window, end) = session.watch(&before, &mut live, how, &mut events, &mut |_, _, _| {})?;
    match end {
        LiveEnd::Over => {}
        LiveEnd::Failed(error) => return Err(error),
        LiveEnd::Stopped => return Err(Error::new(crate::ErrorKind::Cancelled, "stopped")),
        LiveEnd::Full => return Err(Error::internal("a drawn stream did not fit where all of it was to be read")),
    }
    let source = MediaSource::Path(std::path::PathBuf::from("-").into());
    let parts = vec![Part::Video { source, options: Default::default() }, Part::Text(question.to_string())];
    let message = Message::new("user", Content::Parts(parts));
    let render = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let units = Prompt::units(engine, &[message], render)?;
    let mut prompt = Prompt::new(units, vec![live.shape.seen(window)]);
    session.feed(&mut prompt, &mut events)?;
    Ok((window, prompt, session))
}

/// A drawn video as a pipe would bring it: Y4M of full range and full colour.
struct Frames {
    video: Arc<HardVideo>,
    n_frames: usize,
    next: usize,
    bytes: Vec<u8>,
    n_read: usize,
}

impl Frames {
    fn of(video: Arc<HardVideo>, (width, height): (usize, usize), n_frames: usize) -> Frames {
        let header = format!("YUV4MPEG2 W{width} H{height} F{FPS}:1 C444 XCOLORRANGE=FULL\n");
        Frames { video, n_frames, next: 0, bytes: header.into_bytes(), n_read: 0 }
    }

    fn draw(&mut self) {
        let rgb = self.video.frame(self.next);
        self.next += 1;
        self.n_read = 0;
        self.bytes.clear();
        self.bytes.extend(b"FRAME\n");
        let plane = |of: &dyn Fn(f32, f32, f32) -> f32| -> Vec<u8> {
            let value = |rgb: &[u8]| of(f32::from(rgb[0]), f32::from(rgb[1]), f32::from(rgb[2])).round() as u8;
            rgb.chunks_exact(3).map(value).collect()
        };
        // BT.601, what Y4M means where it says nothing.
        let luma = |r: f32, g: f32, b: f32| 0.299 * r + 0.587 * g + 0.114 * b;
        self.bytes.extend(plane(&luma));
        self.bytes.extend(plane(&|r, g, b| (b - luma(r, g, b)) / 1.772 + 128.0));
        self.bytes.extend(plane(&|r, g, b| (r - luma(r, g, b)) / 1.402 + 128.0));
    }
}

impl Read for Frames {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.n_read == self.bytes.len() && self.next < self.n_frames {
            self.draw();
        }
        let n = (&self.bytes[self.n_read..]).read(out)?;
        self.n_read += n;
        Ok(n)
    }
}
