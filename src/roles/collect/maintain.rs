//! Maintenance in the background: one collector at a time drops what is past its time, and packs what is closed, at a pace that leaves
//! room for others.
//!
//! A round looks for what is closed and not packed. A day of the past is left alone while more of it arrives, so that a file that is
//! being read is packed once; but not for ever. What fails is waited out: no row is lost meanwhile, it only takes more space.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::context::CollectContext;
use crate::config::Switch;
use crate::model::TimeMs;
use crate::roles::retention::{Budget, Fullness, REMEDY, keeping};
use crate::runtime::observe;
use crate::store::maintenance::retention::{self, Retired};
use crate::store::maintenance::{self, DayState, Maintenance, Pace, Packed, Scope};
use crate::store::{self, StoreKind};

/// Samples of one transaction: it holds the locks of its GPUs, for which commits wait.
const BATCH_SAMPLES: u64 = 40_000;
/// How many delays a day of which more and more arrives is left alone.
const MOST_DELAYS: u32 = 6;
/// After what could not be packed for a reason that stays (a damaged row), the day is tried again after so many intervals.
const RETRY_AFTER: u32 = 60;

/// Starts it, where it is configured.
pub(super) fn start(context: &Arc<CollectContext>) {
    if context.config.store.maintenance == Switch::Off {
        tracing::info!("store.maintenance is off: nothing is packed or dropped in the background");
    }
    let context = context.clone();
    let lifecycle = context.lifecycle.clone();
    lifecycle.spawn("maintenance", async move {
        let mut days = Days::default();
        // The first look comes after others have begun their work.
        while context.rest(interval(&context)).await {
            round(&context, &mut days).await;
        }
        Ok(())
    });
}

fn interval(context: &CollectContext) -> Duration {
    let section = &context.config.store;
    match context.store.kind() {
        StoreKind::Postgres => section.maintenance_interval,
        // It has no partitions, and looks through all of its rows.
        StoreKind::Sqlite => section.maintenance_interval.max(section.maintenance_delay),
    }
}

/// A round: sizes, and what is to be packed. Errors are said, and waited out.
async fn round(context: &CollectContext, days: &mut Days) {
    match context.store.form_sizes().await {
        Ok(sizes) => {
            sizes.iter().for_each(|size| observe::store_size(size.form.name(), size.rows, size.bytes));
            if let Some(allowed) = context.config.store.disk_budget {
                days.look_at_budget(Budget::new(&sizes, allowed), allowed);
            }
        }
        Err(error) => tracing::debug!(%error, "asking the store for its sizes"),
    }
    if context.config.store.maintenance == Switch::Off {
        return;
    }
    let began = Instant::now();
    match maintain(context, days).await {
        Ok(Some(done)) => {
            if done.samples > 0 {
                observe::maintenance(began.elapsed());
                tracing::debug!(
                    samples = done.samples,
                    rows_before = done.rows_before,
                    rows_after = done.rows_after,
                    "packed what is closed"
                );
            }
            days.failing = false;
        }
        Ok(None) => {}
        Err(error) => {
            observe::maintenance_failures(1);
            if days.failing {
                tracing::debug!(%error, "packing what is closed");
            } else {
                tracing::warn!("packing what is closed waits: {error}");
            }
            days.failing = true;
        }
    }
}

/// Packs what is closed; `None` where another collector maintains the store.
async fn maintain(context: &CollectContext, days: &mut Days) -> store::Result<Option<Packed>> {
    let section = &context.config.store;
    let now = TimeMs::now();
    let delay = i64::try_from(section.maintenance_delay.as_millis()).unwrap_or(i64::MAX);
    let until = maintenance::closed_until(now, delay);
    let Some(mut maintained) = context.store.maintain(false).await? else {
        observe::oldest_unpacked(Duration::ZERO);
        return Ok(None);
    };
    let retired = retention::retire(&mut *maintained, &keeping(&section.retention), now).await?;
    days.say_retired(&retired);
    let scope = Scope { until, max_samples: section.maintenance_max_samples, batch_samples: BATCH_SAMPLES };
    let mut pace = Gently { draining: context.lifecycle.draining(), rate: section.maintenance_rate, since: Instant::now() };
    let mut all = Packed::default();
    let mut oldest: Option<TimeMs> = None;
    let found = maintained.days(&scope).await?;
    days.known.retain(|day, _| found.iter().any(|state| state.begins() == *day));
    for state in &found {
        if days.is_due(state, until, Instant::now(), section.maintenance_delay) {
            let done = maintenance::pack_day(&mut *maintained, state, &scope, &mut pace).await?;
            days.done(state, until, &done, section.maintenance_interval);
            say(&done);
            all.add(done);
        }
        // What was not packed is still there.
        if days.is_left(state, until) {
            oldest = oldest.or(Some(state.begins()));
        }
        if pace.draining.is_cancelled() || maintained.is_wanted().await? {
            break;
        }
    }
    observe::oldest_unpacked(oldest.map_or(Duration::ZERO, |begins| now.since(begins)));
    Ok(Some(all))
}

fn say(done: &Packed) {
    let failures = done.damaged.len() + done.delayed.len();
    observe::maintenance_failures(failures as u64);
    for damaged in &done.damaged {
        tracing::error!("a row stays as it is, and the rest is packed: {damaged}");
    }
    for delayed in &done.delayed {
        tracing::warn!("{delayed}");
    }
}

/// Pauses as long as the last batch took, and longer where the rate asks for it.
struct Gently {
    draining: CancellationToken,
    /// Samples per minute at most.
    rate: u64,
    since: Instant,
}

#[async_trait]
impl Pace for Gently {
    async fn pause(&mut self, store: &mut dyn Maintenance, done: &Packed) -> store::Result<bool> {
        observe::samples_packed(done.samples);
        let took = self.since.elapsed();
        let at_rate = Duration::from_secs(60).mul_f64(done.samples as f64 / self.rate as f64);
        let pause = took.max(at_rate.saturating_sub(took));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.draining.cancelled() => return Ok(false),
        }
        self.since = Instant::now();
        Ok(!store.is_wanted().await?)
    }
}

/// What is remembered of days between rounds.
#[derive(Default)]
struct Days {
    known: HashMap<TimeMs, Known>,
    /// Whether the last round failed: said once.
    failing: bool,
    /// What was past its time and could not go in the last round: said once.
    left: Vec<String>,
    /// What was said of the disk budget last.
    fullness: Fullness,
}

struct Known {
    /// What had arrived when that changed last, and when.
    arrived: (i64, Instant),
    first_seen: Instant,
    /// The bound up to which the day was packed.
    packed: Option<TimeMs>,
    /// What was packed, and what had arrived then.
    packed_with: i64,
    /// Not before this, where something could not be packed.
    retry: Option<Instant>,
}

impl Days {
    /// Says once that the disk budget is nearly used up, or is.
    fn look_at_budget(&mut self, budget: Budget, allowed: u64) {
        observe::store_budget(allowed);
        let fullness = budget.fullness();
        if fullness > self.fullness {
            let what = budget.describe();
            match fullness {
                Fullness::Over => tracing::warn!("store.disk_budget is used up: {what}; {REMEDY}"),
                _ => tracing::warn!("store.disk_budget is nearly used up: {what}; {REMEDY}"),
            }
        }
        self.fullness = fullness;
    }

    /// Says what is gone, and once what could not go. That somebody reads a day when it is to go is no failure; that it still cannot go in
    /// the next round is one.
    fn say_retired(&mut self, retired: &Retired) {
        for held in &retired.gone {
            tracing::info!(
                day = held.date(),
                what = held.detail.name(),
                bytes = held.bytes,
                "dropped a day that was past its time"
            );
        }
        observe::days_dropped(retired.gone.len() as u64);
        for left in &retired.delayed {
            if self.left.contains(left) {
                observe::maintenance_failures(1);
            } else {
                tracing::warn!("{left}");
            }
        }
        self.left.clone_from(&retired.delayed);
    }

    /// Whether a day is to be packed now.
    fn is_due(&mut self, state: &DayState, until: TimeMs, now: Instant, delay: Duration) -> bool {
        let known = self.known.entry(state.begins()).or_insert(Known {
            arrived: (state.arrived, now),
            first_seen: now,
            packed: None,
            packed_with: i64::MIN,
            retry: None,
        });
        if known.arrived.0 != state.arrived {
            known.arrived = (state.arrived, now);
        }
        if known.retry.is_some_and(|retry| now < retry) {
            return false;
        }
        if !state.is_over(until) {
            // Live: an hour is packed once it is closed. What comes later is packed with the next one.
            return known.packed != Some(until);
        }
        if known.packed_with == state.arrived && known.packed.is_some_and(|packed| state.is_over(packed)) && known.retry.is_none()
        {
            return false;
        }
        now.duration_since(known.arrived.1) >= delay || now.duration_since(known.first_seen) >= delay * MOST_DELAYS
    }

    fn done(&mut self, state: &DayState, until: TimeMs, done: &Packed, interval: Duration) {
        let Some(known) = self.known.get_mut(&state.begins()) else { return };
        let now = Instant::now();
        known.first_seen = now;
        known.retry = match (done.damaged.is_empty(), done.is_complete()) {
            (true, true) => None,
            (true, false) => Some(now + interval),
            (false, _) => Some(now + interval * RETRY_AFTER),
        };
        if done.is_complete() {
            (known.packed, known.packed_with) = (Some(until), state.arrived);
        }
    }

    /// Whether a day has hours that are closed and not packed.
    fn is_left(&self, state: &DayState, until: TimeMs) -> bool {
        let known = self.known.get(&state.begins());
        known.is_none_or(|known| known.retry.is_some() || known.packed != Some(until) && known.packed_with != state.arrived)
    }
}
