//! Whether a take is what watching asks for: one check for takes that are finished and for those that will be gone on with.

use std::path::Path;

use super::{Take, TakeHeader};
use crate::cache::CacheType;
use crate::model::family::VideoForm;
use crate::stream::{Engine, Limits, MediaOptions, SessionOptions, fingerprint};
use crate::{Error, Result};

/// What watching is asked for.
#[derive(Debug, Clone, Copy)]
pub struct WatchRequest<'a> {
    /// The file, or folder of frames.
    pub video: &'a Path,
    /// What stands before the video, in a turn of its own.
    pub system_prompt: Option<&'a str>,
    /// How the video is sampled, sized and placed.
    pub media: &'a MediaOptions,
    /// What may be used.
    pub limits: Limits,
    /// Slots kept free behind the video.
    pub reserve: usize,
    /// Types and steps; the number of slots follows from the rest.
    pub options: SessionOptions,
}

impl WatchRequest<'_> {
    /// The flags that the plan of the video follows from, each with its value, the defaults of `form` filled in. What says itself
    /// what it is (model, types, scale, prompt, the video) is not among them.
    pub fn asked(&self, form: &VideoForm) -> Vec<(String, String)> {
        let sample = &self.media.sample;
        let rate = sample.fps.or(sample.nframes.is_none().then_some(form.fps));
        let switch = |on: bool| on.then(|| "on".to_string());
        let all = [
            ("fps", rate.map(|n| n.to_string())),
            ("nframes", sample.nframes.map(|n| n.to_string())),
            ("min-frames", Some(sample.min_frames.unwrap_or(form.min_frames).to_string())),
            ("max-frames", Some(sample.max_frames.unwrap_or(form.max_frames).to_string())),
            ("start", sample.video_start.map(|n| n.to_string())),
            ("end", sample.video_end.map(|n| n.to_string())),
            ("min-pixels", sample.min_pixels.map(|n| n.to_string())),
            ("max-pixels", sample.max_pixels.map(|n| n.to_string())),
            ("total-pixels", sample.total_pixels.map(|n| n.to_string())),
            ("resized-height", sample.resized_height.map(|n| n.to_string())),
            ("resized-width", sample.resized_width.map(|n| n.to_string())),
            ("cap-pixels-per-frame", switch(sample.cap_pixels_per_frame)),
            ("keep-markers", switch(self.media.keep_markers)),
            ("keep-share", self.media.keep.map(|share| share.to_string())),
            ("dedup", self.media.dedup.map(|n| n.to_string())),
            ("ctx-size", self.limits.n_ctx.map(|n| n.to_string())),
            ("max-memory", self.limits.memory.map(|n| n.to_string())),
            ("max-time", self.limits.time.map(|time| time.as_secs_f64().to_string())),
            ("reserve", Some(self.reserve.to_string())),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?))).collect()
    }

    /// The temporal scale that the video is placed with.
    pub fn temporal_scale(&self, engine: &Engine) -> f64 {
        let own = self.media.temporal_scale.or(self.options.temporal_scale);
        own.unwrap_or(engine.text.hparams().temporal_scale)
    }
}

impl Take {
    /// Checks that it was made by this model.
    ///
    /// # Errors
    /// `Mismatch` naming all that differs, with both values.
    pub fn check_model(&self, engine: &Engine) -> Result<()> {
        let mut differ = Differences::default();
        differ.model(&self.header, engine);
        if differ.0.is_empty() {
            return Ok(());
        }
        Err(Error::mismatch(format!("the take is of {}", differ.0.join("; "))).at(self.path().display().to_string()))
    }

    /// Checks that it is, or will be when it is complete, what `request` asks for: of a video of the same content, by the same
    /// model and projector, with the same of everything else that it depends on. Reads the video (see [`fingerprint::content`]).
    ///
    /// # Errors
    /// `BadInput` naming all that differs, with both values, and what can be done; `Io` when the video cannot be read.
    pub fn check_same(&self, engine: &Engine, request: &WatchRequest<'_>) -> Result<()> {
        let (header, mut differ) = (&self.header, Differences::default());
        differ.video(header, request.video).map_err(|err| {
            let (state, way) = match self.is_complete() {
                true => ("complete", "`longtake ask` needs no video"),
                false => ("unfinished", "to go on needs the video"),
            };
            let message = format!("the take is {state}, but cannot be compared with its video: {err}; {way}");
            Error::new(err.kind(), message).at(self.path().display().to_string())
        })?;
        differ.model(header, engine);
        let projector = engine.mmproj_fingerprint().unwrap_or_default();
        let named = |hash| Some(short(hash)).filter(|hash| !hash.is_empty()).unwrap_or("none");
        differ.say("projector", named(&header.mmproj_fingerprint), named(&projector));
        differ.say("temporal scale", header.temporal_scale, request.temporal_scale(engine));
        let types = |k: CacheType, v: CacheType| format!("{k}, {v}");
        differ.say(
            "cache types",
            types(header.shape.type_k, header.shape.type_v),
            types(request.options.type_k, request.options.type_v),
        );
        differ.say("--batch-size", header.n_batch, request.options.n_batch);
        let prompt = |text: Option<&str>| text.map_or("none".to_string(), |text| format!("{text:?}"));
        differ.say("system prompt", prompt(header.system_prompt.as_deref()), prompt(request.system_prompt));
        match &header.asked {
            None => differ.0.push("unknown flags: it is of version 1, which did not note them".to_string()),
            // Without a tower there are no rules to compare by; that there is none was said above.
            Some(before) => {
                if let Some(tower) = &engine.vision {
                    differ.flags(before, &request.asked(&tower.hparams().video.form));
                }
            }
        }
        if differ.0.is_empty() {
            return Ok(());
        }
        let message = format!(
            "the take is of {}; pass --again to watch anew and replace it, or another --output",
            differ.0.join("; ")
        );
        Err(Error::bad_input(message).at(self.path().display().to_string()))
    }
}

/// What differs, in words: what the take is of first, then what is here.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn say<T: PartialEq + std::fmt::Display>(&mut self, what: &str, there: T, here: T) {
        if there != here {
            self.0.push(format!("{what} `{there}`, this is `{here}`"));
        }
    }

    fn model(&mut self, header: &TakeHeader, engine: &Engine) {
        let hp = engine.text.hparams();
        self.say("position layout", header.layout.as_str(), &hp.layout.to_string());
        let model = engine.fingerprint();
        if header.model_fingerprint != model {
            let name = |name: &str, hash: &str| format!("{name} ({})", short(hash));
            self.say("the model", name(&header.model_name, &header.model_fingerprint), name(&engine.name, &model));
        }
        let made_for = engine.cache_shape(header.shape.n_ctx, (header.shape.type_k, header.shape.type_v));
        if made_for != header.shape {
            self.say("a cache of shape", format!("{:?}", header.shape), format!("{made_for:?}"));
        }
    }

    fn video(&mut self, header: &TakeHeader, video: &Path) -> Result<()> {
        let (hash, n_bytes) = fingerprint::content(video)?;
        // Version 1 made another hash.
        let unknown = header.asked.is_none() && n_bytes == header.source_bytes;
        if hash == header.source_fingerprint || unknown {
            return Ok(());
        }
        let here = video.display();
        self.0.push(if header.source_fingerprint.is_empty() {
            format!("a stream, `{}`, this is the video `{here}`", header.source)
        } else if n_bytes != header.source_bytes {
            format!(
                "another video, `{}` of {} bytes, this is `{here}` of {n_bytes}",
                header.source, header.source_bytes
            )
        } else {
            format!(
                "another video, `{}` with content {}, this is `{here}`, as large, with content {}",
                header.source,
                short(&header.source_fingerprint),
                short(&hash)
            )
        });
        Ok(())
    }

    fn flags(&mut self, before: &[(String, String)], now: &[(String, String)]) {
        let find = |list: &[(String, String)], name: &str| {
            let found = list.iter().find(|(key, _)| key == name);
            found.map_or("not given".to_string(), |(_, value)| value.clone())
        };
        let names = before.iter().chain(now.iter().filter(|(name, _)| !before.iter().any(|(key, _)| key == name)));
        for (name, _) in names {
            self.say(&format!("--{name}"), find(before, name), find(now, name));
        }
    }
}

/// The beginning of a hash, enough to tell two apart by eye.
fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
