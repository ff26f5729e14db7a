//! The memory that all answers hold together, those in the making and those that wait for their clients. A request takes its part
//! before it holds much, waits while others have theirs, and gives up in time: many that ask at once wait for each other, and the
//! process stays within its limit.
//!
//! Pages come in three sizes. Each begins small; one that outgrows its size waits for the next one up while it keeps what it has. Sizes
//! are taken in this order only, so nobody waits in a circle. Downloads last as long as their clients take, so they have a part of
//! their own, and never wait while they hold something: one that finds no more is broken off. What is written and not yet taken has a
//! part of its own, too: a page waits for room in it while it keeps what it was made from, and nobody who has room there waits for more.
//!
//! Of each of these one client has only a share, and waits for what it holds itself before it waits for others.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::client::{ClientShare, Clients};
use super::{QueryError, Result};
use crate::store::{Limit, Reader, Snapshot, SnapshotFor, Texts};

/// Downloads and written answers are granted memory in pieces of this size.
const PIECE: usize = 64 << 10;
/// Bytes of a series, a GPU or a host with texts of a common length, and of what is made of them.
const ROW_BYTES: usize = 512;
/// Bytes of texts of a common length.
const COMMON_TEXT_BYTES: usize = 128;
/// Bytes of texts that are read from the store at once, and after which a page ends, whatever was asked for. A page of ten thousand rows
/// with texts of a common length has less.
pub(super) const MAX_TEXT_BYTES: usize = 4 << 20;
/// Bytes of texts that are read from the store at once at least, whatever the budget is.
const MIN_TEXT_BYTES: usize = 256 << 10;
/// Answers that are not longer are in no budget: there are as many as there may be connections.
pub const SMALL_ANSWER_BYTES: usize = 64 << 10;
/// Bytes of a sample that waits in its chunk.
pub(super) const CARRIED_SAMPLE_BYTES: usize = 16;
/// Bytes of a group in one step, without the values that percentiles keep.
pub(super) const GROUP_BYTES: usize = 192;

/// How many requests may have each size at once, and which share of the budget it is: together three quarters. Downloads have half of
/// the rest, and what is written the other half.
const SIZES: [(usize, usize); 3] = [(16, 64), (4, 16), (1, 4)];
/// The share of downloads, and that of what is written.
const EIGHTH: usize = 8;

/// The budget of a process, for one client or for the process itself. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    bytes: usize,
    queue_timeout: Duration,
    sizes: [Arc<Semaphore>; 3],
    downloads: Arc<Semaphore>,
    written: Arc<Semaphore>,
    clients: Arc<Clients>,
    client: Option<Arc<ClientShare>>,
}

/// What a lease is held for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Held {
    /// Series, hosts, names; rows of a page.
    Series,
    /// GPUs.
    Gpus,
    /// Samples.
    Samples,
    /// Groups and steps with their values; newest values.
    Groups,
    /// An answer that is being written.
    Text,
}

/// What one request may hold. It goes back when this is dropped.
#[derive(Debug)]
pub struct Lease {
    budget: Budget,
    held: [usize; 5],
    granted: usize,
    is_download: bool,
    /// Sizes that a page has had so far.
    sizes: usize,
    /// Pieces that a download has of its client's share.
    client_pieces: usize,
    permits: Vec<OwnedSemaphorePermit>,
}

/// Bytes of rows, and of what is made of them.
pub(super) fn row_bytes<T: Texts>(rows: &[T]) -> usize {
    rows.iter().map(|row| bytes_with(row.text_bytes())).sum()
}

/// Bytes of a row with so many bytes of texts, and of what is made of it.
pub(super) fn bytes_with(text_bytes: usize) -> usize {
    ROW_BYTES + 2 * text_bytes.saturating_sub(COMMON_TEXT_BYTES)
}

/// Bytes of so many rows that are to be read, with texts of a common length.
pub(super) fn common_row_bytes(rows: usize) -> usize {
    rows.saturating_mul(ROW_BYTES)
}

impl Budget {
    /// So many bytes, of which one client has so many hundredths.
    pub(super) fn new(bytes: usize, client_percent: usize, queue_timeout: Duration) -> Self {
        let count = (bytes / EIGHTH / PIECE).min(u32::MAX as usize / 2);
        let pieces = || Arc::new(Semaphore::new(count));
        Self {
            bytes,
            queue_timeout,
            sizes: SIZES.map(|(count, _)| Arc::new(Semaphore::new(count))),
            downloads: pieces(),
            written: pieces(),
            clients: Arc::new(Clients::new(client_percent, SIZES.map(|(count, _)| count), count)),
            client: None,
        }
    }

    /// The budget for the requests of a client.
    pub(super) fn of_client(&self, client: IpAddr) -> Self {
        Self { client: Some(self.clients.share_of(client)), ..self.clone() }
    }

    /// Takes places of a client's share, where there is one, and then of what there is for all.
    async fn take(
        &self,
        of_client: Option<(&Arc<Semaphore>, usize)>,
        all: &Arc<Semaphore>,
        places: usize,
    ) -> Result<Vec<OwnedSemaphorePermit>> {
        let until = tokio::time::Instant::now() + self.queue_timeout;
        let mut taken = Vec::with_capacity(2);
        for (semaphore, places, busy) in of_client
            .map(|(semaphore, places)| (semaphore, places, QueryError::ClientBusy))
            .into_iter()
            .chain([(all, places, QueryError::Busy)])
        {
            let permit = Arc::clone(semaphore).acquire_many_owned(u32::try_from(places).unwrap_or(u32::MAX));
            let Ok(Ok(permit)) = tokio::time::timeout_at(until, permit).await else { return Err(busy) };
            taken.push(permit);
        }
        Ok(taken)
    }

    /// For an answer that is made within the request's time.
    pub(super) async fn page(&self) -> Result<Lease> {
        let mut lease = self.lease(false);
        lease.grow().await?;
        Ok(lease)
    }

    /// For an answer that is sent while it is made.
    pub(super) async fn download(&self) -> Result<Lease> {
        let mut lease = self.lease(true);
        let first = self.bytes / SIZES[0].1;
        let pieces = first.div_ceil(PIECE);
        let of_client = self.client.as_ref().map(|client| (&client.downloads, pieces.min(client.pieces)));
        lease.client_pieces = of_client.map_or(0, |(_, pieces)| pieces);
        lease.permits = self.take(of_client, &self.downloads, pieces).await?;
        lease.granted = first;
        Ok(lease)
    }

    /// For an answer of so many bytes that is sent as a whole.
    pub(super) async fn written(&self, bytes: usize) -> Result<Room> {
        if bytes <= SMALL_ANSWER_BYTES {
            return Ok(Room { _permits: Vec::new() });
        }
        if bytes > self.bytes / EIGHTH {
            let reason = format!(
                "the answer has {}, more than the part of http.query_memory that all written answers may hold together: ask for fewer \
                 rows",
                bytesize::ByteSize(bytes as u64)
            );
            return Err(QueryError::bad("limit", reason));
        }
        let pieces = bytes.div_ceil(PIECE);
        let of_client = self.client.as_ref().map(|client| (&client.written, pieces.min(client.pieces)));
        Ok(Room { _permits: self.take(of_client, &self.written, pieces).await? })
    }

    fn lease(&self, is_download: bool) -> Lease {
        Lease { budget: self.clone(), held: [0; 5], granted: 0, is_download, sizes: 0, client_pieces: 0, permits: Vec::new() }
    }
}

/// Room for a written answer. It goes back when this is dropped: with the last byte of the answer.
#[derive(Debug)]
pub struct Room {
    _permits: Vec<OwnedSemaphorePermit>,
}

impl Lease {
    /// Says how many bytes are held for something, and waits until they may be.
    pub(super) async fn hold(&mut self, what: Held, bytes: usize) -> Result<()> {
        self.held[what as usize] = bytes;
        let total: usize = self.held.iter().sum();
        if self.is_download {
            return self.grow_download(total);
        }
        while total > self.granted {
            self.grow().await?;
        }
        Ok(())
    }

    /// A snapshot of the store for this answer. While others hold what it needs, it waits for that as long as for memory.
    pub(super) async fn snapshot(&self, reader: &dyn Reader) -> Result<Box<dyn Snapshot>> {
        let purpose = if self.is_download { SnapshotFor::Download } else { SnapshotFor::Page };
        Ok(reader.snapshot(purpose, self.budget.queue_timeout).await?)
    }

    /// How much of a list may be read next: no more texts than there is memory for.
    pub(super) fn next_read(&self, rows: usize) -> Limit {
        let held: usize = self.held.iter().sum();
        let room = self.granted.saturating_sub(held).saturating_add(rows.saturating_mul(COMMON_TEXT_BYTES));
        Limit { rows, bytes: room.clamp(MIN_TEXT_BYTES, MAX_TEXT_BYTES) }
    }

    /// Bytes of a sample that was fetched: in its chunk and in its run; of a download also where it waits for the client.
    pub(super) fn sample_bytes(&self) -> usize {
        if self.is_download { 64 } else { 32 }
    }

    async fn grow(&mut self) -> Result<()> {
        let Some(size) = self.budget.sizes.get(self.sizes) else { return Err(self.too_large()) };
        let of_client = self.budget.client.as_ref().map(|client| (&client.sizes[self.sizes], 1));
        let permits = self.budget.take(of_client, size, 1).await?;
        self.permits.extend(permits);
        self.granted += self.budget.bytes / SIZES[self.sizes].1;
        self.sizes += 1;
        Ok(())
    }

    fn grow_download(&mut self, total: usize) -> Result<()> {
        let missing = total.saturating_sub(self.granted).div_ceil(PIECE);
        if missing == 0 {
            return Ok(());
        }
        if total > self.budget.bytes / EIGHTH {
            return Err(self.too_large());
        }
        let take = |semaphore: &Arc<Semaphore>, pieces: usize, busy| {
            Arc::clone(semaphore).try_acquire_many_owned(u32::try_from(pieces).unwrap_or(u32::MAX)).map_err(|_| busy)
        };
        if let Some(client) = &self.budget.client {
            let pieces = missing.min(client.pieces - self.client_pieces);
            self.permits.push(take(&client.downloads, pieces, QueryError::ClientBusy)?);
            self.client_pieces += pieces;
        }
        self.permits.push(take(&self.budget.downloads, missing, QueryError::Busy)?);
        self.granted += missing * PIECE;
        Ok(())
    }

    fn too_large(&self) -> QueryError {
        let reason = format!(
            "the answer needs too much of the {} that all answers may hold together (http.query_memory): ask for a shorter range, fewer \
             series or a longer step",
            bytesize::ByteSize(self.budget.bytes as u64)
        );
        QueryError::bad("start_time", reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[tokio::test]
    async fn together_they_hold_no_more_than_there_is() {
        let budget = Budget::new(64 * MIB, 50, Duration::from_millis(20));
        let (mut leases, mut granted) = (Vec::new(), 0);
        // Each wants more than it could have alone, as it comes.
        for n in 0..40 {
            let Ok(mut lease) = (if n % 2 == 0 { budget.page().await } else { budget.download().await }) else { continue };
            for mib in [1, 4, 16] {
                if lease.hold(Held::Samples, mib * MIB).await.is_err() {
                    break;
                }
            }
            granted += lease.granted;
            leases.push(lease);
        }
        assert!(granted <= 64 * MIB && leases.len() > 16, "{granted} bytes for {} answers", leases.len());
        assert!(matches!(budget.page().await, Err(QueryError::Busy)), "more of them wait, and are told so");
        assert!(matches!(budget.download().await, Err(QueryError::Busy)));
        leases.clear();
        let mut alone = budget.page().await.unwrap();
        alone.hold(Held::Groups, 20 * MIB).await.unwrap();
        let refused = alone.hold(Held::Groups, 40 * MIB).await.unwrap_err();
        assert!(refused.to_string().contains("http.query_memory"), "{refused}");
    }

    #[tokio::test]
    async fn who_waits_gets_what_another_gives_back() {
        let budget = Budget::new(64 * MIB, 50, Duration::from_secs(60));
        let mut first = budget.page().await.unwrap();
        first.hold(Held::Samples, 20 * MIB).await.unwrap();
        let mut second = budget.page().await.unwrap();
        let waiting = tokio::spawn(async move { second.hold(Held::Samples, 20 * MIB).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_is_written_waits_for_what_was_written_before() {
        let budget = Budget::new(64 * MIB, 50, Duration::from_millis(20));
        let first = budget.written(6 * MIB).await.unwrap();
        assert!(matches!(budget.written(6 * MIB).await, Err(QueryError::Busy)));
        let small = budget.written(SMALL_ANSWER_BYTES).await.unwrap();
        let second = budget.written(2 * MIB).await.unwrap();
        assert!(matches!(budget.written(SMALL_ANSWER_BYTES + 1).await, Err(QueryError::Busy)));
        drop((first, small));
        let third = budget.written(6 * MIB).await.unwrap();
        drop((second, third));
        budget.written(8 * MIB).await.unwrap();
        let refused = budget.written(8 * MIB + 1).await.unwrap_err();
        assert!(refused.to_string().contains("http.query_memory"), "{refused}");
    }

    #[tokio::test]
    async fn one_client_leaves_something_for_the_others() {
        let budget = Budget::new(64 * MIB, 50, Duration::from_millis(20));
        let (greedy, other) = (budget.of_client(IpAddr::from([192, 0, 2, 1])), budget.of_client(IpAddr::from([192, 0, 2, 2])));
        let (mut downloads, mut pages, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..64 {
            downloads.extend(greedy.download().await);
            pages.extend(greedy.page().await);
            answers.extend(greedy.written(MIB).await);
        }
        assert!(matches!(greedy.download().await, Err(QueryError::ClientBusy)));
        assert!(matches!(greedy.page().await, Err(QueryError::ClientBusy)));
        assert!(matches!(greedy.written(MIB).await, Err(QueryError::ClientBusy)));
        assert_eq!((downloads.len(), pages.len(), answers.len()), (4, 8, 4));
        let mut download = other.download().await.unwrap();
        download.hold(Held::Samples, 4 * MIB).await.unwrap();
        let grown = downloads[0].hold(Held::Samples, 2 * MIB).await;
        assert!(matches!(grown, Err(QueryError::ClientBusy)), "its others hold its share");
        let mut page = other.page().await.unwrap();
        page.hold(Held::Samples, 5 * MIB).await.unwrap();
        drop(other.written(4 * MIB).await.unwrap());
        // A single one may be larger than the share.
        drop((downloads, pages, answers, download, page));
        greedy.download().await.unwrap().hold(Held::Samples, 8 * MIB).await.unwrap();
        greedy.written(8 * MIB).await.unwrap();
        greedy.page().await.unwrap().hold(Held::Groups, 20 * MIB).await.unwrap();
    }

    #[test]
    fn long_texts_are_counted() {
        assert_eq!(row_bytes(&[String::new(), "x".repeat(COMMON_TEXT_BYTES)]), 2 * ROW_BYTES);
        assert!(row_bytes(&["x".repeat(MIB)]) > 2 * MIB - ROW_BYTES, "once as it was read, once as it is answered");
    }
}
