//! A checkpoint family as data: which checkpoints it describes, where its hyper-parameters stand, what its tensors are
//! called and how they are shaped. The files live in `converters/`; `docs/converters.md` explains every field.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::derive::Derive;
use super::expr::Expr;
use super::files::read_text;
use super::like::like;
use crate::error::Context;
use crate::{Error, Result};

/// The families that are compiled in, by the name of their file.
const BUILT_IN: &[(&str, &str)] = &[
    ("converters/qwen2_vl.toml", include_str!("../../converters/qwen2_vl.toml")),
    ("converters/qwen2_5_vl.toml", include_str!("../../converters/qwen2_5_vl.toml")),
    ("converters/qwen3_vl.toml", include_str!("../../converters/qwen3_vl.toml")),
    ("converters/qwen3_vl_moe.toml", include_str!("../../converters/qwen3_vl_moe.toml")),
    ("converters/qwen3_5.toml", include_str!("../../converters/qwen3_5.toml")),
    ("converters/qwen3_5_moe.toml", include_str!("../../converters/qwen3_5_moe.toml")),
];

/// Largest family file that is read.
const MAX_FAMILY_BYTES: u64 = 1 << 20;

/// Values that the engine itself works with; every family must define them.
const NEEDED_VALUES: &[&str] = &["n_vocab", "n_layer", "n_embd_head", "rope_sections"];

/// A family description, parsed and checked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Family {
    pub name: String,
    #[serde(rename = "match")]
    pub matches: Matches,
    #[serde(rename = "value")]
    pub values: Vec<ValueRule>,
    #[serde(default, rename = "require")]
    pub requires: Vec<Require>,
    pub text: Group,
    pub mmproj: Group,
}

/// Which checkpoints a family describes: either list may match.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Matches {
    #[serde(default)]
    pub model_type: Vec<String>,
    #[serde(default)]
    pub architectures: Vec<String>,
}

/// A hyper-parameter: read from JSON (`from`) or computed from others (`derive`).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ValueRule {
    pub name: String,
    #[serde(default)]
    pub file: JsonFile,
    #[serde(default)]
    pub from: Vec<String>,
    #[serde(default)]
    pub derive: Option<Derive>,
    #[serde(default, rename = "type")]
    pub ty: KeyType,
    pub min: Option<f64>,
    pub max: Option<f64>,
    /// Number of entries that an array must have.
    pub len: Option<usize>,
    /// The value that says how many entries an array must have.
    pub len_of: Option<String>,
    /// What false and true are called in an array of strings that becomes one of bools.
    pub words: Option<[String; 2]>,
    /// Number of entries that it is filled up to with zeros when written.
    pub pad: Option<usize>,
    pub default: Option<toml::Value>,
    #[serde(default)]
    pub optional: bool,
    /// The key it is written to in the text model's file.
    pub text: Option<String>,
    /// The key it is written to in the projector's file.
    pub mmproj: Option<String>,
}

/// A JSON file of the checkpoint folder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum JsonFile {
    #[default]
    #[serde(rename = "config.json")]
    Config,
    #[serde(rename = "preprocessor_config.json")]
    Preprocessor,
    #[serde(rename = "video_preprocessor_config.json")]
    VideoPreprocessor,
}

/// The type of a value and of the key it is written to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum KeyType {
    #[default]
    #[serde(rename = "u32")]
    U32,
    #[serde(rename = "f32")]
    F32,
    #[serde(rename = "bool")]
    Bool,
    #[serde(rename = "string")]
    String,
    #[serde(rename = "i32[]")]
    I32s,
    #[serde(rename = "f32[]")]
    F32s,
    #[serde(rename = "bool[]")]
    Bools,
}

/// A configuration value without which the tensors would mean something else.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Require {
    #[serde(default)]
    pub file: JsonFile,
    pub from: Vec<String>,
    pub one_of: Vec<toml::Value>,
    /// What absence stands for; without it, absence is an error.
    pub default: Option<toml::Value>,
}

/// One output file: its keys and its tensors.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    pub architecture: String,
    /// What may stand before a tensor's name in the checkpoint, the published spelling first.
    pub prefixes: Vec<String>,
    /// The value that counts the blocks which `{}` runs over.
    pub blocks: String,
    /// Tensors that are left out on purpose.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// How the names of whole parts begin that are left out on purpose.
    #[serde(default)]
    pub ignore_parts: Vec<String>,
    #[serde(default, rename = "constant")]
    pub constants: Vec<Constant>,
    #[serde(rename = "tensor")]
    pub tensors: Vec<TensorRule>,
}

/// A key with a fixed value.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Constant {
    pub key: String,
    #[serde(rename = "type")]
    pub ty: KeyType,
    pub value: toml::Value,
}

/// A tensor of the checkpoint and what becomes of it; `{}` is the block number.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TensorRule {
    pub hf: String,
    pub gguf: Names,
    /// Dimensions in checkpoint order, slowest first.
    pub shape: Vec<Expr>,
    #[serde(default)]
    pub reshape: Reshape,
    /// What becomes of each value.
    #[serde(default)]
    pub value: Map,
    /// An order of heads that the file has otherwise.
    pub tile: Option<TileRule>,
    /// The `i32[]` value whose places `{}` runs over in `hf`, and whose entries stand in `gguf` instead.
    pub numbers: Option<String>,
    /// The `bool[]` value that says which blocks have this tensor.
    pub only: Option<String>,
    /// The `bool[]` value that says which blocks do not have this tensor.
    pub except: Option<String>,
    /// Prefixes of this tensor alone, instead of the group's.
    pub prefixes: Option<Vec<String>>,
    /// The name of a bool value; when it is true the tensor is neither needed nor used.
    pub unless: Option<String>,
}

/// One name or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Names {
    One(String),
    Several(Vec<String>),
}

impl Names {
    pub(crate) fn as_slice(&self) -> &[String] {
        match self {
            Names::One(name) => std::slice::from_ref(name),
            Names::Several(names) => names,
        }
    }
}

/// How one tensor of the checkpoint becomes one or more tensors of the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reshape {
    /// As it is.
    #[default]
    Keep,
    /// `(n, 1, k)` becomes `(n, k)`.
    Squeeze,
    /// Three equal parts along the first dimension: query, key, value.
    SplitQkv,
    /// `(experts, 2 n, k)` becomes two tensors `(experts, n, k)`: gates, ups.
    SplitGateUp,
    /// `(experts, k, 2 n)` becomes the same: matrices are stored the other way around.
    SplitGateUpTurned,
    /// `(experts, k, n)` becomes `(experts, n, k)`.
    Turn,
    /// `(n, channels, 2, y, x)` becomes two tensors `(n, channels, y, x)`, one per frame of a pair.
    SplitTemporal,
}

/// What becomes of each value of a tensor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum Map {
    #[default]
    #[serde(rename = "w")]
    Keep,
    /// The norm multiplies by one plus the stored weight.
    #[serde(rename = "w + 1")]
    PlusOne,
    /// A logarithm of a decay becomes the decay's exponent.
    #[serde(rename = "-exp(w)")]
    NegExp,
}

/// Heads that stand in groups in the checkpoint (`g0h0 g0h1 g1h0 g1h1`) and side by side in the file (`g0h0 g1h0 g0h1 g1h1`).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TileRule {
    pub along: Along,
    /// Where on that dimension the heads begin; they go on to its end.
    pub from: Expr,
    pub groups: Expr,
    /// Places of one head.
    pub size: Expr,
}

/// A dimension of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Along {
    Rows,
    Columns,
}

impl<'de> Deserialize<'de> for Expr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Expr, D::Error> {
        let text = String::deserialize(deserializer)?;
        Expr::parse(&text).map_err(|err| serde::de::Error::custom(err.message()))
    }
}

impl Family {
    /// The family in the file at `path`.
    ///
    /// # Errors
    /// Unreadable, too large, not TOML, an unknown or missing field, a rule that contradicts itself; each names the file
    /// and the field.
    pub(crate) fn open(path: &Path) -> Result<Family> {
        let place = || format!("family `{}`", path.display());
        let text = read_text(path, MAX_FAMILY_BYTES).at(place)?;
        Family::parse(&text).at(place)
    }

    /// The compiled-in family that describes a checkpoint with this `model_type` and these `architectures`.
    ///
    /// # Errors
    /// `Unsupported`, naming both and the families there are.
    pub(crate) fn built_in(model_type: Option<&str>, architectures: &[&str]) -> Result<Family> {
        let mut known = Vec::new();
        for (file, text) in BUILT_IN {
            let family = Family::parse(text).at(|| *file)?;
            if family.describes(model_type, architectures) {
                return Ok(family);
            }
            known.push(family.name);
        }
        Err(Error::unsupported(format!(
            "config.json: model_type `{}`, architectures `{}` match no known family (known: {}); a family file can be \
             given with --family",
            model_type.unwrap_or(""),
            architectures.join(", "),
            known.join(", ")
        )))
    }

    /// Whether it has keys for what the video processor is set to.
    pub(crate) fn reads_video_processor(&self) -> bool {
        self.values.iter().any(|rule| rule.file == JsonFile::VideoPreprocessor && rule.mmproj.is_some())
    }

    /// Whether a checkpoint with this `model_type` and these `architectures` belongs to it.
    pub(crate) fn describes(&self, model_type: Option<&str>, architectures: &[&str]) -> bool {
        let by_type = model_type.is_some_and(|ty| self.matches.model_type.iter().any(|known| known == ty));
        by_type || architectures.iter().any(|arch| self.matches.architectures.iter().any(|known| known == arch))
    }

    /// Parses and checks a description.
    pub(crate) fn parse(text: &str) -> Result<Family> {
        let own: toml::Table = text.parse().map_err(wrong)?;
        let family: Family = if own.contains_key("like") {
            joined(own)?.try_into().map_err(wrong)?
        } else {
            // Where nothing is put together, errors name lines.
            toml::from_str(text).map_err(wrong)?
        };
        family.check()?;
        Ok(family)
    }

    /// Everything that can be known to be wrong without a checkpoint.
    fn check(&self) -> Result<()> {
        let mut known = BTreeMap::new();
        for rule in &self.values {
            rule.check(&known).at(|| format!("value `{}`", rule.name))?;
            if known.insert(rule.name.as_str(), rule.ty).is_some() {
                return Err(Error::format("is defined twice").at(format!("value `{}`", rule.name)));
            }
        }
        for name in NEEDED_VALUES {
            if !known.contains_key(name) {
                return Err(Error::format(format!("no `value` is named `{name}`, which the converter needs")));
            }
        }
        for (i, require) in self.requires.iter().enumerate() {
            if require.from.is_empty() || require.one_of.is_empty() {
                return Err(Error::format("`from` and `one_of` must not be empty").at(format!("require {}", i + 1)));
            }
        }
        self.text.check(&self.values).at(|| "text")?;
        self.mmproj.check(&self.values).at(|| "mmproj")
    }
}

/// A description with all that it has from the one that it is like.
fn joined(own: toml::Table) -> Result<toml::Table> {
    let Some(base) = own.get("like") else { return Ok(own) };
    let file = base.as_str().map(|base| format!("converters/{base}.toml"));
    let found = BUILT_IN.iter().find(|(known, _)| file.as_deref() == Some(known));
    let (_, base) = found.ok_or_else(|| Error::format(format!("like: {base} is no built-in family")))?;
    like(joined(base.parse().map_err(wrong)?)?, own)
}

/// What TOML finds wrong.
fn wrong(err: toml::de::Error) -> Error {
    Error::format(err.to_string().trim_end().to_string())
}

impl ValueRule {
    fn check(&self, earlier: &BTreeMap<&str, KeyType>) -> Result<()> {
        match &self.derive {
            None if self.from.is_empty() => return Err(Error::format("neither `from` nor `derive` is given")),
            Some(_) if !self.from.is_empty() => return Err(Error::format("`from` and `derive` exclude each other")),
            Some(derive) => {
                if let Some(name) = derive.names().into_iter().find(|name| !earlier.contains_key(name)) {
                    return Err(Error::format(format!("`derive` uses `{name}`, which no earlier value defines")));
                }
                if derive.ty(|name| earlier.get(name).copied()) != Some(self.ty) {
                    return Err(Error::format(format!("`{}` does not give the `type` of the value", derive.text())));
                }
            }
            None => {}
        }
        let is_array = matches!(self.ty, KeyType::I32s | KeyType::F32s | KeyType::Bools);
        if (self.len.is_some() || self.len_of.is_some() || self.pad.is_some()) && !is_array {
            return Err(Error::format("`len`, `len_of` and `pad` are for arrays"));
        }
        if let Some(name) = self.len_of.as_deref().filter(|name| earlier.get(name) != Some(&KeyType::U32)) {
            return Err(Error::format(format!("len_of: `{name}` is not an earlier `u32` value")));
        }
        if self.words.is_some() && self.ty != KeyType::Bools {
            return Err(Error::format("`words` are for `bool[]`"));
        }
        if self.pad.is_some_and(|pad| pad > 64) {
            return Err(Error::limit("`pad` must be at most 64"));
        }
        Ok(())
    }
}

impl Group {
    fn check(&self, values: &[ValueRule]) -> Result<()> {
        let ty_of = |name: &str| values.iter().find(|rule| rule.name == name).map(|rule| rule.ty);
        if ty_of(&self.blocks) != Some(KeyType::U32) {
            return Err(Error::format(format!("blocks: `{}` is not a `u32` value", self.blocks)));
        }
        if let Some(part) = self.ignore_parts.iter().find(|part| part.is_empty()) {
            return Err(Error::format(format!("ignore_parts: `{part}` is how every name begins")));
        }
        let mut names = BTreeSet::new();
        for rule in &self.tensors {
            rule.check(&ty_of).at(|| format!("tensor `{}`", rule.hf))?;
            for name in rule.gguf.as_slice() {
                if !names.insert(name.as_str()) {
                    return Err(Error::format(format!("tensor `{}`: `{name}` is produced twice", rule.hf)));
                }
            }
        }
        Ok(())
    }
}

impl TensorRule {
    fn check(&self, ty_of: &impl Fn(&str) -> Option<KeyType>) -> Result<()> {
        let holes = |name: &str| name.matches("{}").count();
        let gguf = self.gguf.as_slice();
        if holes(&self.hf) > 1 || gguf.iter().any(|name| holes(name) != holes(&self.hf)) {
            return Err(Error::format("`hf` and `gguf` must hold `{}` once each, or not at all"));
        }
        let (n_names, n_dims) = match self.reshape {
            Reshape::Keep => (1, 1..=4),
            Reshape::Squeeze => (1, 3..=3),
            Reshape::SplitQkv => (3, 1..=4),
            Reshape::SplitGateUp | Reshape::SplitGateUpTurned => (2, 3..=3),
            Reshape::Turn => (1, 3..=3),
            Reshape::SplitTemporal => (2, 5..=5),
        };
        if gguf.len() != n_names {
            return Err(Error::format(format!(
                "`{:?}` gives {n_names} tensors, `gguf` names {}",
                self.reshape,
                gguf.len()
            )));
        }
        if !n_dims.contains(&self.shape.len()) {
            return Err(Error::format(format!("`{:?}` cannot take {} dimensions", self.reshape, self.shape.len())));
        }
        let tile = self.tile.iter().flat_map(|tile| [&tile.from, &tile.groups, &tile.size]);
        for name in self.shape.iter().chain(tile).flat_map(Expr::names) {
            if ty_of(name) != Some(KeyType::U32) {
                return Err(Error::format(format!("shape or tile: `{name}` is not a `u32` value")));
            }
        }
        match &self.tile {
            Some(_) if !matches!(self.reshape, Reshape::Keep | Reshape::Squeeze) => {
                return Err(Error::format(format!("`{:?}` and `tile` exclude each other", self.reshape)));
            }
            Some(tile) if tile.along == Along::Columns && (self.shape.len() != 2 || self.reshape != Reshape::Keep) => {
                return Err(Error::format("`tile` along columns is for matrices"));
            }
            _ => {}
        }
        for (field, name) in [("only", &self.only), ("except", &self.except)] {
            if let Some(name) = name.as_deref().filter(|name| ty_of(name) != Some(KeyType::Bools)) {
                return Err(Error::format(format!("{field}: `{name}` is not a `bool[]` value")));
            }
        }
        if let Some(name) = self.numbers.as_deref().filter(|name| ty_of(name) != Some(KeyType::I32s)) {
            return Err(Error::format(format!("numbers: `{name}` is not an `i32[]` value")));
        }
        let is_counted = self.numbers.is_some() || self.only.is_some() || self.except.is_some();
        if is_counted && holes(&self.hf) == 0 {
            return Err(Error::format("`numbers`, `only` and `except` are for names with `{}`"));
        }
        match &self.unless {
            Some(name) if ty_of(name) != Some(KeyType::Bool) => {
                Err(Error::format(format!("unless: `{name}` is not a `bool` value")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_family_parses() {
        for (file, text) in BUILT_IN {
            Family::parse(text).unwrap_or_else(|err| panic!("{file}: {err}"));
        }
    }

    #[test]
    fn a_faulty_description_names_the_field() {
        let (_, good) = BUILT_IN[0];
        let rows = [
            ("type = \"bool\"", "type = \"boolean\"", "boolean"),
            ("blocks = \"n_layer\"", "blocks = \"n_floor\"", "n_floor"),
            ("name = \"n_vocab\"", "name = \"vocab\"", "n_vocab"),
            ("derive = \"n_embd / n_head\"", "derive = \"n_embd / n_heads\"", "n_heads"),
            ("derive = \"v_n_embd * 4\"", "derive = \"v_n_embd *\"", "expression"),
            ("reshape = \"split_temporal\"", "reshape = \"split_time\"", "split_time"),
            ("reshape = \"split_temporal\"", "", "`Keep` gives 1"),
            ("unless = \"tied\"", "unless = \"n_embd\"", "n_embd"),
            ("gguf = \"mm.2.bias\"", "gguf = \"mm.0.bias\"", "mm.0.bias"),
            ("gguf = \"blk.{}.attn_q.bias\"", "gguf = \"attn_q.bias\"", "{}"),
            ("hf = \"norm.weight\"", "from = \"norm.weight\"", "from"),
        ];
        for (from, to, want) in rows {
            assert!(good.contains(from), "{from}");
            let err = Family::parse(&good.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(err.contains(want), "{to}: {err}");
        }
    }
}
