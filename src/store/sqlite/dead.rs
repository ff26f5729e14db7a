//! Dead letters: batches that could not be stored for a reason of their own, and the failures noted before they were buried.

use std::collections::BTreeSet;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::connections::Writer;
use super::error::{Result, SqliteError};
use super::ledger;
use crate::model::{DictionaryId, IntervalMs, SourceId, TimeMs};
use crate::store::DeadLetter;
use crate::store::text::{clean, parse_range, range_text};

/// Failures of entries that were stored or buried elsewhere in the end are forgotten after this.
const FORGET_AFTER: IntervalMs = IntervalMs::DAY.times(30);

/// Notes a failure; how many that makes.
pub(super) fn note_failure(writer: &mut Writer, entry: &str, reason: &str) -> Result<u32> {
    let transaction = writer.connection.transaction()?;
    let now = TimeMs::now();
    transaction.execute("DELETE FROM batch_failure WHERE last_ms < ?1", [now.minus(FORGET_AFTER)])?;
    let failures = transaction.query_row(
        "INSERT INTO batch_failure (entry, failures, last_reason, last_ms) VALUES (?1, 1, ?2, ?3) \
         ON CONFLICT (entry) DO UPDATE SET failures = failures + 1, last_reason = excluded.last_reason, last_ms = excluded.last_ms \
         RETURNING failures",
        params![clean(entry), clean(reason), now],
        |row| row.get(0),
    )?;
    transaction.commit()?;
    Ok(failures)
}

/// Forgets the failures of an entry.
pub(super) fn forget_failures(writer: &mut Writer, entry: &str) -> Result<()> {
    writer.connection.execute("DELETE FROM batch_failure WHERE entry = ?1", [clean(entry)])?;
    Ok(())
}

/// Keeps letters, each once per source and rows.
pub(super) fn bury_all(writer: &mut Writer, letters: &[(DeadLetter, String)]) -> Result<Vec<(SourceId, u64)>> {
    let transaction = writer.connection.transaction()?;
    for (letter, entry) in letters {
        let source = letter.source.to_bytes();
        transaction.execute(
            "INSERT INTO source (id, family, cluster, name) VALUES (?1, ?1, '', '') ON CONFLICT DO NOTHING",
            [&source[..]],
        )?;
        let kept = transaction.execute(
            "INSERT INTO dead_letter (source_id, rows, reason, payload, buried_ms) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
            params![&source[..], range_text(letter.rows), clean(&letter.reason), &letter.payload[..], TimeMs::now()],
        )?;
        if kept > 0 {
            let id = transaction.last_insert_rowid();
            for (place, (digest, bytes)) in letter.dictionaries.iter().enumerate() {
                transaction.execute(
                    "INSERT INTO dead_dictionary (letter, place, digest, data) VALUES (?1, ?2, ?3, ?4)",
                    params![id, place as i64, &digest.to_bytes()[..], &bytes[..]],
                )?;
            }
        }
        transaction.execute("DELETE FROM batch_failure WHERE entry = ?1", [clean(entry)])?;
    }
    let sources: BTreeSet<SourceId> = letters.iter().map(|(letter, _)| letter.source).collect();
    let settled = ledger::settled(&transaction, &sources.into_iter().collect::<Vec<_>>())?;
    transaction.commit()?;
    Ok(settled)
}

/// The letters, oldest first, without payloads.
pub(super) fn list(connection: &Connection) -> Result<Vec<DeadLetter>> {
    let mut statement =
        connection.prepare_cached("SELECT id, source_id, rows, reason, buried_ms FROM dead_letter ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut letters = Vec::new();
    while let Some(row) = rows.next()? {
        letters.push(letter(row)?);
    }
    Ok(letters)
}

/// One letter with all it holds.
pub(super) fn show(connection: &Connection, id: i64) -> Result<Option<DeadLetter>> {
    let mut statement =
        connection.prepare_cached("SELECT id, source_id, rows, reason, buried_ms, payload FROM dead_letter WHERE id = ?1")?;
    let mut rows = statement.query([id])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let mut found = letter(row)?;
    found.payload = Bytes::from(row.get::<_, Vec<u8>>(5)?);
    let mut statement = connection.prepare_cached("SELECT digest, data FROM dead_dictionary WHERE letter = ?1 ORDER BY place")?;
    let mut rows = statement.query([id])?;
    while let Some(row) = rows.next()? {
        found.dictionaries.push((DictionaryId::from_digest(ledger::digest(row, 0)?), Bytes::from(row.get::<_, Vec<u8>>(1)?)));
    }
    Ok(Some(found))
}

fn letter(row: &Row<'_>) -> Result<DeadLetter> {
    Ok(DeadLetter {
        id: row.get(0)?,
        source: ledger::source(row, 1)?,
        rows: parse_range(&row.get::<_, String>(2)?).map_err(SqliteError::Unexpected)?,
        reason: row.get(3)?,
        payload: Bytes::new(),
        dictionaries: Vec::new(),
        buried: Some(row.get(4)?),
    })
}

/// Gives a letter's rows up.
pub(super) fn drop_letter(writer: &mut Writer, id: i64) -> Result<bool> {
    let transaction = writer.connection.transaction()?;
    let found: Option<(Vec<u8>, String)> = transaction
        .query_row("DELETE FROM dead_letter WHERE id = ?1 RETURNING source_id, rows", [id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((source, rows)) = found else { return Ok(false) };
    let dropped: String = transaction.query_row("SELECT dropped FROM source WHERE id = ?1", [&source], |row| row.get(0))?;
    let mut dropped = ledger::parse_rows(Some(&dropped))?;
    dropped.insert(parse_range(&rows).map_err(SqliteError::Unexpected)?);
    transaction.execute("UPDATE source SET dropped = ?2 WHERE id = ?1", params![source, dropped.to_string()])?;
    transaction.commit()?;
    Ok(true)
}
