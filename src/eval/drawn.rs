//! Drawn videos as prompts: every frame is taken as it is.

use crate::drawn::symbols::FPS;
use crate::media::sample::SampleOptions;
use crate::media::{FrameSource, Rgb, VideoInfo};
use crate::stream::{Engine, MediaOptions, MediaPlan, Prompt};
use crate::text::template::RenderOptions;
use crate::text::{Content, MediaSource, Message, Part};
use crate::{Error, Result};

/// Slots for the words behind a video, of question and answer.
pub(super) const AROUND: usize = 128;

/// Draws frame `i` as RGB bytes, (height, width, 3).
type Draw = Box<dyn FnMut(usize) -> Vec<u8> + Send>;

/// Frames that are drawn when they are asked for.
pub(super) struct Drawn {
    info: VideoInfo,
    draw: Draw,
}

impl Drawn {
    /// `n_frames` frames of (width, height).
    pub(super) fn new((width, height): (usize, usize), n_frames: usize, draw: Draw) -> Drawn {
        let (fps, decoder) = (f64::from(FPS), "drawn".to_string());
        Drawn { info: VideoInfo { n_frames, fps, duration: n_frames as f64 / fps, height, width, decoder }, draw }
    }

    /// How all of it is read as it is.
    pub(super) fn whole(&self) -> MediaOptions {
        let VideoInfo { n_frames, height, width, .. } = self.info;
        let sample = SampleOptions {
            fps: Some(f64::from(FPS)),
            max_frames: Some(n_frames),
            resized_width: Some(width),
            resized_height: Some(height),
            ..SampleOptions::default()
        };
        MediaOptions { sample, ..MediaOptions::default() }
    }

    /// A question about it, read so.
    ///
    /// # Errors
    /// Options that contradict each other or the video; template errors.
    pub(super) fn prompt(self, engine: &Engine, options: &MediaOptions, question: &str) -> Result<Prompt> {
        let plan = MediaPlan::frames(Box::new(self), "drawn".to_string(), options, engine.need_vision()?)?;
        let source = MediaSource::Path(std::path::PathBuf::from("drawn").into());
        let parts = vec![Part::Video { source, options: Default::default() }, Part::Text(question.to_string())];
        let message = Message::new("user", Content::Parts(parts));
        let render = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        Ok(Prompt::new(Prompt::units(engine, &[message], render)?, vec![plan]))
    }
}

impl FrameSource for Drawn {
    fn info(&self) -> &VideoInfo {
        &self.info
    }

    fn frame(&mut self, index: usize) -> Result<Rgb> {
        if index >= self.info.n_frames {
            return Err(Error::internal(format!("frame `{index}` of {}", self.info.n_frames)));
        }
        Ok(Rgb { width: self.info.width, height: self.info.height, data: (self.draw)(index) })
    }
}
