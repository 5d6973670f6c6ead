//! From a response to the letter that it means.

use super::{Item, Task};
use crate::random::Rng;

/// Words before the letter that say nothing.
const LEADS: [&str; 8] = [
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
];
/// The same as in the published harness, where two missing commas join four of them into two that never occur.
const HARNESS_LEADS: [&str; 6] = [
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
];

/// The letters that a response is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picked {
    /// By the rule of the collection.
    pub letter: Option<char>,
    /// By the published harness, slips included.
    pub harness: Option<char>,
    /// No letter was found, this one was drawn.
    pub guessed: bool,
}

/// Reads a response. Where the collection wants a guess for want of a letter, it is drawn from `seed` and the question's id,
/// so it depends neither on the order of questions nor on where a run was interrupted.
pub fn pick(task: Task, item: &Item, response: &str, seed: u64) -> Picked {
    match task {
        Task::VideoMme => {
            let read = |leads: &[&str]| first_letter(response, leads, 'D');
            Picked { letter: read(&LEADS), harness: read(&HARNESS_LEADS), guessed: false }
        }
        Task::LongVideoBench => {
            let read = |leads: &[&str]| first_letter(response, leads, 'E');
            let (letter, harness) = (read(&LEADS), read(&HARNESS_LEADS));
            let guess = super::letter_of(seeded(seed, &item.id).below(item.options.len()));
            Picked {
                letter: letter.or(Some(guess)),
                harness: harness.or(Some(guess)),
                guessed: letter.is_none() || harness.is_none(),
            }
        }
        Task::Mlvu => {
            let harness = before_bracket(response);
            Picked { letter: harness.or_else(|| leading_letter(response, item)), harness, guessed: false }
        }
    }
}

/// The first of the letters A to `last` once the lead-ins are gone.
fn first_letter(response: &str, leads: &[&str], last: char) -> Option<char> {
    let mut text = response.trim().to_string();
    for lead in leads {
        text = text.replace(lead, "");
    }
    text.chars().find(|c| ('A'..=last).contains(c))
}

/// What stands before the first bracket, or all of it, if that is a single character.
fn before_bracket(response: &str) -> Option<char> {
    let text = response.trim().split(')').next().unwrap_or_default().trim();
    let mut chars = text.chars();
    chars.next().filter(|_| chars.next().is_none())
}

/// A letter of an option at the beginning, in brackets or not, that is no part of a word.
fn leading_letter(response: &str, item: &Item) -> Option<char> {
    let mut chars = response.trim_start().trim_start_matches(['(', '[', '*']).chars();
    let last = super::letter_of(item.options.len().saturating_sub(1));
    let letter = chars.next().filter(|c| ('A'..=last).contains(c))?;
    chars.next().is_none_or(|next| !next.is_alphanumeric() && next != '\'').then_some(letter)
}

/// FNV-1a over the id.
fn seeded(seed: u64, id: &str) -> Rng {
    let hash = id.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3));
    Rng::new(hash ^ seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(n_options: usize) -> Item {
        Item {
            id: "q".to_string(),
            video: "v".to_string(),
            question: String::new(),
            options: vec!["x".to_string(); n_options],
            answer: Some(0),
            groups: Vec::new(),
            subtitles: None,
        }
    }

    #[test]
    fn letters_are_read_by_each_collections_rule() {
        let read = |task, response: &str| pick(task, &item(4), response, 0);
        let rows = [
            ("B", Some('B'), Some('B')),
            (" (C) a dog", Some('C'), Some('C')),
            ("The best answer is D.", Some('D'), Some('D')),
            // The capital of `Best` is a B to the harness.
            ("Best answer: C", Some('C'), Some('B')),
            ("The correct option is A", Some('A'), Some('A')),
            // The known weakness of the rule: a letter in a word.
            ("A dog, so it is B", Some('A'), Some('A')),
            ("e", None, None),
            ("E", None, None),
            ("", None, None),
        ];
        for (response, letter, harness) in rows {
            assert_eq!(read(Task::VideoMme, response), Picked { letter, harness, guessed: false }, "{response:?}");
        }
        assert_eq!(read(Task::LongVideoBench, "E").letter, Some('E'));
        let rows = [
            ("A)", Some('A'), Some('A')),
            ("B", Some('B'), Some('B')),
            ("B) the dog", Some('B'), Some('B')),
            ("(C) the dog", Some('C'), None),
            ("D. the dog", Some('D'), None),
            ("Dogs", None, None),
            ("E. a fifth", None, None),
            ("the dog", None, None),
        ];
        for (response, letter, harness) in rows {
            assert_eq!(read(Task::Mlvu, response), Picked { letter, harness, guessed: false }, "{response:?}");
        }
    }

    #[test]
    fn a_guess_depends_on_seed_and_question_only_and_names_an_option() {
        let guess = |id: &str, seed, n| {
            let item = Item { id: id.to_string(), ..item(n) };
            let picked = pick(Task::LongVideoBench, &item, "no idea", seed);
            assert!(picked.guessed && picked.letter == picked.harness);
            picked.letter.unwrap()
        };
        assert_eq!(guess("a", 1, 5), guess("a", 1, 5));
        let all: std::collections::BTreeSet<char> = (0..200).map(|i| guess(&format!("q{i}"), 0, 3)).collect();
        assert_eq!(all.into_iter().collect::<String>(), "ABC");
        assert!((0..50).any(|seed| guess("a", seed, 5) != guess("a", 0, 5)));
    }
}
