//! `telemetry audit`: checks that every row that was read is accounted for exactly once.
//!
//! Per source: rows sent (the position in the queue) = stored + rejected + queued + dead + dropped. Rows that are none of these are
//! missing. The queue is read from the view of this configuration's group, because other groups use other stores.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::say;
use crate::cli;
use crate::config::Config;
use crate::model::{Partition, RowRange, RowSet, SourceId};
use crate::printable;
use crate::runtime::{Exit, Lifecycle};
use crate::store::postgres::PostgresStore;
use crate::store::{self, Conflict, SourceLedger, Store};
use crate::transport::redis::RedisTransport;
use crate::transport::{Inspector, PartitionState, TransportError};

/// Maximum ranges of rows that a line of text lists.
const MAX_RANGES: usize = 4;

/// The account of one source; all numbers are rows.
#[derive(Debug, Default, Serialize)]
pub struct Account {
    /// Id of the source.
    pub source: String,
    /// Cluster of the source; empty where none of its rows is stored yet.
    pub cluster: String,
    /// Name of the source.
    pub name: String,
    /// Partition of the queue that the source belongs to.
    pub partition: u16,
    /// Rows that were read and sent.
    pub read: u64,
    /// Rows that the queue has accepted.
    pub published: u64,
    /// Rows that are samples in the store.
    pub stored: u64,
    /// Rows among `stored` that were already stored: from another source, or said by this one before.
    pub duplicate: u64,
    /// Rows among `stored` that came when samples of their time were not kept any more, and were not stored (`store.retention.raw`).
    pub expired: u64,
    /// Samples that are stored beside another value of their series and time, which was there before.
    pub conflicts: u64,
    /// Rejected rows, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Rows in the queue that are not yet stored.
    pub queued: u64,
    /// The queued rows, as ranges.
    pub queued_rows: String,
    /// Rows in dead letters.
    pub dead: u64,
    /// The rows in dead letters, as ranges.
    pub dead_rows: String,
    /// Numbers of the source's dead letters.
    pub dead_letters: Vec<i64>,
    /// Rows of dead letters that were dropped by hand.
    pub dropped: u64,
    /// The dropped rows, as ranges.
    pub dropped_rows: String,
    /// Rows that are none of the above.
    pub missing: u64,
    /// The missing rows, as ranges.
    pub missing_rows: String,
    /// Whether the account balances.
    pub closes: bool,
    /// Why the account cannot be checked: the partition does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

/// What waits in a partition of the queue.
#[derive(Debug, Serialize)]
pub struct Waiting {
    /// Number of the partition.
    pub partition: u16,
    /// Batches that the group has not acknowledged.
    pub batches: u64,
    /// Batches among them that a collector has read.
    pub pending: u64,
    /// Age of the oldest unacknowledged batch.
    pub oldest_seconds: Option<f64>,
    /// Another group, for which alone Redis keeps batches that this group has acknowledged.
    pub held_by: Option<String>,
    /// Why the partition does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The whole report.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether all accounts balance.
    pub closes: bool,
    /// Name of the consumer group whose view of the queue this is.
    pub group: String,
    /// The accounts of the sources.
    pub sources: Vec<Account>,
    /// The partitions of the queue.
    pub partitions: Vec<Waiting>,
    /// The conflicts, where they are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conflicts: Option<Vec<Contradiction>>,
    /// Whether there are more conflicts than are listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub more_conflicts: Option<bool>,
}

/// Values of one series and time.
#[derive(Debug, Serialize)]
pub struct Contradiction {
    /// Cluster of the GPU.
    pub cluster: String,
    /// Host of the GPU.
    pub hostname: String,
    /// UUID of the GPU; its index in the host where it has none.
    pub gpu: String,
    /// Metric of the series.
    pub metric: String,
    /// Time of the samples.
    pub time: String,
    /// The values in the order in which they were stored; answers have the last one.
    pub values: Vec<f64>,
}

impl From<Conflict> for Contradiction {
    fn from(conflict: Conflict) -> Self {
        let Conflict { of, time, values } = conflict;
        let gpu = if of.gpu.is_empty() { of.gpu_index.map_or_else(String::new, |index| index.to_string()) } else { of.gpu };
        Self { cluster: of.cluster, hostname: of.hostname, gpu, metric: of.metric, time: time.to_string(), values }
    }
}

/// What the queue knows of sources.
#[derive(Default)]
struct Sent {
    rows: HashMap<SourceId, u64>,
    queued: HashMap<SourceId, RowSet>,
    partitions: Vec<Result<PartitionState, TransportError>>,
}

/// Runs the command: `Exit::Failed` where an account does not balance.
pub async fn run(config: Arc<Config>, _: Lifecycle, what: cli::Audit) -> anyhow::Result<Exit> {
    let store = PostgresStore::connect(&super::postgres(&config)?)?;
    let queue = RedisTransport::connect(&config.redis()?).await?;
    let mut report = audit(&queue, &store).await?;
    let exit = if report.closes { Exit::Done } else { Exit::Failed };
    if what.conflicts {
        let (conflicts, more) = store::conflicts(&store, what.max_conflicts).await?;
        report.conflicts = Some(conflicts.into_iter().map(Contradiction::from).collect());
        report.more_conflicts = Some(more);
    }
    let known = report.sources.len();
    if what.differences {
        report.sources.retain(|s| !s.closes || [s.queued, s.dead, s.dropped].iter().any(|rows| *rows > 0));
    }
    if what.json {
        super::print_json(&report)?;
    } else {
        super::print(&text(&report, known))?;
    }
    Ok(exit)
}

async fn audit(queue: &RedisTransport, store: &dyn Store) -> anyhow::Result<Report> {
    // The queue is read before the store: what is in the queue now is either still there or stored when the store is read.
    let sent = ask(queue).await?;
    let letters = store.dead_letters().await?;
    let mut ledger: BTreeMap<SourceId, SourceLedger> = store.ledger().await?.into_iter().map(|l| (l.source, l)).collect();
    for source in sent.rows.keys().chain(sent.queued.keys()) {
        ledger.entry(*source).or_insert_with(|| SourceLedger::empty(*source));
    }
    let none = RowSet::new();
    let one = |l: &SourceLedger| {
        let partition = l.source.partition(Inspector::partitions(queue));
        let mut account = account(l, sent.rows.get(&l.source).copied(), sent.queued.get(&l.source).unwrap_or(&none));
        account.partition = partition.number();
        account.dead_letters = letters.iter().filter(|letter| letter.source == l.source).map(|letter| letter.id).collect();
        if let Err(error) = &sent.partitions[partition.index()] {
            account.closes = false;
            account.unknown = Some(error.to_string());
        }
        account
    };
    let sources: Vec<Account> = ledger.values().map(one).collect();
    let partitions: Vec<Waiting> =
        Inspector::partitions(queue).iter().zip(&sent.partitions).map(|(p, state)| waiting(p, state)).collect();
    let closes = sources.iter().all(|s| s.closes) && partitions.iter().all(|p| p.error.is_none());
    let group = queue.group().to_string();
    Ok(Report { closes, group, sources, partitions, conflicts: None, more_conflicts: None })
}

/// Reads every partition. One that does not answer leaves only its own sources unknown; if none answers, the audit fails.
async fn ask(queue: &RedisTransport) -> Result<Sent, TransportError> {
    let mut sent = Sent::default();
    for partition in Inspector::partitions(queue) {
        let state = ask_one(queue, partition, &mut sent).await;
        sent.partitions.push(state);
    }
    if sent.partitions.iter().all(Result::is_err)
        && let Some(Err(error)) = sent.partitions.pop()
    {
        return Err(error);
    }
    Ok(sent)
}

async fn ask_one(queue: &RedisTransport, partition: Partition, sent: &mut Sent) -> Result<PartitionState, TransportError> {
    for state in queue.sources(partition).await? {
        sent.rows.insert(state.source, state.position.map_or(0, |p| p.row));
    }
    for (source, rows) in queue.queued(partition).await? {
        sent.queued.entry(source).or_default().insert(rows);
    }
    queue.look(partition, 0).await
}

fn waiting(partition: Partition, state: &Result<PartitionState, TransportError>) -> Waiting {
    let (state, error) = match state {
        Ok(state) => (state.clone(), None),
        Err(error) => (PartitionState::default(), Some(error.to_string())),
    };
    let backlog = state.backlog;
    Waiting {
        partition: partition.number(),
        batches: backlog.entries,
        pending: backlog.pending,
        oldest_seconds: (backlog.entries > 0).then_some(backlog.oldest_ms as f64 / 1000.0),
        held_by: state.held_by.map(|group| group.to_string()),
        error,
    }
}

/// `sent`: the row up to which the queue has accepted the source; `None` where the queue does not know the source (any more).
fn account(ledger: &SourceLedger, sent: Option<u64>, queued: &RowSet) -> Account {
    let mut accounted = ledger.covered.clone();
    accounted.extend(&ledger.dead);
    accounted.extend(&ledger.dropped);
    let waiting = queued.minus(&accounted);
    accounted.extend(&waiting);
    // After Redis has lost data, its position may be behind what is stored.
    let published = sent.unwrap_or(0).max(accounted.end());
    let missing = RowSet::from(RowRange { first: 0, end: published }).minus(&accounted);
    let rejected: u64 = ledger.rejected.values().sum();
    let adds_up = ledger.valid + rejected == ledger.covered.len();
    let dead = ledger.dead.minus(&ledger.covered);
    let dropped = ledger.dropped.minus(&ledger.covered).minus(&ledger.dead);
    Account {
        source: ledger.source.to_string(),
        cluster: ledger.cluster.clone(),
        name: ledger.name.clone(),
        read: published,
        published,
        stored: ledger.valid,
        duplicate: ledger.duplicate,
        expired: ledger.expired,
        conflicts: ledger.conflict,
        rejected: ledger.rejected.iter().map(|(reason, rows)| (reason.name(), *rows)).collect(),
        queued: waiting.len(),
        queued_rows: waiting.to_string(),
        dead: dead.len(),
        dead_rows: dead.to_string(),
        dropped: dropped.len(),
        dropped_rows: dropped.to_string(),
        missing: missing.len(),
        missing_rows: missing.to_string(),
        closes: missing.is_empty() && adds_up,
        ..Account::default()
    }
}

/// The report as text. `known`: the number of sources, including those that the report leaves out.
fn text(report: &Report, known: usize) -> String {
    let mut out = String::new();
    if !report.sources.is_empty() {
        out.push_str(&table(&report.sources));
    }
    for source in &report.sources {
        for line in differences(source, &report.partitions) {
            out.push_str(&format!(
                "  {} ({}): {}\n",
                printable::line(display_name(source)),
                source.source,
                printable::line(&line)
            ));
        }
    }
    for p in &report.partitions {
        if let Some(error) = &p.error {
            out.push_str(&format!("  partition {}: does not answer: {}\n", p.partition, printable::line(error)));
        }
    }
    let mut holders: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
    for p in &report.partitions {
        if let Some(group) = p.held_by.as_deref().filter(|group| *group != report.group) {
            holders.entry(group).or_default().push(p.partition);
        }
    }
    for (group, partitions) in holders {
        out.push_str(&format!(
            "  Redis keeps batches in partition {} for the group `{}` alone; see `telemetry groups list`.\n",
            say::list(&partitions),
            printable::line(group)
        ));
    }
    if let Some(conflicts) = &report.conflicts {
        out.push_str(&contradictions(conflicts, report.more_conflicts == Some(true)));
    }
    out.push_str(if known == 0 {
        "No source is known: nothing has been streamed yet.\n"
    } else if report.closes {
        "Every row that was sent is accounted for, once.\n"
    } else if report.partitions.iter().any(|p| p.error.is_some()) {
        "Part of the queue does not answer, so not every source can be checked. Run the audit again when it is back.\n"
    } else {
        "Some sources do not balance. Missing rows were accepted by Redis and are neither there nor in the store: run the streamer of the \
         source again, or `telemetry replay --source ID`; rows that are stored already are not stored twice.\n"
    });
    out
}

/// The conflicts as text.
fn contradictions(conflicts: &[Contradiction], more: bool) -> String {
    if conflicts.is_empty() {
        return "No series has two values at one time.\n".to_owned();
    }
    let mut rows = vec![["cluster", "host", "gpu", "metric", "time", "values in order of storing"].map(String::from)];
    for c in conflicts {
        let values = c.values.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
        rows.push([c.cluster.clone(), c.hostname.clone(), c.gpu.clone(), c.metric.clone(), c.time.clone(), values]);
    }
    let mut out = super::table::render(&rows);
    if more {
        out.push_str(&format!("  and more: these are the first {}; --max-conflicts lists more.\n", conflicts.len()));
    }
    out
}

fn table(sources: &[Account]) -> String {
    let mut rows = vec![
        [
            "cluster",
            "source",
            "read",
            "stored",
            "rejected",
            "queued",
            "dead",
            "dropped",
            "missing",
            "expired",
            "conflicts",
            "id",
            "",
        ]
        .map(String::from),
    ];
    let mut sums = [0u64; 9];
    for s in sources {
        let verdict = if s.closes { "balances" } else { "DOES NOT BALANCE" };
        let numbers =
            [s.read, s.stored, s.rejected.values().sum(), s.queued, s.dead, s.dropped, s.missing, s.expired, s.conflicts];
        sums.iter_mut().zip(numbers).for_each(|(sum, n)| *sum = sum.saturating_add(n));
        rows.push(row(&s.cluster, display_name(s), numbers, &s.source, verdict));
    }
    if sources.len() > 1 {
        rows.push(row("", "total", sums, "", ""));
    }
    super::table::render(&rows)
}

fn row(cluster: &str, name: &str, numbers: [u64; 9], source: &str, verdict: &str) -> [String; 13] {
    let [read, stored, rejected, queued, dead, dropped, missing, expired, conflicts] = numbers.map(|n| n.to_string());
    let (cluster, name, source, verdict) = (cluster.to_owned(), name.to_owned(), source.to_owned(), verdict.to_owned());
    [cluster, name, read, stored, rejected, queued, dead, dropped, missing, expired, conflicts, source, verdict]
}

/// The name of a source, for people.
fn display_name(source: &Account) -> &str {
    if source.name.is_empty() { "(no name yet)" } else { &source.name }
}

/// Where the rows of a source are that are not in the store, one line per place.
fn differences(s: &Account, partitions: &[Waiting]) -> Vec<String> {
    let mut lines = Vec::new();
    if s.queued > 0 {
        let partition = partitions.iter().find(|p| p.partition == s.partition);
        let oldest = partition
            .and_then(|p| p.oldest_seconds)
            .map(|s| format!(", whose oldest batch has waited for {}", say::age(Duration::from_secs_f64(s))));
        let rows = ranges(&s.queued_rows);
        lines.push(format!("{} queued in partition {}{}: rows {rows}", s.queued, s.partition, oldest.unwrap_or_default()));
    }
    if s.dead > 0 {
        lines.push(format!("{} in dead letter {}: rows {}", s.dead, say::list(&s.dead_letters), ranges(&s.dead_rows)));
    }
    if s.dropped > 0 {
        lines.push(format!("{} given up by `dead-letters drop`: rows {}", s.dropped, ranges(&s.dropped_rows)));
    }
    if let Some(error) = &s.unknown {
        lines.push(format!("partition {} does not answer: {error}", s.partition));
    } else if s.missing > 0 {
        lines.push(format!("{} missing: rows {}", s.missing, ranges(&s.missing_rows)));
    } else if !s.closes {
        lines.push(
            "the store is inconsistent: stored + rejected is not the number of covered rows; please report this".to_owned(),
        );
    }
    lines
}

/// The first ranges of a set (`{[0,5),[9,12)}`), for people: 0–4, 9–11.
fn ranges(set: &str) -> String {
    let set: RowSet = set.parse().unwrap_or_default();
    let mut shown: Vec<String> = set.ranges().iter().take(MAX_RANGES).map(|r| say::rows(*r)).collect();
    let more = set.ranges().len().saturating_sub(MAX_RANGES);
    if more > 0 {
        shown.push(format!("and {more} more ranges"));
    }
    shown.join(", ")
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
            ..SourceLedger::empty(SourceId::UNKNOWN)
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

    #[test]
    fn a_difference_is_said_where_it_stands() {
        let ledger = SourceLedger {
            covered: set("{[0,100)}"),
            dead: set("{[100,110)}"),
            valid: 100,
            name: "gpu.csv".to_owned(),
            ..SourceLedger::empty(SourceId::UNKNOWN)
        };
        let mut source = account(&ledger, Some(140), &set("{[115,120),[122,123),[124,125),[126,127),[128,129)}"));
        source.dead_letters = vec![4, 7];
        let partition = Waiting {
            partition: 0,
            batches: 5,
            pending: 0,
            oldest_seconds: Some(75.0),
            held_by: Some("archive".to_owned()),
            error: None,
        };
        let report = Report {
            closes: false,
            group: "collectors".to_owned(),
            sources: vec![source],
            partitions: vec![partition],
            conflicts: None,
            more_conflicts: None,
        };
        let said = text(&report, 1);
        for line in [
            "9 queued in partition 0, whose oldest batch has waited for 1 min 15 s: rows 115–119, 122, 124, 126, and 1 more ranges",
            "10 in dead letter 4, 7: rows 100–109",
            "21 missing: rows 110–114, 120–121, 123, 125, and 2 more ranges",
            "for the group `archive` alone",
            "Some sources do not balance",
        ] {
            assert!(said.contains(line), "`{line}` is not in:\n{said}");
        }
    }
}
