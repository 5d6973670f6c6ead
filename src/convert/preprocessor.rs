//! The image processor's settings, wherever a checkpoint keeps them: nested in `processor_config.json`, as transformers 5
//! saves them, or in `preprocessor_config.json`, as versions before it did.

use serde_json::Value as Json;

use crate::{Error, Result};

/// The file that every part of a processor is nested in.
pub(crate) const PROCESSOR: &str = "processor_config.json";
/// The file of the image processor alone.
pub(crate) const PREPROCESSOR: &str = "preprocessor_config.json";
/// The file of the video processor alone.
pub(crate) const VIDEO_PREPROCESSOR: &str = "video_preprocessor_config.json";

const NESTED: &str = "processor_config.json: image_processor";
const NESTED_VIDEO: &str = "processor_config.json: video_processor";
/// The settings that pictures depend on: mean, standard deviation, limits.
const SETTINGS: &[&str] = &["image_mean", "image_std", "min_pixels", "max_pixels", "size"];

/// The settings of the image processor, or of the video processor.
#[derive(Debug)]
pub(crate) struct Preprocessor {
    /// The file, and the object in it, for messages.
    pub place: &'static str,
    pub json: Json,
}

/// The files of a checkpoint folder that may hold the settings; `None` where the folder has no such file.
pub(crate) struct ProcessorFiles {
    pub processor: Option<Json>,
    pub preprocessor: Option<Json>,
    pub video: Option<Json>,
}

/// The settings that count, and what a user should know about them.
#[derive(Debug, Default)]
pub(crate) struct Processors {
    pub image: Option<Preprocessor>,
    pub video: Option<Preprocessor>,
    pub notes: Vec<String>,
}

impl ProcessorFiles {
    /// The settings that count.
    ///
    /// As in the reference, what is nested in processor_config.json comes before preprocessor_config.json: a checkpoint
    /// that was saved again by transformers 5 keeps the older file of its base model beside it. Settings that stand in
    /// processor_config.json itself come last.
    ///
    /// # Errors
    /// `Format` for a nested part that is no object.
    pub(crate) fn choose(&self) -> Result<Processors> {
        let mut notes = Vec::new();
        let chosen = |place, json: &Json| Some(Preprocessor { place, json: json.clone() });
        let video = match (part(PROCESSOR, self.processor.as_ref(), "video_processor")?, &self.video) {
            (Some(json), _) => chosen(NESTED_VIDEO, json),
            (None, Some(json)) => chosen(VIDEO_PREPROCESSOR, json),
            (None, None) => None,
        };
        let nested = part(PROCESSOR, self.processor.as_ref(), "image_processor")?;
        let older = part(PREPROCESSOR, self.preprocessor.as_ref(), "image_processor")?.or(self.preprocessor.as_ref());
        let flat = self.processor.as_ref().filter(|json| SETTINGS.iter().any(|key| !json[*key].is_null()));
        let found = match (nested, older, flat) {
            (Some(json), ..) => chosen(NESTED, json),
            (None, Some(json), _) => chosen(PREPROCESSOR, json),
            (None, None, Some(json)) => chosen(PROCESSOR, json),
            (None, None, None) => None,
        };
        let Some(found) = found else {
            notes.push(match self.processor {
                Some(_) => format!(
                    "{PREPROCESSOR} is absent and {PROCESSOR} has no image processor: the family's standard values are used"
                ),
                None => format!("{PREPROCESSOR} and {PROCESSOR} are absent: the family's standard values are used"),
            });
            return Ok(Processors { image: None, video, notes });
        };
        if let (NESTED, Some(other)) = (found.place, older) {
            let differing = differing(&found.json, other);
            if !differing.is_empty() {
                notes.push(format!("{PREPROCESSOR} differs in {differing}: {PROCESSOR}, the newer file, counts"));
            }
        }
        let size = &found.json["size"];
        if !size.is_null() && limits(&found.json) == [None, None] {
            let place = found.place;
            notes.push(format!(
                "{place}: `size` is `{}`, expected the pixel counts `shortest_edge` and `longest_edge`: it is not used",
                size.to_string().chars().take(80).collect::<String>()
            ));
        }
        Ok(Processors { image: Some(found), video, notes })
    }
}

/// What a user should know when the video processor is set otherwise than the image processor: a projector file has one
/// set of means and deviations, and limits of videos only for families that have keys for them (`has_limits`).
pub(crate) fn video_note(
    image: Option<&Preprocessor>,
    video: Option<&Preprocessor>,
    has_limits: bool,
) -> Option<String> {
    let differing = differing_in(&image?.json, &video?.json, !has_limits);
    match (differing.is_empty(), has_limits) {
        (true, _) => None,
        (false, true) => Some(format!(
            "the video processor differs in {differing}: a projector file has one set, that of the image processor"
        )),
        (false, false) => Some(format!(
            "the video processor differs in {differing}: a projector file has one set, that of the image processor; \
             --min-pixels and --max-pixels set limits for videos"
        )),
    }
}

/// The object `name` in the file `file`; null counts as absent.
fn part<'a>(file: &str, json: Option<&'a Json>, name: &str) -> Result<Option<&'a Json>> {
    match json.and_then(|json| json.get(name)) {
        None | Some(Json::Null) => Ok(None),
        Some(part @ Json::Object(_)) => Ok(Some(part)),
        Some(_) => Err(Error::format(format!("{file}: `{name}` is not an object"))),
    }
}

/// Least and most pixels of a picture, as they stand there.
fn limits(json: &Json) -> [Option<&Json>; 2] {
    let first = |places: [&'static str; 3]| {
        let found = places.into_iter().map(|place| json.pointer(place).unwrap_or(&Json::Null));
        found.into_iter().find(|value| !value.is_null())
    };
    [
        first(["/min_pixels", "/size/shortest_edge", "/size/min_pixels"]),
        first(["/max_pixels", "/size/longest_edge", "/size/max_pixels"]),
    ]
}

/// The settings in which two processors differ, as words; what one of them does not say is no difference.
fn differing(a: &Json, b: &Json) -> String {
    differing_in(a, b, true)
}

/// As [`differing`], with or without the limits.
fn differing_in(a: &Json, b: &Json, with_limits: bool) -> String {
    let keys = ["image_mean", "image_std"];
    let pairs = keys.iter().map(|key| (*key, a.get(*key), b.get(*key)));
    let limits =
        ["min pixels", "max pixels"].into_iter().zip(limits(a)).zip(limits(b)).map(|((name, a), b)| (name, a, b));
    let differs = |(_, a, b): &(&str, Option<&Json>, Option<&Json>)| matches!((a, b), (Some(a), Some(b)) if a != b && !a.is_null() && !b.is_null());
    let limits = limits.filter(|_| with_limits);
    let names: Vec<&str> = pairs.chain(limits).filter(differs).map(|(name, ..)| name).collect();
    names.join(", ")
}
