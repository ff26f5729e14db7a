//! The commit: samples, rejects and the covered ranges of their sources, in one transaction. There is one writer, so what is stored
//! can be compared before anything is written.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::connections::{Marks, SeriesIds, Writer};
use super::error::{Result, SqliteError};
use super::{chunk, ledger, series};
use crate::model::{RowSet, SourceId, TimeMs};
use crate::store::chunk::{Chunker, Part, Spans};
use crate::store::compare::{Comparison, DaySpan, Outcome, Outcomes, Survey};
use crate::store::ledger_change::{LedgerChange, RejectedRows};
use crate::store::text::range_text;
use crate::store::{Committed, Incoming, StoreError};

/// Series whose marks are kept; beyond that they are asked for again.
const MARKS_KEPT: usize = 200_000;

/// Commits a group; with `letter`, the dead letter of that number is removed with it.
pub(super) fn commit(writer: &mut Writer, group: &[Incoming], letter: Option<i64>) -> Result<Committed> {
    let mut marks = std::mem::take(&mut writer.marks);
    if marks.len() > MARKS_KEPT {
        marks.clear();
    }
    let done = writer.transaction(|transaction, series| within(transaction, series, &mut marks, group, letter));
    // Those of a commit that failed are too late at worst.
    writer.marks = marks;
    done
}

fn within(
    connection: &Connection,
    series: &mut SeriesIds,
    marks: &mut Marks,
    group: &[Incoming],
    letter: Option<i64>,
) -> Result<Committed> {
    if let Some(id) = letter {
        take_letter(connection, id, group)?;
    }
    let ids = series::resolve(connection, series, group)?;
    let parts: Vec<Part<'_>> =
        group.iter().zip(&ids).map(|(incoming, ids)| Part { batch: incoming.batch(), ids, keep: None }).collect();
    let survey = Survey::new(&parts);
    let suspects = suspects(connection, marks, &survey)?;
    let mut comparison = Comparison::new(&parts, &survey, &suspects);
    compare(connection, &suspects, &mut comparison)?;
    let mut work = Work::default();
    work.write(connection, &parts, &comparison.outcomes(&parts, floor(connection)?))?;
    work.finish(connection)
}

/// Samples before this are expired.
pub(super) fn floor(connection: &Connection) -> Result<Option<TimeMs>> {
    Ok(connection.prepare_cached("SELECT floor_ms FROM store")?.query_row([], |row| row.get(0))?)
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
    /// Writes what is new of a group.
    fn write(&mut self, connection: &Connection, parts: &[Part<'_>], outcomes: &Outcomes) -> Result<()> {
        // What is covered as the batches of the group go in.
        let mut sources: HashMap<SourceId, RowSet> = HashMap::new();
        for (part, outcome) in parts.iter().zip(&outcomes.parts) {
            let (batch, header) = (part.batch, &part.batch.header);
            ledger::register(connection, header)?;
            let own = match sources.get_mut(&header.source) {
                Some(own) => own,
                None => sources.entry(header.source).or_insert(ledger::covered(connection, header.source)?),
            };
            let change = self.changes.entry(header.source).or_default();
            self.committed.rejected += change.take(batch, own, outcome, &mut self.rejected);
            own.insert(batch.rows);
            outcome.count(batch, &mut self.committed);
        }
        self.committed.expired = self.changes.values().map(|change| change.expired).sum();
        let kept: Vec<Option<Vec<bool>>> = outcomes.parts.iter().map(Outcome::kept).collect();
        let parts: Vec<Part<'_>> = parts.iter().zip(&kept).map(|(part, keep)| Part { keep: keep.as_deref(), ..*part }).collect();
        let mut chunker = Chunker::new(&parts);
        while let Some((_, next)) = chunker.next() {
            chunk::insert(connection, &next)?;
        }
        (_, self.spans) = chunker.finish();
        let mut note = connection.prepare_cached(
            "INSERT INTO conflict (source_id, series_id, t_min, t_max, n, noted_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        for ((source, series), conflicts) in &outcomes.conflicts {
            let (first, last, n) = (conflicts.first, conflicts.last, conflicts.n.cast_signed());
            note.execute(params![&source.to_bytes()[..], series, first, last, n, TimeMs::now()])?;
        }
        Ok(())
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

/// Where a group may meet what is stored. A series' mark is up to when it may have samples; this process alone writes here, so what it
/// notes stays true.
fn suspects(connection: &Connection, marks: &mut Marks, survey: &Survey) -> Result<Vec<DaySpan>> {
    let mut ask = connection.prepare_cached("SELECT max(t_max) FROM chunk WHERE series_id = ?1")?;
    let mut suspects = Vec::new();
    for of_series in survey.spans.chunk_by(|a, b| a.ids.series == b.ids.series) {
        let (Some(first), Some(last)) = (of_series.first(), of_series.last()) else { continue };
        let series = first.ids.series;
        let mark = match marks.get(&series) {
            Some(mark) => Some(*mark),
            None => ask.query_row([series], |row| row.get(0))?,
        };
        suspects.extend(of_series.iter().filter_map(|span| span.up_to(mark)));
        marks.insert(series, mark.map_or(last.last, |mark| mark.max(last.last)));
    }
    Ok(suspects)
}

/// Compares with the samples that the store has in these spans.
fn compare(connection: &Connection, spans: &[DaySpan], comparison: &mut Comparison) -> Result<()> {
    let mut statement = connection
        .prepare_cached(&format!("SELECT {} FROM chunk WHERE series_id = ?1 AND t_max >= ?2 AND t_min <= ?3", chunk::COLUMNS))?;
    let mut decoder = chunk::Decoder::default();
    for span in spans {
        let mut rows = statement.query(params![span.ids.series, span.first, span.last])?;
        while let Some(row) = rows.next()? {
            // One that is damaged may hold what is looked for: nobody can say that it is not stored.
            let chunk = decoder.decode(row)?;
            comparison.meet(chunk.series, &chunk.times, &chunk.values);
        }
    }
    Ok(())
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
