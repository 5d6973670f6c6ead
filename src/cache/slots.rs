//! Sets of slots.

use std::ops::Range;

/// Slots of a cache: runs in order, none of them empty, and no two that touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slots(Vec<Range<usize>>);

impl Slots {
    /// How many they are.
    pub fn len(&self) -> usize {
        self.0.iter().map(ExactSizeIterator::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The runs, in order.
    pub fn runs(&self) -> &[Range<usize>] {
        &self.0
    }

    /// How many of them are below `slot`.
    pub fn before(&self, slot: usize) -> usize {
        self.0.iter().take_while(|run| run.start < slot).map(|run| run.end.min(slot) - run.start).sum()
    }

    /// The runs that are between them and `end`, behind the first of them.
    pub(super) fn between(&self, end: usize) -> impl Iterator<Item = Range<usize>> {
        let starts = self.0.iter().skip(1).map(|run| run.start).chain(std::iter::once(end));
        self.0.iter().zip(starts).map(|(run, next)| run.end..next)
    }
}

impl From<Range<usize>> for Slots {
    fn from(run: Range<usize>) -> Slots {
        Slots(if run.is_empty() { Vec::new() } else { Vec::from([run]) })
    }
}

/// Of slots in order.
impl FromIterator<usize> for Slots {
    fn from_iter<I: IntoIterator<Item = usize>>(slots: I) -> Slots {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for slot in slots {
            match runs.last_mut() {
                Some(run) if run.end == slot => run.end += 1,
                _ => runs.push(slot..slot + 1),
            }
        }
        Slots(runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_joined_and_counted() {
        let slots: Slots = [2, 3, 5, 8, 9, 10].into_iter().collect();
        assert_eq!(slots.runs(), [2..4, 5..6, 8..11]);
        assert_eq!((slots.len(), slots.is_empty()), (6, false));
        assert_eq!([0, 2, 3, 5, 6, 9, 99].map(|slot| slots.before(slot)), [0, 0, 1, 2, 3, 4, 6]);
        assert_eq!(slots.between(11).collect::<Vec<_>>(), [4..5, 6..8, 11..11]);
        assert!(Slots::from(3..3).is_empty() && Slots::from(3..3).between(7).next().is_none());
    }
}
