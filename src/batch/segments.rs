//! Which series stands in which dictionary: a publisher's book over its reader's table of series.

use bytes::Bytes;

use super::dictionary::memory_of;
use super::limits::{DEFAULT_NEW_SERIES, MAX_SERIES};
use super::{Columns, Dictionary};
use crate::model::{DictionaryId, Series};

/// With more segments than this a new one takes in every series, so that a batch does not name ever more dictionaries.
const MAX_SEGMENTS: usize = 64;
/// What it costs to name one more dictionary in a batch, bytes: its key, its digest, and that it is not there, as Redis is sent them.
const NAMED: usize = 110;
/// Memory that the series of one segment take at most, bytes; one series alone may take more.
const MAX_SEGMENT_MEMORY: usize = 8 << 20;
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
#[derive(Debug)]
pub struct Segments {
    /// Series of one segment at most.
    max_series: usize,
    placement: Placement,
    segments: Vec<(DictionaryId, Bytes)>,
    /// What naming more than one has cost since the last new series, bytes.
    spent: usize,
}

impl Segments {
    /// No segments yet. `max_new_series` is how many series a batch brings for the first time: a segment has no more, except that
    /// many are not cut into tiny ones.
    #[must_use]
    pub fn new(max_new_series: usize) -> Self {
        let max_series = max_new_series.clamp(DEFAULT_NEW_SERIES, MAX_SERIES);
        Self { max_series, placement: Placement::default(), segments: Vec::new(), spent: 0 }
    }

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
            *self = Self::new(self.max_series);
            new = columns.series.clone();
        }
        // In the order of first appearance: neighbours in the file are neighbours in the dictionary.
        let (mut dictionary, mut memory) = (Dictionary::default(), 0);
        for s in new {
            if self.placement.is_placed(s) {
                continue;
            }
            let one = series(s);
            let more = memory_of(one);
            if dictionary.series.len() == self.max_series || (memory > 0 && memory + more > MAX_SEGMENT_MEMORY) {
                self.segments.push(std::mem::take(&mut dictionary).encode());
                memory = 0;
            }
            if self.placement.0.len() <= s as usize {
                self.placement.0.resize(s as usize + 1, NOWHERE);
            }
            self.placement.0[s as usize] = (self.segments.len() as u32, dictionary.series.len() as u32);
            dictionary.series.push(one.clone());
            memory += more;
        }
        self.segments.push(dictionary.encode());
    }

    /// One segment instead of all.
    fn merge<'a>(&mut self, mut series: impl FnMut(u32) -> &'a Series) {
        let mut placed: Vec<((u32, u32), u32)> =
            self.placement.0.iter().zip(0..).filter(|(place, _)| **place != NOWHERE).map(|(place, s)| (*place, s)).collect();
        // With more, what it costs to name them is nothing beside their samples.
        if placed.len() > self.max_series {
            return;
        }
        if placed.iter().map(|(_, s)| memory_of(series(*s))).sum::<usize>() > MAX_SEGMENT_MEMORY {
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
