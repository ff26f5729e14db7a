//! Followed files that were closed so that others could be opened: what is needed to go on with each, and whether the queue still has
//! what was sent of them.
//!
//! Who has a file open asks the queue every second where it is in it. For closed files that would be more questions than a queue likes, since
//! they may be many: some of them are asked about at a time, one after the other.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;

use super::identify::Identified;
use super::shift::Shift;
use crate::model::{Position, SourceId};
use crate::protocol::window::is_elsewhere;
use crate::source::follow::FileId;
use crate::source::{Columns, Learnt, Watch};
use crate::transport::{Publisher, TransportError};

/// Between two rounds of questions.
const ASK: Duration = Duration::from_secs(1);
/// How many files a round asks about: with 20,000 closed files, each is asked about every 40 seconds.
const FILES_PER_ROUND: usize = 500;
/// Questions under way at a time.
const CONCURRENT: usize = 16;

/// A followed file that is closed.
#[derive(Debug)]
pub(super) struct ClosedFile {
    /// How far it was sent; `None` where it has no row yet.
    pub(super) progress: Option<Progress>,
    /// The columns for what comes in its place without naming its own.
    pub(super) columns: Option<Columns>,
}

/// How far a file was sent, and what its next reader need not find out again.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) identified: Identified,
    /// The position after the last row that was sent; the queue has accepted it.
    pub(super) position: Position,
    pub(super) learnt: Learnt,
    pub(super) shift: Shift,
    /// Rows before this one were counted.
    pub(super) next_uncounted_row: u64,
    /// Bytes before this offset were reported as progress.
    pub(super) reported_offset: u64,
}

/// A position that the queue must have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expectation {
    file: FileId,
    source: SourceId,
    position: Position,
}

/// The followed files that are closed.
#[derive(Debug)]
pub(super) struct ClosedFiles {
    files: BTreeMap<FileId, ClosedFile>,
    /// When the queue was asked last, and about which file last.
    asked: (Instant, Option<FileId>),
}

impl ClosedFiles {
    pub(super) fn new(now: Instant) -> Self {
        Self { files: BTreeMap::new(), asked: (now, None) }
    }

    pub(super) fn insert(&mut self, id: FileId, file: ClosedFile) {
        self.files.insert(id, file);
    }

    /// A file is opened again.
    pub(super) fn take(&mut self, id: FileId) -> Option<ClosedFile> {
        self.files.remove(&id)
    }

    /// Forgets the files that are gone.
    pub(super) fn retain_known(&mut self, watch: &Watch) {
        self.files.retain(|id, _| watch.is_closed(*id));
    }

    /// The next positions to ask the queue for, one file after the other; none before it is time.
    pub(super) fn next_round(&mut self, now: Instant) -> Vec<Expectation> {
        if now.duration_since(self.asked.0) < ASK {
            return Vec::new();
        }
        let from = self.asked.1.map_or(Bound::Unbounded, Bound::Excluded);
        let next: Vec<_> = self.files.range((from, Bound::Unbounded)).take(FILES_PER_ROUND).collect();
        self.asked = (now, if next.len() < FILES_PER_ROUND { None } else { next.last().map(|(id, _)| **id) });
        let expectation = |(file, closed): (&FileId, &ClosedFile)| {
            let progress = closed.progress.as_ref()?;
            Some(Expectation { file: *file, source: progress.identified.source, position: progress.position })
        };
        next.into_iter().filter_map(expectation).collect()
    }
}

/// Which of these files the queue is elsewhere in: they have to be read again. None where the queue does not answer now.
pub(super) async fn find_lost(publisher: Arc<dyn Publisher>, round: Vec<Expectation>) -> Result<Vec<FileId>, TransportError> {
    let questions = stream::iter(round).map(|expected| {
        let publisher = publisher.clone();
        async move {
            let is_lost = is_elsewhere(publisher.position(expected.source).await?, Some(expected.position));
            Ok::<_, TransportError>(is_lost.then_some(expected.file))
        }
    });
    match questions.buffer_unordered(CONCURRENT).try_collect::<Vec<_>>().await {
        Ok(lost) => Ok(lost.into_iter().flatten().collect()),
        Err(error) if error.is_transient() => {
            tracing::debug!(%error, "asking Redis for the positions of closed files");
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}
