//! Reading rows to find those that are damaged: all of them, or those of a span.

use std::pin::pin;

use futures_util::TryStreamExt;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use super::super::error::{PostgresError, Result};
use super::super::pool::Session;
use super::super::{chunk, packed, slab};
use crate::store::StoreError;
use crate::store::maintenance::{Form, Verified};

/// A damaged row.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    pub(super) form: Form,
    pub(super) id: i64,
    /// Which row it is, what is wrong, and what to do.
    pub(super) what: String,
}

/// Whether the server could not read what it has: its class of internal errors.
pub(super) fn is_damage(state: &SqlState) -> bool {
    state.code().starts_with("XX")
}

/// The columns that are read of a row.
pub(super) fn columns(form: Form) -> &'static str {
    match form {
        Form::Chunk => chunk::COLUMNS,
        Form::Slab => slab::COLUMNS,
        Form::Packed => packed::COLUMNS,
    }
}

/// How many samples a row has.
fn read(session: &Session, form: Form, row: &Row) -> Result<u64> {
    match form {
        Form::Chunk => Ok(chunk::decode(session, row)?.times.len() as u64),
        Form::Slab => Ok(slab::decode(session, row)?.values.len() as u64),
        Form::Packed => {
            let rectangle = packed::decode(session, row)?;
            rectangle.chunks(|_| true).map_err(|what| packed::damaged(session, row, what))?;
            Ok(rectangle.samples() as u64)
        }
    }
}

/// Reads every row of every partition.
pub(super) async fn everything(session: &Session, partitions: &[(Form, String)]) -> Result<Verified> {
    let mut verified = Verified::default();
    for (form, table) in partitions {
        let (mut rows, mut samples) = (0, 0);
        match all_rows(session, *form, table, &mut rows, &mut samples).await {
            Ok(damaged) => verified.damaged.extend(damaged),
            // The server ends a statement at the first row that it cannot read.
            Err(failed) if failed.state.as_ref().is_some_and(is_damage) => {
                (rows, samples) = (0, 0);
                let mut sound = |read| {
                    rows += 1;
                    samples += read;
                };
                let broken = one_by_one(session, *form, table, "true", &[], &mut sound).await?;
                verified.damaged.extend(broken.into_iter().map(|broken| broken.what));
            }
            Err(failed) => return Err(failed),
        }
        verified.samples += samples;
        match form {
            Form::Chunk => verified.chunks += rows,
            Form::Slab => verified.slabs += rows,
            Form::Packed => verified.packed += rows,
        }
    }
    Ok(verified)
}

async fn all_rows(session: &Session, form: Form, table: &str, rows: &mut u64, samples: &mut u64) -> Result<Vec<String>> {
    let sql = format!("SELECT {} FROM ONLY {table}", columns(form));
    let none: [(&(dyn ToSql + Sync), Type); 0] = [];
    let mut stream = pin!(session.within(session.raw().query_typed_raw(&sql, none)).await?);
    let mut damaged = Vec::new();
    while let Some(row) = session.within(stream.try_next()).await? {
        match read(session, form, &row) {
            Ok(n) => {
                *rows += 1;
                *samples += n;
            }
            Err(PostgresError { error: StoreError::DamagedChunk(what), .. }) => damaged.push(what),
            Err(failed) => return Err(failed),
        }
    }
    Ok(damaged)
}

/// Reads each of the rows that a condition holds for by itself; those that are damaged. `sound` is told how many samples each other has.
pub(super) async fn one_by_one(
    session: &Session,
    form: Form,
    table: &str,
    condition: &str,
    params: &[(&(dyn ToSql + Sync), Type)],
    sound: &mut (dyn FnMut(u64) + Send),
) -> Result<Vec<Broken>> {
    let mut broken = Vec::new();
    let sql = format!("SELECT ctid::text, id FROM ONLY {table} WHERE {condition}");
    for row in session.query_unprepared(&sql, params).await? {
        let (place, id): (&str, i64) = (row.get(0), row.get(1));
        let sql = format!("SELECT {} FROM ONLY {table} WHERE ctid = '{place}'", columns(form));
        let read = match session.query_unprepared(&sql, &[]).await {
            Ok(rows) => rows.iter().try_fold(0, |samples, row| Ok(samples + read(session, form, row)?)),
            Err(failed) => Err(failed),
        };
        match read {
            Ok(samples) => sound(samples),
            Err(failed) if failed.state.as_ref().is_some_and(is_damage) => {
                let what = format!(
                    "PostgreSQL at {}: the row with id {id} at {place} in {table} is damaged: {}. Restore it from a backup; or delete it \
                     (DELETE FROM {table} WHERE ctid = '{place}'), and send its sources again with `telemetry replay`",
                    session.endpoint, failed.error
                );
                broken.push(Broken { form, id, what });
            }
            Err(PostgresError { error: StoreError::DamagedChunk(what), .. }) => broken.push(Broken { form, id, what }),
            Err(failed) => return Err(failed),
        }
    }
    Ok(broken)
}
