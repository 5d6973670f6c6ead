//! Where haystacks and needles come from: the user's own video and pictures, or drawn ones.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::{Needle, Units};
use crate::drawn::symbols::{CELL, DrawnVideo, Question};
use crate::files::input::{decode_text, read_capped};
use crate::media::sample::SampleOptions;
use crate::media::{Decoders, Rgb, load_image_with, resize};
use crate::stream::{Engine, MediaOptions, MediaPlan};
use crate::{Error, Result, error::Context};

/// Frames of the haystack's video that are looked at, a second.
const HAYSTACK_FPS: f64 = 1.0;
/// Bytes of a list of needles, and needles in it.
const MAX_LIST: u64 = 16 << 20;
const MAX_NEEDLES: usize = 10_000;

/// Units of the video at `path`, one frame a second resized to `size` (width, height), as many as `n` where it is long
/// enough. `on_unit` hears how many are done and may stop the work.
///
/// # Errors
/// A video that cannot be read, whatever `on_unit` returns.
pub fn video_haystack(
    engine: &Engine,
    (path, decoders): (&Path, &Decoders),
    size: (usize, usize),
    n: usize,
    on_unit: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Units> {
    let tower = engine.need_vision()?;
    let mut units = Units::new(engine, size)?;
    let mut sample = SampleOptions {
        fps: Some(HAYSTACK_FPS),
        max_frames: Some(n.saturating_mul(2).min(crate::media::limits::MAX_FRAMES)),
        resized_width: Some(size.0),
        resized_height: Some(size.1),
        ..SampleOptions::default()
    };
    let options = |sample: &SampleOptions| MediaOptions {
        sample: sample.clone(),
        decoders: decoders.clone(),
        ..MediaOptions::default()
    };
    let mut plan = MediaPlan::video(path, &options(&sample), tower)?;
    // Of a longer video the beginning is taken, not fewer frames a second.
    let wanted = (2 * n) as f64 / HAYSTACK_FPS;
    if plan.info.as_ref().is_some_and(|info| info.duration > wanted) {
        sample.video_end = Some(wanted);
        plan = MediaPlan::video(path, &options(&sample), tower)?;
    }
    for pair in 0..plan.n_pairs().min(n) {
        let mut pixels = Vec::new();
        plan.pixels(pair, &mut pixels)?;
        units.push(engine, &pixels)?;
        on_unit(pair + 1)?;
    }
    Ok(units)
}

/// One entry of a list of needles.
#[derive(Deserialize)]
struct Entry {
    path: PathBuf,
    prompt: String,
    answer: String,
    #[serde(default)]
    interrupt_path: Option<PathBuf>,
}

/// Needles of a JSON list `[{"path", "prompt", "answer", "interrupt_path"?}]`; pictures lie below the list's folder.
/// Look-alikes are left out unless `interrupts`.
///
/// # Errors
/// A list that is none, pictures outside the folder or unreadable, a needle without a look-alike where one is wanted.
pub fn needles_from(
    engine: &Engine,
    (list, decoders): (&Path, &Decoders),
    size: (usize, usize),
    interrupts: bool,
) -> Result<Vec<Needle>> {
    let place = || list.display().to_string();
    let text = read_capped(list, MAX_LIST).and_then(decode_text).at(|| format!("{}: the list of needles", place()))?;
    let entries: Vec<Entry> = serde_json::from_str(&text)
        .map_err(|err| Error::format(format!("not a list of needles: {err}")).at(place()))?;
    if entries.is_empty() || entries.len() > MAX_NEEDLES {
        let message = format!("`{}` needles, expected 1 to {MAX_NEEDLES}", entries.len());
        return Err(Error::format(message).at(place()));
    }
    let folder = list.parent().unwrap_or(Path::new("."));
    let mut needles = Vec::new();
    for (i, entry) in entries.into_iter().enumerate() {
        let at = || format!("{}: needle {i}", place());
        let mut pictures = Units::new(engine, size)?;
        let look_alike = match (interrupts, entry.interrupt_path) {
            (true, None) => return Err(Error::format("`interrupt_path` is missing").at(at())),
            (true, Some(path)) => Some(path),
            (false, _) => None,
        };
        for path in std::iter::once(&entry.path).chain(&look_alike) {
            if path.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
                let message = format!("`{}` leaves the folder of the list", path.display());
                return Err(Error::bad_input(message).at(at()));
            }
            let picture = load_image_with(&folder.join(path), decoders.tools.as_ref()).at(at)?;
            let picture = resize::bicubic(&picture, size.1, size.0);
            pictures.push_pair(engine, [&picture, &picture])?;
        }
        let name = entry.path.display().to_string();
        needles.push(Needle { name, pictures, question: entry.prompt, answer: entry.answer });
    }
    Ok(needles)
}

/// `n` units of drawn patterns.
///
/// # Errors
/// A size that cannot be drawn, whatever `on_unit` returns.
pub fn drawn_haystack(
    engine: &Engine,
    seed: u64,
    size: (usize, usize),
    n: usize,
    on_unit: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Units> {
    let mut units = Units::new(engine, size)?;
    let video = DrawnVideo::new(seed, drawn_size(engine, size)?, n, 0, None)?;
    for pair in 0..n {
        let frames = [2 * pair, 2 * pair + 1].map(|i| rgb(&video, i, size));
        units.push_pair(engine, [&frames[0], &frames[1]])?;
        on_unit(pair + 1)?;
    }
    Ok(units)
}

/// `n` drawn symbols with their questions; with `interrupts`, each has another symbol as its look-alike, and the question
/// tells them apart.
///
/// # Errors
/// A size that cannot be drawn.
pub fn drawn_needles(
    engine: &Engine,
    seed: u64,
    size: (usize, usize),
    n: usize,
    interrupts: bool,
) -> Result<Vec<Needle>> {
    let mut needles = Vec::new();
    for i in 0..n {
        let n_symbols = if interrupts { 2 } else { 1 };
        // Far from the seeds of haystacks, which begin at the user's.
        let own = seed.wrapping_add(1 << 40).wrapping_add(i as u64);
        let video = DrawnVideo::new(own, drawn_size(engine, size)?, n_symbols, n_symbols, None)?;
        let mut pictures = Units::new(engine, size)?;
        for needle in &video.needles {
            // A still picture: both frames of the pair are one.
            let picture = rgb(&video, 2 * needle.pair, size);
            pictures.push_pair(engine, [&picture, &picture])?;
        }
        let Some(Question { text, answer }) = video.question() else { continue };
        let name = video.needles[0].symbol.to_string();
        needles.push(Needle { name, pictures, question: format!("\n{text}"), answer: answer.to_string() });
    }
    Ok(needles)
}

/// What is drawn for frames of `size`: as many tokens, each of the size that drawings are made of.
fn drawn_size(engine: &Engine, (width, height): (usize, usize)) -> Result<(usize, usize)> {
    let factor = engine.need_vision()?.hparams().factor();
    Ok((width / factor * CELL, height / factor * CELL))
}

/// Frame `i`, as large as units are.
fn rgb(video: &DrawnVideo, i: usize, (width, height): (usize, usize)) -> Rgb {
    let drawn = Rgb { width: video.width, height: video.height, data: video.frame(i) };
    if (drawn.width, drawn.height) == (width, height) { drawn } else { resize::bicubic(&drawn, height, width) }
}
