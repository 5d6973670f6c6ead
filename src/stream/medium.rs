//! A medium that was opened, once: what is known of it, and where its frames will come from.

use std::path::{Path, PathBuf};

use super::left_out::{most, most_of_all};
use super::media_plan::{Source, patch_spec, resizing};
use super::stamps::Markers;
use super::{Known, LeaveOut, MediaKind, MediaOptions, MediaPlan, Shape, StampCost, fingerprint, part_options};
use crate::files::ScratchFile;
use crate::media::folder::{FolderSource, frame_size};
use crate::media::sample::{FRAME_FACTOR, SampleOptions, Taken, frames_taken, seconds_per_pair, spread};
use crate::media::{FrameSource, ImageFile, Rgb, VideoInfo};
use crate::model::VisionHParams;
use crate::position::Clock;
use crate::text::{MediaSource, Part};
use crate::{Error, Result, error::Context, text};

/// A picture or video whose header was read, with the options that it was given.
pub struct Medium {
    /// Where it comes from, for people.
    pub label: String,
    /// What its header says.
    pub known: Known,
    /// How it is to be sampled, sized and placed.
    pub options: MediaOptions,
    /// What the source says of itself (videos).
    pub info: Option<VideoInfo>,
    /// The file or folder, where it is one.
    pub path: Option<PathBuf>,
    frames: Frames,
    source_id: String,
    /// Files that hold it and are there for it alone.
    scratch: Vec<ScratchFile>,
}

enum Frames {
    File(ImageFile),
    Picture(Rgb),
    Video(Box<dyn FrameSource>),
}

impl Medium {
    /// What a part of a conversation names, opened with the part's own options over `defaults`; nothing where it is words.
    ///
    /// # Errors
    /// Unreadable media, options that make no sense.
    pub fn of(part: &Part, defaults: &MediaOptions) -> Result<Option<Medium>> {
        match part {
            Part::Text(_) => return Ok(None),
            Part::Image { source, options } => Medium::image_from(source, &part_options(options, defaults)?),
            Part::Video { source: MediaSource::Path(source), options } => {
                Medium::video_from(source, &part_options(options, defaults)?)
            }
            Part::Video { source: MediaSource::Frames(frames), options } => {
                Medium::pictures_from(frames, &part_options(options, defaults)?)
            }
        }
        .map(Some)
    }

    /// A still image, of which the header is read.
    ///
    /// # Errors
    /// Those of [`ImageFile::open_with`].
    pub fn image(path: &Path, options: &MediaOptions) -> Result<Medium> {
        let file = ImageFile::open_with(path, options.decoders.tools.as_ref())?;
        let ((height, width), source_id) = (file.size(), fingerprint::in_hex(&file.digest()));
        let known = Known::Picture { height, width };
        let medium = Medium::new(path.display().to_string(), known, options, Frames::File(file));
        Ok(Medium { path: Some(path.to_path_buf()), source_id, ..medium })
    }

    /// [`Medium::image`] of a file, or of bytes.
    ///
    /// # Errors
    /// As there; no room for the bytes.
    pub fn image_from(source: &text::Source, options: &MediaOptions) -> Result<Medium> {
        Medium::from(source, &|path| Medium::image(path, options))
    }

    /// [`Medium::video`] of a file or a folder, or of bytes.
    ///
    /// # Errors
    /// As there; no room for the bytes.
    pub fn video_from(source: &text::Source, options: &MediaOptions) -> Result<Medium> {
        Medium::from(source, &|path| Medium::video(path, options))
    }

    /// [`Medium::pictures`] of files or bytes.
    ///
    /// # Errors
    /// As there; no room for the bytes.
    pub fn pictures_from(frames: &[text::Source], options: &MediaOptions) -> Result<Medium> {
        let (mut scratch, mut paths) = (Vec::new(), Vec::new());
        for (i, frame) in frames.iter().enumerate() {
            paths.push(match frame {
                text::Source::Path(path) => path.clone(),
                text::Source::Data(data) => {
                    frame_size(data.bytes()).at(|| format!("frame {i} (`{frame}`)"))?;
                    scratch.push(ScratchFile::new(data.bytes())?);
                    scratch[scratch.len() - 1].path().to_path_buf()
                }
            });
        }
        Ok(Medium { scratch, ..Medium::pictures(&paths, options)? })
    }

    /// What `open` makes of a file. Decoders read files, so bytes go to one that lasts as long as the medium.
    fn from(source: &text::Source, open: &dyn Fn(&Path) -> Result<Medium>) -> Result<Medium> {
        let data = match source {
            text::Source::Path(path) => return open(path),
            text::Source::Data(data) => data,
        };
        let (file, label) = (ScratchFile::new(data.bytes())?, source.to_string());
        let medium = open(file.path()).map_err(|err| nameless(err, &file, &label))?;
        Ok(Medium { label, scratch: vec![file], ..medium })
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
        let source = options.decoders.open(path)?;
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

    /// Any source of frames, which `label` names. A list of frames has the rate that the options give.
    pub fn frames(mut source: Box<dyn FrameSource>, label: String, options: &MediaOptions) -> Medium {
        if let Some(fps) = options.sample.fps.filter(|_| source.is_frame_list()) {
            source.set_rate(fps);
        }
        let info = source.info().clone();
        let VideoInfo { n_frames, fps, height, width, .. } = info;
        let known = Known::Video { n_frames, fps, height, width, is_list: source.is_frame_list() };
        Medium { info: Some(info), ..Medium::new(label, known, options, Frames::Video(source)) }
    }

    fn new(label: String, known: Known, options: &MediaOptions, frames: Frames) -> Medium {
        let (options, source_id) = (options.clone(), label.clone());
        Medium { label, known, options, info: None, path: None, frames, source_id, scratch: Vec::new() }
    }

    /// What it becomes with a share of so many tokens, or without a bound; see [`Shape::of`].
    ///
    /// # Errors
    /// Those of [`Shape::of`], with its name.
    pub fn shape(&self, hp: &VisionHParams, stamps: Option<StampCost>, share: Option<usize>) -> Result<Shape> {
        Shape::of(&self.known, &self.options, hp, stamps, share).at(|| self.label.clone())
    }

    /// Bytes that decoding it to `shape` takes before the model sees anything: of pictures, which are read whole.
    pub(super) fn n_decode_bytes(&self, shape: &Shape) -> u64 {
        match &self.frames {
            Frames::File(file) => file.n_bytes((shape.height, shape.width)),
            Frames::Picture(rgb) => 3 * rgb.data.len() as u64,
            Frames::Video(_) => 0,
        }
    }

    /// The plan to turn it into `shape`, which is one of its own. Its tokens are visual ones: stamps come with the words around it
    /// ([`Prompt`](super::Prompt)).
    ///
    /// # Errors
    /// None for a shape of its own.
    pub fn plan(self, shape: &Shape, hp: &VisionHParams) -> Result<MediaPlan> {
        let (mut frames, mut clock) = (vec![0], None);
        if let Known::Video { n_frames, fps, is_list, .. } = self.known {
            let sample = &self.options.sample;
            let sample = SampleOptions { whole: sample.whole | is_list, ..sample.clone() };
            let taken = frames_taken(n_frames, fps, &sample, &hp.video).at(|| self.label.clone())?;
            let taken = Taken { n: shape.n_frames, ..taken };
            frames = spread(taken);
            // An odd last frame makes a pair with itself.
            let last = frames.last().copied().unwrap_or(0);
            frames.resize(frames.len().next_multiple_of(FRAME_FACTOR), last);
            clock = hp
                .tokens_per_second
                .map(|ids_per_second| Clock { seconds_per_pair: seconds_per_pair(&taken, fps), ids_per_second });
        }
        let (spec, resize) = (patch_spec(hp), resizing(hp));
        let per_pair = shape.per_pair() / (hp.merge * hp.merge);
        let keep = self.options.keep.filter(|_| shape.kind == MediaKind::Video);
        Ok(MediaPlan {
            kind: shape.kind,
            label: self.label,
            path: self.path,
            height: shape.height,
            width: shape.width,
            grid: shape.grid,
            n_tokens: most_of_all(shape.n_pairs(), per_pair, keep),
            per_pair,
            left_out: self.options.dedup.filter(|_| shape.kind == MediaKind::Video).map(LeaveOut::Unchanged),
            keep,
            // Unless what has changed has its say, too.
            kept: keep.filter(|_| self.options.dedup.is_none()).map(|_| {
                let of = |pair| most(pair, per_pair, keep) as u32;
                (0..shape.n_pairs()).map(of).collect()
            }),
            frames,
            clock,
            markers: Markers::of(&hp.video, self.options.keep_markers),
            text: None,
            n_forgotten: 0,
            n_forgotten_text: 0,
            is_compressed: false,
            info: self.info,
            temporal_scale: self.options.temporal_scale,
            source: match self.frames {
                Frames::File(file) => Source::File(file, spec),
                Frames::Picture(rgb) => Source::Image((resize.picture)(&rgb, shape.height, shape.width), spec),
                Frames::Video(source) => Source::Video(source, spec),
            },
            source_id: self.source_id,
            resize,
            warning: None,
            scratch: self.scratch,
        })
    }

    /// The plan without a bound on its tokens.
    ///
    /// # Errors
    /// Those of [`Medium::shape`].
    pub fn whole(self, hp: &VisionHParams) -> Result<MediaPlan> {
        let shape = self.shape(hp, None, None)?;
        self.plan(&shape, hp)
    }
}

/// What is wrong with a medium is said of it, not of a file that nobody knows.
pub(super) fn nameless(err: Error, file: &ScratchFile, label: &str) -> Error {
    let path = file.path().display().to_string();
    // Programs begin what they say of a file with the name that they were given.
    let message = err.message().replace(&format!("file:{path}: "), "").replace(&format!("file:{path}"), "it");
    Error::new(err.kind(), message.replace(&path, "it")).at(label)
}
