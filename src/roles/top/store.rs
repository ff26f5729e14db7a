//! Reads the state of the store from PostgreSQL: the progress of each source.

use std::collections::HashMap;
use std::future::Future;
use std::time::{Duration, Instant};

use super::Connection;
use crate::model::{SourceId, TimeMs};
use crate::store::postgres::PostgresStore;
use crate::store::{Store, StoreError};

/// Timeout of an answer; after it, the store counts as away.
const PATIENCE: Duration = Duration::from_secs(10);

/// The state of a source in the store.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct StoredSource {
    pub(super) cluster: String,
    pub(super) name: String,
    /// Number of samples.
    pub(super) stored: u64,
    pub(super) rejected: u64,
    /// Rows in dead letters.
    pub(super) dead: u64,
    /// Rows that are covered, dead or dropped.
    pub(super) settled: u64,
    pub(super) newest_sample: Option<TimeMs>,
    pub(super) last_commit: Option<TimeMs>,
    /// Rows per second that were stored or rejected.
    pub(super) rate: Option<f64>,
}

/// The last known state of the store.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StoreSeen {
    /// The database, as host:port/database.
    pub(super) endpoint: String,
    pub(super) connection: Connection,
    /// Why the sources cannot be read although the server answers.
    pub(super) problem: Option<String>,
    /// When the sources were last read; `None` before the first time.
    pub(super) at: Option<Instant>,
    pub(super) sources: HashMap<SourceId, StoredSource>,
    /// Rows per second that were stored or rejected, all sources together.
    pub(super) rate: Option<f64>,
    pub(super) dead_letters: u64,
}

/// Reads the state of the store, and keeps it for the rates.
pub(super) struct StoreLooker {
    store: PostgresStore,
    seen: StoreSeen,
}

impl StoreLooker {
    pub(super) fn new(store: PostgresStore) -> Self {
        let seen = StoreSeen {
            endpoint: store.endpoint().to_string(),
            connection: Connection::new(Instant::now()),
            problem: None,
            at: None,
            sources: HashMap::new(),
            rate: None,
            dead_letters: 0,
        };
        Self { store, seen }
    }

    /// The last known state.
    pub(super) fn seen(&self) -> StoreSeen {
        self.seen.clone()
    }

    /// Reads the state. While the store does not answer, its last state stays, and the connection counts as down.
    pub(super) async fn look(&mut self) {
        let begun = Instant::now();
        let there = within(self.store.ping()).await.map(|()| begun.elapsed());
        let answers = there.is_ok();
        self.seen.connection.note(there, Instant::now());
        let said = if answers {
            within(async { Ok(Some((self.store.standing().await?, self.store.ledger().await?))) }).await
        } else {
            Ok(None)
        };
        match said {
            Ok(Some((standing, ledger))) => {
                self.seen.problem = None;
                self.seen.dead_letters = standing.dead_letters;
                self.take(ledger, Instant::now());
                return;
            }
            Ok(None) => self.seen.problem = None,
            Err(why) => self.seen.problem = Some(why),
        }
        self.seen.rate = None;
        self.seen.sources.values_mut().for_each(|source| source.rate = None);
    }

    fn take(&mut self, ledger: Vec<crate::store::SourceLedger>, now: Instant) {
        let before = std::mem::take(&mut self.seen.sources);
        let passed = self.seen.at.map(|at| now.duration_since(at).as_secs_f64()).filter(|passed| *passed > 0.0);
        for one in ledger {
            let rejected: u64 = one.rejected.values().sum();
            let mut settled = one.covered.clone();
            settled.extend(&one.dead);
            settled.extend(&one.dropped);
            let done = one.valid + rejected;
            let rate = passed.map(|passed| {
                let before = before.get(&one.source).map_or(0, |b| b.stored + b.rejected);
                done.saturating_sub(before) as f64 / passed
            });
            let source = StoredSource {
                stored: one.valid,
                rejected,
                dead: one.dead.minus(&one.covered).len(),
                settled: settled.len(),
                newest_sample: one.newest_sample,
                last_commit: one.last_commit,
                rate,
                cluster: one.cluster,
                name: one.name,
            };
            self.seen.sources.insert(one.source, source);
        }
        self.seen.rate = passed.map(|_| self.seen.sources.values().filter_map(|source| source.rate).sum());
        self.seen.at = Some(now);
    }
}

/// Awaits an answer, with a timeout.
async fn within<T>(answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(|error| match error {
            // The address is shown beside the reason.
            StoreError::Unavailable { reason, .. } | StoreError::Refused { reason, .. } => reason,
            other => other.to_string(),
        }),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}
