//! Scores over responses, as the published harness computes them.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::{Item, Picked, Response, Task, pick};

/// Questions and right answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub n: usize,
    pub right: usize,
}

impl Tally {
    fn add(&mut self, right: bool) {
        self.n += 1;
        self.right += usize::from(right);
    }

    /// Share of right answers.
    pub fn accuracy(self) -> f64 {
        if self.n == 0 { 0.0 } else { self.right as f64 / self.n as f64 }
    }
}

/// What a collection's responses are worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub task: Task,
    /// All questions with a key and a response.
    pub all: Tally,
    /// By kind and name of group.
    pub groups: BTreeMap<&'static str, BTreeMap<String, Tally>>,
    /// The collection's own score, and the same by the harness's reading of letters; 0 to 1.
    pub score: f64,
    pub harness_score: f64,
    /// Responses, and those among them without a key, without a letter, or with a drawn one.
    pub n_responses: usize,
    pub n_without_key: usize,
    pub n_without_letter: usize,
    pub n_guessed: usize,
}

/// Groups with their tallies.
type Groups = BTreeMap<&'static str, BTreeMap<String, Tally>>;

impl Report {
    /// Scores the responses to `items`; questions without a response do not count.
    pub fn new(task: Task, items: &[Item], responses: &HashMap<String, Response>, seed: u64) -> Report {
        let (mut groups, mut harness) = (Groups::new(), Groups::new());
        let (mut all, mut all_harness) = (Tally::default(), Tally::default());
        let (mut n_responses, mut n_without_key, mut n_without_letter, mut n_guessed) = (0, 0, 0, 0);
        for item in items {
            let Some(response) = responses.get(&item.id) else { continue };
            let Picked { letter, harness: by_harness, guessed } = pick(task, item, &response.text, seed);
            n_responses += 1;
            n_without_letter += usize::from(letter.is_none());
            n_guessed += usize::from(guessed);
            let Some(key) = item.letter() else {
                n_without_key += 1;
                continue;
            };
            let (right, right_harness) = (letter == Some(key), by_harness == Some(key));
            all.add(right);
            all_harness.add(right_harness);
            for (kind, name) in &item.groups {
                groups.entry(*kind).or_default().entry(name.clone()).or_default().add(right);
                harness.entry(*kind).or_default().entry(name.clone()).or_default().add(right_harness);
            }
        }
        Report {
            task,
            score: score(task, all, &groups),
            harness_score: score(task, all_harness, &harness),
            all,
            groups,
            n_responses,
            n_without_key,
            n_without_letter,
            n_guessed,
        }
    }

    /// As JSON, accuracies in percent.
    pub fn to_json(&self) -> Value {
        let tally = |t: &Tally| json!({ "n": t.n, "right": t.right, "accuracy": 100.0 * t.accuracy() });
        let group = |names: &BTreeMap<String, Tally>| -> Value {
            names.iter().map(|(name, t)| (name.clone(), tally(t))).collect::<serde_json::Map<_, _>>().into()
        };
        let groups: serde_json::Map<_, _> =
            self.groups.iter().map(|(kind, names)| (kind.to_string(), group(names))).collect();
        json!({
            "task": self.task.name(), "score": 100.0 * self.score, "harness_score": 100.0 * self.harness_score,
            "overall": tally(&self.all), "groups": groups, "n_responses": self.n_responses,
            "n_without_key": self.n_without_key, "n_without_letter": self.n_without_letter, "n_guessed": self.n_guessed,
        })
    }
}

/// The one number that a collection is quoted by.
fn score(task: Task, all: Tally, groups: &Groups) -> f64 {
    match task {
        Task::VideoMme => all.accuracy(),
        // Weighted by samples over two groupings, so each sample counts once in either.
        Task::LongVideoBench => {
            let kinds = ["duration_group", "question_category"].into_iter().filter_map(|kind| groups.get(kind));
            let mut sum = Tally::default();
            for tally in kinds.flat_map(BTreeMap::values) {
                sum = Tally { n: sum.n + tally.n, right: sum.right + tally.right };
            }
            if sum.n == 0 { all.accuracy() } else { sum.accuracy() }
        }
        // The mean over tasks, however many questions each has.
        Task::Mlvu => match groups.get("task_type") {
            Some(tasks) => tasks.values().map(|t| t.accuracy()).sum::<f64>() / tasks.len() as f64,
            None => all.accuracy(),
        },
    }
}
