//! Samples as of one moment (see [`Snapshot`]): one transaction on one connection, whose first statement says which moment that is.
//!
//! Chunks are found by series and time, packed rows by GPU and time, slabs by block of GPUs and time, all through an index and at the
//! same time. Newest samples are in `newest`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use futures_util::future::{join, join3};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_postgres::RowStream;

use super::error::Result;
use super::pool::{Params, Session};
use super::{Forms, PostgresStore, chunk, newest, packed, rollup, slab, standby};
use crate::model::{BlockId, GpuId, SeriesId, TimeMs};
use crate::store::packed::Rectangle;
use crate::store::{self, Chunk, ChunkRange, Ids, Latest, Level, Needs, RolledUp, Snapshot, SnapshotFor, Span};

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// A transaction that reads. Where it is dropped between two questions, its connection goes back to the pool; within one it is closed,
/// and the server ends the statement.
pub(super) struct PostgresSnapshot {
    session: Option<Session>,
    /// The forms that the schema has.
    forms: Forms,
    /// Whether the transaction has begun.
    is_begun: bool,
    /// Whether a question was not answered to its end.
    is_busy: bool,
    /// A download's place among those that may be at once.
    _place: Option<OwnedSemaphorePermit>,
}

impl PostgresSnapshot {
    /// A connection for it. The transaction begins with the first question.
    pub(super) async fn new(store: &PostgresStore, purpose: SnapshotFor, patience: Duration) -> Result<Self> {
        let until = Instant::now() + patience;
        let place = match purpose {
            SnapshotFor::Page => None,
            SnapshotFor::Download => Some(store.place_for_download(until).await?),
        };
        let session = store.connections.session_within(until.saturating_duration_since(Instant::now())).await?;
        let forms = store.forms(&session).await?;
        Ok(Self { session: Some(session), forms, is_begun: false, is_busy: false, _place: place })
    }

    /// Asks a question. Until it is answered, the session counts as one that was left in the middle; an answer of `None` leaves it there.
    async fn ask<T: Send>(&mut self, question: impl AsyncFnOnce(Asked<'_>) -> Result<Option<T>>) -> Result<Option<T>> {
        let session = self.session.as_ref().expect("the session is there until drop takes it");
        if std::mem::replace(&mut self.is_busy, true) {
            return Err(session.unavailable("the snapshot is over: a question to it was broken off".to_owned()));
        }
        let answer = question(Asked { session, forms: self.forms });
        let answer = if self.is_begun {
            answer.await.map_err(|error| standby::lost(session, error, true))?
        } else {
            // Polled in this order, so sent in this order, and in one round trip.
            let (begun, answer) = join(session.batch(BEGIN), answer).await;
            begun?;
            self.is_begun = true;
            answer.map_err(|error| standby::lost(session, error, false))?
        };
        self.is_busy = answer.is_none();
        Ok(answer)
    }
}

/// The session while a question is asked.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) session: &'a Session,
    pub(super) forms: Forms,
}

impl Asked<'_> {
    /// The rows of a statement.
    pub(super) async fn rows(self, sql: &str, params: Params<'_>) -> Result<RowStream> {
        let statement = self.session.prepare(sql).await?;
        self.session.within(self.session.raw().query_raw(&statement, params.iter().copied())).await
    }
}

impl Drop for PostgresSnapshot {
    fn drop(&mut self) {
        if let Some(session) = self.session.take().filter(|_| !self.is_busy) {
            if self.is_begun { session.done_with_transaction() } else { session.done() }
        }
    }
}

/// Rows in a range: $2 to $5 are its [`borders`].
const IN_RANGE: &str = "t_max >= $2 AND t_max < $3 AND t_min >= $4 AND t_min < $5";

fn borders(range: &ChunkRange) -> [TimeMs; 4] {
    [range.ends_from, range.ends_before, range.begins_from, range.begins_before]
}

fn series_of(wanted: &[Ids]) -> Vec<SeriesId> {
    wanted.iter().map(|ids| ids.series).collect()
}

pub(super) fn gpus_of(wanted: &[Ids]) -> Vec<GpuId> {
    wanted.iter().map(|ids| ids.gpu).collect::<BTreeSet<_>>().into_iter().collect()
}

pub(super) fn blocks_of(wanted: &[Ids]) -> Vec<BlockId> {
    wanted.iter().map(|ids| BlockId::of(ids.gpu)).collect::<BTreeSet<_>>().into_iter().collect()
}

/// How many samples may be read in vain for each one that is taken: a slab has those of many series.
const IN_VAIN: usize = 32;
/// In vain at least.
const IN_VAIN_AT_LEAST: usize = 1 << 20;

/// How many samples may be taken, and looked through.
struct Room {
    max: usize,
    taken: AtomicUsize,
    in_vain: AtomicUsize,
}

impl Room {
    fn new(max: usize) -> Self {
        Self { max, taken: AtomicUsize::new(0), in_vain: AtomicUsize::new(0) }
    }

    /// Counts samples that are about to be taken. `false`: they are too many.
    fn take(&self, samples: usize) -> bool {
        self.taken.fetch_add(samples, Ordering::Relaxed) + samples <= self.max
    }

    /// Counts samples that were read and are not wanted.
    fn pass(&self, samples: usize) -> bool {
        let most = self.max.saturating_mul(IN_VAIN).max(IN_VAIN_AT_LEAST);
        self.in_vain.fetch_add(samples, Ordering::Relaxed) + samples <= most
    }
}

/// The chunks that are kept one by one. `None` as soon as there are too many: the rest is left unread.
async fn chunks(asked: Asked<'_>, wanted: &[Ids], range: &ChunkRange, room: &Room) -> Result<Option<Vec<Chunk>>> {
    let sql = format!("SELECT {} FROM sample_chunk WHERE series_id = ANY($1) AND {IN_RANGE}", chunk::COLUMNS);
    let (series, times) = (series_of(wanted), borders(range));
    let mut rows = pin!(asked.rows(&sql, &[&series, &times[0], &times[1], &times[2], &times[3]]).await?);
    let mut chunks = Vec::new();
    while let Some(row) = asked.session.within(rows.try_next()).await? {
        let chunk = chunk::decode(asked.session, &row)?;
        if !room.take(chunk.times.len()) {
            return Ok(None);
        }
        chunks.push(chunk);
    }
    Ok(Some(chunks))
}

/// The chunks in packed rows, counted before they are decoded.
async fn packed_chunks(asked: Asked<'_>, wanted: &[Ids], range: &ChunkRange, room: &Room) -> Result<Option<Vec<Chunk>>> {
    if !asked.forms.packed {
        return Ok(Some(Vec::new()));
    }
    let sql = format!("SELECT {} FROM sample_packed WHERE gpu_id = ANY($1) AND {IN_RANGE}", packed::COLUMNS);
    let (series, gpus, times): (HashSet<SeriesId>, _, _) =
        (series_of(wanted).into_iter().collect(), gpus_of(wanted), borders(range));
    let mut rows = pin!(asked.rows(&sql, &[&gpus, &times[0], &times[1], &times[2], &times[3]]).await?);
    let mut chunks = Vec::new();
    while let Some(row) = asked.session.within(rows.try_next()).await? {
        let damaged = |what| packed::damaged(asked.session, &row, what);
        let read = packed::read(asked.session, &row)?;
        let found = read.series().map_err(damaged)?.iter().filter(|id| series.contains(id)).count();
        if found == 0 {
            continue;
        }
        if !room.take(found * usize::try_from(read.n).unwrap_or(usize::MAX)) {
            return Ok(None);
        }
        chunks.extend(Rectangle::from_row(&read).and_then(|all| all.chunks(|id| series.contains(&id))).map_err(damaged)?);
    }
    Ok(Some(chunks))
}

/// The chunks in slabs: read whole, and what is not wanted is left at once.
async fn slab_chunks(asked: Asked<'_>, wanted: &[Ids], range: &ChunkRange, room: &Room) -> Result<Option<Vec<Chunk>>> {
    if !asked.forms.slabs {
        return Ok(Some(Vec::new()));
    }
    let sql = format!("SELECT {} FROM sample_slab WHERE block_id = ANY($1) AND {IN_RANGE}", slab::COLUMNS);
    let (series, blocks, times): (HashSet<SeriesId>, _, _) =
        (series_of(wanted).into_iter().collect(), blocks_of(wanted), borders(range));
    let mut rows = pin!(asked.rows(&sql, &[&blocks, &times[0], &times[1], &times[2], &times[3]]).await?);
    let mut chunks = Vec::new();
    while let Some(row) = asked.session.within(rows.try_next()).await? {
        let slab = slab::decode(asked.session, &row)?;
        let found = slab.samples(|id| series.contains(&id));
        if !room.take(found) || !room.pass(slab.values.len() - found) {
            return Ok(None);
        }
        chunks.extend(slab.chunks(|id| series.contains(&id)));
    }
    Ok(Some(chunks))
}

/// The borders of the chunks of each series that are kept one by one.
async fn spans(asked: Asked<'_>, wanted: &[Ids], range: &ChunkRange) -> Result<Vec<Span>> {
    let sql = format!(
        "SELECT series_id, min(t_min), max(t_max) FROM sample_chunk WHERE series_id = ANY($1) AND {IN_RANGE} GROUP BY series_id"
    );
    let (series, times) = (series_of(wanted), borders(range));
    let mut rows = pin!(asked.rows(&sql, &[&series, &times[0], &times[1], &times[2], &times[3]]).await?);
    let mut spans = Vec::new();
    while let Some(row) = asked.session.within(rows.try_next()).await? {
        spans.push(Span { series: row.get(0), first: row.get(1), last: row.get(2) });
    }
    Ok(spans)
}

/// Borders by series.
type Borders = HashMap<SeriesId, (TimeMs, TimeMs)>;

fn widen(spans: &mut Borders, id: SeriesId, (first, last): (TimeMs, TimeMs)) {
    let span = spans.entry(id).or_insert((first, last));
    *span = (span.0.min(first), span.1.max(last));
}

/// The borders of the slabs that have something of a series, by series.
async fn slab_spans(asked: Asked<'_>, wanted: &[Ids], range: &ChunkRange) -> Result<Borders> {
    let mut spans = Borders::new();
    if !asked.forms.slabs {
        return Ok(spans);
    }
    let sql = format!("SELECT {} FROM sample_slab WHERE block_id = ANY($1) AND {IN_RANGE}", slab::HEAD_COLUMNS);
    let (series, blocks, times): (HashSet<SeriesId>, _, _) =
        (series_of(wanted).into_iter().collect(), blocks_of(wanted), borders(range));
    let mut rows = pin!(asked.rows(&sql, &[&blocks, &times[0], &times[1], &times[2], &times[3]]).await?);
    while let Some(row) = asked.session.within(rows.try_next()).await? {
        let head = slab::head(asked.session, &row)?;
        for id in head.series.iter().filter(|id| series.contains(id)) {
            widen(&mut spans, *id, (head.t_min, head.t_max));
        }
    }
    Ok(spans)
}

/// The borders of the packed rows that have something of a series, by series.
async fn packed_spans(asked: Asked<'_>, wanted: &[Ids], range: &ChunkRange) -> Result<Borders> {
    let mut spans = Borders::new();
    if !asked.forms.packed {
        return Ok(spans);
    }
    let sql = format!("SELECT {} FROM sample_packed WHERE gpu_id = ANY($1) AND {IN_RANGE}", packed::HEAD_COLUMNS);
    let (series, gpus, times): (HashSet<SeriesId>, _, _) =
        (series_of(wanted).into_iter().collect(), gpus_of(wanted), borders(range));
    let mut rows = pin!(asked.rows(&sql, &[&gpus, &times[0], &times[1], &times[2], &times[3]]).await?);
    while let Some(row) = asked.session.within(rows.try_next()).await? {
        let head = packed::head(asked.session, &row)?;
        let found = head.series().map_err(|what| packed::damaged(asked.session, &row, what))?;
        for id in found.into_iter().filter(|id| series.contains(id)) {
            widen(&mut spans, id, (head.t_min, head.t_max));
        }
    }
    Ok(spans)
}

#[async_trait]
impl Snapshot for PostgresSnapshot {
    async fn latest(&mut self, wanted: &[Ids], begins_from: TimeMs, begins_before: TimeMs) -> store::Result<Vec<Latest>> {
        let newest = self.ask(async |asked| newest::newest(asked, wanted, (begins_from, begins_before)).await.map(Some)).await?;
        Ok(newest.unwrap_or_default())
    }

    async fn chunks(&mut self, wanted: &[Ids], range: &ChunkRange, max_samples: usize) -> store::Result<Option<Vec<Chunk>>> {
        let room = Room::new(max_samples);
        let all = self.ask(async |asked| {
            let (chunks, slabs, packed) = join3(
                chunks(asked, wanted, range, &room),
                slab_chunks(asked, wanted, range, &room),
                packed_chunks(asked, wanted, range, &room),
            )
            .await;
            let (Some(mut all), Some(slabs), Some(packed)) = (chunks?, slabs?, packed?) else { return Ok(None) };
            all.extend(slabs);
            all.extend(packed);
            Ok(Some(all))
        });
        Ok(all.await?)
    }

    async fn spans(&mut self, wanted: &[Ids], range: &ChunkRange) -> store::Result<Vec<Span>> {
        let all = self.ask(async |asked| {
            let (spans, slabs, packed) =
                join3(spans(asked, wanted, range), slab_spans(asked, wanted, range), packed_spans(asked, wanted, range)).await;
            let mut all: Borders = packed?;
            slabs?.into_iter().for_each(|(id, span)| widen(&mut all, id, span));
            spans?.into_iter().for_each(|span| widen(&mut all, span.series, (span.first, span.last)));
            Ok(Some(all.into_iter().map(|(series, (first, last))| Span { series, first, last }).collect()))
        });
        Ok(all.await?.unwrap_or_default())
    }

    async fn rollups(&mut self, wanted: &[Ids], level: Level, needs: Needs, span: (TimeMs, TimeMs)) -> store::Result<RolledUp> {
        let rolled = self.ask(async |asked| rollup::rollups(asked, wanted, level, needs, span).await.map(Some)).await?;
        Ok(rolled.unwrap_or_else(|| RolledUp::none(wanted, span)))
    }
}
