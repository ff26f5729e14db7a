//! Which series stands in which dictionary: a publisher's book over its reader's table of series.

use bytes::Bytes;

use super::{Columns, Dictionary};
use crate::model::{DictionaryId, Series};

/// With more segments than this a new one takes in every series, so that a batch does not name ever more dictionaries.
const MAX_SEGMENTS: usize = 64;
/// What it costs to name one more dictionary in a batch, bytes: its key, its digest, and that it is not there, as Redis is sent them.
const NAMED: usize = 110;
/// Series that one merged dictionary has at most: as many as one batch brings (`batch.max_new_series` unless set). With more, what it
/// costs to name them is nothing beside their samples.
const MAX_MERGED: usize = 4096;
const NOWHERE: (u32, u32) = (u32::MAX, u32::MAX);

/// Dictionary (index into [`Segments::ids`]) and index of each series.
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

/// The segments that batches of one source refer to. A new series makes a new small segment; what stands is sent again only once it has
/// cost as much to name it: a live source, whose batches are small, then names one dictionary instead of many.
#[derive(Debug, Default)]
pub struct Segments {
    placement: Placement,
    segments: Vec<(DictionaryId, Bytes)>,
    /// What naming more than one has cost since the last new series, bytes.
    spent: usize,
}

impl Segments {
    /// Makes sure that every series of these columns stands in a segment. `series` gives a series by the reader's index.
    pub fn place<'a>(&mut self, columns: &Columns, mut series: impl FnMut(u32) -> &'a Series) {
        let mut new: Vec<u32> = columns.series.iter().copied().filter(|&s| !self.placement.is_placed(s)).collect();
        if new.is_empty() {
            self.spent += NAMED * self.segments.len().saturating_sub(1);
            if self.spent > 0 && self.spent >= self.segments.iter().map(|(_, bytes)| bytes.len()).sum() {
                self.spent = 0;
                self.merge(series);
            }
            return;
        }
        self.spent = 0;
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

    /// One segment instead of all.
    fn merge<'a>(&mut self, mut series: impl FnMut(u32) -> &'a Series) {
        let mut placed: Vec<((u32, u32), u32)> =
            self.placement.0.iter().zip(0..).filter(|(place, _)| **place != NOWHERE).map(|(place, s)| (*place, s)).collect();
        if placed.len() > MAX_MERGED {
            return;
        }
        placed.sort_unstable();
        let mut dictionary = Dictionary::default();
        for ((_, s), at) in placed.into_iter().zip(0..) {
            self.placement.0[s as usize] = (0, at);
            dictionary.series.push(series(s).clone());
        }
        self.segments = vec![dictionary.encode()];
    }

    /// Where each series stands.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The digests, in the order that the placement counts.
    #[must_use]
    pub fn ids(&self) -> Vec<DictionaryId> {
        self.segments.iter().map(|(id, _)| *id).collect()
    }

    /// A segment's digest and bytes, all of them.
    #[must_use]
    pub fn all(&self) -> &[(DictionaryId, Bytes)] {
        &self.segments
    }
}
