//! `telemetry groups`: lists the consumer groups of the queue, and removes one that is no longer used.
//!
//! Redis keeps a batch until every group has acknowledged it. A group without collectors (a second store that was given up, a
//! `redis.group` that was renamed) holds all batches, until publishers have to wait. Only a person can know that its collectors do not
//! come back, so a command removes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use serde::Serialize;

use super::say;
use crate::cli;
use crate::config::Config;
use crate::model::{GroupId, Partition};
use crate::printable;
use crate::runtime::{Exit, Lifecycle};
use crate::transport::redis::{RedisTransport, Retired};
use crate::transport::{Inspector, PartitionState, TransportError};

/// A consumer that has sent a command within this time is active. A consumer that waits for entries sends one at least every
/// `redis.block` (1.5 s by default, 60 s at most).
pub(super) const ACTIVE: Duration = Duration::from_secs(60);
/// Maximum consumers that are read of each group in each partition.
pub(super) const MAX_CONSUMERS: usize = 32;

/// A consumer group, all partitions together.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Group {
    /// Name of the group.
    pub(super) group: String,
    /// Whether it is the group of this configuration.
    pub(super) ours: bool,
    /// Number of partitions in which the group exists.
    pub(super) partitions: usize,
    /// Batches that the group has not acknowledged.
    pub(super) batches: u64,
    /// Batches among them that a consumer has read.
    pub(super) pending: u64,
    /// Age of the oldest unacknowledged batch.
    pub(super) oldest_seconds: Option<f64>,
    /// Number of active consumers.
    pub(super) active_consumers: usize,
    /// Time since a consumer of the group was active; `None` where it has no consumers.
    pub(super) idle_seconds: Option<f64>,
    /// Partitions in which Redis keeps batches for this group alone.
    pub(super) holds: Vec<Partition>,
}

/// Runs the command.
pub async fn run(config: Arc<Config>, _: Lifecycle, what: cli::Groups) -> anyhow::Result<Exit> {
    let queue = RedisTransport::connect(&config.redis()?).await?;
    match what {
        cli::Groups::List { json } => list(&queue, json).await,
        cli::Groups::Retire { group, force } => retire(&queue, &GroupId::named(group), force).await,
    }
}

/// The groups of these partitions, summed up by name.
pub(super) fn together<'a>(states: impl IntoIterator<Item = (Partition, &'a PartitionState)>, ours: &GroupId) -> Vec<Group> {
    let mut groups: BTreeMap<&GroupId, (Group, BTreeMap<&str, u64>)> = BTreeMap::new();
    for (partition, state) in states {
        for one in &state.groups {
            let (group, consumers) = groups.entry(&one.name).or_default();
            group.partitions += 1;
            group.batches += one.backlog.entries;
            group.pending += one.backlog.pending;
            if one.backlog.entries > 0 {
                let oldest = one.backlog.oldest_ms as f64 / 1000.0;
                group.oldest_seconds = Some(group.oldest_seconds.map_or(oldest, |other| oldest.max(other)));
            }
            if state.held_by.as_ref() == Some(&one.name) {
                group.holds.push(partition);
            }
            for consumer in &one.latest {
                let idle = consumers.entry(&consumer.name).or_insert(consumer.idle_ms);
                *idle = consumer.idle_ms.min(*idle);
            }
        }
    }
    let finish = |(name, (group, consumers)): (&GroupId, (Group, BTreeMap<&str, u64>))| Group {
        group: name.to_string(),
        ours: name == ours,
        active_consumers: consumers.values().filter(|idle| u128::from(**idle) < ACTIVE.as_millis()).count(),
        idle_seconds: consumers.values().min().map(|idle| *idle as f64 / 1000.0),
        ..group
    };
    groups.into_iter().map(finish).collect()
}

impl Group {
    /// The state of the group, in words.
    pub(super) fn state(&self) -> String {
        let seconds = |s: f64| say::age(Duration::from_secs_f64(s));
        if self.active_consumers > 0 {
            return "active".to_owned();
        }
        let silent = match self.idle_seconds {
            Some(idle) => format!("no active consumer for {}", seconds(idle)),
            None => "no active consumer".to_owned(),
        };
        if self.holds.is_empty() {
            return silent;
        }
        format!("{silent}; holds batches in partition {}", say::list(&self.holds))
    }
}

async fn list(queue: &RedisTransport, json: bool) -> anyhow::Result<Exit> {
    let mut states = Vec::new();
    for partition in Inspector::partitions(queue) {
        states.push((partition, queue.look(partition, MAX_CONSUMERS).await?));
    }
    let groups = together(states.iter().map(|(partition, state)| (*partition, state)), queue.group());
    if json {
        super::print_json(&groups)?;
    } else {
        super::print(&text(&groups))?;
    }
    Ok(Exit::Done)
}

fn text(groups: &[Group]) -> String {
    if groups.is_empty() {
        return "There are no groups: nothing has been streamed yet.\n".to_owned();
    }
    let mut rows = vec![["group", "partitions", "batches", "pending", "oldest", "active", "state"].map(String::from)];
    rows.extend(groups.iter().map(|g| {
        let name = if g.ours { format!("{} (ours)", g.group) } else { g.group.clone() };
        let oldest = g.oldest_seconds.map_or_else(|| "-".to_owned(), |s| say::age(Duration::from_secs_f64(s)));
        let (partitions, active) = (g.partitions.to_string(), g.active_consumers.to_string());
        [name, partitions, g.batches.to_string(), g.pending.to_string(), oldest, active, g.state()]
    }));
    let mut out = super::table::render(&rows);
    for group in groups.iter().filter(|g| g.active_consumers == 0 && !g.holds.is_empty() && !g.ours) {
        out.push_str(&format!(
            "If `{0}` is no longer used, `telemetry groups retire {0}` frees the batches that Redis keeps for it.\n",
            printable::line(&group.group)
        ));
    }
    out
}

async fn retire(queue: &RedisTransport, group: &GroupId, force: bool) -> anyhow::Result<Exit> {
    if group == queue.group() && !force {
        bail!(
            "`{group}` is the group of this configuration (redis.group): batches that its collectors have not read would be lost. To \
             retire it anyway, pass --force"
        );
    }
    let active = if force { Duration::ZERO } else { ACTIVE };
    // All partitions are checked before the first one is changed, so that an active group stays complete.
    let mut found = false;
    for partition in Inspector::partitions(queue) {
        let state = queue.look(partition, 1).await?;
        let Some(here) = state.groups.iter().find(|one| one.name == *group) else { continue };
        found = true;
        if let Some(consumer) = here.latest.first().filter(|consumer| u128::from(consumer.idle_ms) < active.as_millis()) {
            return Err(still_active(group, &consumer.name, Duration::from_millis(consumer.idle_ms)));
        }
    }
    if !found {
        bail!("there is no group `{group}`; `telemetry groups list` lists the groups");
    }
    let (mut unacknowledged, mut trimmed) = (0, 0);
    for partition in Inspector::partitions(queue) {
        match queue.retire(partition, group, active).await.map_err(|error| partly(partition, error))? {
            Retired::Unknown => {}
            Retired::Active { consumer, idle } => return Err(still_active(group, &consumer, idle)),
            Retired::Done { unacknowledged: open, trimmed: freed } => {
                unacknowledged += open;
                trimmed += freed;
            }
        }
    }
    queue.forget_store(group).await?;
    super::print(&format!(
        "Group `{}` is retired. It had not acknowledged {}; {} deleted from Redis.\n",
        printable::line(group.as_str()),
        say::counted(unacknowledged, "batch", "batches"),
        say::counted(trimmed, "batch was kept for it alone and is", "batches were kept for it alone and are"),
    ))?;
    Ok(Exit::Done)
}

fn still_active(group: &GroupId, consumer: &str, idle: Duration) -> anyhow::Error {
    anyhow::anyhow!(
        "group `{group}` is active: its consumer {consumer} was seen {} ago. Stop its collectors and wait for {}, or pass --force",
        say::age(idle),
        say::age(ACTIVE)
    )
}

fn partly(partition: Partition, error: TransportError) -> anyhow::Error {
    anyhow::Error::from(error).context(format!(
        "partition {partition} does not answer; the group is retired in the partitions before it, run the command again"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Partitions;
    use crate::transport::{Backlog, ConsumerState, GroupState};

    fn state(name: &str, entries: u64, oldest_ms: u64, idle_ms: Option<u64>, held: bool) -> PartitionState {
        let latest = idle_ms.map(|idle_ms| ConsumerState { name: "c".to_owned(), pending: 0, idle_ms });
        let group = GroupState {
            name: GroupId::named(name),
            backlog: Backlog { entries, pending: 0, oldest_ms },
            consumers: latest.iter().count() as u64,
            latest: latest.into_iter().collect(),
        };
        PartitionState { groups: vec![group], held_by: held.then(|| GroupId::named(name)), ..PartitionState::default() }
    }

    fn numbered(states: &[PartitionState]) -> impl Iterator<Item = (Partition, &PartitionState)> {
        Partitions::new(states.len() as u16).expect("not 0").iter().zip(states)
    }

    #[test]
    fn a_group_is_active_where_one_consumer_is() {
        let states = [state("a", 2, 5_000, Some(90_000), true), state("a", 3, 9_000, Some(1_000), false)];
        let all = together(numbered(&states), &GroupId::named("a"));
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].batches, all[0].oldest_seconds, all[0].active_consumers), (5, Some(9.0), 1));
        assert_eq!(all[0].holds.iter().map(|partition| partition.number()).collect::<Vec<_>>(), [0]);
        assert_eq!(all[0].state(), "active");
    }

    #[test]
    fn a_group_without_consumers_says_what_it_holds() {
        let states = [state("gone", 2, 5_000, Some(90_000), true), state("gone", 0, 0, None, true)];
        let all = together(numbered(&states), &GroupId::named("a"));
        assert_eq!(all[0].state(), "no active consumer for 1 min 30 s; holds batches in partition 0, 1");
        assert!(text(&all).contains("`telemetry groups retire gone`"));
        // Our own group is not to be retired because its collectors are stopped.
        assert!(!text(&together(numbered(&states), &GroupId::named("gone"))).contains("retire"));
    }
}
