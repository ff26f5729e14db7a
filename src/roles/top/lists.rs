//! The state of queue and store as lists of cells.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Connection;
use super::queue::QueueSeen;
use super::store::StoreSeen;
use crate::model::{Partition, SourceId, TimeMs};
use crate::printable;
use crate::roles::{groups, say};

/// A partition whose oldest entry has waited longer than this is marked.
const LATE: Duration = Duration::from_secs(60);
/// Text of a cell whose value is not known.
const UNKNOWN: &str = "-";

/// Everything that the screen shows.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) queue: QueueSeen,
    /// The state of the store; `None` where no database is configured.
    pub(super) store: Option<StoreSeen>,
    /// Time between two updates.
    pub(super) interval: Duration,
    groups: Vec<groups::Group>,
}

/// How a line is marked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    #[default]
    Plain,
    /// It needs attention.
    Notable,
    /// It does not work.
    Bad,
}

/// A cell, and how it is sorted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    pub(super) text: String,
    by: By,
}

#[derive(Clone, Debug, PartialEq)]
enum By {
    /// By its text.
    Text,
    /// By a number: the greatest first, unknown ones last.
    Number(Option<f64>),
}

/// A line of a list.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) cells: Vec<Cell>,
    pub(super) mark: Mark,
}

/// The lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tab {
    #[default]
    Sources,
    Partitions,
    Consumers,
    Groups,
}

impl Tab {
    pub(super) const ALL: [Self; 4] = [Self::Sources, Self::Partitions, Self::Consumers, Self::Groups];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Sources => "Sources",
            Self::Partitions => "Partitions",
            Self::Consumers => "Consumers",
            Self::Groups => "Groups",
        }
    }

    /// The names of the columns.
    pub(super) fn head(self) -> &'static [&'static str] {
        match self {
            Self::Sources => &[
                "cluster",
                "source",
                "behind",
                "published",
                "rows/s",
                "newest sample",
                "stored",
                "last stored",
                "rejected",
                "dead",
                "partition",
                "id",
            ],
            Self::Partitions => {
                &["partition", "node", "waiting", "pending", "oldest", "batches/s", "last batch", "kept", "active", "state"]
            }
            Self::Consumers => &["partition", "group", "consumer", "pending", "last seen"],
            Self::Groups => &["group", "waiting", "pending", "oldest", "active", "last seen", "state"],
        }
    }

    /// The columns by which the list can be sorted; the first one is the default.
    pub(super) fn sorts(self) -> &'static [usize] {
        match self {
            Self::Sources => &[2, 4, 5, 0, 1],
            Self::Partitions => &[0, 2, 4],
            Self::Consumers => &[0, 3, 4, 2],
            Self::Groups => &[0, 1, 3],
        }
    }
}

fn text(text: impl Into<String>) -> Cell {
    Cell { text: printable::line(&text.into()).into_owned(), by: By::Text }
}

fn count(n: Option<u64>) -> Cell {
    Cell { text: n.map_or_else(|| UNKNOWN.to_owned(), say::count), by: By::Number(n.map(|n| n as f64)) }
}

fn rate(per_second: Option<f64>) -> Cell {
    Cell { text: per_second.map_or_else(|| UNKNOWN.to_owned(), |r| say::count(r.round() as u64)), by: By::Number(per_second) }
}

fn small_rate(per_second: Option<f64>) -> Cell {
    Cell { text: per_second.map_or_else(|| UNKNOWN.to_owned(), |r| format!("{r:.1}")), by: By::Number(per_second) }
}

fn age(age: Option<Duration>) -> Cell {
    Cell { text: age.map_or_else(|| UNKNOWN.to_owned(), say::age), by: By::Number(age.map(|a| a.as_secs_f64())) }
}

/// The number of a partition; sorted with the smallest first.
fn number(n: u64) -> Cell {
    Cell { text: n.to_string(), by: By::Number(Some(-(n as f64))) }
}

fn ago(time: Option<TimeMs>, now: TimeMs) -> Cell {
    // Clocks differ: a time in the future counts as now.
    age(time.map(|time| now.since(time)))
}

impl Cell {
    /// Whether the cell is right-aligned.
    pub(super) fn is_number(&self) -> bool {
        matches!(self.by, By::Number(_))
    }
}

impl View {
    pub(super) fn new(queue: QueueSeen, store: Option<StoreSeen>, interval: Duration) -> Self {
        let seen =
            queue.count.iter().zip(&queue.partitions).filter_map(|(partition, seen)| Some((partition, seen.state.as_ref()?)));
        let groups = groups::together(seen, &queue.group);
        Self { groups, queue, store, interval }
    }

    /// A list, sorted by the column at index `sort` of [`Tab::sorts`].
    pub(super) fn list(&self, tab: Tab, sort: usize) -> Vec<Line> {
        let mut lines = match tab {
            Tab::Sources => self.sources(),
            Tab::Partitions => self.partitions(),
            Tab::Consumers => self.consumers(),
            Tab::Groups => self.groups(),
        };
        let sorts = tab.sorts();
        let column = sorts[sort % sorts.len()];
        lines.sort_by(|a, b| compare(&a.cells[column], &b.cells[column]));
        lines
    }

    fn sources(&self) -> Vec<Line> {
        let now = TimeMs::now();
        let stored = self.store.as_ref().filter(|store| store.at.is_some());
        let known: BTreeSet<SourceId> =
            self.queue.sources.keys().chain(stored.iter().flat_map(|store| store.sources.keys())).copied().collect();
        let line = |id: &SourceId| {
            let queued = self.queue.sources.get(id);
            let kept = stored.and_then(|store| store.sources.get(id));
            let published = queued.map(|q| q.published);
            // Without a store, what is stored is known only from what collectors report to the queue.
            let settled = if stored.is_some() { Some(kept.map_or(0, |k| k.settled)) } else { queued.map(|q| q.committed) };
            let behind = published.zip(settled).map(|(published, settled)| published.saturating_sub(settled));
            let dead = kept.map(|k| k.dead);
            Line {
                mark: if dead.is_some_and(|dead| dead > 0) { Mark::Notable } else { Mark::Plain },
                cells: vec![
                    text(kept.map(|k| k.cluster.clone()).filter(|text| !text.is_empty()).unwrap_or_else(|| UNKNOWN.to_owned())),
                    text(kept.map(|k| k.name.clone()).filter(|text| !text.is_empty()).unwrap_or_else(|| id.to_string())),
                    count(behind),
                    count(published),
                    rate(queued.and_then(|q| q.rate)),
                    ago(kept.and_then(|k| k.newest_sample), now),
                    count(kept.map_or_else(|| settled.filter(|_| stored.is_none()), |k| Some(k.stored))),
                    ago(kept.and_then(|k| k.last_commit), now),
                    count(kept.map(|k| k.rejected)),
                    count(dead),
                    queued.map_or_else(|| count(None), |q| number(q.partition.number().into())),
                    text(id.to_string()),
                ],
            }
        };
        let mut lines: Vec<Line> = known.iter().map(line).collect();
        // The order of lines that sort as equal: sources with the highest rate first, then those that were stored last.
        lines.sort_by(|a, b| compare(&a.cells[4], &b.cells[4]).then_with(|| compare(&b.cells[7], &a.cells[7])));
        lines
    }

    fn partitions(&self) -> Vec<Line> {
        let line = |(partition, seen): (Partition, &super::queue::PartitionSeen)| {
            let state = seen.state.as_ref();
            let backlog = state.map(|s| s.backlog);
            let oldest = backlog.filter(|b| b.entries > 0).map(|b| Duration::from_millis(b.oldest_ms));
            let ours = state.and_then(|s| s.groups.iter().find(|g| g.name == self.queue.group));
            let active =
                ours.map(|g| g.latest.iter().filter(|c| u128::from(c.idle_ms) < groups::ACTIVE.as_millis()).count() as u64);
            let held = state.and_then(|s| s.held_by.as_ref()).filter(|group| self.is_silent(group.as_str()));
            let (mark, said) = match (&seen.error, held) {
                (Some(error), _) => (Mark::Bad, error.clone()),
                (None, Some(group)) => (Mark::Notable, format!("held by {group}")),
                (None, None) if oldest.is_some_and(|oldest| oldest >= LATE) => (Mark::Notable, "late".to_owned()),
                (None, None) if state.is_none() => (Mark::Plain, "not seen yet".to_owned()),
                (None, None) => (Mark::Plain, "ok".to_owned()),
            };
            Line {
                mark,
                cells: vec![
                    number(partition.number().into()),
                    text(if seen.address.is_empty() { UNKNOWN } else { &seen.address }),
                    count(backlog.map(|b| b.entries)),
                    count(backlog.map(|b| b.pending)),
                    age(oldest),
                    small_rate(seen.rate),
                    age(state.and_then(|s| s.newest_ms).map(Duration::from_millis)),
                    count(state.map(|s| s.entries)),
                    count(active),
                    text(said),
                ],
            }
        };
        self.queue.count.iter().zip(&self.queue.partitions).map(line).collect()
    }

    fn is_silent(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g.group == group && g.active_consumers == 0)
    }

    fn consumers(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        for (partition, seen) in self.queue.count.iter().zip(&self.queue.partitions) {
            for group in seen.state.iter().flat_map(|state| &state.groups) {
                for consumer in &group.latest {
                    let idle = Duration::from_millis(consumer.idle_ms);
                    let lies = consumer.pending > 0 && idle >= groups::ACTIVE;
                    lines.push(Line {
                        mark: if lies { Mark::Notable } else { Mark::Plain },
                        cells: vec![
                            number(partition.number().into()),
                            text(group.name.as_str()),
                            text(&consumer.name),
                            count(Some(consumer.pending)),
                            age(Some(idle)),
                        ],
                    });
                }
            }
        }
        lines
    }

    fn groups(&self) -> Vec<Line> {
        let seconds = |s: Option<f64>| age(s.map(Duration::from_secs_f64));
        let line = |g: &groups::Group| Line {
            mark: if g.active_consumers == 0 && g.batches > 0 { Mark::Notable } else { Mark::Plain },
            cells: vec![
                text(if g.ours { format!("{} (ours)", g.group) } else { g.group.clone() }),
                count(Some(g.batches)),
                count(Some(g.pending)),
                seconds(g.oldest_seconds),
                count(Some(g.active_consumers as u64)),
                seconds(g.idle_seconds),
                text(g.state()),
            ],
        };
        self.groups.iter().map(line).collect()
    }

    /// The rates and the backlog, in one line.
    pub(super) fn summary(&self) -> (String, Mark) {
        let per_second = |rate: Option<f64>| rate.map_or_else(|| UNKNOWN.to_owned(), |r| say::count(r.round() as u64));
        // Without a store that answers: what collectors report to the queue.
        let stored = self.store.as_ref().and_then(|store| store.rate).or(self.queue.committed);
        let (mut waiting, mut oldest) = (0, Duration::ZERO);
        for state in self.queue.partitions.iter().filter_map(|p| p.state.as_ref()) {
            waiting += state.backlog.entries;
            if state.backlog.entries > 0 {
                oldest = oldest.max(Duration::from_millis(state.backlog.oldest_ms));
            }
        }
        let mut said = format!("published {} rows/s   stored {} rows/s", per_second(self.queue.published), per_second(stored));
        said += &format!("   waiting {}", say::counted(waiting, "batch", "batches"));
        if waiting > 0 {
            said += &format!(", the oldest for {}", say::age(oldest));
        }
        if let Some(letters) = self.store.as_ref().map(|store| store.dead_letters).filter(|letters| *letters > 0) {
            said += &format!("   dead letters {letters}");
        }
        if !self.queue.complete {
            said += "   (not every source has been seen yet)";
        }
        (said, if oldest >= LATE { Mark::Notable } else { Mark::Plain })
    }

    /// The connections, one line each.
    pub(super) fn connections(&self, now: Instant) -> Vec<(String, Mark)> {
        let mut lines = Vec::new();
        for (address, seen) in &self.queue.nodes {
            let mut said = format!("Redis {address}   {}", state(&seen.connection, now));
            if let Some(node) = seen.node.as_ref().filter(|_| matches!(seen.connection.state, Some(Ok(_)))) {
                said += &format!("   {}", say::bytes(node.used_memory));
                if let Some(percent) = node.used_memory.saturating_mul(100).checked_div(node.max_memory) {
                    said += &format!(" of {} ({percent} %)", say::bytes(node.max_memory));
                }
                said += &format!(", {}", node.policy);
            }
            if self.queue.nodes.len() > 1 {
                said += &format!("   partition {}", say::list(&seen.partitions));
            }
            lines.push((printable::line(&said).into_owned(), mark(seen)));
        }
        if lines.is_empty() {
            lines.push(("Redis   connecting".to_owned(), Mark::Plain));
        }
        lines.push(match &self.store {
            None => (
                "PostgreSQL   not configured (DATABASE_URL): stored rows are those that collectors report to the queue"
                    .to_owned(),
                Mark::Plain,
            ),
            Some(store) => {
                let mut said = format!("PostgreSQL {}   {}", store.endpoint, state(&store.connection, now));
                if let Some(problem) = &store.problem {
                    said += &format!("   {problem}");
                }
                let good = !matches!(store.connection.state, Some(Err(_))) && store.problem.is_none();
                (printable::line(&said).into_owned(), if good { Mark::Plain } else { Mark::Bad })
            }
        });
        lines
    }
}

fn mark(seen: &super::queue::NodeSeen) -> Mark {
    let node = seen.node.as_ref();
    let full = node.is_some_and(|n| n.max_memory > 0 && n.used_memory >= n.max_memory / 10 * 9);
    // Some servers do not report their eviction policy: an unknown policy is not marked.
    let evicts = node.is_some_and(|n| !n.policy.is_empty() && n.policy != "noeviction");
    match seen.connection.state {
        Some(Err(_)) => Mark::Bad,
        _ if full || evicts => Mark::Notable,
        _ => Mark::Plain,
    }
}

fn state(connection: &Connection, now: Instant) -> String {
    let since = say::age(now.saturating_duration_since(connection.since));
    match &connection.state {
        None => "connecting".to_owned(),
        Some(Ok(round_trip)) => format!("up for {since}, {:.1} ms", round_trip.as_secs_f64() * 1000.0),
        Some(Err(why)) => format!("DOWN for {since}: {why}"),
    }
}

fn compare(a: &Cell, b: &Cell) -> Ordering {
    match (&a.by, &b.by) {
        (By::Number(a), By::Number(b)) => match (a, b) {
            (Some(a), Some(b)) => b.total_cmp(a),
            (a, b) => b.is_some().cmp(&a.is_some()),
        },
        _ => a.text.cmp(&b.text),
    }
}
