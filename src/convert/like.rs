//! A family that is described by what it has otherwise than another (`like = "qwen3_vl"`): the description of both together.

use toml::{Table, Value};

use crate::{Error, Result};

/// The field by which entries of a list are the same in two descriptions.
const NAMES: &[(&str, &str)] = &[("value", "name"), ("tensor", "hf")];

/// The description `base` with what `own` has otherwise: entries of the same name are replaced, those whose names are listed in
/// `without` go, new tensors come where the first of their file went, other new entries behind all.
///
/// # Errors
/// `Format` naming an entry of `without` that is not there, a field of a wrong kind.
pub(super) fn like(mut base: Table, mut own: Table) -> Result<Table> {
    own.remove("like");
    let without: Vec<String> = match own.remove("without").map(Value::try_into) {
        None => Vec::new(),
        Some(Ok(names)) => names,
        Some(Err(_)) => return Err(Error::format("without: expected an array of names")),
    };
    let mut gone = vec![false; without.len()];
    join(&mut base, own, &without, &mut gone)?;
    match without.iter().zip(&gone).find(|(_, gone)| !**gone) {
        Some((name, _)) => Err(Error::format(format!("without: nothing is called `{name}`"))),
        None => Ok(base),
    }
}

fn join(base: &mut Table, own: Table, without: &[String], gone: &mut [bool]) -> Result<()> {
    let mut places = Vec::new();
    for (field, name) in NAMES {
        let Some(Value::Array(entries)) = base.get_mut(*field) else { continue };
        let is_gone = |entry: &Value| without.iter().position(|listed| name_of(entry, name) == Some(listed));
        let place = entries.iter().position(|entry| is_gone(entry).is_some());
        entries.retain(|entry| is_gone(entry).map(|at| gone[at] = true).is_none());
        places.push((*field, *name, place.unwrap_or(entries.len())));
    }
    for part in ["text", "mmproj"] {
        if let (Some(Value::Table(base)), false) = (base.get_mut(part), own.contains_key(part)) {
            join(base, Table::new(), without, gone)?;
        }
    }
    for (field, value) in own {
        let named = places.iter_mut().find(|(known, ..)| *known == field);
        match (base.get_mut(&field), value, named) {
            (Some(Value::Table(base)), Value::Table(own), _) if field != "match" => join(base, own, without, gone)?,
            (Some(Value::Array(base)), Value::Array(own), Some((_, name, place))) => {
                for entry in own {
                    let same = |known: &&mut Value| {
                        name_of(known, name).is_some() && name_of(known, name) == name_of(&entry, name)
                    };
                    if let Some(known) = base.iter_mut().find(same) {
                        *known = entry;
                    } else {
                        base.insert(*place, entry);
                        *place += 1;
                    }
                }
            }
            (Some(Value::Array(base)), Value::Array(own), None) if field == "require" => base.extend(own),
            (_, value, _) => drop(base.insert(field, value)),
        }
    }
    Ok(())
}

fn name_of<'a>(entry: &'a Value, field: &str) -> Option<&'a str> {
    entry.get(field).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(own: &str) -> Result<String> {
        let base = r#"
            name = "a"
            value = [{ name = "n", max = 1 }, { name = "m" }]
            require = [{ from = ["x"] }]
            [match]
            model_type = ["a"]
            architectures = ["A"]
            [text]
            architecture = "a"
            tensor = [{ hf = "p" }, { hf = "q" }, { hf = "r" }]
            [mmproj]
            architecture = "clip"
            tensor = [{ hf = "v" }]
        "#;
        Ok(like(base.parse().unwrap(), own.parse().unwrap())?.to_string())
    }

    #[test]
    fn what_is_otherwise_takes_its_place() {
        let own = r#"
            like = "a"
            name = "b"
            without = ["m", "q", "v"]
            value = [{ name = "n", max = 2 }, { name = "k" }]
            require = [{ from = ["y"] }]
            [match]
            model_type = ["b"]
            [text]
            architecture = "b"
            tensor = [{ hf = "s" }, { hf = "t" }, { hf = "p", gguf = "p2" }]
        "#;
        let want = r#"
            name = "b"
            value = [{ name = "n", max = 2 }, { name = "k" }]
            require = [{ from = ["x"] }, { from = ["y"] }]
            [match]
            model_type = ["b"]
            [text]
            architecture = "b"
            tensor = [{ hf = "p", gguf = "p2" }, { hf = "s" }, { hf = "t" }, { hf = "r" }]
            [mmproj]
            architecture = "clip"
            tensor = []
        "#;
        assert_eq!(joined(own).unwrap().parse::<Table>().unwrap(), want.parse::<Table>().unwrap());
    }

    #[test]
    fn names_that_are_not_there_are_told() {
        let error = joined(r#"without = ["q", "z"]"#).unwrap_err().to_string();
        assert!(error.contains("`z`"), "{error}");
        assert!(joined("without = 3").unwrap_err().to_string().contains("without"));
    }
}
