//! The hyper-parameters of one checkpoint: looked up in its JSON files as a family says, checked, named.

use serde_json::Value as Json;

use super::family::{Family, Group, JsonFile, KeyType, Require, ValueRule};
use super::preprocessor::{PREPROCESSOR, Preprocessor, VIDEO_PREPROCESSOR, video_note};
use crate::gguf::{Metadata, Value};
use crate::position::{Layout, default_sections, drivers};
use crate::{Error, Result};

/// The JSON files of a checkpoint folder that families read.
pub(crate) struct Configs {
    pub config: Json,
    /// `None` when the folder says nothing about its image processor.
    pub preprocessor: Option<Preprocessor>,
    /// Likewise of its video processor.
    pub video_preprocessor: Option<Preprocessor>,
}

impl Configs {
    fn file(&self, file: JsonFile) -> (&'static str, Option<&Json>) {
        let processor = |found: &'_ Option<Preprocessor>, absent| match found {
            Some(found) => found.place,
            None => absent,
        };
        match file {
            JsonFile::Config => ("config.json", Some(&self.config)),
            JsonFile::Preprocessor => {
                (processor(&self.preprocessor, PREPROCESSOR), self.preprocessor.as_ref().map(|found| &found.json))
            }
            JsonFile::VideoPreprocessor => (
                processor(&self.video_preprocessor, VIDEO_PREPROCESSOR),
                self.video_preprocessor.as_ref().map(|found| &found.json),
            ),
        }
    }

    /// What a user should know when the video processor is set otherwise than the image processor.
    pub(crate) fn video_note(&self, has_limits: bool) -> Option<String> {
        video_note(self.preprocessor.as_ref(), self.video_preprocessor.as_ref(), has_limits)
    }
}

/// The first place of `paths` (dot-separated) that holds something other than null.
fn look_up<'a>(json: &'a Json, paths: &'a [String]) -> Option<(&'a str, &'a Json)> {
    paths.iter().find_map(|path| {
        let found = path.split('.').try_fold(json, |at, part| at.get(part))?;
        (!found.is_null()).then_some((path.as_str(), found))
    })
}

/// The values of a family's rules for one checkpoint, in the order of the rules.
#[derive(Debug)]
pub(crate) struct Values {
    values: Vec<(String, Value)>,
}

impl Values {
    /// Reads and checks every value, then every requirement; all that is wrong is listed in one error.
    pub(crate) fn read(family: &Family, configs: &Configs) -> Result<Values> {
        let mut values = Values { values: Vec::new() };
        let mut wrong: Vec<String> = Vec::new();
        for rule in &family.values {
            match values.value_of(rule, configs) {
                Ok(Some(value)) => values.values.push((rule.name.clone(), value)),
                Ok(None) => {}
                Err(err) => wrong.push(err.to_string()),
            }
        }
        wrong.extend(family.requires.iter().filter_map(|require| check(require, configs).err()).map(|e| e.to_string()));
        match wrong.len() {
            0 => {}
            1 => return Err(Error::unsupported(wrong.remove(0))),
            n => {
                return Err(Error::unsupported(format!(
                    "{n} configuration values do not fit:\n  {}",
                    wrong.join("\n  ")
                )));
            }
        }
        let n_rot = values.uint("n_rot").or_else(|_| values.uint("n_embd_head"))?;
        drivers(Layout::Mrope, values.sections()?, n_rot).map_err(|err| err.at("config.json: mrope_section"))?;
        Ok(values)
    }

    /// Lets a layout that brings its own sections replace the checkpoint's (HoPE-X: half of the pairs at rest).
    pub(crate) fn adopt_layout(&mut self, layout: Layout) -> Result<()> {
        if layout == Layout::HopeX {
            let sections = default_sections(layout, self.uint("n_embd_head")?);
            let sections: Vec<i32> = sections.iter().map(|s| *s as i32).collect();
            let old = self.values.iter_mut().find(|(name, _)| name == "rope_sections");
            old.expect("a family defines `rope_sections`").1 = sections.into();
        }
        Ok(())
    }

    /// The value called `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// The `u32` value called `name`.
    pub(crate) fn uint(&self, name: &str) -> Result<usize> {
        let value = self.get(name).and_then(Value::as_int).and_then(|n| usize::try_from(n).ok());
        value.ok_or_else(|| Error::format(format!("the family gives `{name}` no whole number")))
    }

    /// The bool called `name`.
    pub(crate) fn is_true(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Value::Bool(true)))
    }

    /// The entries of the `i32[]` value called `name`, none when it is absent.
    pub(crate) fn indexes(&self, name: &str) -> Result<Vec<usize>> {
        let ints = match self.get(name) {
            None => Some(Vec::new()),
            Some(Value::Array(array)) => array.to_ints(),
            Some(_) => None,
        };
        let indexes = ints.and_then(|ints| ints.into_iter().map(|n| usize::try_from(n).ok()).collect());
        indexes.ok_or_else(|| Error::format(format!("the family gives `{name}` no indexes")))
    }

    /// The entries of the `bool[]` value called `name`, which must be `n`.
    pub(crate) fn flags(&self, name: &str, n: usize) -> Result<Vec<bool>> {
        match self.get(name) {
            Some(Value::Array(crate::gguf::Array::Bool(flags))) if flags.len() == n => Ok(flags.clone()),
            _ => Err(Error::format(format!("the family gives `{name}` no `{n}` flags"))),
        }
    }

    fn sections(&self) -> Result<[usize; 3]> {
        let Some(Value::Array(array)) = self.get("rope_sections") else {
            return Err(Error::format("the family gives `rope_sections` no array"));
        };
        let ints = array.to_ints().unwrap_or_default();
        let sections: Vec<usize> = ints.into_iter().filter_map(|n| usize::try_from(n).ok()).collect();
        sections.try_into().map_err(|_| Error::format("`rope_sections` must hold three counts"))
    }

    /// Writes the values that have a key in one output file; `key_of` says which.
    pub(crate) fn set_keys(
        &self,
        family: &Family,
        arch: &str,
        key_of: impl Fn(&ValueRule) -> Option<&String>,
        meta: &mut Metadata,
    ) {
        for rule in &family.values {
            let (Some(key), Some(value)) = (key_of(rule), self.get(&rule.name)) else { continue };
            meta.set(key.replace("{arch}", arch), pad(value.clone(), rule.pad));
        }
    }

    fn value_of(&self, rule: &ValueRule, configs: &Configs) -> Result<Option<Value>> {
        if let Some(derive) = &rule.derive {
            let value =
                derive.eval(|name| self.get(name)).map_err(|err| err.at(format!("config.json: {}", rule.name)))?;
            let place = format!("config.json: {}", rule.name);
            let missing = || Error::format(format!("{place}: `{}` has no value", derive.text()));
            return match value {
                Some(value) => self.checked(value, rule, &place).map(Some),
                None if rule.optional => Ok(None),
                None => Err(missing()),
            };
        }
        let (file, json) = configs.file(rule.file);
        let (place, json) = match json.and_then(|json| look_up(json, &rule.from)) {
            Some((path, found)) => (format!("{file}: `{path}`"), found.clone()),
            None => match &rule.default {
                Some(default) => (format!("default of `{}`", rule.name), to_json(default)?),
                None if rule.optional => return Ok(None),
                None => return Err(Error::format(format!("{file}: `{}` is missing", rule.from.join("` or `")))),
            },
        };
        let json = match &rule.words {
            Some(words) => in_words(&json, words, &place)?,
            None => json,
        };
        self.checked(convert(&json, rule.ty, &place)?, rule, &place).map(Some)
    }

    /// `value`, when range and length are those of the rule.
    fn checked(&self, value: Value, rule: &ValueRule, place: &str) -> Result<Value> {
        check_range(&value, rule, place)?;
        match (&rule.len_of, &value) {
            (Some(name), Value::Array(array)) if array.len() != self.uint(name)? => Err(Error::format(format!(
                "{place} has `{}` entries, expected `{name}`, which is `{}`",
                array.len(),
                self.uint(name)?
            ))),
            _ => Ok(value),
        }
    }
}

/// Writes the keys of one output file that never change.
pub(crate) fn set_constants(group: &Group, arch: &str, meta: &mut Metadata) -> Result<()> {
    for constant in &group.constants {
        let value = convert(&to_json(&constant.value)?, constant.ty, &constant.key)?;
        meta.set(constant.key.replace("{arch}", arch), value);
    }
    Ok(())
}

/// A JSON value as a GGUF value of type `ty`.
fn convert(json: &Json, ty: KeyType, place: &str) -> Result<Value> {
    let wrong = |what: &str| {
        let text: String = json.to_string().chars().take(80).collect();
        Error::format(format!("{place} is `{text}`, expected {what}"))
    };
    // Whole numbers may be written as `4.0`.
    let int = |json: &Json| {
        json.as_i64().or_else(|| json.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 9e15).map(|x| x as i64))
    };
    let float = |json: &Json| json.as_f64().map(|x| x as f32).filter(|x| x.is_finite());
    let list = |json: &Json| json.as_array().cloned();
    Ok(match ty {
        KeyType::U32 => {
            let n = int(json).and_then(|n| u32::try_from(n).ok());
            n.ok_or_else(|| wrong("a whole number from 0 to 2^32 - 1"))?.into()
        }
        KeyType::F32 => float(json).ok_or_else(|| wrong("a number"))?.into(),
        KeyType::Bool => json.as_bool().ok_or_else(|| wrong("true or false"))?.into(),
        KeyType::String => json.as_str().ok_or_else(|| wrong("a string"))?.into(),
        KeyType::I32s => {
            let items = list(json).and_then(|l| l.iter().map(|x| int(x).and_then(|n| i32::try_from(n).ok())).collect());
            Value::from(items.ok_or_else(|| wrong("an array of whole numbers")).map(|v: Vec<i32>| v)?)
        }
        KeyType::Bools => {
            let items = list(json).and_then(|l| l.iter().map(Json::as_bool).collect());
            Value::from(items.ok_or_else(|| wrong("an array of true and false")).map(|v: Vec<bool>| v)?)
        }
        KeyType::F32s => {
            let items = list(json).and_then(|l| l.iter().map(float).collect());
            Value::from(items.ok_or_else(|| wrong("an array of numbers")).map(|v: Vec<f32>| v)?)
        }
    })
}

/// An array of two words as one of bools.
fn in_words(json: &Json, words: &[String; 2], place: &str) -> Result<Json> {
    let Some(list) = json.as_array() else { return Ok(json.clone()) };
    let one = |item: &Json| {
        let found = words.iter().position(|word| item.as_str() == Some(word));
        found.map(|at| Json::Bool(at == 1)).ok_or_else(|| {
            let text: String = item.to_string().chars().take(80).collect();
            Error::unsupported(format!("{place} holds `{text}`, supported: {}", words.join(", ")))
        })
    };
    list.iter().map(one).collect::<Result<Vec<_>>>().map(Json::Array)
}

fn check_range(value: &Value, rule: &ValueRule, place: &str) -> Result<()> {
    let numbers = match value {
        Value::Array(array) => {
            if rule.len.is_some_and(|len| len != array.len()) {
                let want = rule.len.unwrap_or_default();
                return Err(Error::format(format!("{place} has `{}` entries, expected {want}", array.len())));
            }
            match array {
                crate::gguf::Array::F32(v) => v.iter().map(|x| f64::from(*x)).collect(),
                other => other.to_ints().unwrap_or_default().into_iter().map(|n| n as f64).collect(),
            }
        }
        scalar => scalar.as_float().into_iter().collect::<Vec<_>>(),
    };
    let (min, max) = (rule.min.unwrap_or(f64::NEG_INFINITY), rule.max.unwrap_or(f64::INFINITY));
    // The value was rounded to f32, so a bound may be missed by that rounding.
    let slack = |bound: f64| bound.abs() * 1e-6;
    match numbers.iter().find(|x| !(**x >= min - slack(min) && **x <= max + slack(max))) {
        Some(x) => Err(Error::limit(format!("{place} is `{x}`, expected {min} to {max}"))),
        None => Ok(()),
    }
}

fn pad(value: Value, n: Option<usize>) -> Value {
    use crate::gguf::Array;
    match (value, n) {
        (Value::Array(Array::I32(mut v)), Some(n)) => {
            v.resize(n.max(v.len()), 0);
            v.into()
        }
        (Value::Array(Array::F32(mut v)), Some(n)) => {
            v.resize(n.max(v.len()), 0.0);
            v.into()
        }
        (value, _) => value,
    }
}

/// One requirement: the value found, or what its absence stands for, is among those allowed.
fn check(require: &Require, configs: &Configs) -> Result<()> {
    let (file, json) = configs.file(require.file);
    let allowed = require.one_of.iter().map(to_json).collect::<Result<Vec<_>>>()?;
    let (path, found) = match json.and_then(|json| look_up(json, &require.from)) {
        Some((path, found)) => (path, found.clone()),
        None => match &require.default {
            Some(default) => (require.from[0].as_str(), to_json(default)?),
            None => return Err(Error::format(format!("{file}: `{}` is missing", require.from.join("` or `")))),
        },
    };
    let same = |a: &Json, b: &Json| a == b || matches!((a.as_f64(), b.as_f64()), (Some(x), Some(y)) if x == y);
    if allowed.iter().any(|a| same(a, &found)) {
        return Ok(());
    }
    let allowed: Vec<String> = allowed.iter().map(Json::to_string).collect();
    let text: String = found.to_string().chars().take(80).collect();
    Err(Error::unsupported(format!("{file}: `{path}` is `{text}`, supported: {}", allowed.join(", "))))
}

fn to_json(value: &toml::Value) -> Result<Json> {
    serde_json::to_value(value).map_err(|err| Error::format(format!("`{value}`: {err}")))
}
