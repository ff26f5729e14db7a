//! `telemetry audit`: does every row that was read stand somewhere, once?
//!
//! Per source: rows sent (the queue's position) = stored + rejected + queued + dead + dropped. What is in none of them is missing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Serialize;

use crate::cli;
use crate::config::Config;
use crate::model::{RowRange, RowSet, SourceId};
use crate::runtime::{Exit, Lifecycle};
use crate::store::postgres::PostgresStore;
use crate::store::{SourceLedger, Store};
use crate::transport::Inspector;
use crate::transport::redis::RedisTransport;

/// One source's account; all numbers are rows.
#[derive(Debug, Serialize)]
pub struct Account {
    /// The source's id.
    pub source: String,
    /// Its cluster; empty where nothing of it has been stored yet.
    pub cluster: String,
    /// Its name.
    pub name: String,
    /// Rows that were read and sent.
    pub read: u64,
    /// Rows that the queue has accepted.
    pub published: u64,
    /// Rows that are samples in the store.
    pub stored: u64,
    /// Of those, the ones that were found stored before (through another id of the same content).
    pub duplicate: u64,
    /// Rejected rows, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Rows in the queue that are not yet stored.
    pub queued: u64,
    /// Rows in dead letters.
    pub dead: u64,
    /// Rows of dead letters that were dropped by hand.
    pub dropped: u64,
    /// Rows that are nowhere.
    pub missing: u64,
    /// The missing rows, as ranges.
    pub missing_rows: String,
    /// Whether the sum closes.
    pub closes: bool,
}

/// The whole report.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether every sum closes.
    pub closes: bool,
    /// The sources.
    pub sources: Vec<Account>,
}

/// Runs the command: `Exit::Failed` where a sum does not close.
pub async fn run(config: Arc<Config>, _: Lifecycle, what: cli::Audit) -> anyhow::Result<Exit> {
    let store = PostgresStore::connect(&config.postgres()?)?;
    let queue = RedisTransport::connect(&config.redis()?).await?;
    let report = audit(&*queue, &store).await?;
    if what.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", table(&report));
    }
    Ok(if report.closes { Exit::Done } else { Exit::Failed })
}

async fn audit(queue: &dyn Inspector, store: &dyn Store) -> anyhow::Result<Report> {
    // In this order: what is queued when it is looked at is stored, or still queued, when the store is looked at later.
    let (mut sent, mut queued) = (HashMap::new(), HashMap::<SourceId, RowSet>::new());
    for partition in 0..queue.partitions() {
        for state in queue.sources(partition).await? {
            sent.insert(state.source, state.position.map_or(0, |p| p.row));
        }
        for (source, rows) in queue.queued(partition).await? {
            queued.entry(source).or_default().insert(rows);
        }
    }
    let mut ledger: BTreeMap<SourceId, SourceLedger> = store.ledger().await?.into_iter().map(|l| (l.source, l)).collect();
    for source in sent.keys().chain(queued.keys()) {
        ledger.entry(*source).or_insert_with(|| SourceLedger { source: *source, ..SourceLedger::default() });
    }
    let sources: Vec<_> = ledger
        .values()
        .map(|l| account(l, sent.get(&l.source).copied(), queued.get(&l.source).unwrap_or(&RowSet::new())))
        .collect();
    Ok(Report { closes: sources.iter().all(|s| s.closes), sources })
}

/// `sent`: the row up to which the queue has accepted the source; `None` where the queue does not know it (any more).
fn account(ledger: &SourceLedger, sent: Option<u64>, queued: &RowSet) -> Account {
    let mut stands = ledger.covered.clone();
    stands.extend(&ledger.dead);
    stands.extend(&ledger.dropped);
    let waiting = queued.minus(&stands);
    stands.extend(&waiting);
    // A queue that lost its memory has a smaller position than what is stored.
    let published = sent.unwrap_or(0).max(stands.end());
    let missing = RowSet::from(RowRange { first: 0, end: published }).minus(&stands);
    let rejected: u64 = ledger.rejected.values().sum();
    let adds_up = ledger.valid + rejected == ledger.covered.len();
    Account {
        source: ledger.source.to_string(),
        cluster: ledger.cluster.clone(),
        name: ledger.name.clone(),
        read: published,
        published,
        stored: ledger.valid,
        duplicate: ledger.duplicate,
        rejected: ledger.rejected.iter().map(|(reason, rows)| (reason.name(), *rows)).collect(),
        queued: waiting.len(),
        dead: ledger.dead.minus(&ledger.covered).len(),
        dropped: ledger.dropped.minus(&ledger.covered).minus(&ledger.dead).len(),
        missing: missing.len(),
        missing_rows: missing.to_string(),
        closes: missing.is_empty() && adds_up,
    }
}

fn table(report: &Report) -> String {
    let mut rows = vec![
        ["cluster", "source", "read", "stored", "rejected", "queued", "dead", "dropped", "missing", "id", ""].map(String::from),
    ];
    for s in &report.sources {
        let name = if s.name.is_empty() { s.source.clone() } else { s.name.clone() };
        let verdict = if s.closes { "closes".into() } else { format!("DOES NOT CLOSE {}", s.missing_rows) };
        let n = |rows: u64| rows.to_string();
        let rejected = n(s.rejected.values().sum());
        rows.push([
            s.cluster.clone(),
            name,
            n(s.read),
            n(s.stored),
            rejected,
            n(s.queued),
            n(s.dead),
            n(s.dropped),
            n(s.missing),
            s.source.clone(),
            verdict,
        ]);
    }
    let mut out = super::table::render(&rows);
    out.push_str(if report.sources.is_empty() {
        "No source is known: nothing has been streamed yet.\n"
    } else if report.closes {
        "Every row that was sent stands somewhere, once.\n"
    } else {
        "Some sums do not close. Missing rows were accepted by Redis and are neither there nor stored: run the streamer of the source \
         again, or `telemetry replay --source ID`; what is stored stays single.\n"
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Reason;

    fn set(text: &str) -> RowSet {
        text.parse().expect("a set")
    }

    #[test]
    fn rows_stand_somewhere_or_are_missing() {
        let ledger = SourceLedger {
            covered: set("{[0,100)}"),
            dead: set("{[100,110)}"),
            dropped: set("{[110,115)}"),
            valid: 98,
            rejected: BTreeMap::from([(Reason::EmptyValue, 2)]),
            ..SourceLedger::default()
        };
        // Rows 90..100 are stored already although still queued; 115..120 only queued.
        let a = account(&ledger, Some(120), &set("{[90,100),[115,120)}"));
        assert_eq!((a.read, a.stored, a.queued, a.dead, a.dropped, a.missing, a.closes), (120, 98, 5, 10, 5, 0, true));
        let a = account(&ledger, Some(130), &set("{[115,120)}"));
        assert_eq!((a.missing, a.missing_rows.as_str(), a.closes), (10, "{[120,130)}", false));
        // A queue that was flushed knows less than the store.
        let a = account(&ledger, None, &RowSet::new());
        assert_eq!((a.read, a.missing, a.closes), (115, 0, true));
        let wrong = SourceLedger { valid: 97, ..ledger };
        assert!(!account(&wrong, None, &RowSet::new()).closes, "valid + rejected must be what is covered");
    }
}
