//! One question, perhaps about a video, for commands that answer it several times to compare what comes out.

use std::path::PathBuf;
use std::sync::Arc;

use super::flags::{MediaFlags, ModelFlags};
use crate::stream::{Engine, Less, MediaOptions, Prompt, SessionOptions, conversation};
use crate::text::template::RenderOptions;
use crate::text::{Content, Message};
use crate::{Error, Result};

/// What is asked of which model.
#[derive(clap::Args)]
pub(super) struct QuestionFlags {
    #[command(flatten)]
    model: ModelFlags,
    /// The question.
    #[arg(short, long, value_name = "TEXT")]
    prompt: String,
    /// Video that the question is about.
    #[arg(long, value_name = "FILE")]
    video: Option<PathBuf>,
    #[command(flatten)]
    media: MediaFlags,
}

/// A question and the model that is asked.
pub(super) struct Question {
    pub engine: Arc<Engine>,
    /// Sizes of a session, with a context that is still to be chosen.
    pub options: SessionOptions,
    messages: Vec<Message>,
    /// How its video is read.
    pub media: MediaOptions,
    ctx_size: usize,
}

impl QuestionFlags {
    /// Loads the model.
    ///
    /// # Errors
    /// What is wrong with the model or the flags.
    pub(super) fn load(&self) -> Result<Question> {
        let QuestionFlags { model, prompt, video, media } = self;
        let engine = model.load(video.is_some())?;
        let messages = match video {
            Some(video) => conversation(None, &video.display().to_string(), prompt),
            None => vec![Message::new("user", Content::Text(prompt.clone()))],
        };
        let scale = media.scale(engine.text.hparams().layout)?;
        let options = model.compute.session(&engine, 0, scale)?;
        Ok(Question { engine, options, messages, media: media.options()?, ctx_size: model.compute.ctx_size })
    }
}

impl Question {
    /// The prompt. Media are read once, so every session has one of its own.
    ///
    /// # Errors
    /// What is wrong with the video.
    pub(super) fn prompt(&self) -> Result<Prompt> {
        self.prompt_of(&self.media)
    }

    /// The same with its video read in another way.
    ///
    /// # Errors
    /// As there.
    pub(super) fn prompt_of(&self, media: &MediaOptions) -> Result<Prompt> {
        let render = RenderOptions { add_generation_prompt: true, add_vision_id: false, special: false, tools: &[] };
        Prompt::build(&self.engine, &self.messages, render, media)
    }

    /// Of `n_predict` tokens those that fit behind a prompt of `n_tokens`.
    ///
    /// # Errors
    /// A prompt that fills the context.
    pub(super) fn room(&self, n_tokens: usize, n_predict: usize) -> Result<usize> {
        match self.ctx_size {
            0 => Ok(n_predict),
            n_ctx => match n_ctx.checked_sub(n_tokens) {
                Some(room @ 1..) => Ok(n_predict.min(room)),
                _ => Err(Error::limit(format!("the prompt has `{n_tokens}` tokens, the context holds `{n_ctx}`"))),
            },
        }
    }
}

/// Ways to read less of a video: each limit, and each share, by itself.
pub(super) fn less(dedup: &[f32], keep: &[f32]) -> Vec<Less> {
    let dedup = dedup.iter().map(|limit| Less { dedup: Some(*limit), keep: None });
    dedup.chain(keep.iter().map(|share| Less { dedup: None, keep: Some(*share) })).collect()
}
