//! A checkpoint folder: its JSON files and the table of its tensors over all shards.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use serde_json::Value as Json;

use super::files::Folder;
use super::preprocessor::{PREPROCESSOR, PROCESSOR, ProcessorFiles, Processors, VIDEO_PREPROCESSOR};
use super::safetensors::{self, MAX_HEADER, StoredTensor};
use super::values::Configs;
use crate::error::Context;
use crate::{Error, Result};

/// Largest JSON configuration file that is read.
const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// Most weight files.
const MAX_FILES: usize = 512;
/// How many names an error lists before it only counts.
const MAX_LISTED: usize = 40;

/// Files that only the tokenizer's reader opens.
const TOKENIZER_FILES: &[&str] =
    &["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja", "chat_template.json"];

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// An opened checkpoint: nothing but headers and JSON has been read.
pub(crate) struct Checkpoint {
    pub folder: Folder,
    pub configs: Configs,
    /// What the user should know about its settings and could not expect.
    pub notes: Vec<String>,
    files: Vec<(String, File)>,
    tensors: BTreeMap<String, (usize, StoredTensor)>,
}

impl Checkpoint {
    /// Opens the folder at `dir` and checks the header of every weight file.
    ///
    /// # Errors
    /// `BadInput` when it is no folder; `Unsupported` for pickled weights; `Format` or `Mismatch` naming the file for
    /// whatever contradicts itself.
    pub(crate) fn open(dir: &Path) -> Result<Checkpoint> {
        let folder = Folder::open(dir)?;
        if !folder.has("config.json") {
            let what = format!("`{}` has no config.json, expected a Hugging Face checkpoint folder", dir.display());
            return Err(Error::bad_input(what));
        }
        let optional = |name: &str| match folder.has(name) {
            true => json(&folder, name, MAX_CONFIG_BYTES).map(Some),
            false => Ok(None),
        };
        let files = ProcessorFiles {
            processor: optional(PROCESSOR)?,
            preprocessor: optional(PREPROCESSOR)?,
            video: optional(VIDEO_PREPROCESSOR)?,
        };
        let Processors { image, video, notes } = files.choose()?;
        let config = json(&folder, "config.json", MAX_CONFIG_BYTES)?;
        let configs = Configs { config, preprocessor: image, video_preprocessor: video };
        for name in TOKENIZER_FILES.iter().filter(|name| folder.has(name)) {
            folder.file(name)?;
        }
        let mut checkpoint = Checkpoint { folder, configs, notes, files: Vec::new(), tensors: BTreeMap::new() };
        if checkpoint.folder.has(SINGLE) {
            checkpoint.add_file(SINGLE)?;
        } else if checkpoint.folder.has(INDEX) {
            checkpoint.add_shards().at(|| INDEX)?;
        } else {
            return Err(no_weights(&checkpoint.folder)?);
        }
        Ok(checkpoint)
    }

    /// `model_type` of config.json.
    pub(crate) fn model_type(&self) -> Option<&str> {
        self.configs.config.get("model_type").and_then(Json::as_str)
    }

    /// `architectures` of config.json.
    pub(crate) fn architectures(&self) -> Vec<&str> {
        let list = self.configs.config.get("architectures").and_then(Json::as_array);
        list.into_iter().flatten().filter_map(Json::as_str).collect()
    }

    /// All tensors, by name.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &StoredTensor> {
        self.tensors.values().map(|(_, tensor)| tensor)
    }

    /// The tensor called `name`.
    pub(crate) fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name).map(|(_, tensor)| tensor)
    }

    /// Reads bytes `at..at + buf.len()` of the tensor called `name`.
    pub(crate) fn read(&mut self, name: &str, at: u64, buf: &mut [u8]) -> Result<()> {
        let (file, tensor) = &self.tensors[name];
        let (file_name, file) = &mut self.files[*file];
        safetensors::read_data(file, tensor, at, buf).at(|| file_name.clone())
    }

    fn add_file(&mut self, name: &str) -> Result<()> {
        let mut file = self.folder.file(name)?;
        let tensors = safetensors::read_header(&mut file).at(|| name)?;
        let at = self.files.len();
        self.files.push((name.to_string(), file));
        for tensor in tensors {
            if let Some((other, _)) = self.tensors.get(&tensor.name) {
                let other = &self.files[*other].0;
                return Err(Error::mismatch(format!("tensor `{}` is in `{other}` and in `{name}`", tensor.name)));
            }
            self.tensors.insert(tensor.name.clone(), (at, tensor));
        }
        Ok(())
    }

    /// Opens the files that the index names and holds it against what they contain.
    fn add_shards(&mut self) -> Result<()> {
        let index = json(&self.folder, INDEX, MAX_HEADER)?;
        let map = index.get("weight_map").and_then(Json::as_object);
        let map = map.ok_or_else(|| Error::format("`weight_map` is missing or not an object"))?;
        let mut shards = Vec::new();
        for (tensor, file) in map {
            let file = file.as_str();
            let file = file.ok_or_else(|| Error::format(format!("weight_map: `{tensor}`: expected a file name")))?;
            if !file.ends_with(".safetensors") {
                return Err(Error::format(format!("weight_map: `{tensor}`: `{file}` is not a .safetensors file")));
            }
            shards.push(file);
        }
        shards.sort_unstable();
        shards.dedup();
        if shards.len() > MAX_FILES {
            return Err(Error::limit(format!("`{}` weight files, at most {MAX_FILES}", shards.len())));
        }
        for shard in shards {
            self.add_file(shard)?;
        }
        let mut wrong = Vec::new();
        for (tensor, file) in map {
            match self.tensors.get(tensor) {
                Some((at, _)) if file == self.files[*at].0.as_str() => {}
                Some((at, _)) => wrong.push(format!("`{tensor}` is in `{}`, not in {file}", self.files[*at].0)),
                None => wrong.push(format!("`{tensor}` is not in {file}")),
            }
        }
        let unlisted = self.tensors.iter().filter(|(name, _)| !map.contains_key(*name));
        wrong.extend(
            unlisted.map(|(name, (at, _))| format!("`{name}` in `{}` is not in weight_map", self.files[*at].0)),
        );
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(Error::mismatch(format!("does not describe its files: {}", listed(&wrong)))),
        }
    }
}

/// Joins what is wrong into one message: everything up to a cap, then a count.
pub(crate) fn listed(items: &[String]) -> String {
    let shown = &items[..items.len().min(MAX_LISTED)];
    let more = items.len() - shown.len();
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{tail}", shown.join(", "))
}

fn json(folder: &Folder, name: &str, cap: u64) -> Result<Json> {
    let text = folder.text(name, cap)?;
    let json: Json = serde_json::from_str(&text).map_err(|err| Error::format(format!("{name}: {err}")))?;
    match json.is_object() {
        true => Ok(json),
        false => Err(Error::format(format!("{name}: expected a JSON object"))),
    }
}

/// The error for a folder without weights that can be read: it says what is there instead.
fn no_weights(folder: &Folder) -> Result<Error> {
    let names = folder.names()?;
    let pickled = |name: &&String| {
        let ends = [".bin", ".pt", ".pth", ".ckpt", ".pkl"];
        ends.iter().any(|end| name.ends_with(end)) && !name.starts_with("training_args")
    };
    Ok(if let Some(name) = names.iter().find(pickled) {
        Error::unsupported(format!(
            "`{name}`: the weights are Python pickles, which run code when they are loaded, so they are not read; save \
             the checkpoint as safetensors"
        ))
    } else if names.iter().any(|name| name == "adapter_model.safetensors") {
        Error::unsupported("`adapter_model.safetensors` is an adapter; merge it into its base model first")
    } else {
        Error::format(format!("neither `{SINGLE}` nor `{INDEX}` is in the folder"))
    })
}
