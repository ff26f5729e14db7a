//! Which series stands in which dictionary: a publisher's book over its reader's table of series.

use bytes::Bytes;

use super::dictionary::memory_of;
use super::limits::{DEFAULT_NEW_SERIES, MAX_DICTIONARIES, MAX_SERIES};
use super::{Columns, Dictionary};
use crate::model::{DictionaryId, Series};

/// With more small segments than this they are gathered, so that a batch does not come to name ever more dictionaries.
const MAX_SMALL: usize = 64;
/// What it costs to name one more dictionary in a batch, bytes: its key, its digest, and that it is not there, as Redis is sent them.
const NAMED: usize = 110;
/// Memory that the series of one segment take at most, bytes; one series alone may take more.
const MAX_SEGMENT_MEMORY: usize = 8 << 20;
const NOWHERE: (u32, u32) = (u32::MAX, u32::MAX);
const NOT_NAMED: u32 = u32::MAX;

/// Where the series of a batch stand: in which of the dictionaries that it names, and there at which index.
#[derive(Debug, Default)]
pub struct Placement {
    /// Segment and index of each series.
    places: Vec<(u32, u32)>,
    /// Which of the named ones a segment is.
    named_as: Vec<u32>,
    /// How many series those before each named one have together, and at the end all of them.
    begins: Vec<usize>,
}

impl Placement {
    /// How many series each dictionary has.
    pub(super) fn lengths(&self) -> impl Iterator<Item = usize> {
        self.begins.windows(2).map(|pair| pair[1] - pair[0])
    }

    /// Where a series stands if all dictionaries stood behind one another. Only for series of the batch.
    pub(super) fn of(&self, series: u32) -> usize {
        let (segment, index) = self.places[series as usize];
        self.begins[self.named_as[segment as usize] as usize] + index as usize
    }

    fn is_placed(&self, series: u32) -> bool {
        self.places.get(series as usize).is_some_and(|&place| place != NOWHERE)
    }
}

#[derive(Debug)]
struct Segment {
    id: DictionaryId,
    bytes: Bytes,
    series: usize,
    /// What its series take in memory, bytes.
    memory: usize,
    /// Those of them that were not dropped or placed elsewhere since.
    live: usize,
}

/// The segments that batches of one source refer to. A new series makes a new small segment; what stands is sent again only once it has
/// cost as much to name it: a live source, whose batches are small, then names one dictionary instead of many. A batch names those segments
/// only that its series stand in.
#[derive(Debug)]
pub struct Segments {
    /// Series of one segment at most.
    max_series: usize,
    placement: Placement,
    /// `None`: no series stands there any more.
    segments: Vec<Option<Segment>>,
    /// Those that the last batch names.
    named: Vec<u32>,
    /// What naming more than one small segment has cost since the last new series, bytes.
    spent: usize,
}

impl Segments {
    /// No segments yet. `max_new_series` is how many series a batch brings for the first time: a segment has no more, except that
    /// many are not cut into tiny ones.
    #[must_use]
    pub fn new(max_new_series: usize) -> Self {
        let max_series = max_new_series.clamp(DEFAULT_NEW_SERIES, MAX_SERIES);
        Self { max_series, placement: Placement::default(), segments: Vec::new(), named: Vec::new(), spent: 0 }
    }

    /// Forgets where these stand: the reader has dropped them.
    pub fn forget(&mut self, dropped: &[u32]) {
        for &series in dropped {
            self.displace(series);
        }
    }

    /// Makes sure that every series of these columns stands in a segment, and names those segments. `series` gives a series by the reader's
    /// index.
    pub fn place(&mut self, columns: &Columns, series: impl Fn(u32) -> Series) {
        let new: Vec<u32> = columns.series.iter().copied().filter(|&s| !self.placement.is_placed(s)).collect();
        if new.is_empty() {
            self.name(columns);
            let worth_it = self.count_spent();
            if worth_it {
                self.gather(&self.named.clone(), &series);
                self.name(columns);
            }
        } else {
            self.spent = 0;
            if self.small().count() >= MAX_SMALL {
                let small: Vec<u32> = self.small().collect();
                self.gather(&small, &series);
            }
            self.add(&new, &series);
            self.name(columns);
        }
        if self.named.len() > MAX_DICTIONARIES / 2 {
            // Its series stand scattered among many others.
            self.forget(&columns.series);
            self.add(&columns.series, &series);
            self.name(columns);
        }
    }

    /// Whether naming the small ones among those named has cost as much by now as sending them again.
    fn count_spent(&mut self) -> bool {
        let small = || self.named.iter().filter_map(|&at| self.segments[at as usize].as_ref()).filter(|one| self.is_small(one));
        let (count, bytes) = small().fold((0usize, 0), |(count, bytes), one| (count + 1, bytes + one.bytes.len()));
        self.spent += NAMED * count.saturating_sub(1);
        let worth_it = count > 1 && self.spent >= bytes;
        if worth_it {
            self.spent = 0;
        }
        worth_it
    }

    fn small(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.segments).filter(|(_, one)| one.as_ref().is_some_and(|one| self.is_small(one))).map(|(at, _)| at)
    }

    /// Two of these fit into one.
    fn is_small(&self, segment: &Segment) -> bool {
        segment.live <= self.max_series / 2 && segment.memory <= MAX_SEGMENT_MEMORY / 2
    }

    /// Puts the series of the small ones among these segments into as few as they fit in.
    fn gather(&mut self, among: &[u32], series: &impl Fn(u32) -> Series) {
        let mut gathered = vec![false; self.segments.len()];
        for &at in among {
            gathered[at as usize] = self.segments[at as usize].as_ref().is_some_and(|one| self.is_small(one));
        }
        let places = self.placement.places.iter().zip(0..);
        let mut placed: Vec<_> = places.filter(|(place, _)| gathered.get(place.0 as usize) == Some(&true)).collect();
        placed.sort_unstable();
        let placed: Vec<u32> = placed.into_iter().map(|(_, s)| s).collect();
        self.forget(&placed);
        self.add(&placed, series);
    }

    /// Puts those of these series that stand nowhere into new segments, in the order of first appearance: neighbours in the file are
    /// neighbours in the dictionary.
    fn add(&mut self, new: &[u32], series: &impl Fn(u32) -> Series) {
        let (mut together, mut memory) = (Vec::new(), 0);
        let mut at = self.free_place();
        for &s in new {
            if self.placement.is_placed(s) {
                continue;
            }
            let one = series(s);
            let more = memory_of(&one);
            if together.len() == self.max_series || (memory > 0 && memory + more > MAX_SEGMENT_MEMORY) {
                self.segments[at] = Some(Segment::new(&together, memory));
                together.clear();
                memory = 0;
                at = self.free_place();
            }
            if self.placement.places.len() <= s as usize {
                self.placement.places.resize(s as usize + 1, NOWHERE);
            }
            self.placement.places[s as usize] = (at as u32, together.len() as u32);
            together.push(one);
            memory += more;
        }
        if !together.is_empty() {
            self.segments[at] = Some(Segment::new(&together, memory));
        }
    }

    fn free_place(&mut self) -> usize {
        self.segments.iter().position(Option::is_none).unwrap_or_else(|| {
            self.segments.push(None);
            self.segments.len() - 1
        })
    }

    fn displace(&mut self, series: u32) {
        let Some(place) = self.placement.places.get_mut(series as usize) else { return };
        let (segment, _) = std::mem::replace(place, NOWHERE);
        let Some(segment) = self.segments.get_mut(segment as usize) else { return };
        if let Some(one) = segment {
            one.live -= 1;
            if one.live == 0 {
                *segment = None;
            }
        }
    }

    /// Names the segments that these series stand in.
    fn name(&mut self, columns: &Columns) {
        let Placement { places, named_as, begins } = &mut self.placement;
        named_as.clear();
        named_as.resize(self.segments.len(), NOT_NAMED);
        for &s in &columns.series {
            named_as[places[s as usize].0 as usize] = 0;
        }
        self.named = (0..).zip(&*named_as).filter(|(_, named)| **named != NOT_NAMED).map(|(at, _)| at).collect();
        begins.clear();
        begins.push(0);
        for (&at, number) in self.named.iter().zip(0..) {
            named_as[at as usize] = number;
            let length = self.segments[at as usize].as_ref().map_or(0, |one| one.series);
            begins.push(begins.last().copied().unwrap_or_default() + length);
        }
    }

    /// Where each series of the last batch stands.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The digests of the dictionaries that the last batch names, in the order that the placement counts.
    #[must_use]
    pub fn ids(&self) -> Vec<DictionaryId> {
        self.named().map(|one| one.id).collect()
    }

    /// Their digests and bytes.
    #[must_use]
    pub fn all(&self) -> Vec<(DictionaryId, Bytes)> {
        self.named().map(|one| (one.id, one.bytes.clone())).collect()
    }

    fn named(&self) -> impl Iterator<Item = &Segment> {
        self.named.iter().filter_map(|&at| self.segments[at as usize].as_ref())
    }
}

impl Segment {
    fn new(series: &[Series], memory: usize) -> Self {
        let (id, bytes) = Dictionary::encode(series);
        let series = series.len();
        Self { id, bytes, series, memory, live: series }
    }
}
