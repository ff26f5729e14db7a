//! `telemetry stream`: sources → queue.
//!
//! One task a source: it finds out which source the content is, takes the lease, asks the queue where it is in the source, seeks
//! there, and pumps rows into a window of batches in flight. Without `--follow` it then watches until every source of the
//! process is safely in the queue: a queue that loses something meanwhile gets it again.

mod identify;
mod pump;
mod rejections;
mod shared;
mod task;
mod unreadable;
mod watch;
mod window;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::bail;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::{Config, ConfigError, Until};
use crate::roles::link;
use crate::runtime::observe::Component;
use crate::runtime::{Exit, Lifecycle};
use crate::source::follow::{FileId, FileState};
use crate::source::{self, Input, Rejects, Watch};
use crate::transport::Publisher;
use crate::transport::redis::RedisTransport;

use shared::Shared;
use task::Outcome;

/// Runs the role.
pub async fn run(config: Arc<Config>, lifecycle: Lifecycle) -> anyhow::Result<Exit> {
    let redis = config.redis()?;
    // Before Redis is reached: a wrong path is said at once.
    let work = Work::look(&config).await?;
    let Some(publisher) = link::connect(&lifecycle, || RedisTransport::connect(&redis)).await? else { return Ok(Exit::Stopped) };
    let line = publisher.clone();
    link::heartbeat(&lifecycle, &config.cluster, Component::Streamer, move || {
        let line = line.clone();
        async move { Publisher::ping(&*line).await }
    });
    link::measure(&lifecycle, &publisher);
    work.run(config, lifecycle, publisher, Names { queue: "Redis", store: "PostgreSQL" }).await
}

/// What queue and store are called in what is said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    pub(super) queue: &'static str,
    pub(super) store: &'static str,
}

/// What there is to stream.
pub(super) struct Work {
    inputs: Vec<Input>,
    rejects: Option<Rejects>,
}

impl Work {
    /// Looks whether what is configured can be read.
    pub(super) async fn look(config: &Config) -> anyhow::Result<Self> {
        if config.stream.csv.is_empty() {
            return Err(
                ConfigError::usage("nothing to stream: give --csv PATH… (files, directories, globs, or - for stdin)").into()
            );
        }
        let inputs = if config.stream.follow {
            Vec::new()
        } else {
            source::discover(&config.stream.csv, config.stream.rejects.as_deref())?
        };
        if config.stream.source_id.is_some() && (inputs.len() > 1 || config.stream.follow) {
            return Err(ConfigError::usage("--source-id names one source: give it with one file and without --follow").into());
        }
        Ok(Self { inputs, rejects: shared::open_rejects(config).await? })
    }

    /// Streams into a queue.
    pub(super) async fn run(
        self,
        config: Arc<Config>,
        lifecycle: Lifecycle,
        publisher: Arc<dyn Publisher>,
        names: Names,
    ) -> anyhow::Result<Exit> {
        let total = shared::total_bytes(&self.inputs).await;
        let progress = lifecycle.progress(if config.stream.follow || config.stream.looped { None } else { total });
        let shared = Arc::new(Shared::new(config, lifecycle, publisher, self.rejects, progress)?);
        let exit = if shared.config.stream.follow { follow(&shared).await } else { once(&shared, self.inputs, names).await };
        shared.close().await?;
        exit
    }
}

/// Every source to its end.
async fn once(shared: &Arc<Shared>, inputs: Vec<Input>, names: Names) -> anyhow::Result<Exit> {
    let mut tasks = JoinSet::new();
    let sources = inputs.len();
    shared.unfinished.send_replace(sources);
    for input in inputs {
        let shared = shared.clone();
        tasks.spawn(async move {
            let name = input.name();
            (name, task::run_to_end(&shared, input).await)
        });
    }
    let (mut failed, mut interrupted) = (0, false);
    while let Some(ended) = tasks.join_next().await {
        match ended? {
            (_, Ok(Outcome::Finished)) => {}
            (_, Ok(Outcome::Interrupted)) => interrupted = true,
            (name, Err(error)) => {
                if error.ends_all() {
                    return Err(error.into_error());
                }
                // A file that cannot be read keeps nobody from reading the others.
                crate::roles::print_error(&error.to_string());
                tracing::debug!(name, "this source failed");
                failed += 1;
            }
        }
    }
    if failed > 0 {
        bail!(incomplete(failed, sources, interrupted));
    }
    if interrupted {
        tracing::info!("stopped before the end; run it again and it goes on where {} is", names.queue);
        return Ok(Exit::Stopped);
    }
    let place = match shared.config.stream.until {
        Until::Queued => names.queue,
        Until::Stored => names.store,
    };
    match (shared.counts(), shared.ends.load(Ordering::Relaxed)) {
        // What Redis has of them was sent by an earlier run; whether that is where it is to be was asked all the same.
        ((0, _), rows @ 1..) => tracing::info!(rows, "nothing new: all {rows} rows are safely in {place} already"),
        ((rows, rejected), _) => report_end(shared, rows, rejected, place),
    }
    Ok(Exit::Done)
}

/// The last line of a run: where its rows are, and why some are not samples.
fn report_end(shared: &Shared, rows: u64, rejected: u64, place: &str) {
    let Some(why) = shared.rejections.summary() else {
        tracing::info!(rows, rejected, "every row is safely in {place}");
        return;
    };
    let what = if rejected == rows {
        format!("all {rows} rows are rejected: no sample is stored; the rejects are counted in {place}")
    } else {
        format!("{} of {rows} rows are safely in {place}; the other {rejected} are rejected", rows.saturating_sub(rejected))
    };
    let hint = if shared.config.stream.rejects.is_some() { "" } else { ". --rejects FILE keeps the rejected rows" };
    if rejections::are_many(rejected, rows) {
        tracing::warn!(rows, rejected, "{what}. {why}{hint}");
    } else {
        tracing::info!(rows, rejected, "{what}. {why}{hint}");
    }
}

/// Some sources failed, which were named before.
fn incomplete(failed: usize, sources: usize, interrupted: bool) -> String {
    match sources - failed {
        _ if sources == 1 => "the source could not be streamed to the end".to_owned(),
        0 => format!("none of the {sources} sources could be streamed to the end"),
        // Nobody knows of those that were stopped.
        _ if interrupted => format!("{failed} of the {sources} sources could not be streamed to the end"),
        1 => format!("{failed} of the {sources} sources could not be streamed to the end; the other one was"),
        _ => format!("{failed} of the {sources} sources could not be streamed to the end; the others were"),
    }
}

/// Watches until told to stop: every file there is, and those that come.
async fn follow(shared: &Arc<Shared>) -> anyhow::Result<Exit> {
    let mut tasks: JoinSet<Followed> = JoinSet::new();
    let stream = &shared.config.stream;
    let mut files = Files { watch: Watch::new(stream.csv.clone(), stream.rejects.clone()), retries: Vec::new() };
    let mut looked = None;
    loop {
        files.retry(shared, Instant::now());
        for input in scan(&mut files.watch, &mut looked) {
            let shared = shared.clone();
            tasks.spawn(async move {
                let (state, outcome) = task::follow(&shared, &input).await;
                Followed { input, state, outcome }
            });
        }
        tokio::select! {
            () = shared.lifecycle.draining().cancelled_owned() => break,
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => files.note_end(shared, ended?)?,
            () = tokio::time::sleep(shared.config.stream.poll) => {}
        }
        shared.flush_rejects().await?;
    }
    while let Some(ended) = tasks.join_next().await {
        files.note_end(shared, ended?)?;
    }
    Ok(Exit::Done)
}

/// How following a file ended.
struct Followed {
    input: Input,
    /// The file that was read (or could not be opened), as it was then: its path may lead to another one by now.
    state: Option<FileState>,
    outcome: Result<(), pump::Failure>,
}

/// New files. A directory that cannot be read just now keeps nobody from following what is open. Where there is nothing in the
/// beginning, and what keeps us from looking, is said once; `looked` is how the last look ended.
fn scan(files: &mut Watch, looked: &mut Option<Result<(), String>>) -> Vec<Input> {
    let (new, outcome) = match files.scan() {
        Ok(new) => (new, Ok(())),
        Err(error) => (Vec::new(), Err(error.to_string())),
    };
    match &outcome {
        Err(error) if looked.as_ref() != Some(&outcome) => tracing::warn!("looking for new files: {error}"),
        Ok(()) if looked.is_none() => {
            for nothing in files.nothing() {
                tracing::warn!(
                    "no file to follow yet: {nothing}; waiting for one. If there should be one, check stream.csv (--csv) and, in a pod, \
                     the volume that is mounted there"
                );
            }
        }
        _ => {}
    }
    *looked = Some(outcome);
    new
}

/// The files that are followed, and those that are tried again.
struct Files {
    watch: Watch,
    retries: Vec<(Instant, Input, FileId)>,
}

impl Files {
    /// Has files given again whose time has come. One that is gone meanwhile is not waited for.
    fn retry(&mut self, shared: &Shared, now: Instant) {
        for (_, input, file) in self.retries.extract_if(.., |(at, ..)| *at <= now) {
            self.watch.forget(file);
            if is_gone(&input) {
                shared.unreadable.settle(&input.name());
            }
        }
    }

    /// A followed file has ended: it is taken up again when it changes, and what failed by I/O in any case.
    fn note_end(&mut self, shared: &Shared, ended: Followed) -> anyhow::Result<()> {
        let Followed { input, state, outcome } = ended;
        let (name, now) = (input.name(), Instant::now());
        match outcome {
            Ok(()) => shared.unreadable.settle(&name),
            Err(error) if error.ends_all() => return Err(error.into_error()),
            // It was removed before it could be opened.
            Err(error) if error.is_io() && is_gone(&input) => {
                shared.unreadable.settle(&name);
                tracing::debug!(%error, "a file is gone");
            }
            Err(error) if error.is_io() => {
                shared.unreadable.note(&name, error.to_string(), now);
                self.retries.extend(state.map(|state| (now + unreadable::RETRY, input.clone(), state.id)));
            }
            Err(error) => {
                shared.unreadable.settle(&name);
                tracing::error!("{error}; this file is left alone until it changes");
            }
        }
        self.watch.close(&input, state);
        Ok(())
    }
}

/// Whether there is nothing at an input's path.
fn is_gone(input: &Input) -> bool {
    input.path().is_some_and(|path| matches!(path.try_exists(), Ok(false)))
}

#[cfg(test)]
mod tests {
    use super::incomplete;

    #[test]
    fn what_failed_is_counted_and_nobody_is_made_up() {
        assert_eq!(incomplete(1, 1, false), "the source could not be streamed to the end");
        assert_eq!(incomplete(3, 3, false), "none of the 3 sources could be streamed to the end");
        assert!(incomplete(1, 3, false).ends_with("1 of the 3 sources could not be streamed to the end; the others were"));
        assert!(incomplete(2, 3, false).ends_with("the other one was"));
        assert!(incomplete(1, 3, true).ends_with("to the end"));
    }
}
