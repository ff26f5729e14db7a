//! Dead letters: batches that could not be stored for a reason of their own, and the failures noted before they were buried.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};

use bytes::Bytes;
use tokio_postgres::Row;

use super::PostgresStore;
use super::error::Result;
use super::ledger;
use super::pool::Session;
use super::types::{clean, parse_range, range_text};
use crate::model::{DictionaryId, SourceId};
use crate::store::{Buried, DeadLetter};

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

/// Keeps the letters that are not kept yet, as one statement for all of them; the entries of those. The first letter of some rows is in
/// `dead_letter` itself, where release 0.1.0 would keep it, those after it in the table that inherits from it.
const BURY: &str = "WITH letter AS MATERIALIZED ( \
        SELECT n.source_id, n.range::int8range AS rows, n.reason, n.payload, n.entry, n.place, sha256(n.payload) AS payload_digest, \
               coalesce(d.digests, '{}') AS digests, coalesce(d.dictionaries, '{}') AS dictionaries \
          FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::text[]) WITH ORDINALITY \
               AS n (source_id, range, reason, payload, entry, place) \
          LEFT JOIN (SELECT letter, array_agg(digest ORDER BY place) AS digests, array_agg(data ORDER BY place) AS dictionaries \
                       FROM unnest($6::bigint[], $7::uuid[], $8::bytea[]) WITH ORDINALITY AS d (letter, digest, data, place) \
                      GROUP BY letter) d ON d.letter = n.place), \
    first AS ( \
        INSERT INTO dead_letter (source_id, rows, reason, payload, dictionary_digests, dictionaries, entry) \
        SELECT l.source_id, l.rows, l.reason, l.payload, l.digests, l.dictionaries, l.entry FROM letter l \
         WHERE NOT EXISTS (SELECT FROM ONLY dead_letter d WHERE d.source_id = l.source_id AND d.rows = l.rows) \
           AND NOT EXISTS (SELECT FROM dead_letter_same_rows d WHERE d.source_id = l.source_id AND d.rows = l.rows \
                              AND d.payload_digest = l.payload_digest) \
         ORDER BY l.place ON CONFLICT (source_id, rows) DO NOTHING RETURNING source_id, rows, payload, entry), \
    further AS ( \
        INSERT INTO dead_letter_same_rows (source_id, rows, reason, payload, dictionary_digests, dictionaries, entry) \
        SELECT l.source_id, l.rows, l.reason, l.payload, l.digests, l.dictionaries, l.entry FROM letter l \
         WHERE NOT EXISTS (SELECT FROM first d WHERE d.source_id = l.source_id AND d.rows = l.rows AND d.payload = l.payload) \
           AND NOT EXISTS (SELECT FROM ONLY dead_letter d WHERE d.source_id = l.source_id AND d.rows = l.rows AND d.payload = l.payload) \
         ORDER BY l.place ON CONFLICT (source_id, rows, payload_digest) DO NOTHING RETURNING entry) \
    SELECT entry FROM first UNION ALL SELECT entry FROM further";

/// The parameters of [`BURY`].
#[derive(Default)]
struct LetterColumns<'a> {
    sources: Vec<SourceId>,
    rows: Vec<String>,
    reasons: Vec<Cow<'a, str>>,
    payloads: Vec<&'a [u8]>,
    entries: Vec<Cow<'a, str>>,
    letter_of_dictionary: Vec<i64>,
    digests: Vec<DictionaryId>,
    dictionaries: Vec<&'a [u8]>,
}

impl<'a> LetterColumns<'a> {
    fn new(letters: &'a [(DeadLetter, String)]) -> Self {
        let mut columns = Self::default();
        for ((letter, entry), place) in letters.iter().zip(1..) {
            columns.sources.push(letter.source);
            columns.rows.push(range_text(letter.rows));
            columns.reasons.push(clean(&letter.reason));
            columns.payloads.push(&letter.payload);
            columns.entries.push(clean(entry));
            for (digest, bytes) in &letter.dictionaries {
                columns.letter_of_dictionary.push(place);
                columns.digests.push(*digest);
                columns.dictionaries.push(bytes);
            }
        }
        columns
    }
}

/// Keeps letters, each once per source, rows and payload.
pub(super) async fn bury_all(store: &PostgresStore, session: &Session, letters: &[(DeadLetter, String)]) -> Result<Buried> {
    let sources: Vec<SourceId> = letters.iter().map(|(letter, _)| letter.source).collect::<BTreeSet<_>>().into_iter().collect();
    begin_with(store, session, &sources).await?;
    let columns = LetterColumns::new(letters);
    let kept = session
        .query(
            BURY,
            &[
                &columns.sources,
                &columns.rows,
                &columns.reasons,
                &columns.payloads,
                &columns.entries,
                &columns.letter_of_dictionary,
                &columns.digests,
                &columns.dictionaries,
            ],
        )
        .await?;
    let kept: HashSet<&str> = kept.iter().map(|row| row.get(0)).collect();
    let kept = columns.entries.iter().map(|entry| kept.contains(&**entry)).collect();
    session.execute("DELETE FROM batch_failure WHERE entry = ANY ($1)", &[&columns.entries]).await?;
    let settled = ledger::settled_of(session, &sources).await?;
    session.batch("COMMIT").await?;
    Ok(Buried { kept, settled })
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
