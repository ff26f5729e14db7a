//! The commit: samples, rejects and the covered ranges of their sources, in one transaction. There is one writer, so what is covered
//! can be looked at as each batch goes in.

use std::collections::{BTreeMap, HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::connections::{SeriesIds, Writer};
use super::error::{Result, SqliteError};
use super::{chunk, ledger, series};
use crate::batch::Batch;
use crate::model::{FamilyId, RowSet, SeriesId, SourceId, TimeMs};
use crate::store::chunk::{Chunker, Part, Spans};
use crate::store::ledger_change::{LedgerChange, RejectedRows};
use crate::store::text::range_text;
use crate::store::{Committed, Incoming, StoreError};

/// A sample's identity: series, time in ms, bits of the value.
type Identity = (SeriesId, TimeMs, u64);

/// Commits a group; with `letter`, the dead letter of that number is removed with it.
pub(super) fn commit(writer: &mut Writer, group: &[Incoming], letter: Option<i64>) -> Result<Committed> {
    writer.transaction(|transaction, series| within(transaction, series, group, letter))
}

fn within(connection: &Connection, series: &mut SeriesIds, group: &[Incoming], letter: Option<i64>) -> Result<Committed> {
    if let Some(id) = letter {
        take_letter(connection, id, group)?;
    }
    let ids = series::resolve(connection, series, group)?;
    let mut work = Work::default();
    // What is covered as the batches of the group go in, by family and by source.
    let (mut families, mut sources): (HashMap<FamilyId, RowSet>, HashMap<SourceId, RowSet>) = (HashMap::new(), HashMap::new());
    // Batches of which nothing is covered are written together, so that their chunks are long.
    let mut new: Vec<Part<'_>> = Vec::new();
    for (incoming, ids) in group.iter().zip(&ids) {
        let (batch, header) = (incoming.batch(), &incoming.batch().header);
        ledger::register(connection, header)?;
        let (own_now, family_now) = ledger::covered(connection, header)?;
        let family = families.entry(header.family).or_default();
        family.extend(&family_now);
        let own = sources.entry(header.source).or_insert(own_now);
        let part = Part { batch, ids, keep: None };
        if family.overlaps(batch.rows) {
            work.write(connection, &new)?;
            new.clear();
            work.write_overlapping(connection, &part, family, own)?;
        } else {
            let change = work.changes.entry(header.source).or_default();
            change.take_new(batch, &mut work.rejected);
            work.committed.rejected += batch.rejects.len() as u64;
            new.push(part);
        }
        family.insert(batch.rows);
        own.insert(batch.rows);
    }
    work.write(connection, &new)?;
    work.finish(connection)
}

/// What is entered at the end of a transaction.
#[derive(Default)]
struct Work {
    committed: Committed,
    changes: BTreeMap<SourceId, LedgerChange>,
    rejected: Vec<RejectedRows>,
    spans: Spans,
}

impl Work {
    /// Writes samples as chunks.
    fn write(&mut self, connection: &Connection, parts: &[Part<'_>]) -> Result<()> {
        let mut chunker = Chunker::new(parts);
        while let Some(next) = chunker.next() {
            chunk::insert(connection, &next)?;
        }
        let (_, spans) = chunker.finish();
        for (gpu, (oldest, newest)) in spans {
            let span = self.spans.entry(gpu).or_insert((oldest, newest));
            *span = (span.0.min(oldest), span.1.max(newest));
        }
        for part in parts {
            let kept = part.keep.map_or(part.batch.row.len(), |keep| keep.iter().filter(|keep| **keep).count());
            if kept > 0 {
                *self.committed.stored.entry(part.batch.header.cluster.clone()).or_default() += kept as u64;
            }
        }
        Ok(())
    }

    /// Writes what the store does not have of a batch. `family` and `own` are covered: by the family, and by the source itself.
    fn write_overlapping(&mut self, connection: &Connection, part: &Part<'_>, family: &RowSet, own: &RowSet) -> Result<()> {
        let batch = part.batch;
        let stored = stored(connection, part, family)?;
        let change = self.changes.entry(batch.header.source).or_default();
        self.committed.rejected += change.take_overlapping(batch, own, &stored, &mut self.rejected);
        self.committed.duplicate += stored.iter().filter(|is_stored| **is_stored).count() as u64;
        let keep: Vec<bool> = stored.iter().map(|is_stored| !is_stored).collect();
        self.write(connection, &[Part { batch, ids: part.ids, keep: Some(&keep) }])
    }

    fn finish(mut self, connection: &Connection) -> Result<Committed> {
        let mut seen = connection.prepare_cached(
            "UPDATE gpu SET first_seen = min(coalesce(first_seen, ?2), ?2), last_seen = max(coalesce(last_seen, ?3), ?3) \
              WHERE id = ?1 AND (first_seen IS NULL OR ?2 < first_seen OR ?3 > last_seen)",
        )?;
        for (gpu, (oldest, newest)) in &self.spans {
            seen.execute(params![gpu, oldest, newest])?;
        }
        for (source, change) in &self.changes {
            ledger::add(connection, *source, change, &self.rejected)?;
        }
        let sources: Vec<SourceId> = self.changes.keys().copied().collect();
        self.committed.settled = ledger::settled(connection, &sources)?;
        Ok(self.committed)
    }
}

/// Which samples of a batch the store has already, by series, time and value. Asked only for rows at positions that are covered.
fn stored(connection: &Connection, part: &Part<'_>, covered: &RowSet) -> Result<Vec<bool>> {
    let batch: &Batch = part.batch;
    let mut mask = vec![false; batch.row.len()];
    let mut statement = connection
        .prepare_cached(&format!("SELECT {} FROM chunk WHERE series_id = ?1 AND t_max >= ?2 AND t_min <= ?3", chunk::COLUMNS))?;
    let mut decoder = chunk::Decoder::default();
    for run in &batch.runs {
        let series = part.ids_of(run).series;
        let wanted: Vec<usize> = (run.start..run.start + run.len).filter(|i| covered.contains(batch.row[*i])).collect();
        let times = wanted.iter().map(|i| batch.time_ms[*i]);
        let (Some(from), Some(to)) = (times.clone().min(), times.max()) else { continue };
        let wanted_identities: HashSet<Identity> =
            wanted.iter().map(|i| (series, batch.time_ms[*i], batch.value[*i].to_bits())).collect();
        let mut found: HashSet<Identity> = HashSet::new();
        let mut rows = statement.query(params![series, from, to])?;
        while let Some(row) = rows.next()? {
            // One that is damaged may hold what is looked for: nobody can say that it is not stored.
            let chunk = decoder.decode(row)?;
            let identities = chunk.times.iter().zip(&chunk.values);
            let identities = identities.map(|(time, value)| (series, *time, value.to_bits()));
            found.extend(identities.filter(|identity| wanted_identities.contains(identity)));
        }
        for i in wanted {
            mask[i] = found.contains(&(series, batch.time_ms[i], batch.value[i].to_bits()));
        }
    }
    Ok(mask)
}

/// Removes the dead letter that the (only) batch was made from.
fn take_letter(connection: &Connection, id: i64, group: &[Incoming]) -> Result<()> {
    let bad = |why: String| SqliteError::Store(StoreError::BadBatch(why));
    let found: Option<(Vec<u8>, String)> = connection
        .query_row("DELETE FROM dead_letter WHERE id = ?1 RETURNING source_id, rows", [id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((source, rows)) = found else { return Err(bad(format!("there is no dead letter {id}"))) };
    let same = group
        .iter()
        .all(|incoming| incoming.batch().header.source.to_bytes()[..] == source[..] && range_text(incoming.batch().rows) == rows);
    if same { Ok(()) } else { Err(bad(format!("the batch is not that of dead letter {id}: its source or rows differ"))) }
}
