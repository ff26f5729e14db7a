//! Dead letters: batches that could not be stored for a reason of their own, and the failures noted before they were buried.

use std::collections::BTreeSet;

use bytes::Bytes;
use tokio_postgres::Row;

use super::PostgresStore;
use super::error::Result;
use super::ledger;
use super::pool::Session;
use super::types::{clean, parse_range, range_text};
use crate::model::{DictionaryId, SourceId};
use crate::store::DeadLetter;

/// Notes a failure; how many that makes. Entries that were stored or buried elsewhere in the end are forgotten after a month.
pub(super) async fn note_failure(session: &Session, entry: &str, reason: &str) -> Result<u32> {
    session.execute("DELETE FROM batch_failure WHERE last_at < now() - interval '30 days'", &[]).await?;
    let rows = session
        .query(
            "INSERT INTO batch_failure AS b (entry, failures, last_reason, last_at) VALUES ($1, 1, $2, now()) \
             ON CONFLICT (entry) DO UPDATE SET failures = b.failures + 1, last_reason = excluded.last_reason, last_at = excluded.last_at \
             RETURNING failures",
            &[&clean(entry), &clean(reason)],
        )
        .await?;
    Ok(rows.first().map_or(1, |row| row.get::<_, i32>(0).cast_unsigned()))
}

/// Forgets the failures of an entry.
pub(super) async fn forget_failures(session: &Session, entry: &str) -> Result<()> {
    session.execute("DELETE FROM batch_failure WHERE entry = $1", &[&clean(entry)]).await?;
    Ok(())
}

/// Begins a transaction that holds the rows of these sources (sorted, so that two of these do not wait for each other), which are
/// made if they are missing. Everything that settles rows does so under this lock: of two at once, the later one sees both and says
/// so.
async fn begin_with(store: &PostgresStore, session: &Session, sources: &[SourceId]) -> Result<()> {
    session.batch("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
    store.check_id(session).await?;
    session
        .execute(
            "INSERT INTO source (id, family, cluster, name) SELECT id, id, '', '' FROM unnest($1::uuid[]) AS s (id) ORDER BY id \
             ON CONFLICT (id) DO NOTHING",
            &[&sources],
        )
        .await?;
    session.query("SELECT FROM source WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE", &[&sources]).await?;
    Ok(())
}

/// Keeps letters, each once per source and rows.
pub(super) async fn bury_all(
    store: &PostgresStore,
    session: &Session,
    letters: &[(DeadLetter, String)],
) -> Result<Vec<(SourceId, u64)>> {
    let sources: Vec<SourceId> = letters.iter().map(|(letter, _)| letter.source).collect::<BTreeSet<_>>().into_iter().collect();
    begin_with(store, session, &sources).await?;
    for (letter, entry) in letters {
        let digests: Vec<DictionaryId> = letter.dictionaries.iter().map(|(id, _)| *id).collect();
        let dictionaries: Vec<&[u8]> = letter.dictionaries.iter().map(|(_, bytes)| &bytes[..]).collect();
        session
            .execute(
                "INSERT INTO dead_letter (source_id, rows, reason, payload, dictionary_digests, dictionaries, entry) \
                 VALUES ($1, $2::text::int8range, $3, $4, $5, $6, $7) ON CONFLICT (source_id, rows) DO NOTHING",
                &[
                    &letter.source,
                    &range_text(letter.rows),
                    &clean(&letter.reason),
                    &&letter.payload[..],
                    &digests,
                    &dictionaries,
                    &clean(entry),
                ],
            )
            .await?;
    }
    let entries: Vec<_> = letters.iter().map(|(_, entry)| clean(entry)).collect();
    session.execute("DELETE FROM batch_failure WHERE entry = ANY ($1)", &[&entries]).await?;
    let settled = ledger::settled_of(session, &sources).await?;
    session.batch("COMMIT").await?;
    Ok(settled)
}

/// The letters, oldest first, without payloads.
pub(super) async fn list(session: &Session) -> Result<Vec<DeadLetter>> {
    let rows = session.query("SELECT id, source_id, rows::text, reason, buried_at FROM dead_letter ORDER BY id", &[]).await?;
    rows.iter().map(|row| letter(session, row)).collect()
}

/// One letter with all it holds.
pub(super) async fn show(session: &Session, id: i64) -> Result<Option<DeadLetter>> {
    let rows = session
        .query(
            "SELECT id, source_id, rows::text, reason, buried_at, payload, dictionary_digests, dictionaries FROM dead_letter WHERE id = $1",
            &[&id],
        )
        .await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let mut found = letter(session, row)?;
    found.payload = Bytes::copy_from_slice(row.get(5));
    let (digests, bytes): (Vec<DictionaryId>, Vec<Vec<u8>>) = (row.get(6), row.get(7));
    found.dictionaries = digests.into_iter().zip(bytes.into_iter().map(Bytes::from)).collect();
    Ok(Some(found))
}

fn letter(session: &Session, row: &Row) -> Result<DeadLetter> {
    Ok(DeadLetter {
        id: row.get(0),
        source: row.get(1),
        rows: parse_range(row.get(2)).map_err(|why| session.unexpected(&why))?,
        reason: row.get(3),
        payload: Bytes::new(),
        dictionaries: Vec::new(),
        buried: Some(row.get(4)),
    })
}

/// Gives a letter's rows up.
pub(super) async fn drop_letter(store: &PostgresStore, session: &Session, id: i64) -> Result<bool> {
    // Sources are locked before anything else, so the letter is looked at first, and taken under the lock.
    let rows = session.query("SELECT source_id FROM dead_letter WHERE id = $1", &[&id]).await?;
    let Some(row) = rows.first() else { return Ok(false) };
    begin_with(store, session, &[row.get(0)]).await?;
    let dropped = session
        .execute(
            "WITH gone AS (DELETE FROM dead_letter WHERE id = $1 RETURNING source_id, rows) \
             UPDATE source s SET dropped = s.dropped + int8multirange(gone.rows) FROM gone WHERE s.id = gone.source_id",
            &[&id],
        )
        .await?;
    session.batch("COMMIT").await?;
    Ok(dropped > 0)
}
