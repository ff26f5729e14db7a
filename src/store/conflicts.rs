//! The conflicts of a store, with their values: found again in the chunks, where they were noted.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::chunk::{DAY_MS, Day, Ids, day_of};
use super::{ChunkRange, Reader, Result, SnapshotFor, Store};
use crate::model::{SeriesId, TimeMs};

/// Notes that are read at once.
const SPANS_AT_ONCE: usize = 500;
/// Samples that are read at once.
const SAMPLES_AT_ONCE: usize = 1 << 20;
/// How long the answers of others are waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where conflicts of a series are: noted by the commit that wrote them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConflictSpan {
    /// Number of the note.
    pub id: i64,
    /// The store's ids of the series and of its GPU.
    pub ids: Ids,
    /// Time of the first conflict.
    pub first: TimeMs,
    /// Time of the last conflict.
    pub last: TimeMs,
    /// Cluster of the GPU.
    pub cluster: String,
    /// Host of the GPU.
    pub hostname: String,
    /// UUID of the GPU, may be empty.
    pub gpu: String,
    /// Index of the GPU in its host.
    pub gpu_index: Option<u32>,
    /// Metric of the series.
    pub metric: String,
}

/// Values of one series and time that contradict each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// The series, and where the conflict was noted first.
    pub of: ConflictSpan,
    /// The time of the samples.
    pub time: TimeMs,
    /// The values in the order in which they were stored: the last one is the one that answers have.
    pub values: Vec<f64>,
}

/// The conflicts of a store, in the order in which they were noted, up to a limit; and whether there are more.
///
/// # Errors
/// The store cannot be read.
pub async fn conflicts(store: &(impl Store + Reader), limit: usize) -> Result<(Vec<Conflict>, bool)> {
    let (mut found, mut seen): (Vec<Conflict>, HashSet<(SeriesId, TimeMs)>) = (Vec::new(), HashSet::new());
    let mut after = 0;
    loop {
        let spans = store.conflict_spans(after, SPANS_AT_ONCE).await?;
        let Some(last) = spans.last() else { return Ok((found, false)) };
        after = last.id;
        for span in spans {
            // From the back: of a range that has too much, the later half waits.
            let mut ranges = vec![(span.first, span.last)];
            while let Some((first, last)) = ranges.pop() {
                let Some(values) = values(store, span.ids, first, last).await? else {
                    let middle = first.plus_millis(last.millis_since(first) / 2);
                    ranges.extend([(middle.plus_millis(1), last), (first, middle)]);
                    continue;
                };
                for (time, values) in values {
                    if values.len() > 1 && seen.insert((span.ids.series, time)) {
                        if found.len() == limit {
                            return Ok((found, true));
                        }
                        found.push(Conflict { of: span.clone(), time, values });
                    }
                }
            }
        }
    }
}

/// The values that a series has at each time from `first` to `last`, in the order in which they were stored; `None`: they are too many.
async fn values(store: &dyn Reader, ids: Ids, first: TimeMs, last: TimeMs) -> Result<Option<BTreeMap<TimeMs, Vec<f64>>>> {
    // A chunk stays within its day.
    let midnight = |day: Day| TimeMs::from_millis(day * DAY_MS);
    let range = ChunkRange {
        begins_from: midnight(day_of(first)),
        begins_before: last.plus_millis(1),
        ends_from: first,
        ends_before: midnight(day_of(last) + 1),
    };
    let most = if first == last { usize::MAX } else { SAMPLES_AT_ONCE };
    let mut snapshot = store.snapshot(SnapshotFor::Page, PATIENCE).await?;
    let Some(mut chunks) = snapshot.chunks(&[ids], &range, most).await? else { return Ok(None) };
    chunks.sort_by_key(|chunk| chunk.id);
    let mut values: BTreeMap<TimeMs, Vec<f64>> = BTreeMap::new();
    for chunk in chunks {
        for (time, value) in chunk.times.iter().zip(&chunk.values) {
            if (first..=last).contains(time) {
                values.entry(*time).or_default().push(*value);
            }
        }
    }
    Ok(Some(values))
}
