//! A hash table of numbers: what they stand for is kept elsewhere, once.

const EMPTY: u32 = u32::MAX;

/// Places that are allocated together: large enough that an allocator asks the system for them, and gives them back to it. Tables that are
/// copied as a whole where they grow leave holes as large as themselves.
const PAGE: usize = 1 << 16;
/// Places at first.
const FIRST: usize = 16;

/// Finds numbers by hash, with four bytes a place. Linear probing; at most four of five places are taken.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// All but the first, where it is the only one, have [`PAGE`] places.
    pages: Vec<Box<[u32]>>,
    places: usize,
    len: usize,
}

impl Index {
    fn with_places(places: usize, len: usize) -> Self {
        let page = vec![EMPTY; places.min(PAGE)].into_boxed_slice();
        Self { pages: vec![page; places.div_ceil(PAGE)], places, len }
    }

    fn at(&self, place: usize) -> u32 {
        self.pages[place / PAGE][place % PAGE]
    }

    fn set(&mut self, place: usize, number: u32) {
        self.pages[place / PAGE][place % PAGE] = number;
    }

    /// Where a number with this hash would best stand: as far from the beginning as the hash is from 0 (Lemire's reduction).
    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.places as u128) >> 64) as usize
    }

    fn next(&self, place: usize) -> usize {
        if place + 1 == self.places { 0 } else { place + 1 }
    }

    /// How many steps lead from one place to another.
    fn steps(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.places - from }
    }

    /// The number with this hash that is the one meant.
    pub(super) fn find(&self, hash: u64, is_meant: impl Fn(u32) -> bool) -> Option<u32> {
        if self.places == 0 {
            return None;
        }
        let mut at = self.home(hash);
        loop {
            match self.at(at) {
                EMPTY => return None,
                number if is_meant(number) => return Some(number),
                _ => at = self.next(at),
            }
        }
    }

    /// Adds a number that is not there yet. `hash_of` gives the hash of those that are.
    pub(super) fn insert(&mut self, hash: u64, number: u32, hash_of: impl Fn(u32) -> u64) {
        if (self.len + 1) * 5 > self.places * 4 {
            self.grow(hash_of);
        }
        self.put(hash, number);
        self.len += 1;
    }

    fn grow(&mut self, hash_of: impl Fn(u32) -> u64) {
        let places = if self.places < PAGE { (self.places * 2).max(FIRST) } else { (self.pages.len() * 3 / 2 + 1) * PAGE };
        let old = std::mem::replace(self, Self::with_places(places, self.len));
        for page in old.pages {
            for &number in page.iter().filter(|number| **number != EMPTY) {
                self.put(hash_of(number), number);
            }
        }
    }

    fn put(&mut self, hash: u64, number: u32) {
        let place = self.place_of(hash, EMPTY);
        self.set(place, number);
    }

    /// Takes a number out. The others move up, so that no search ends before it should.
    pub(super) fn remove(&mut self, hash: u64, number: u32, hash_of: impl Fn(u32) -> u64) {
        let mut hole = self.place_of(hash, number);
        let mut at = hole;
        loop {
            at = self.next(at);
            let next = self.at(at);
            if next == EMPTY {
                break;
            }
            let home = self.home(hash_of(next));
            if self.steps(home, at) >= self.steps(hole, at) {
                self.set(hole, next);
                hole = at;
            }
        }
        self.set(hole, EMPTY);
        self.len -= 1;
    }

    /// What had one number has another now.
    pub(super) fn renumber(&mut self, hash: u64, from: u32, to: u32) {
        let place = self.place_of(hash, from);
        self.set(place, to);
    }

    /// Where a number stands that is there, or the first empty place.
    fn place_of(&self, hash: u64, number: u32) -> usize {
        let mut at = self.home(hash);
        while self.at(at) != number {
            debug_assert!(self.at(at) != EMPTY, "it is there");
            at = self.next(at);
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
            // Few hashes: they collide, some of them at the end of the table.
            let hash_of = |number: u32| (u64::from(number) % spread * 7).wrapping_neg().rotate_right(number % 2 * 61);
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

    #[test]
    fn a_table_of_many_pages_finds_all_and_only_what_is_in_it() {
        let hash_of = |number: u32| u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut index = Index::default();
        let all = 5 * PAGE as u32;
        for number in 0..all {
            index.insert(hash_of(number), number, hash_of);
        }
        for number in (0..all).step_by(3) {
            index.remove(hash_of(number), number, hash_of);
        }
        for number in 0..all + 1000 {
            let is_in_it = number < all && number % 3 != 0;
            assert_eq!(index.find(hash_of(number), |found| found == number).is_some(), is_in_it, "{number}");
        }
        assert!(index.pages.len() * PAGE <= 2 * all as usize, "it is not larger than it must be");
    }
}
