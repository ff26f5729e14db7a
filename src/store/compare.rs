//! What of a group of batches is written: every sample (series, time, bits of the value) once, whatever batch, source or family it
//! comes from. Pure, and the same for every store.
//!
//! Only rows that may be stored already, or be said twice by the group itself, are compared; which those are is for the store to
//! find out (by what it knows of the times that each series has). Two samples of one series and time with different bits are a
//! conflict: both are written. `0.0` and `-0.0` have different bits.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::Committed;
use super::chunk::{Day, Ids, Part, day_of, sorted_runs};
use crate::batch::Batch;
use crate::model::{BlockId, SeriesId, SourceId, TimeMs};

/// From when to when a group has samples of a series, within one UTC day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct DaySpan {
    pub(in crate::store) ids: Ids,
    pub(in crate::store) first: TimeMs,
    pub(in crate::store) last: TimeMs,
}

impl DaySpan {
    pub(in crate::store) fn day(&self) -> Day {
        day_of(self.first)
    }

    /// The part of the span that is not after a time, if any.
    pub(in crate::store) fn up_to(self, bound: Option<TimeMs>) -> Option<Self> {
        let bound = bound.filter(|bound| *bound >= self.first)?;
        Some(Self { last: self.last.min(bound), ..self })
    }
}

/// The series of a group.
pub(in crate::store) struct Survey {
    /// By series and day.
    pub(in crate::store) spans: Vec<DaySpan>,
    /// Series whose times do not increase from sample to sample: the group may say a thing twice.
    pub(in crate::store) unordered: HashSet<SeriesId>,
}

impl Survey {
    pub(in crate::store) fn new(parts: &[Part<'_>]) -> Self {
        let mut survey = Self { spans: Vec::new(), unordered: HashSet::new() };
        let (mut series, mut begin, mut newest) = (None, 0, None);
        for (ids, at, run) in sorted_runs(parts) {
            if series != Some(ids.series) {
                survey.end_series(begin);
                (series, begin, newest) = (Some(ids.series), survey.spans.len(), None);
            }
            let times = &parts[at].batch.time_ms[run.start..run.start + run.len];
            let (Some(first), Some(last)) = (times.first(), times.last()) else { continue };
            if newest.is_none_or(|newest| newest < *first) && times.is_sorted_by(|a, b| a < b) {
                // Nearly always: a run as an export has it.
                newest = Some(*last);
                if day_of(*first) == day_of(*last) {
                    survey.add(begin, DaySpan { ids, first: *first, last: *last });
                    continue;
                }
            } else {
                survey.unordered.insert(ids.series);
            }
            for time in times {
                newest = newest.max(Some(*time));
                survey.add(begin, DaySpan { ids, first: *time, last: *time });
            }
        }
        survey.end_series(begin);
        survey
    }

    /// Adds a span to those of the series that begin at this place.
    fn add(&mut self, begin: usize, more: DaySpan) {
        match self.spans[begin..].last_mut() {
            Some(span) if span.day() == more.day() => {
                (span.first, span.last) = (span.first.min(more.first), span.last.max(more.last));
            }
            _ => self.spans.push(more),
        }
    }

    /// Brings the spans of a series that begin at this place together by day: times may jump back and forth.
    fn end_series(&mut self, begin: usize) {
        let spans = &mut self.spans[begin..];
        if spans.is_sorted_by(|a, b| a.day() < b.day()) {
            return;
        }
        spans.sort_by_key(|span| span.first);
        let mut merged: Vec<DaySpan> = Vec::new();
        for span in spans.iter() {
            match merged.last_mut() {
                Some(last) if last.day() == span.day() => last.last = last.last.max(span.last),
                _ => merged.push(*span),
            }
        }
        self.spans.truncate(begin);
        self.spans.extend(merged);
    }

    /// The blocks of the GPUs, by id.
    pub(in crate::store) fn blocks(&self) -> Vec<BlockId> {
        let blocks: BTreeSet<BlockId> = self.spans.iter().map(|span| BlockId::of(span.ids.gpu)).collect();
        blocks.into_iter().collect()
    }
}

/// A row that is compared.
struct Candidate {
    series: SeriesId,
    time: TimeMs,
    bits: u64,
    part: usize,
    at: usize,
    /// The store has it.
    is_stored: bool,
    /// The store has another value of this series and time.
    has_other: bool,
}

/// Rows of a group that are compared, with what is stored and with each other.
pub(in crate::store) struct Comparison {
    /// By series and time; equal ones in the order in which they would be written.
    rows: Vec<Candidate>,
}

impl Comparison {
    /// Compares the samples that lie in these spans, and those of series that may be said twice by the group.
    pub(in crate::store) fn new(parts: &[Part<'_>], survey: &Survey, spans: &[DaySpan]) -> Self {
        let mut rows = Vec::new();
        if spans.is_empty() && survey.unordered.is_empty() {
            return Self { rows };
        }
        let mut bounds: BTreeMap<SeriesId, (TimeMs, TimeMs)> = BTreeMap::new();
        for span in spans {
            let bounds = bounds.entry(span.ids.series).or_insert((span.first, span.last));
            *bounds = (bounds.0.min(span.first), bounds.1.max(span.last));
        }
        for (ids, part, run) in sorted_runs(parts) {
            let all = survey.unordered.contains(&ids.series);
            let bounds = bounds.get(&ids.series);
            if !all && bounds.is_none() {
                continue;
            }
            for at in run.start..run.start + run.len {
                let time = parts[part].batch.time_ms[at];
                if all || bounds.is_some_and(|(first, last)| *first <= time && time <= *last) {
                    let bits = parts[part].batch.value[at].to_bits();
                    rows.push(Candidate { series: ids.series, time, bits, part, at, is_stored: false, has_other: false });
                }
            }
        }
        rows.sort_by_key(|row| (row.series, row.time));
        Self { rows }
    }

    /// Compares with stored samples of a series; the times are in order.
    pub(in crate::store) fn meet(&mut self, series: SeriesId, times: &[TimeMs], values: &[f64]) {
        let Some(first) = times.first() else { return };
        let mut next = self.rows.partition_point(|row| (row.series, row.time) < (series, *first));
        for (time, value) in times.iter().zip(values) {
            while self.rows.get(next).is_some_and(|row| row.series == series && row.time < *time) {
                next += 1;
            }
            for row in self.rows[next..].iter_mut().take_while(|row| row.series == series && row.time == *time) {
                if row.bits == value.to_bits() {
                    row.is_stored = true;
                } else {
                    row.has_other = true;
                }
            }
        }
    }

    /// What becomes of the rows of each part. Samples before the floor are expired, whatever else they are.
    pub(in crate::store) fn outcomes(&self, parts: &[Part<'_>], floor: Option<TimeMs>) -> Outcomes {
        let of = |part: &Part<'_>| Outcome { expired: expired(part.batch, floor), ..Outcome::default() };
        let mut outcomes = Outcomes { parts: parts.iter().map(of).collect(), conflicts: BTreeMap::new() };
        let kept = |row: &Candidate| floor.is_none_or(|floor| row.time >= floor);
        let same = self.rows.chunk_by(|a, b| a.series == b.series && a.time == b.time);
        for same in same.filter(|same| same.first().is_some_and(kept)) {
            // Usually one; of many, the values are few.
            let mut said: HashSet<u64> = HashSet::new();
            for (nth, row) in same.iter().enumerate() {
                let outcome = &mut outcomes.parts[row.part];
                let is_new = same.len() == 1 || said.insert(row.bits);
                if row.is_stored || !is_new {
                    let rows = parts[row.part].batch.row.len();
                    outcome.duplicate.resize(rows, false);
                    outcome.duplicate[row.at] = true;
                } else if row.has_other || nth > 0 {
                    outcome.conflicts += 1;
                    let of = (parts[row.part].batch.header.source, row.series);
                    let note = outcomes.conflicts.entry(of).or_insert(Conflicts { first: row.time, last: row.time, n: 0 });
                    *note = Conflicts { first: note.first.min(row.time), last: note.last.max(row.time), n: note.n + 1 };
                }
            }
        }
        outcomes
    }
}

/// By column position: the samples before the floor; empty where there are none.
fn expired(batch: &Batch, floor: Option<TimeMs>) -> Vec<bool> {
    match floor {
        Some(floor) if batch.time_ms.iter().any(|time| *time < floor) => batch.time_ms.iter().map(|time| *time < floor).collect(),
        _ => Vec::new(),
    }
}

/// What becomes of the rows of a group.
pub(in crate::store) struct Outcomes {
    /// By part, in their order.
    pub(in crate::store) parts: Vec<Outcome>,
    pub(in crate::store) conflicts: BTreeMap<(SourceId, SeriesId), Conflicts>,
}

/// What becomes of the rows of a batch.
#[derive(Default)]
pub(in crate::store) struct Outcome {
    /// By column position: samples that are stored already, or written with a row before; empty where there are none.
    pub(in crate::store) duplicate: Vec<bool>,
    /// By column position: samples that are older than what is kept, and are not written; empty where there are none.
    pub(in crate::store) expired: Vec<bool>,
    /// Samples that are written beside another value of their series and time.
    pub(in crate::store) conflicts: u64,
}

impl Outcome {
    pub(in crate::store) fn is_duplicate(&self, at: usize) -> bool {
        self.duplicate.get(at).copied().unwrap_or(false)
    }

    pub(in crate::store) fn is_expired(&self, at: usize) -> bool {
        self.expired.get(at).copied().unwrap_or(false)
    }

    pub(in crate::store) fn duplicates(&self) -> u64 {
        self.duplicate.iter().filter(|is_duplicate| **is_duplicate).count() as u64
    }

    pub(in crate::store) fn expired(&self) -> u64 {
        self.expired.iter().filter(|is_expired| **is_expired).count() as u64
    }

    /// Counts what is written of the batch, and what is not.
    pub(in crate::store) fn count(&self, batch: &Batch, committed: &mut Committed) {
        let (duplicates, expired) = (self.duplicates(), self.expired());
        committed.duplicate += duplicates;
        committed.conflict += self.conflicts;
        let written = batch.row.len() as u64 - duplicates - expired;
        if written > 0 {
            *committed.stored.entry(batch.header.cluster.clone()).or_default() += written;
        }
    }

    /// Which samples are written; `None` = all.
    pub(in crate::store) fn kept(&self) -> Option<Vec<bool>> {
        let rows = self.duplicate.len().max(self.expired.len());
        (rows > 0).then(|| (0..rows).map(|at| !self.is_duplicate(at) && !self.is_expired(at)).collect())
    }
}

/// The conflicts of a series that a commit writes for a source: between these times, so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Conflicts {
    pub(in crate::store) first: TimeMs,
    pub(in crate::store) last: TimeMs,
    pub(in crate::store) n: u64,
}
