//! A collection in a local folder: its questions, and where its videos are.

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Item, Task, longvideobench, mlvu, table, videomme};
use crate::error::Context;
use crate::{Error, Result};

/// Most files of a folder that are looked at.
const MAX_FILES: usize = 1 << 20;
/// Longest name of a video, in bytes.
const MAX_NAME: usize = 1024;
/// Containers, as extensions in lower case.
const CONTAINERS: [&str; 15] =
    ["mp4", "mkv", "webm", "mov", "m4v", "avi", "flv", "wmv", "mpg", "mpeg", "ts", "3gp", "ogv", "y4m", "gif"];
/// Annotation formats, in the order in which they are preferred.
const FORMATS: [&str; 4] = ["parquet", "json", "jsonl", "tsv"];

/// What to open.
#[derive(Debug, Clone)]
pub struct CollectionOptions {
    /// The part of the collection (`val`, `test`, …).
    pub split: String,
    /// Annotation files; looked for in the folder if there are none.
    pub annotations: Vec<PathBuf>,
}

/// The questions of a collection, and its folder.
#[derive(Debug)]
pub struct Collection {
    pub task: Task,
    pub root: PathBuf,
    /// The files that the questions were read from.
    pub annotations: Vec<PathBuf>,
    pub items: Vec<Item>,
    /// Videos by stem, of each folder that was looked at.
    listings: HashMap<PathBuf, HashMap<String, PathBuf>>,
}

impl Collection {
    /// Reads all questions of the collection in `root`.
    ///
    /// # Errors
    /// No annotation file; anything malformed in one, named by row and field; ids that are there twice.
    pub fn open(task: Task, root: &Path, options: &CollectionOptions) -> Result<Collection> {
        let annotations = match options.annotations.as_slice() {
            [] => find_annotations(task, root, &options.split)?,
            given => given.to_vec(),
        };
        let mut items = Vec::new();
        for path in &annotations {
            items.extend(read_items(task, path)?);
        }
        let mut ids = HashSet::new();
        if let Some(item) = items.iter().find(|item| !ids.insert(item.id.as_str())) {
            let message = format!("question id `{}` is there twice", item.id);
            return Err(Error::format(message).at(root.display().to_string()));
        }
        if items.is_empty() {
            return Err(Error::format("has no questions").at(annotations[0].display().to_string()));
        }
        Ok(Collection { task, root: root.to_path_buf(), annotations, items, listings: HashMap::new() })
    }

    /// Identifies the questions: SHA-256 over their ids, texts and keys.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for item in &self.items {
            for text in [&item.id, &item.video, &item.question].into_iter().chain(&item.options) {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text.as_bytes());
            }
            hash.update([item.answer.map_or(255, |answer| answer as u8)]);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The file (or folder of frames) of a question's video, with any container's extension; nothing if it is not there.
    ///
    /// # Errors
    /// A folder that cannot be read, or has too many files.
    pub fn video(&mut self, item: &Item) -> Result<Option<PathBuf>> {
        check_name(&item.video)?;
        let name = Path::new(&item.video);
        let (below, file) = (name.parent().unwrap_or(Path::new("")), name.file_name().unwrap_or_default());
        let file = file.to_string_lossy();
        for dir in video_dirs(self.task) {
            let dir = self.root.join(dir).join(below);
            if !dir.is_dir() {
                continue;
            }
            let exact = dir.join(&*file);
            if container(&file).is_some() && exact.is_file() {
                return Ok(Some(exact));
            }
            if !self.listings.contains_key(&dir) {
                let listing = list(&dir).at(|| dir.display().to_string())?;
                self.listings.insert(dir.clone(), listing);
            }
            if let Some(path) = self.listings[&dir].get(container(&file).unwrap_or(&file)) {
                return Ok(Some(path.clone()));
            }
        }
        Ok(None)
    }

    /// The subtitle file of a question's video, if it is there.
    ///
    /// # Errors
    /// A name that leads out of the folder.
    pub fn subtitles(&self, item: &Item) -> Result<Option<PathBuf>> {
        let Some(name) = &item.subtitles else { return Ok(None) };
        check_name(name)?;
        let paths = ["subtitle", "subtitles"].map(|dir| self.root.join(dir).join(name));
        Ok(paths.into_iter().find(|path| path.is_file()))
    }
}

/// Refuses names that could lead out of the folder that they belong in.
pub(super) fn check_name(name: &str) -> Result<()> {
    let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    let odd = name.is_empty() || name.len() > MAX_NAME || name.contains(['\\', '\0']) || name.ends_with('/');
    if plain && !odd {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    Err(Error::format(format!("`{shown}` is no name of a file below the collection's folder")))
}

/// The name without a container's extension, if it has one.
fn container(name: &str) -> Option<&str> {
    let (stem, extension) = name.rsplit_once('.')?;
    (!stem.is_empty() && CONTAINERS.contains(&extension.to_ascii_lowercase().as_str())).then_some(stem)
}

/// The videos in a folder by stem; of several with one stem, the container that stands first in the list.
fn list(dir: &Path) -> Result<HashMap<String, PathBuf>> {
    let rank = |path: &Path| {
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        CONTAINERS.iter().position(|known| *known == extension).unwrap_or(CONTAINERS.len())
    };
    let mut found: HashMap<String, PathBuf> = HashMap::new();
    for (n, entry) in std::fs::read_dir(dir)?.enumerate() {
        if n >= MAX_FILES {
            return Err(Error::limit(format!("has more than {MAX_FILES} files")));
        }
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let stem = match container(name) {
            Some(stem) => stem.to_string(),
            // A folder of frames has the stem for a name.
            None if path.is_dir() => name.to_string(),
            None => continue,
        };
        let better = found.get(&stem).is_none_or(|other| (rank(&path), &path) < (rank(other), other));
        if better {
            found.insert(stem, path);
        }
    }
    Ok(found)
}

fn video_dirs(task: Task) -> &'static [&'static str] {
    match task {
        Task::VideoMme => &["data", "videos", "video", ""],
        Task::LongVideoBench => &["videos", "video", ""],
        Task::Mlvu => &["video", "videos", ""],
    }
}

/// Where a collection's folder has its annotations.
fn annotation_dirs(task: Task) -> &'static [&'static str] {
    match task {
        Task::VideoMme => &["", "videomme"],
        Task::LongVideoBench => &["", "data", "longvideobench"],
        Task::Mlvu => &["json", "", "mlvu", "data"],
    }
}

/// Whether a file of this stem (in lower case) holds the questions of a part.
fn is_annotation(task: Task, dir: &str, stem: &str, split: &str) -> bool {
    let begins =
        |word: &str| stem.strip_prefix(word).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()));
    match task {
        Task::VideoMme => begins(split) || ["videomme", "video-mme", "video_mme"].contains(&stem),
        Task::LongVideoBench => match split {
            "val" => begins("lvb_val") || begins("val") || begins("validation"),
            split => begins(&format!("lvb_{split}")) || begins(split),
        },
        // Nine files, one a task, in a folder of their own.
        Task::Mlvu if dir == "json" => stem.starts_with(|c: char| c.is_ascii_digit()),
        Task::Mlvu => begins(split) || begins(&format!("mlvu_{split}")),
    }
}

fn find_annotations(task: Task, root: &Path, split: &str) -> Result<Vec<PathBuf>> {
    let place = || root.display().to_string();
    if !root.is_dir() {
        return Err(Error::bad_input("is no folder, expected that of a collection").at(place()));
    }
    for dir in annotation_dirs(task) {
        let path = root.join(dir);
        if !path.is_dir() || (*dir == "json" && split != task.default_split()) {
            continue;
        }
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&path).at(place)?.take(MAX_FILES) {
            files.push(entry.at(place)?.path());
        }
        files.sort();
        for format in FORMATS {
            let of = |path: &PathBuf| {
                let extension = path.extension().is_some_and(|e| e.eq_ignore_ascii_case(format));
                let stem = path.file_stem().map(|s| s.to_string_lossy().to_lowercase()).unwrap_or_default();
                extension && is_annotation(task, dir, &stem, split) && path.is_file()
            };
            let found: Vec<PathBuf> = files.iter().filter(|path| of(path)).cloned().collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }
    let message = format!(
        "has no annotation file of {} part `{split}` (parquet, json, jsonl or tsv); name one with --annotations",
        task.name()
    );
    Err(Error::bad_input(message).at(place()))
}

fn read_items(task: Task, path: &Path) -> Result<Vec<Item>> {
    let fields = match task {
        Task::VideoMme => videomme::FIELDS,
        Task::LongVideoBench => longvideobench::FIELDS,
        Task::Mlvu => mlvu::FIELDS,
    };
    let rows = table::read(path, fields)?;
    let file = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    // In the form of many files, each has its own folder of videos.
    let in_json = path.parent().and_then(Path::file_name).is_some_and(|dir| dir == "json");
    let mut items = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        items.extend(match task {
            Task::VideoMme => Some(videomme::item(row)?),
            Task::LongVideoBench => Some(longvideobench::item(row)?),
            Task::Mlvu => mlvu::item(row, &file, i)?.map(|item| match in_json {
                true => Item { video: format!("{file}/{}", item.video), ..item },
                false => item,
            }),
        });
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["a", "a.mp4", "1_plotQA/a b.mp4", "-a", "..a", "fFjv93ACGo8"] {
            check_name(name).unwrap();
        }
        let long = "x".repeat(MAX_NAME + 1);
        for name in ["", "..", "../a", "a/../../b", "/etc/passwd", "a\\b", "a\0", ".", "./a", "a/", &long] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_video_is_found_by_its_stem_whatever_its_container() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.MKV", "b.webm", "b.mp4", "c.d.mov", "note.txt"] {
            std::fs::write(dir.path().join(name), b"x").unwrap();
        }
        std::fs::create_dir(dir.path().join("frames")).unwrap();
        let found = list(dir.path()).unwrap();
        let name = |stem: &str| found.get(stem).map(|p| p.file_name().unwrap().to_str().unwrap());
        assert_eq!(name("a"), Some("a.MKV"));
        assert_eq!(name("b"), Some("b.mp4"));
        assert_eq!(name("c.d"), Some("c.d.mov"));
        assert_eq!(name("frames"), Some("frames"));
        assert_eq!(found.len(), 4);
    }
}
