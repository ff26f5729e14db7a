//! A hash table of numbers: what they stand for is kept elsewhere, once.

const EMPTY: u32 = u32::MAX;

/// Finds numbers by hash, with four bytes a place. Linear probing; at most half of the places are taken.
#[derive(Debug, Default)]
pub(super) struct Index {
    places: Vec<u32>,
    len: usize,
}

impl Index {
    /// The number with this hash that is the one meant.
    pub(super) fn find(&self, hash: u64, is_meant: impl Fn(u32) -> bool) -> Option<u32> {
        let mask = self.places.len().checked_sub(1)?;
        let mut at = hash as usize & mask;
        loop {
            match self.places[at] {
                EMPTY => return None,
                number if is_meant(number) => return Some(number),
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// Adds a number that is not there yet. `hash_of` gives the hash of those that are.
    pub(super) fn insert(&mut self, hash: u64, number: u32, hash_of: impl Fn(u32) -> u64) {
        if (self.len + 1) * 2 > self.places.len() {
            let mut grown = Self { places: vec![EMPTY; (self.places.len() * 2).max(16)], len: self.len };
            for &number in self.places.iter().filter(|number| **number != EMPTY) {
                grown.put(hash_of(number), number);
            }
            *self = grown;
        }
        self.put(hash, number);
        self.len += 1;
    }

    fn put(&mut self, hash: u64, number: u32) {
        let at = self.place_of(hash, EMPTY);
        self.places[at] = number;
    }

    /// Takes a number out. The others move up, so that no search ends before it should.
    pub(super) fn remove(&mut self, hash: u64, number: u32, hash_of: impl Fn(u32) -> u64) {
        let mask = self.places.len() - 1;
        let mut hole = self.place_of(hash, number);
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let next = self.places[at];
            if next == EMPTY {
                break;
            }
            let home = hash_of(next) as usize & mask;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.places[hole] = next;
                hole = at;
            }
        }
        self.places[hole] = EMPTY;
        self.len -= 1;
    }

    /// What had one number has another now.
    pub(super) fn renumber(&mut self, hash: u64, from: u32, to: u32) {
        let at = self.place_of(hash, from);
        self.places[at] = to;
    }

    /// Where a number stands that is there, or the first empty place.
    fn place_of(&self, hash: u64, number: u32) -> usize {
        let mask = self.places.len() - 1;
        let mut at = hash as usize & mask;
        while self.places[at] != number {
            debug_assert!(self.places[at] != EMPTY, "it is there");
            at = (at + 1) & mask;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_in_it_is_found(steps in prop::collection::vec((0u32..60, any::<bool>()), 0..400), spread in 1u64..20) {
            // Few hashes: they collide.
            let hash_of = |number: u32| u64::from(number) % spread * 7;
            let (mut index, mut expected) = (Index::default(), HashSet::new());
            for (number, add) in steps {
                match (add, expected.contains(&number)) {
                    (true, false) => {
                        index.insert(hash_of(number), number, hash_of);
                        expected.insert(number);
                    }
                    (false, true) => {
                        index.remove(hash_of(number), number, hash_of);
                        expected.remove(&number);
                    }
                    _ => {}
                }
                for number in 0..60 {
                    prop_assert_eq!(index.find(hash_of(number), |found| found == number).is_some(), expected.contains(&number));
                }
            }
        }
    }
}
