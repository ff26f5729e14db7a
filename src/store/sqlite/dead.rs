//! Dead letters: batches that could not be stored for a reason of their own, and the failures noted before they were buried.

use std::collections::BTreeSet;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use sha2::{Digest as _, Sha256};

use super::connections::Writer;
use super::error::{Result, SqliteError};
use super::ledger;
use crate::model::{DictionaryId, IntervalMs, SourceId, TimeMs};
use crate::store::text::{clean, parse_range, range_text};
use crate::store::{Buried, DeadLetter};

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

/// What tells payloads apart, also those of somebody who forges them.
pub(super) fn payload_digest(payload: &[u8]) -> [u8; 32] {
    Sha256::digest(payload).into()
}

/// Keeps letters, each once per source, rows and payload.
pub(super) fn bury_all(writer: &mut Writer, letters: &[(DeadLetter, String)]) -> Result<Buried> {
    let transaction = writer.connection.transaction()?;
    let now = TimeMs::now();
    let sources: BTreeSet<SourceId> = letters.iter().map(|(letter, _)| letter.source).collect();
    let kept = {
        let mut add_source = transaction
            .prepare_cached("INSERT INTO source (id, family, cluster, name) VALUES (?1, ?1, '', '') ON CONFLICT DO NOTHING")?;
        for source in &sources {
            add_source.execute([&source.to_bytes()[..]])?;
        }
        let mut add_letter = transaction.prepare_cached(
            "INSERT INTO dead_letter (source_id, rows, reason, payload, buried_ms, payload_digest) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
             ON CONFLICT DO NOTHING",
        )?;
        let mut add_dictionary =
            transaction.prepare_cached("INSERT INTO dead_dictionary (letter, place, digest, data) VALUES (?1, ?2, ?3, ?4)")?;
        let mut forget = transaction.prepare_cached("DELETE FROM batch_failure WHERE entry = ?1")?;
        let mut kept = Vec::with_capacity(letters.len());
        for (letter, entry) in letters {
            let is_new = add_letter.execute(params![
                &letter.source.to_bytes()[..],
                range_text(letter.rows),
                clean(&letter.reason),
                &letter.payload[..],
                now,
                &payload_digest(&letter.payload)[..],
            ])? > 0;
            if is_new {
                let id = transaction.last_insert_rowid();
                for (place, (digest, bytes)) in letter.dictionaries.iter().enumerate() {
                    add_dictionary.execute(params![id, place as i64, &digest.to_bytes()[..], &bytes[..]])?;
                }
            }
            kept.push(is_new);
            forget.execute([clean(entry)])?;
        }
        kept
    };
    let settled = ledger::settled(&transaction, &sources.into_iter().collect::<Vec<_>>())?;
    transaction.commit()?;
    Ok(Buried { kept, settled })
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
