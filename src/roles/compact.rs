//! `telemetry compact`: drops what is past its time, packs what is closed, and ends. Collectors and servers may run meanwhile.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::retention::keeping;
use super::{say, table};
use crate::cli;
use crate::config::{Config, ConfigError};
use crate::model::TimeMs;
use crate::runtime::{Exit, Lifecycle};
use crate::store::maintenance::retention::{self, HeldDay, Retired, Retirement};
use crate::store::maintenance::{self, DayState, Maintenance, Pace, Packed, Scope};
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{self, Store};

/// An hour is closed this long after its end.
const CLOSED_AFTER: Duration = Duration::from_secs(600);
/// Samples of one transaction: each holds the locks of its GPUs, for which collectors wait.
const BATCH_SAMPLES: u64 = 200_000;
/// How long another program may maintain the store before that is said.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runs the command: `Exit::Failed` where something could not be packed.
pub async fn run(config: Arc<Config>, lifecycle: Lifecycle, what: cli::Compact) -> anyhow::Result<Exit> {
    let store = open(&config)?;
    if !what.dry_run {
        store.migrate().await?;
    }
    let now = TimeMs::now();
    let closed = maintenance::closed_until(now, CLOSED_AFTER.as_millis() as i64);
    let until = what.until.map_or(closed, |until| TimeMs::from_millis(until.as_millisecond()));
    if until > now {
        return Err(
            ConfigError::usage(format!("--until {until} is in the future: what lies before it may still be on its way")).into()
        );
    }
    let scope = Scope { until, max_samples: config.store.maintenance_max_samples, batch_samples: BATCH_SAMPLES };
    let draining = lifecycle.draining();
    let Some(mut maintained) = take(&*store, &draining).await? else { return Ok(Exit::Stopped) };
    let keeping = keeping(&config.store.retention);
    if what.dry_run {
        let plan = retention::look(&mut *maintained, &keeping, now).await?;
        return dry_run(&mut *maintained, &plan, &scope).await;
    }
    let retired = retention::retire(&mut *maintained, &keeping, now).await?;
    let days = maintained.days(&scope).await?;
    let mut pace = UntilStopped(draining);
    let (mut lines, mut all) = (Vec::new(), Packed::default());
    for day in &days {
        let done = maintenance::pack_day(&mut *maintained, day, &scope, &mut pace).await?;
        if done.samples > 0 {
            lines.push(line(day, &done, maintained.bytes(day).await?));
        }
        all.add(done);
        if pace.0.is_cancelled() {
            break;
        }
    }
    super::print(&[dropped(&retired), text(lines, &all, &scope)].concat())?;
    for failure in retired.delayed.iter().chain(&all.damaged).chain(&all.delayed) {
        super::print_error(failure);
    }
    let complete = retired.delayed.is_empty() && all.damaged.is_empty() && all.is_complete();
    Ok(match (pace.0.is_cancelled(), complete) {
        (true, _) => Exit::Stopped,
        (false, true) => Exit::Done,
        (false, false) => Exit::Failed,
    })
}

/// The configured store, else the one in the data directory.
fn open(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    if config.postgres.url.is_some() {
        return Ok(Arc::new(PostgresStore::connect(&super::postgres(config)?)?));
    }
    let directory = &config.data.dir;
    if !directory.is_dir() {
        let at = directory.display();
        return Err(ConfigError::usage(format!(
            "nothing to compact: DATABASE_URL is not set, and there is no store in {at}; set DATABASE_URL=postgres://user@host:5432/database, \
             or give the directory of the embedded store with --data-dir"
        ))
        .into());
    }
    Ok(Arc::new(SqliteStore::open(directory)?))
}

/// The store for this process alone to maintain; waits for whoever does it now. `None` when the process is to end first.
async fn take<'a>(store: &'a dyn Store, draining: &CancellationToken) -> anyhow::Result<Option<Box<dyn Maintenance + 'a>>> {
    let mut taking = store.maintain(true);
    let mut said = false;
    loop {
        tokio::select! {
            maintained = &mut taking => return Ok(maintained?),
            () = draining.cancelled() => return Ok(None),
            () = tokio::time::sleep(PATIENCE), if !said => {
                tracing::warn!("waiting: another program packs this store");
                said = true;
            }
        }
    }
}

/// Goes on until the process is to end.
struct UntilStopped(CancellationToken);

#[async_trait]
impl Pace for UntilStopped {
    async fn pause(&mut self, _: &mut dyn Maintenance, _: &Packed) -> store::Result<bool> {
        Ok(!self.0.is_cancelled())
    }
}

fn line(day: &DayState, done: &Packed, bytes: u64) -> [String; 7] {
    let arrow = "→".to_owned();
    let (before, after) = (say::bytes(day.bytes), say::bytes(bytes));
    [
        day.date(),
        say::count(done.samples),
        say::count(done.rows_before),
        arrow.clone(),
        say::count(done.rows_after),
        before,
        format!("{arrow} {after}"),
    ]
}

fn text(mut lines: Vec<[String; 7]>, all: &Packed, scope: &Scope) -> String {
    let until = scope.until;
    if lines.is_empty() {
        return format!("Nothing to pack before {until}.\n");
    }
    lines.insert(0, ["day", "samples", "rows", "", "packed", "bytes", ""].map(str::to_owned));
    format!(
        "{}{} in {} rows are packed into {} rows; everything before {until} that could be packed is.\n",
        table::render(&lines),
        say::counted(all.samples, "sample", "samples"),
        say::count(all.rows_before),
        say::count(all.rows_after),
    )
}

/// The days that are gone, as a table; empty where there are none.
fn gone(days: &[HeldDay]) -> String {
    if days.is_empty() {
        return String::new();
    }
    let mut lines = vec![["day", "what", "bytes"].map(str::to_owned)];
    lines.extend(days.iter().map(|held| [held.date(), held.detail.name().to_owned(), say::bytes(held.bytes)]));
    table::render(&lines)
}

fn dropped(retired: &Retired) -> String {
    match retired.gone.len() {
        0 => String::new(),
        n => format!(
            "{}{} dropped ({}): past the time that is set in store.retention.\n",
            gone(&retired.gone),
            say::counted(n as u64, "day is", "days are"),
            say::bytes(retired.bytes())
        ),
    }
}

/// Shows what would be dropped, and what would be packed.
async fn dry_run(store: &mut dyn Maintenance, plan: &Retirement, scope: &Scope) -> anyhow::Result<Exit> {
    let mut days = store.days(scope).await?;
    days.retain(|day| plan.floor.is_none_or(|floor| day.begins() >= floor));
    let mut lines = vec![["day", "GPUs", "samples", "rows", "bytes"].map(str::to_owned)];
    for day in &days {
        let plan = store.plan(day, scope).await?;
        let samples = plan.samples();
        if samples > 0 {
            let counts = [plan.gpus, samples, plan.rows()].map(say::count);
            let [gpus, samples, rows] = counts;
            lines.push([day.date(), gpus, samples, rows, say::bytes(day.bytes)]);
        }
    }
    let until = scope.until;
    let to_drop = match plan.days.as_slice() {
        [] => String::new(),
        days => format!("{}Would be dropped: past the time that is set in store.retention. Nothing was changed.\n", gone(days)),
    };
    let to_pack = match lines.len() {
        1 => format!("Nothing to pack before {until}.\n"),
        _ => format!("{}Would be packed, before {until}. Nothing was changed.\n", table::render(&lines)),
    };
    super::print(&[to_drop, to_pack].concat())?;
    Ok(Exit::Done)
}
