//! From a family's rules and a checkpoint's tensors to a list of what is written: every tensor of the checkpoint is used
//! or left out on purpose, every tensor of the model is there, every shape is as the hyper-parameters say.

use std::collections::{BTreeMap, BTreeSet};

use safetensors::Dtype;

use super::checkpoint::{Checkpoint, listed};
use super::family::{Along, Family, Group, Map, Reshape, TensorRule, TileRule};
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
    /// What becomes of each value.
    pub map: Map,
    /// Heads whose order changes, and on which dimension.
    pub tile: Option<(Along, Tile)>,
}

/// Which part of its source a tensor is. The source is seen as rows along its slowest dimension.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Part {
    /// `n` rows from `first` on.
    Rows { first: usize, n: usize },
    /// Of each of `n` rows `(channels, 2, area)` the values of one frame: `(channels, area)`.
    Frame { frame: usize, n: usize, channels: usize, area: usize },
    /// Of each of `n` matrices `(rows, columns)` the rows from `first` on, `n_rows` of them.
    Matrices { n: usize, stored: Stored, first: usize, n_rows: usize },
}

/// How matrices are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stored {
    pub rows: usize,
    pub columns: usize,
    /// Columns follow one another, not rows.
    pub turned: bool,
}

/// Heads in groups that are written side by side: the `k`-th head of every group, then the next of every group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Tile {
    /// Where the heads begin.
    pub first: usize,
    pub groups: usize,
    /// Heads of a group.
    pub per_group: usize,
    /// Places of one head.
    pub size: usize,
}

impl Tile {
    /// The place in the checkpoint of what is written at `at`.
    pub(crate) fn source(&self, at: usize) -> usize {
        let Some(at) = at.checked_sub(self.first) else { return at };
        let (head, place) = (at / self.size, at % self.size);
        let (group, of_group) = (head % self.groups, head / self.groups);
        self.first + (group * self.per_group + of_group) * self.size + place
    }
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
        let mut groups = Vec::new();
        for group in [&family.text, &family.mmproj] {
            let n_block = values.uint(&group.blocks)?;
            let blocks = group.tensors.iter().map(|rule| Blocks::new(rule, n_block, values));
            groups.push((group, n_block, blocks.collect::<Result<Vec<Blocks>>>()?));
        }
        let mut notes = Vec::new();
        let mut faults = Faults::default();
        let mut n_parts = BTreeMap::new();
        let mut taken: [BTreeMap<(usize, Option<usize>), String>; 2] = Default::default();
        for stored in checkpoint.tensors() {
            let name = stored.name.as_str();
            let hit = groups.iter().enumerate().find_map(|(file, (group, n_block, blocks))| {
                find(group, blocks, name, *n_block, values).map(|hit| (file, hit))
            });
            match hit {
                None => match ignored_part(family, name) {
                    Some(part) => *n_parts.entry(part).or_insert(0) += 1,
                    None => faults.unknown.push(format!("`{name}`")),
                },
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
        for (part, n) in n_parts {
            notes.push(format!("{n} tensors `{part}…` are left out: the family does not use this part"));
        }
        let mut files = groups
            .iter()
            .zip(&taken)
            .map(|((group, _, blocks), taken)| lay_out(group, blocks, values, checkpoint, taken, &mut faults));
        let mut next = || files.next().expect("two groups");
        let (text, mmproj) = (next()?, next()?);
        drop(files);
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

/// The beginning of `name` by which the family leaves out a whole part.
fn ignored_part<'a>(family: &'a Family, name: &str) -> Option<&'a str> {
    let parts = family.text.ignore_parts.iter().chain(&family.mmproj.ignore_parts);
    parts.map(String::as_str).find(|part| name.starts_with(part))
}

/// The blocks that a rule runs over.
struct Blocks {
    /// The number in the file of each place.
    numbers: Vec<usize>,
    /// Whether the place has the tensor.
    has: Vec<bool>,
}

impl Blocks {
    fn new(rule: &TensorRule, n_block: usize, values: &Values) -> Result<Blocks> {
        let numbers = match &rule.numbers {
            None => (0..n_block).collect(),
            Some(name) => values.indexes(name)?,
        };
        let flags = |name: &Option<String>, absent: bool| match name {
            None => Ok(vec![absent; numbers.len()]),
            Some(name) => values.flags(name, numbers.len()),
        };
        let (only, except) = (flags(&rule.only, true)?, flags(&rule.except, false)?);
        let has = only.iter().zip(&except).map(|(only, except)| *only && !except).collect();
        Ok(Blocks { numbers, has })
    }

    fn has(&self, block: usize) -> bool {
        self.has.get(block) == Some(&true)
    }
}

/// The rule of `group` for the tensor called `name`.
fn find<'a>(group: &'a Group, blocks: &[Blocks], name: &str, n_block: usize, values: &Values) -> Option<Found<'a>> {
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
            let hit = matches(&rule.hf, suffix, blocks[at].numbers.len());
            if let Some(block) = hit.filter(|block| block.is_none_or(|block| blocks[at].has(block))) {
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
    blocks: &[Blocks],
    values: &Values,
    checkpoint: &Checkpoint,
    taken: &BTreeMap<(usize, Option<usize>), String>,
    faults: &mut Faults,
) -> Result<Vec<Planned>> {
    let mut out = Vec::new();
    let mut names = BTreeSet::new();
    let mut at = 0;
    while at < group.tensors.len() {
        let in_blocks = group.tensors[at].hf.contains("{}");
        let numbers = &group.tensors[at].numbers;
        let is_like = |rule: &&TensorRule| in_blocks && rule.hf.contains("{}") && rule.numbers == *numbers;
        let run = group.tensors[at..].iter().take_while(is_like).count().max(1);
        for block in 0..if in_blocks { blocks[at].numbers.len() } else { 1 } {
            let block = in_blocks.then_some(block);
            for (i, rule) in group.tensors[at..at + run].iter().enumerate() {
                if block.is_some_and(|block| !blocks[at + i].has(block)) {
                    continue;
                }
                if rule.unless.as_deref().is_some_and(|name| values.is_true(name)) {
                    continue;
                }
                match taken.get(&(at + i, block)) {
                    Some(source) => {
                        let number = block.map(|block| blocks[at + i].numbers[block]);
                        place(rule, number, source, values, checkpoint, faults, &mut out)?;
                    }
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
    let tile = match &rule.tile {
        None => None,
        Some(tile) => match tile_of(tile, &want, lookup)? {
            Ok(tile) => Some(tile),
            Err(why) => {
                faults.misshaped.push(format!("`{source}`: {why}"));
                return Ok(());
            }
        },
    };
    let (parts, shape): (Vec<Part>, Vec<usize>) = match rule.reshape {
        Reshape::Keep => (vec![Part::Rows { first: 0, n }], want),
        Reshape::Squeeze => match want[..] {
            [n, 1, k] => (vec![Part::Rows { first: 0, n }], vec![n, k]),
            _ => {
                faults.misshaped.push(format!("`{source}` is {want:?}, expected 1 in the second dimension"));
                return Ok(());
            }
        },
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
        Reshape::SplitGateUp | Reshape::SplitGateUpTurned | Reshape::Turn => {
            let turned = rule.reshape != Reshape::SplitGateUp;
            let n_parts = if rule.reshape == Reshape::Turn { 1 } else { 2 };
            let (rows, columns) = if turned { (want[2], want[1]) } else { (want[1], want[2]) };
            if rows % n_parts != 0 {
                faults.misshaped.push(format!("`{source}`: `{rows}` outputs are not two equal parts"));
                return Ok(());
            }
            let (stored, n_rows) = (Stored { rows, columns, turned }, rows / n_parts);
            let part = |k| Part::Matrices { n, stored, first: k * n_rows, n_rows };
            ((0..n_parts).map(part).collect(), vec![n, n_rows, columns])
        }
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
        let (source, dtype) = (source.to_string(), stored.dtype);
        out.push(Planned { name, ne: ne.clone(), source, dtype, part, map: rule.value, tile });
    }
    Ok(())
}

/// The order of heads that a rule asks for on a tensor of shape `shape`, or why it
/// has none.
fn tile_of(
    rule: &TileRule,
    shape: &[usize],
    lookup: impl Fn(&str) -> Option<u64>,
) -> Result<Result<(Along, Tile), String>> {
    let places = match rule.along {
        Along::Rows => shape[0],
        Along::Columns => shape[1],
    };
    let mut numbers = [0; 3];
    for (n, expr) in numbers.iter_mut().zip([&rule.from, &rule.groups, &rule.size]) {
        *n = usize::try_from(expr.eval(&lookup)?).map_err(|_| Error::limit(format!("`{expr}` is too large")))?;
    }
    let [first, groups, size] = numbers;
    let n_heads = places.checked_sub(first).zip(groups.checked_mul(size)).filter(|(_, group)| *group > 0);
    Ok(match n_heads {
        Some((left, group)) if left.is_multiple_of(group) => {
            Ok((rule.along, Tile { first, groups, per_group: left / group, size }))
        }
        _ => Err(format!("`{places}` places from `{first}` on are not whole heads of {size} in {groups} groups")),
    })
}

fn numbered(pattern: &str, block: Option<usize>) -> String {
    match block {
        Some(block) => pattern.replace("{}", &block.to_string()),
        None => pattern.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Tile, matches};

    #[test]
    fn heads_of_groups_stand_side_by_side() {
        let tile = Tile { first: 1, groups: 2, per_group: 3, size: 2 };
        let order: Vec<usize> = (0..13).map(|at| tile.source(at)).collect();
        assert_eq!(order, [0, 1, 2, 7, 8, 3, 4, 9, 10, 5, 6, 11, 12]);
    }

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
