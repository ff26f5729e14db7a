//! Whether a batch is what its type promises. Pure. What passes here can be indexed without a second thought, and its rows counted.

use crate::model::{MAX_TIME, MIN_TIME};
use crate::store::{Incoming, StoreError};

/// Every batch of a group.
pub(in crate::store) fn group(group: &[Incoming]) -> crate::store::Result<()> {
    group.iter().try_for_each(|incoming| {
        check(incoming).map_err(|why| {
            StoreError::BadBatch(format!("source {} rows {}: {why}", incoming.batch.header.source, incoming.batch.rows))
        })
    })
}

fn check(incoming: &Incoming) -> Result<(), String> {
    let batch = &incoming.batch;
    let samples = batch.row.len();
    if batch.rows.end < batch.rows.first || batch.rows.end > i64::MAX.cast_unsigned() {
        return Err("the range of rows is impossible".into());
    }
    if batch.time_ms.len() != samples || batch.value.len() != samples {
        return Err(format!("{samples} rows have {} times and {} values", batch.time_ms.len(), batch.value.len()));
    }
    if batch.header.dictionaries.len() != incoming.dictionaries.len() {
        let (named, came) = (batch.header.dictionaries.len(), incoming.dictionaries.len());
        return Err(format!("it names {named} dictionaries and {came} came with it"));
    }
    if batch.rows.len() != (samples + batch.rejects.len()) as u64 {
        return Err(format!("{samples} samples and {} rejects do not make up its rows", batch.rejects.len()));
    }
    let mut position = 0;
    for run in &batch.runs {
        if run.start != position {
            return Err("its runs do not follow each other".into());
        }
        position = run.start.checked_add(run.len).ok_or("a run has no end")?;
        let dictionary =
            incoming.dictionaries.get(run.dictionary as usize).ok_or("a run names a dictionary that is not there")?;
        if run.index as usize >= dictionary.series.len() {
            return Err(format!("a run names series {} of a dictionary of {}", run.index, dictionary.series.len()));
        }
    }
    if position != samples {
        return Err(format!("its runs have {position} samples of {samples}"));
    }
    if let Some(time) = batch.time_ms.iter().find(|time| !(MIN_TIME..MAX_TIME).contains(time)) {
        return Err(format!("the time {time} ms is not within the years 1990 to 2100"));
    }
    if let Some(value) = batch.value.iter().find(|value| !value.is_finite()) {
        return Err(format!("the value {value} is not finite"));
    }
    let mut seen = vec![false; samples + batch.rejects.len()];
    for row in batch.row.iter().copied().chain(batch.rejects.iter().map(|reject| reject.row)) {
        let place = row.checked_sub(batch.rows.first).and_then(|at| seen.get_mut(usize::try_from(at).ok()?));
        match place {
            Some(place) if !*place => *place = true,
            Some(_) => return Err(format!("row {row} is there twice")),
            None => return Err(format!("row {row} is outside")),
        }
    }
    if batch.rejects.iter().any(|reject| reject.line > i64::MAX.cast_unsigned()) {
        return Err("a line number is impossible".into());
    }
    Ok(())
}
