//! `telemetry stream`: sources → queue.
//!
//! One task a source: it finds out which source the content is, takes the lease, asks the queue where it is in the source, seeks
//! there, and pumps rows into a window of batches in flight. Without `--follow` it then watches until every source of the
//! process is safely in the queue: a queue that loses something meanwhile gets it again.

mod closed_files;
mod context;
mod followed_file;
mod following;
mod identify;
mod lease;
mod obstacle;
mod open_files;
mod outcome;
mod pump;
mod rejections;
mod shift;
mod storing;
mod task;
mod unreadable;
mod window;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::bail;
use tokio::task::JoinSet;

use crate::config::{Config, ConfigError, Until};
use crate::roles::link;
use crate::runtime::observe::Component;
use crate::runtime::{self, Exit, Lifecycle};
use crate::source::{self, Input, Rejects};
use crate::transport::Publisher;
use crate::transport::redis::RedisTransport;

use context::StreamContext;
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
    max_open_files: usize,
}

impl Work {
    /// Looks whether what is configured can be read.
    pub(super) async fn look(config: &Config) -> anyhow::Result<Self> {
        if config.stream.csv.is_empty() {
            return Err(
                ConfigError::usage("nothing to stream: give --csv PATH… (files, directories, globs, or - for stdin)").into()
            );
        }
        if let Some(rejects) = &config.stream.rejects
            && let Some(how) = source::fed_by_rejects(&config.stream.csv, rejects)?
        {
            let reason =
                format!("{} {how}: rejected rows would be added to the data; give them a file of their own", rejects.display());
            return Err(config.invalid("stream.rejects", reason).into());
        }
        let inputs = if config.stream.follow {
            Vec::new()
        } else {
            source::discover(&config.stream.csv, config.stream.rejects.as_deref())?
        };
        if config.stream.source_id.is_some() && (inputs.len() > 1 || config.stream.follow) {
            return Err(ConfigError::usage("--source-id names one source: give it with one file and without --follow").into());
        }
        let max_open_files = open_files::limit(&config.stream)?;
        Ok(Self { inputs, rejects: context::open_rejects(config).await?, max_open_files })
    }

    /// Streams into a queue.
    pub(super) async fn run(
        self,
        config: Arc<Config>,
        lifecycle: Lifecycle,
        publisher: Arc<dyn Publisher>,
        names: Names,
    ) -> anyhow::Result<Exit> {
        let total = context::total_bytes(&self.inputs).await;
        let progress = lifecycle.progress(if config.stream.follow || config.stream.looped { None } else { total });
        let context = Arc::new(StreamContext::new(config, lifecycle, publisher, self.rejects, progress, self.max_open_files)?);
        let exit =
            if context.config.stream.follow { following::run(&context).await } else { once(&context, self.inputs, names).await };
        context.close().await?;
        exit
    }
}

/// Every source to its end.
async fn once(context: &Arc<StreamContext>, inputs: Vec<Input>, names: Names) -> anyhow::Result<Exit> {
    let mut tasks = JoinSet::new();
    let sources = inputs.len();
    context.unfinished.send_replace(sources);
    for input in inputs {
        let context = context.clone();
        tasks.spawn(async move {
            let name = input.name();
            (name, task::run_to_end(&context, input).await)
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
                runtime::print_error(context.config.log.format, &error.to_string());
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
    // What collectors say is stored is settled: a streamer cannot see whether as samples or in dead letters.
    let place = match context.config.stream.until {
        Until::Queued => format!("safely in {}", names.queue),
        Until::Stored => format!("in {}: stored, or kept in dead letters", names.store),
    };
    match (context.counts(), context.rows_of_finished.load(Ordering::Relaxed)) {
        // What Redis has of them was sent by an earlier run; whether that is where it is to be was asked all the same.
        ((0, _), 0) => tracing::info!(rows = 0, "there are no rows to send"),
        ((0, _), rows @ 1..) => tracing::info!(rows, "nothing new: {} already {place}", all_are(rows)),
        ((rows, rejected), _) => report_end(context, rows, rejected, &place, names),
    }
    Ok(Exit::Done)
}

/// The last line of a run: where its rows are, and why some are not samples.
fn report_end(context: &StreamContext, rows: u64, rejected: u64, place: &str, names: Names) {
    let Some(why) = context.rejections.summary() else {
        tracing::info!(rows, rejected, "every row is {place}");
        return;
    };
    let what = if rejected == rows {
        let counting = match context.config.stream.until {
            Until::Queued => names.queue,
            Until::Stored => names.store,
        };
        format!("{} rejected: no sample is stored; the rejects are counted in {counting}", all_are(rows))
    } else {
        let stored = rows.saturating_sub(rejected);
        let are = if stored == 1 { "is" } else { "are" };
        let others = if rejected == 1 { "one is".to_owned() } else { format!("{rejected} are") };
        format!("{stored} of {rows} rows {are} {place}; the other {others} rejected")
    };
    let hint = if context.config.stream.rejects.is_some() { "" } else { ". --rejects FILE keeps the rejected rows" };
    if rejections::are_many(rejected, rows) {
        tracing::warn!(rows, rejected, "{what}. {why}{hint}");
    } else {
        tracing::info!(rows, rejected, "{what}. {why}{hint}");
    }
}

fn all_are(rows: u64) -> String {
    if rows == 1 { "the only row is".to_owned() } else { format!("all {rows} rows are") }
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
