//! A picture of where an answer looked: of each video, frames over a timeline of bars, one for every frame pair, as high as its
//! share; of each still picture, a small one and its bar. The frames are decoded anew, few of them, from the file as it was read.

mod draw;

use std::path::{Path, PathBuf};

use draw::{Band, Canvas};

use super::talk::Talk;
use crate::error::Context;
use crate::media::{Decoders, Rgb};
use crate::stream::{Looked, LookedMedium, MediaKind, MediaPlan, fingerprint};
use crate::{Error, Result};

/// Pictures and videos that a [`Strip`] is of, at most.
pub const MAX_DRAWN: usize = 16;

/// A picture, and what it is without.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Strip {
    /// A whole PNG file.
    pub png: Vec<u8>,
    /// Why media are drawn without their frames, one line for each of these.
    pub missing: Vec<String>,
}

impl Talk {
    /// Draws where an answer about the media of the talk looked.
    ///
    /// # Errors
    /// Nothing that was looked at, too much of it, media that are others by now.
    pub(super) fn strip(&self, looked: &Looked) -> Result<Strip> {
        let plans = self.plans();
        if looked.media.is_empty() || looked.media.len() > MAX_DRAWN {
            let message = format!(
                "`{}` pictures and videos to draw where was looked, expected 1 to {MAX_DRAWN}",
                looked.media.len()
            );
            return Err(Error::bad_input(message));
        }
        if plans.len() != looked.media.len() {
            return Err(Error::mismatch("the talk has other pictures and videos than those that were looked at"));
        }
        let (mut bands, mut missing) = (Vec::new(), Vec::new());
        for (plan, seen) in plans.into_iter().zip(&looked.media) {
            let band = Band::new(seen, (plan.width, plan.height));
            let frames = self.frames_of(plan, seen, &band);
            missing.extend(frames.as_ref().err().map(|why| format!("{}: {why}", plan.label)));
            bands.push((band, frames.unwrap_or_default()));
        }
        // Bars of all media are of one scale.
        let among = |share: f64| looked.among_media(share);
        Ok(Strip { png: Canvas::of(&bands, &among).png()?, missing })
    }

    /// The pictures of a band, of its size.
    fn frames_of(&self, plan: &MediaPlan, seen: &LookedMedium, band: &Band) -> Result<Vec<Rgb>> {
        let size = band.picture();
        if seen.kind == MediaKind::Image {
            return plan.small(size).map(|picture| vec![picture]);
        }
        let path = match self.take() {
            Some((take, source)) if plan.is_watched() => beside(take, source)?,
            _ => unchanged(plan)?,
        };
        let frames: Vec<usize> = band.shown(seen).into_iter().map(|pair| plan.frames[2 * pair]).collect();
        frames_at(&path, &self.options.media.decoders, &frames)
            .and_then(|all| all.into_iter().map(|frame| plan.smaller(&frame, size)).collect())
    }
}

/// The file of a medium, if it is as it was when it was read.
fn unchanged(plan: &MediaPlan) -> Result<PathBuf> {
    let path = plan.path.as_deref().ok_or_else(|| Error::unsupported("has no file to take frames from"))?;
    if !plan.is_of(&fingerprint::media(path)?.0) {
        return Err(Error::mismatch("has changed since it was read"));
    }
    Ok(path.to_path_buf())
}

/// The file of that name beside a take, if it is the one that was watched. A path that stands in a take is not followed anywhere.
fn beside(take: &Path, (source, content): (&str, &str)) -> Result<PathBuf> {
    let name = Path::new(source).file_name().ok_or_else(|| Error::unsupported("has no file to take frames from"))?;
    let path = take.with_file_name(name);
    if !path.exists() {
        return Err(Error::unsupported("is not beside the take; its frames are left out"));
    }
    if fingerprint::content(&path).at(|| path.display().to_string())?.0 != content {
        return Err(Error::mismatch("beside the take is not the video that was watched"));
    }
    Ok(path)
}

/// These frames of a video, in order.
fn frames_at(path: &Path, decoders: &Decoders, frames: &[usize]) -> Result<Vec<Rgb>> {
    let mut source = decoders.open(path)?;
    if frames.iter().any(|frame| *frame >= source.info().n_frames) {
        return Err(Error::mismatch("has fewer frames than were read"));
    }
    frames.iter().map(|frame| source.frame(*frame)).collect()
}
