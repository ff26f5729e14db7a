//! Binary COPY: rows encoded by hand, sent in pieces, so that encoding and sending overlap and memory stays small. How a chunk
//! becomes a row is in `chunk`.

use std::pin::{Pin, pin};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use tokio_postgres::CopyInSink;

use super::error::Result;
use super::pool::Session;
use super::{chunk, packed, rollup, slab};
use crate::store::Level;
use crate::store::chunk::{Chunker, Part, Spans};
use crate::store::ledger_change::RejectedRows;
use crate::store::packed::Rectangle;
use crate::store::rollup::RollupRow;
use crate::store::slab::{LONG_RUN, Slab, SlabBuilder};

/// Bytes that are sent at once.
const BYTES_PER_SEND: usize = 256 << 10;

const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const INT8_OID: u32 = 20;

const REJECTS: &str = "COPY reject_chunk (source_id, first_row, reason, n, rows, lines) FROM STDIN (FORMAT binary)";

/// Writes the samples of these parts: long runs of a series as chunks, then the others together as slabs. Returns how many, and the spans of
/// their GPUs.
pub(super) async fn samples(session: &Session, parts: &[Part<'_>]) -> Result<(u64, Spans)> {
    let (mut chunker, mut short) = (Chunker::new(parts), SlabBuilder::default());
    let mut buffer = begin();
    // Begun with the first chunk: of what comes live, there is none.
    let mut sink: Option<Pin<Box<CopyInSink<Bytes>>>> = None;
    while let Some((gpu, run)) = chunker.next() {
        if run.times.len() < LONG_RUN {
            short.add(gpu, &run);
            continue;
        }
        chunk::encode(&mut buffer, &run);
        let sink = match &mut sink {
            Some(sink) => sink,
            None => {
                let statement = session.prepare(chunk::COPY).await?;
                sink.insert(Box::pin(session.within(session.raw().copy_in::<_, Bytes>(&statement)).await?))
            }
        };
        if buffer.len() >= BYTES_PER_SEND {
            session.within(sink.as_mut().feed(buffer.split().freeze())).await?;
            buffer.reserve(BYTES_PER_SEND + BYTES_PER_SEND / 4);
        }
    }
    if let Some(mut sink) = sink {
        end(session, sink.as_mut(), buffer).await?;
    }
    slabs(session, &short.finish()).await?;
    Ok(chunker.finish())
}

/// Writes slabs, in this order.
pub(super) async fn slabs(session: &Session, slabs: &[Slab]) -> Result<()> {
    if slabs.is_empty() {
        return Ok(());
    }
    let statement = session.prepare(slab::COPY).await?;
    let mut sink = pin!(session.within(session.raw().copy_in::<_, Bytes>(&statement)).await?);
    let mut buffer = begin();
    for slab in slabs {
        slab::encode(&mut buffer, slab);
        if buffer.len() >= BYTES_PER_SEND {
            session.within(sink.as_mut().feed(buffer.split().freeze())).await?;
        }
    }
    end(session, sink, buffer).await
}

/// Writes packed rows.
pub(super) async fn rectangles(session: &Session, rectangles: &[Rectangle]) -> Result<()> {
    let statement = session.prepare(packed::COPY).await?;
    let mut sink = pin!(session.within(session.raw().copy_in::<_, Bytes>(&statement)).await?);
    let mut buffer = begin();
    for rectangle in rectangles {
        packed::encode(&mut buffer, &rectangle.row());
        if buffer.len() >= BYTES_PER_SEND {
            session.within(sink.as_mut().feed(buffer.split().freeze())).await?;
        }
    }
    end(session, sink, buffer).await
}

/// Writes rollups.
pub(super) async fn rollups(session: &Session, level: Level, rows: &[RollupRow]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let statement = session.prepare(&rollup::copy(level)).await?;
    let mut sink = pin!(session.within(session.raw().copy_in::<_, Bytes>(&statement)).await?);
    let mut buffer = begin();
    for row in rows {
        rollup::encode(&mut buffer, row);
        if buffer.len() >= BYTES_PER_SEND {
            session.within(sink.as_mut().feed(buffer.split().freeze())).await?;
        }
    }
    end(session, sink, buffer).await
}

/// Writes rejected rows.
pub(super) async fn rejects(session: &Session, rejected: &[RejectedRows]) -> Result<()> {
    if rejected.is_empty() {
        return Ok(());
    }
    let statement = session.prepare(REJECTS).await?;
    let mut sink = pin!(session.within(session.raw().copy_in::<_, Bytes>(&statement)).await?);
    let mut buffer = begin();
    for group in rejected {
        put_rejected(&mut buffer, group);
        if buffer.len() >= BYTES_PER_SEND {
            session.within(sink.as_mut().feed(buffer.split().freeze())).await?;
        }
    }
    end(session, sink, buffer).await
}

fn begin() -> BytesMut {
    let mut buffer = BytesMut::with_capacity(BYTES_PER_SEND + BYTES_PER_SEND / 4);
    buffer.put_slice(HEADER);
    buffer
}

async fn end(session: &Session, mut sink: Pin<&mut CopyInSink<Bytes>>, mut buffer: BytesMut) -> Result<()> {
    buffer.put_i16(-1);
    session.within(sink.as_mut().feed(buffer.freeze())).await?;
    session.within(sink.as_mut().finish()).await?;
    Ok(())
}

fn put_rejected(out: &mut BytesMut, group: &RejectedRows) {
    let Some((first, _)) = group.rows.first() else { return };
    out.put_i16(6);
    out.put_i32(16);
    out.put_slice(&group.source.to_bytes());
    put_i64(out, first.cast_signed());
    out.put_i32(2);
    out.put_i16(i16::from(group.reason.code()));
    put_i32(out, count(group.rows.len()));
    put_array(out, INT8_OID, 8, group.rows.len());
    for (row, _) in &group.rows {
        put_i64(out, row.cast_signed());
    }
    put_array(out, INT8_OID, 8, group.rows.len());
    for (_, line) in &group.rows {
        put_i64(out, line.cast_signed());
    }
}

/// The head of a one-dimensional array without nulls; its elements follow, each with its length.
pub(super) fn put_array(out: &mut BytesMut, oid: u32, size: usize, len: usize) {
    out.put_i32(count(20 + len * (4 + size)));
    out.put_i32(1);
    out.put_i32(0);
    out.put_u32(oid);
    out.put_i32(count(len));
    out.put_i32(1);
}

pub(super) fn put_i64(out: &mut BytesMut, value: i64) {
    out.put_i32(8);
    out.put_i64(value);
}

pub(super) fn put_i32(out: &mut BytesMut, value: i32) {
    out.put_i32(4);
    out.put_i32(value);
}

/// Lengths stay far below 2 GiB: a chunk has at most `MAX_SAMPLES` samples, a group of rejects at most a batch's rows.
pub(super) fn count(len: usize) -> i32 {
    i32::try_from(len).unwrap_or(i32::MAX)
}
