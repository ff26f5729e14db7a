//! Which series stands in which dictionary: a publisher's book over its reader's table of series.

use bytes::Bytes;

use super::{Columns, Dictionary};
use crate::model::{Digest, Series};

/// With more segments than this a new one takes in every series, so that a batch does not name ever more dictionaries.
const MAX_SEGMENTS: usize = 64;
const NOWHERE: (u32, u32) = (u32::MAX, u32::MAX);

/// Dictionary (index into [`Segments::digests`]) and index of each series.
#[derive(Debug, Default)]
pub struct Placement(Vec<(u32, u32)>);

impl Placement {
    /// Where a series stands. Only for series that were placed.
    pub(super) fn of(&self, series: u32) -> (u32, u32) {
        self.0[series as usize]
    }

    fn is_placed(&self, series: u32) -> bool {
        self.0.get(series as usize).is_some_and(|&place| place != NOWHERE)
    }
}

/// The segments that batches of one source refer to. A new series makes a new small segment; what stands is not sent again.
#[derive(Debug, Default)]
pub struct Segments {
    placement: Placement,
    segments: Vec<(Digest, Bytes)>,
}

impl Segments {
    /// Makes sure that every series of these columns stands in a segment. `series` gives a series by the reader's index.
    pub fn place<'a>(&mut self, columns: &Columns, mut series: impl FnMut(u32) -> &'a Series) {
        let mut new: Vec<u32> = columns.series.iter().copied().filter(|&s| !self.placement.is_placed(s)).collect();
        if new.is_empty() {
            return;
        }
        if self.segments.len() >= MAX_SEGMENTS {
            *self = Self::default();
            new = columns.series.clone();
        }
        // In the order of first appearance: neighbours in the file are neighbours in the dictionary.
        let mut dictionary = Dictionary::default();
        let number = self.segments.len() as u32;
        for s in new {
            if self.placement.is_placed(s) {
                continue;
            }
            if self.placement.0.len() <= s as usize {
                self.placement.0.resize(s as usize + 1, NOWHERE);
            }
            self.placement.0[s as usize] = (number, dictionary.series.len() as u32);
            dictionary.series.push(series(s).clone());
        }
        self.segments.push(dictionary.encode());
    }

    /// Where each series stands.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The digests, in the order that the placement counts.
    #[must_use]
    pub fn digests(&self) -> Vec<Digest> {
        self.segments.iter().map(|(digest, _)| *digest).collect()
    }

    /// A segment's digest and bytes, all of them.
    #[must_use]
    pub fn all(&self) -> &[(Digest, Bytes)] {
        &self.segments
    }
}
