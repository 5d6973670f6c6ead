//! A medium that was opened, once: what is known of it, and where its frames will come from.

use std::path::{Path, PathBuf};

use super::media_plan::{Source, patch_spec};
use super::{Known, MediaOptions, MediaPlan, Shape, fingerprint};
use crate::media::folder::FolderSource;
use crate::media::sample::{SampleOptions, Taken, frames_taken, spread};
use crate::media::{FrameSource, ImageFile, Rgb, VideoInfo, open_video};
use crate::model::VisionHParams;
use crate::{Result, error::Context};

/// A picture or video whose header was read, with the options that it was given.
pub struct Medium {
    /// Where it comes from, for people.
    pub label: String,
    pub known: Known,
    pub options: MediaOptions,
    /// What the source says of itself (videos).
    pub info: Option<VideoInfo>,
    /// The file or folder, where it is one.
    pub path: Option<PathBuf>,
    frames: Frames,
    source_id: String,
}

enum Frames {
    File(ImageFile),
    Picture(Rgb),
    Video(Box<dyn FrameSource>),
}

impl Medium {
    /// A still image, of which the header is read.
    ///
    /// # Errors
    /// Those of [`ImageFile::open`].
    pub fn image(path: &Path, options: &MediaOptions) -> Result<Medium> {
        let file = ImageFile::open(path)?;
        let ((height, width), source_id) = (file.size(), fingerprint::in_hex(&file.digest()));
        let known = Known::Picture { height, width };
        let medium = Medium::new(path.display().to_string(), known, options, Frames::File(file));
        Ok(Medium { path: Some(path.to_path_buf()), source_id, ..medium })
    }

    /// The same from pixels.
    pub fn picture(picture: Rgb, label: String, options: &MediaOptions) -> Medium {
        let source_id = fingerprint::pixels(&picture);
        let known = Known::Picture { height: picture.height, width: picture.width };
        Medium { source_id, ..Medium::new(label, known, options, Frames::Picture(picture)) }
    }

    /// A video file or a folder of frames.
    ///
    /// # Errors
    /// An unreadable file.
    pub fn video(path: &Path, options: &MediaOptions) -> Result<Medium> {
        let source = open_video(path)?;
        let source_id = fingerprint::media(path)?.0;
        let medium = Medium::frames(source, path.display().to_string(), options);
        Ok(Medium { path: Some(path.to_path_buf()), source_id, ..medium })
    }

    /// A video given as a list of pictures.
    ///
    /// # Errors
    /// An unreadable file.
    pub fn pictures(paths: &[PathBuf], options: &MediaOptions) -> Result<Medium> {
        let source = Box::new(FolderSource::from_files(paths.to_vec())?);
        let ids = paths.iter().map(|path| Ok(fingerprint::media(path)?.0)).collect::<Result<Vec<_>>>()?;
        Ok(Medium { source_id: ids.concat(), ..Medium::frames(source, format!("{} frames", paths.len()), options) })
    }

    /// Any source of frames, which `label` names.
    pub fn frames(source: Box<dyn FrameSource>, label: String, options: &MediaOptions) -> Medium {
        let info = source.info().clone();
        let VideoInfo { n_frames, fps, height, width, .. } = info;
        let known = Known::Video { n_frames, fps, height, width, is_list: source.is_frame_list() };
        Medium { info: Some(info), ..Medium::new(label, known, options, Frames::Video(source)) }
    }

    fn new(label: String, known: Known, options: &MediaOptions, frames: Frames) -> Medium {
        let (options, source_id) = (options.clone(), label.clone());
        Medium { label, known, options, info: None, path: None, frames, source_id }
    }

    /// What it becomes with a share of so many tokens, or without a bound.
    ///
    /// # Errors
    /// Those of [`Shape::of`], with its name.
    pub fn shape(&self, hp: &VisionHParams, share: Option<usize>) -> Result<Shape> {
        Shape::of(&self.known, &self.options, hp, share).at(|| self.label.clone())
    }

    /// Bytes that decoding it takes before the model sees anything: of pictures, which are read whole.
    pub(super) fn n_decode_bytes(&self) -> u64 {
        match &self.frames {
            Frames::File(file) => file.n_bytes(),
            Frames::Picture(rgb) => 3 * rgb.data.len() as u64,
            Frames::Video(_) => 0,
        }
    }

    /// The plan to turn it into `shape`, which is one of its own.
    ///
    /// # Errors
    /// None for a shape of its own.
    pub fn plan(self, shape: &Shape, hp: &VisionHParams) -> Result<MediaPlan> {
        let frames = match self.known {
            Known::Picture { .. } => vec![0],
            Known::Video { n_frames, fps, is_list, .. } => {
                let sample = &self.options.sample;
                let sample = SampleOptions { whole: sample.whole | is_list, ..sample.clone() };
                let taken = frames_taken(n_frames, fps, &sample).at(|| self.label.clone())?;
                spread(Taken { n: shape.n_frames, ..taken })
            }
        };
        let spec = patch_spec(hp);
        Ok(MediaPlan {
            kind: shape.kind,
            label: self.label,
            height: shape.height,
            width: shape.width,
            grid: shape.grid,
            n_tokens: shape.n_tokens,
            frames,
            n_forgotten: 0,
            info: self.info,
            temporal_scale: self.options.temporal_scale,
            source: match self.frames {
                Frames::File(file) => Source::File(file, spec),
                Frames::Picture(rgb) => {
                    Source::Image(crate::media::resize::bicubic(&rgb, shape.height, shape.width), spec)
                }
                Frames::Video(source) => Source::Video(source, spec),
            },
            source_id: self.source_id,
            warning: None,
        })
    }

    /// The plan without a bound on its tokens.
    ///
    /// # Errors
    /// Those of [`Medium::shape`].
    pub fn whole(self, hp: &VisionHParams) -> Result<MediaPlan> {
        let shape = self.shape(hp, None)?;
        self.plan(&shape, hp)
    }
}
