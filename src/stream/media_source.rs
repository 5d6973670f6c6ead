//! Media of a conversation, planned from wherever they come: files, or bytes that the conversation holds.
//!
//! Pictures are decoded where they are. Videos, and pictures that are frames, are read from files by every decoder, so their
//! bytes go to a [`Scratch`] file that lasts as long as its source of frames.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{MediaOptions, MediaPlan, fingerprint};
use crate::error::Context;
use crate::files::Scratch;
use crate::media::folder::FolderSource;
use crate::media::image_file::{decode_image, image_size};
use crate::media::{FrameSource, Rgb, Shown, VideoInfo, open_video};
use crate::model::VisionTower;
use crate::text::Source;
use crate::{Error, Result};

impl MediaPlan {
    /// [`MediaPlan::image`] of a file, or of bytes.
    ///
    /// # Errors
    /// As there.
    pub fn image_from(source: &Source, options: &MediaOptions, tower: &VisionTower) -> Result<MediaPlan> {
        match source {
            Source::Path(path) => MediaPlan::image(path, options, tower),
            Source::Data(data) => {
                let picture = decode_image(data.bytes()).at(|| source.to_string())?;
                MediaPlan::picture(picture, source.to_string(), options, tower)
            }
        }
    }

    /// [`MediaPlan::video`] of a file or a folder, or of bytes.
    ///
    /// # Errors
    /// As there; no room for the bytes.
    pub fn video_from(source: &Source, options: &MediaOptions, tower: &VisionTower) -> Result<MediaPlan> {
        match source {
            Source::Path(path) => MediaPlan::video(path, options, tower),
            Source::Data(data) => {
                let file = Scratch::new(data.bytes())?;
                let label = source.to_string();
                // What is wrong with the video is said of the source, not of a file that nobody knows.
                let path = file.path().display().to_string();
                let nameless = |err: Error| Error::new(err.kind(), err.message().replace(&path, "it")).at(&*label);
                let frames = open_video(file.path()).map_err(nameless)?;
                let id = fingerprint::media(file.path())?.0;
                let frames = Box::new(WithFiles { frames, _files: vec![file] });
                MediaPlan::frames(frames, label.clone(), options, tower).map(|plan| plan.known_as(id))
            }
        }
    }

    /// [`MediaPlan::pictures`] of files or bytes.
    ///
    /// # Errors
    /// As there; no room for the bytes.
    pub fn pictures_from(frames: &[Source], options: &MediaOptions, tower: &VisionTower) -> Result<MediaPlan> {
        let mut files = Vec::new();
        let mut paths = Vec::new();
        for (i, frame) in frames.iter().enumerate() {
            paths.push(match frame {
                Source::Path(path) => path.clone(),
                Source::Data(data) => {
                    image_size(data.bytes()).at(|| format!("frame {i} (`{frame}`)"))?;
                    let file = Scratch::new(data.bytes())?;
                    let path: PathBuf = file.path().into();
                    files.push(file);
                    path
                }
            });
        }
        if files.is_empty() {
            return MediaPlan::pictures(&paths, options, tower);
        }
        let ids = paths.iter().map(|path| Ok(fingerprint::media(path)?.0)).collect::<Result<Vec<_>>>()?;
        let list = Box::new(FolderSource::from_files(paths)?);
        let list = Box::new(WithFiles { frames: list, _files: files });
        MediaPlan::frames(list, format!("{} frames", frames.len()), options, tower)
            .map(|plan| plan.known_as(ids.concat()))
    }
}

/// Frames from files that are there for them alone.
struct WithFiles {
    frames: Box<dyn FrameSource>,
    _files: Vec<Scratch>,
}

impl FrameSource for WithFiles {
    fn info(&self) -> &VideoInfo {
        self.frames.info()
    }

    fn frame(&mut self, index: usize) -> Result<Rgb> {
        self.frames.frame(index)
    }

    fn shown(&self, index: usize) -> Shown {
        self.frames.shown(index)
    }

    fn is_frame_list(&self) -> bool {
        self.frames.is_frame_list()
    }

    fn skipped(&self) -> usize {
        self.frames.skipped()
    }

    fn stopper(&self) -> Option<Arc<AtomicBool>> {
        self.frames.stopper()
    }
}
