//! A few things of a kind, in order, without memory of their own: states are copied by the million.

use std::fmt;

/// How many there can be.
pub const FEW: usize = 4;

/// Up to [`FEW`] things, sorted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Few<T> {
    items: [T; FEW],
    length: u8,
}

impl<T: Copy + Default + Ord> Default for Few<T> {
    fn default() -> Self {
        Self { items: [T::default(); FEW], length: 0 }
    }
}

impl<T: Copy + Default + Ord> Few<T> {
    /// Those that there are.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        &self.items[..usize::from(self.length)]
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.length)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether so many more have room.
    #[must_use]
    pub fn has_room(&self, more: usize) -> bool {
        self.len() + more <= FEW
    }

    /// Whether one of them is this.
    #[must_use]
    pub fn contains(&self, item: T) -> bool {
        self.as_slice().contains(&item)
    }

    /// Adds one, where there is room.
    pub fn add(&mut self, item: T) {
        if self.has_room(1) {
            self.items[self.len()] = item;
            self.length += 1;
            let length = self.len();
            self.items[..length].sort_unstable();
        }
    }

    /// Takes one away by its place.
    pub fn remove(&mut self, at: usize) {
        let mut kept = Self::default();
        for (place, item) in self.as_slice().iter().enumerate() {
            if place != at {
                kept.add(*item);
            }
        }
        *self = kept;
    }

    /// Makes others of them.
    pub fn map(&mut self, make: impl Fn(T) -> T) {
        let mut made = Self::default();
        for item in self.as_slice() {
            made.add(make(*item));
        }
        *self = made;
    }
}

impl<T: Copy + Default + Ord> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut few = Self::default();
        for item in items {
            few.add(item);
        }
        few
    }
}

impl<T: Copy + Default + Ord + fmt::Debug> fmt::Debug for Few<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}
