//! A request for a take, with the files and sizes that it means, and what it would cost.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::api::take_reserve;
use crate::cache::CacheType;
use crate::server::desk::Desk;
use crate::server::lane::Class;
use crate::server::plan::{around, base_name, fit_fault, seconds_json};
use crate::server::store::Blob;
use crate::server::wire::{Code, Fault, From, Json, TakeRequest};
use crate::stream::{
    Budget, Cost, Limits, MediaOptions, MediaPlan, SessionOptions, WatchRequest, fingerprint, part_options,
};

type Result<T> = std::result::Result<T, Fault>;

/// A request with everything that it names.
pub(super) struct Wanted {
    pub(super) request: TakeRequest,
    pub(super) video: PathBuf,
    pub(super) name: String,
    pub(super) media: MediaOptions,
    pub(super) limits: Limits,
    pub(super) options: SessionOptions,
    pub(super) _held: Option<Arc<Blob>>,
}

impl Wanted {
    pub(super) fn watch_request(&self) -> WatchRequest<'_> {
        WatchRequest {
            video: &self.video,
            system_prompt: self.request.system_prompt.as_deref(),
            media: &self.media,
            limits: self.limits,
            reserve: self.request.reserve.unwrap_or_else(|| take_reserve(self.limits.n_ctx)),
            options: self.options,
        }
    }
}

impl Desk {
    /// What a request asks for, with its files.
    pub(super) fn wanted(&self, request: TakeRequest) -> Result<Wanted> {
        let not_found = || Fault::new(Code::MediaNotFound, "nothing is known under this name").of("path");
        let (video, name, held) = match &request.from {
            From::File(id) => {
                let upload = self.files()?.get(id).map_err(|fault| fault.of("file_id"))?;
                if upload.kind != "video" {
                    return Err(Fault::value("file_id", "a picture needs no take: ask about it directly"));
                }
                (upload.blob().path().to_path_buf(), upload.name.clone(), Some(upload.blob().clone()))
            }
            From::Path(path) => {
                let path = self.local(path).ok_or_else(not_found)?;
                let name = base_name(&path);
                (path, name, None)
            }
            _ => return Err(not_found()),
        };
        let fault = |err: Error| Fault::from_error(&err).of("options");
        let media = part_options(&request.options, &self.setup.media).map_err(fault)?;
        let ty = |name: &Option<String>, default: CacheType, at: &str| match name {
            None => Ok(default),
            Some(name) => {
                CacheType::from_name(name).ok_or_else(|| Fault::value(at, format!("`{at}` is no type of a cache")))
            }
        };
        let base = self.setup.session;
        let options = SessionOptions {
            type_k: ty(&request.cache_type_k, base.type_k, "cache_type_k")?,
            type_v: ty(&request.cache_type_v, base.type_v, "cache_type_v")?,
            temporal_scale: request.temporal_scale.or(base.temporal_scale),
            n_ctx: 0,
            ..base
        };
        let memory = match (request.max_memory, self.setup.limits.memory) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let time = request.max_time.map(Duration::from_secs_f64).or(self.setup.limits.time);
        let limits = Limits { n_ctx: request.context, memory, time };
        Ok(Wanted { request, video, name, media, limits, options, _held: held })
    }

    /// Tells requests for the same take: by the video's content and everything that the take depends on.
    pub(super) fn key(&self, wanted: &Wanted) -> Result<String> {
        let (content, _) = fingerprint::content(&wanted.video).map_err(|err| Fault::from_error(&err))?;
        let tower = self.engine.need_vision().map_err(|err| Fault::from_error(&err))?;
        let asked = wanted.watch_request().asked(&tower.hparams().video.form);
        let what = (asked, wanted.options, &wanted.request.system_prompt);
        let scale = wanted.watch_request().temporal_scale(&self.engine);
        let words =
            format!("{content} {} {:?} {what:?} {scale}", self.engine.fingerprint(), self.engine.mmproj_fingerprint());
        Ok(Sha256::digest(words.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Plans the video of a take; `in_time` also measures how long it will take.
    pub(super) fn plan_video(&self, wanted: &Wanted, in_time: bool) -> Result<(MediaPlan, Cost)> {
        let request = wanted.watch_request();
        let n_around = around(self, request.system_prompt)?.n_tokens() + request.reserve;
        let budget = Budget::new(&self.engine, request.limits, request.options).with_reserve(request.reserve);
        let fault = |err: Error| fit_fault(&err, true);
        let _turn = (in_time || request.limits.time.is_some()).then(|| self.lane.turn(Class::Prefill));
        let (plan, mut cost) = budget.fit_video(request.video, request.media, n_around).map_err(fault)?;
        if in_time && cost.is_long() {
            budget.time(&mut cost).map_err(fault)?;
        }
        Ok((plan, cost))
    }

    /// What reading a video into a take would cost; nothing happens.
    ///
    /// # Errors
    /// As when it is asked for.
    pub(crate) fn plan_of_take(&self, body: &Json<'_>) -> Result<Value> {
        let wanted = self.wanted(TakeRequest::parse(body)?)?;
        let (plan, cost) = self.plan_video(&wanted, true)?;
        Ok(plan_json(&plan, &cost))
    }
}

pub(super) fn plan_json(plan: &MediaPlan, cost: &Cost) -> Value {
    let shown = plan.shown();
    let times: Vec<f64> = shown.iter().map(|frame| (frame.seconds * 1e3).round() / 1e3).collect();
    let reduced: Vec<&str> = cost.reduced.iter().map(|words| words.rsplit(": ").next().unwrap_or(words)).collect();
    json!({
        "media": [{
            "type": "video", "frames": plan.frames.len(), "size": [plan.width, plan.height], "tokens": plan.n_tokens,
            "duration": plan.info.as_ref().map(|info| info.duration), "times": times,
        }],
        "n_media": cost.n_tokens, "n_ctx": cost.n_ctx,
        "memory": { "total": cost.memory(), "weights": cost.weights, "cache": cost.cache, "working": cost.working },
        "seconds": seconds_json(cost), "reduced": reduced,
    })
}
