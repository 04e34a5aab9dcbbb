//! Numbers that come mostly in order: which of them have come already.
//!
//! Kept as ranges, so that a million in a row cost as much as one.

use std::collections::BTreeMap;

/// Ranges kept. Beyond it the oldest gap is closed: what is missing there
/// counts as come.
const MAX_RANGES: usize = 1024;

/// A set of numbers: the last of each range by its first.
#[derive(Debug, Default)]
pub(super) struct Numbers(BTreeMap<u64, u64>);

impl Numbers {
    pub(super) fn contains(&self, number: u64) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }

    pub(super) fn insert(&mut self, number: u64) {
        if self.contains(number) {
            return;
        }
        let last = number.checked_add(1).and_then(|next| self.0.remove(&next)).unwrap_or(number);
        match self.0.range_mut(..number).next_back() {
            Some((_, before)) if *before + 1 == number => *before = last,
            _ => drop(self.0.insert(number, last)),
        }
        if self.0.len() > MAX_RANGES
            && let (Some((first, _)), Some((_, last))) = (self.0.pop_first(), self.0.pop_first())
        {
            self.0.insert(first, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_grow_together() {
        let mut numbers = Numbers::default();
        let steps: [(u64, &[(u64, u64)]); 7] = [
            (5, &[(5, 5)]),
            (6, &[(5, 6)]),
            (9, &[(5, 6), (9, 9)]),
            (9, &[(5, 6), (9, 9)]),
            (8, &[(5, 6), (8, 9)]),
            (7, &[(5, 9)]),
            (u64::MAX, &[(5, 9), (u64::MAX, u64::MAX)]),
        ];
        for (number, expected) in steps {
            numbers.insert(number);
            let ranges: Vec<_> = numbers.0.iter().map(|(first, last)| (*first, *last)).collect();
            assert_eq!(ranges, expected, "after {number}");
        }
        for (number, expected) in [(4, false), (5, true), (7, true), (9, true), (10, false)] {
            assert_eq!(numbers.contains(number), expected, "{number}");
        }
    }

    #[test]
    fn gaps_are_bounded() {
        let mut numbers = Numbers::default();
        (0..3 * MAX_RANGES as u64).for_each(|number| numbers.insert(2 * number));
        assert_eq!(numbers.0.len(), MAX_RANGES);
        assert!(numbers.contains(1), "an old gap counts as come");
        assert!(!numbers.contains(6 * MAX_RANGES as u64 - 3), "a young one does not");
    }
}
