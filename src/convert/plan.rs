//! From a family's rules and a checkpoint's tensors to a list of what is written: every tensor of the checkpoint is used
//! or left out on purpose, every tensor of the model is there, every shape is as the hyper-parameters say.

use std::collections::{BTreeMap, BTreeSet};

use safetensors::Dtype;

use super::checkpoint::{Checkpoint, listed};
use super::family::{Family, Group, Reshape, TensorRule};
use super::values::Values;
use crate::{Error, Result};

/// A tensor of an output file and where its values come from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Planned {
    pub name: String,
    /// Dimensions, fastest first.
    pub ne: Vec<usize>,
    /// The checkpoint's name of the tensor that holds the values.
    pub source: String,
    pub dtype: Dtype,
    pub part: Part,
}

/// Which part of its source a tensor is. The source is seen as rows along its slowest dimension.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Part {
    /// `n` rows from `first` on.
    Rows { first: usize, n: usize },
    /// Of each of `n` rows `(channels, 2, area)` the values of one frame: `(channels, area)`.
    Frame { frame: usize, n: usize, channels: usize, area: usize },
}

/// What a family makes of a checkpoint.
#[derive(Debug)]
pub(crate) struct Plan {
    pub text: Vec<Planned>,
    pub mmproj: Vec<Planned>,
    /// What the user should know and could not expect.
    pub notes: Vec<String>,
}

/// Where a tensor of the checkpoint goes.
struct Match<'a> {
    rule: usize,
    block: Option<usize>,
    /// The rule applies to another configuration: the tensor is left out.
    skipped: Option<&'a str>,
}

impl Plan {
    /// Matches every tensor with a rule.
    ///
    /// # Errors
    /// One `Mismatch` that lists all unknown, missing, doubled and misshaped tensors and those of a type that is not
    /// converted.
    pub(crate) fn new(family: &Family, values: &Values, checkpoint: &Checkpoint) -> Result<Plan> {
        let mut notes = Vec::new();
        let mut faults = Faults::default();
        let mut taken: [BTreeMap<(usize, Option<usize>), String>; 2] = Default::default();
        for stored in checkpoint.tensors() {
            let name = stored.name.as_str();
            let hit = [&family.text, &family.mmproj].into_iter().enumerate().find_map(|(file, group)| {
                let n_block = values.uint(&group.blocks).ok()?;
                find(group, name, n_block, values).map(|hit| (file, hit))
            });
            match hit {
                None => faults.unknown.push(format!("`{name}`")),
                Some((_, Found::Ignored)) => {}
                Some((_, Found::Rule(Match { skipped: Some(why), .. }))) => {
                    notes.push(format!("tensor `{name}` is left out, because `{why}` is true in this checkpoint"));
                }
                Some((file, Found::Rule(hit))) => {
                    if let Some(other) = taken[file].insert((hit.rule, hit.block), name.to_string()) {
                        faults.doubled.push(format!("`{other}` and `{name}`"));
                    }
                }
            }
        }
        let text = lay_out(&family.text, values, checkpoint, &taken[0], &mut faults)?;
        let mmproj = lay_out(&family.mmproj, values, checkpoint, &taken[1], &mut faults)?;
        faults.into_result()?;
        Ok(Plan { text, mmproj, notes })
    }
}

/// What does not fit, in groups.
#[derive(Default)]
struct Faults {
    unknown: Vec<String>,
    missing: Vec<String>,
    doubled: Vec<String>,
    misshaped: Vec<String>,
    untyped: Vec<String>,
}

impl Faults {
    fn into_result(self) -> Result<()> {
        let groups = [
            ("unknown", self.unknown),
            ("missing", self.missing),
            ("for one place twice", self.doubled),
            ("of another shape than the configuration says", self.misshaped),
            ("of a type that is not converted (F32, F16 and BF16 are)", self.untyped),
        ];
        let parts: Vec<String> = groups
            .iter()
            .filter(|(_, items)| !items.is_empty())
            .map(|(what, items)| format!("{} {what}: {}", items.len(), listed(items)))
            .collect();
        match parts.is_empty() {
            true => Ok(()),
            false => Err(Error::mismatch(format!("tensors do not fit the family: {}", parts.join("; ")))),
        }
    }
}

enum Found<'a> {
    Rule(Match<'a>),
    Ignored,
}

/// The rule of `group` for the tensor called `name`.
fn find<'a>(group: &'a Group, name: &str, n_block: usize, values: &Values) -> Option<Found<'a>> {
    let stripped = |prefixes: &[String]| -> Vec<String> {
        prefixes.iter().filter_map(|prefix| name.strip_prefix(prefix.as_str())).map(str::to_string).collect()
    };
    let common = stripped(&group.prefixes);
    for (at, rule) in group.tensors.iter().enumerate() {
        let own;
        let suffixes = match &rule.prefixes {
            Some(prefixes) => {
                own = stripped(prefixes);
                &own
            }
            None => &common,
        };
        for suffix in suffixes {
            if let Some(block) = matches(&rule.hf, suffix, n_block) {
                let skipped = rule.unless.as_deref().filter(|name| values.is_true(name));
                return Some(Found::Rule(Match { rule: at, block, skipped }));
            }
        }
    }
    let ignored = common.iter().any(|suffix| group.ignore.iter().any(|p| matches(p, suffix, n_block).is_some()));
    ignored.then_some(Found::Ignored)
}

/// Whether `name` fits `pattern`, and the number in place of `{}`, which must be below `n_block`.
fn matches(pattern: &str, name: &str, n_block: usize) -> Option<Option<usize>> {
    let Some((before, after)) = pattern.split_once("{}") else {
        return (pattern == name).then_some(None);
    };
    let digits = name.strip_prefix(before)?.strip_suffix(after)?;
    let block: usize = digits.parse().ok()?;
    // `07` and `+7` parse too, but are not how a block is written.
    (block < n_block && block.to_string() == digits).then_some(Some(block))
}

/// The tensors of one file in the order of the rules; a run of rules with `{}` goes block by block.
fn lay_out(
    group: &Group,
    values: &Values,
    checkpoint: &Checkpoint,
    taken: &BTreeMap<(usize, Option<usize>), String>,
    faults: &mut Faults,
) -> Result<Vec<Planned>> {
    let n_block = values.uint(&group.blocks)?;
    let mut out = Vec::new();
    let mut names = BTreeSet::new();
    let mut at = 0;
    while at < group.tensors.len() {
        let in_blocks = group.tensors[at].hf.contains("{}");
        let run = group.tensors[at..].iter().take_while(|rule| in_blocks && rule.hf.contains("{}")).count().max(1);
        for block in 0..if in_blocks { n_block } else { 1 } {
            let block = in_blocks.then_some(block);
            for (i, rule) in group.tensors[at..at + run].iter().enumerate() {
                if rule.unless.as_deref().is_some_and(|name| values.is_true(name)) {
                    continue;
                }
                match taken.get(&(at + i, block)) {
                    Some(source) => place(rule, block, source, values, checkpoint, faults, &mut out)?,
                    None => {
                        let prefix = rule.prefixes.as_ref().unwrap_or(&group.prefixes).first();
                        let prefix = prefix.map_or("", String::as_str);
                        faults.missing.push(format!("`{prefix}{}`", numbered(&rule.hf, block)));
                    }
                }
            }
        }
        at += run;
    }
    for planned in &out {
        if !names.insert(planned.name.as_str()) {
            return Err(Error::format(format!("the family writes `{}` twice", planned.name)));
        }
    }
    Ok(out)
}

/// Adds what `rule` makes of the tensor called `source`.
fn place(
    rule: &TensorRule,
    block: Option<usize>,
    source: &str,
    values: &Values,
    checkpoint: &Checkpoint,
    faults: &mut Faults,
    out: &mut Vec<Planned>,
) -> Result<()> {
    let stored = checkpoint.tensor(source).expect("it was matched by name");
    let lookup = |name: &str| values.uint(name).ok().map(|n| n as u64);
    let mut want = Vec::new();
    for expr in &rule.shape {
        let n = expr.eval(lookup)?;
        want.push(usize::try_from(n).map_err(|_| Error::limit(format!("`{source}`: dimension `{n}` is too large")))?);
    }
    if stored.shape != want {
        faults.misshaped.push(format!("`{source}` is {:?}, expected {want:?}", stored.shape));
        return Ok(());
    }
    if !matches!(stored.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
        faults.untyped.push(format!("`{source}` is {}", stored.dtype));
        return Ok(());
    }
    let n = want[0];
    let (parts, shape): (Vec<Part>, Vec<usize>) = match rule.reshape {
        Reshape::Keep => (vec![Part::Rows { first: 0, n }], want),
        Reshape::SplitQkv => match n % 3 {
            0 => {
                let mut shape = want;
                shape[0] = n / 3;
                ((0..3).map(|k| Part::Rows { first: k * n / 3, n: n / 3 }).collect(), shape)
            }
            _ => {
                faults.misshaped.push(format!("`{source}`: `{n}` rows are not three equal parts"));
                return Ok(());
            }
        },
        Reshape::SplitTemporal => match want[..] {
            [n, channels, 2, y, x] => {
                let frame = |frame| Part::Frame { frame, n, channels, area: y * x };
                (vec![frame(0), frame(1)], vec![n, channels, y, x])
            }
            _ => {
                faults.misshaped.push(format!("`{source}` is {want:?}, expected two frames in the third dimension"));
                return Ok(());
            }
        },
    };
    let ne: Vec<usize> = shape.into_iter().rev().collect();
    for (part, name) in parts.into_iter().zip(rule.gguf.as_slice()) {
        let name = numbered(name, block);
        out.push(Planned { name, ne: ne.clone(), source: source.to_string(), dtype: stored.dtype, part });
    }
    Ok(())
}

fn numbered(pattern: &str, block: Option<usize>) -> String {
    match block {
        Some(block) => pattern.replace("{}", &block.to_string()),
        None => pattern.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn block_numbers_are_plain_and_below_the_count() {
        assert_eq!(matches("layers.{}.w", "layers.11.w", 12), Some(Some(11)));
        assert_eq!(matches("norm.w", "norm.w", 12), Some(None));
        for name in ["layers.12.w", "layers.07.w", "layers.+7.w", "layers..w", "layers.1.x", "layers.1.2.w", "layers.w"]
        {
            assert_eq!(matches("layers.{}.w", name, 12), None, "{name}");
        }
    }
}
