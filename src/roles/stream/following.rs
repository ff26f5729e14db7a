//! `--follow`: every file there is, and those that come, until told to stop.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::closed_files::{self, ClosedFile, ClosedFiles};
use super::context::StreamContext;
use super::outcome::SourceFailure;
use super::task::{self, FollowEnd};
use super::unreadable;
use crate::runtime::Exit;
use crate::source::follow::{FileId, FileState};
use crate::source::{Found, Input, Watch};
use crate::transport::TransportError;

/// Follows until told to stop.
pub(super) async fn run(context: &Arc<StreamContext>) -> anyhow::Result<Exit> {
    let mut tasks: JoinSet<Followed> = JoinSet::new();
    let mut checks: JoinSet<Result<Vec<FileId>, TransportError>> = JoinSet::new();
    let mut files = Files::new(context);
    let mut looked = None;
    let mut next_scan = Instant::now();
    loop {
        let now = Instant::now();
        if now >= next_scan {
            next_scan = now + context.config.stream.poll;
            files.retry(context, now);
            files.scan(&mut looked);
        }
        files.open(context, &mut tasks);
        if checks.is_empty() {
            let round = files.closed.next_round(now);
            if !round.is_empty() {
                checks.spawn(closed_files::find_lost(context.publisher.clone(), round));
            }
        }
        tokio::select! {
            () = context.lifecycle.draining().cancelled_owned() => break,
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => files.note_end(context, ended?)?,
            Some(lost) = checks.join_next(), if !checks.is_empty() => files.send_again(lost??),
            () = tokio::time::sleep_until(next_scan) => {}
        }
        context.flush_rejects().await?;
    }
    while let Some(ended) = tasks.join_next().await {
        files.note_end(context, ended?)?;
    }
    Ok(Exit::Done)
}

/// How following a file ended.
struct Followed {
    found: Found,
    /// The file that was read (or could not be opened), as it was then: its path may lead to another one by now.
    state: Option<FileState>,
    outcome: Result<FollowEnd, SourceFailure>,
}

/// A file that is to be opened when there is room.
struct WaitingFile {
    found: Found,
    closed: Option<ClosedFile>,
}

/// The files that are followed, those that wait to be opened, those that are closed, and those that are tried again.
struct Files {
    watch: Watch,
    waiting: VecDeque<WaitingFile>,
    closed: ClosedFiles,
    retries: Vec<(Instant, Input, FileId)>,
    /// Whether it was said that there are more files than may be open at once.
    crowd_reported: bool,
}

impl Files {
    fn new(context: &StreamContext) -> Self {
        let stream = &context.config.stream;
        Self {
            watch: Watch::new(stream.csv.clone(), stream.rejects.clone()),
            waiting: VecDeque::new(),
            closed: ClosedFiles::new(Instant::now()),
            retries: Vec::new(),
            crowd_reported: false,
        }
    }

    /// Has files given again whose time has come. One that is gone meanwhile is not waited for.
    fn retry(&mut self, context: &StreamContext, now: Instant) {
        for (_, input, file) in self.retries.extract_if(.., |(at, ..)| *at <= now) {
            self.watch.give_again(file);
            if is_gone(&input) {
                context.unreadable.settle(&input.name());
            }
        }
    }

    /// Looks for files to open. A directory that cannot be read just now keeps nobody from following what is open. Where there is nothing in
    /// the beginning, and what keeps us from looking, is said once; `looked` is how the last look ended.
    fn scan(&mut self, looked: &mut Option<Result<(), String>>) {
        let outcome = match self.watch.scan() {
            Ok(found) => {
                for found in found {
                    let closed = found.file.and_then(|file| self.closed.take(file));
                    self.waiting.push_back(WaitingFile { found, closed });
                }
                self.closed.retain_known(&self.watch);
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        };
        match &outcome {
            Err(error) if looked.as_ref() != Some(&outcome) => tracing::warn!("looking for new files: {error}"),
            Ok(()) if looked.is_none() => {
                for nothing in self.watch.nothing() {
                    tracing::warn!(
                        "no file to follow yet: {nothing}; waiting for one. If there should be one, check stream.csv (--csv) and, in a \
                         pod, the volume that is mounted there"
                    );
                }
            }
            _ => {}
        }
        *looked = Some(outcome);
    }

    /// Opens the files that wait, as far as there is room, and asks quiet ones to make room for the others.
    fn open(&mut self, context: &Arc<StreamContext>, tasks: &mut JoinSet<Followed>) {
        while !self.waiting.is_empty()
            && let Some(slot) = context.open_files.take_slot()
            && let Some(WaitingFile { found, closed }) = self.waiting.pop_front()
        {
            let context = context.clone();
            tasks.spawn(async move {
                let (state, outcome) = task::follow(&context, &found.input, slot, closed).await;
                Followed { found, state, outcome }
            });
        }
        context.open_files.set_waiting(self.waiting.len());
        if !self.waiting.is_empty() && !std::mem::replace(&mut self.crowd_reported, true) {
            tracing::info!(
                "more files are followed than may be open at once ({}, stream.max_open_files): those that have been quiet for longest \
                 are closed, and opened again when they change",
                context.open_files.limit()
            );
        }
    }

    /// A followed file has ended: it is taken up again when it changes, and what failed by I/O in any case.
    fn note_end(&mut self, context: &StreamContext, ended: Followed) -> anyhow::Result<()> {
        let Followed { found, state, outcome } = ended;
        let (name, now) = (found.input.name(), Instant::now());
        match outcome {
            Ok(FollowEnd::Done) => context.unreadable.settle(&name),
            Ok(FollowEnd::Closed(closed)) => {
                context.unreadable.settle(&name);
                if let Some(state) = state {
                    self.watch.close_quiet(&found, state);
                    self.closed.insert(state.id, *closed);
                    return Ok(());
                }
            }
            Ok(FollowEnd::LeasedElsewhere) => {
                context.unreadable.settle(&name);
                self.retries.extend(state.map(|state| (now + unreadable::RETRY, found.input.clone(), state.id)));
            }
            Err(error) if error.ends_all() => return Err(error.into_error()),
            // It was removed before it could be opened.
            Err(error) if error.is_io() && is_gone(&found.input) => {
                context.unreadable.settle(&name);
                tracing::debug!(%error, "a file is gone");
            }
            Err(error) if error.is_io() => {
                context.unreadable.note(&name, error.to_string(), now);
                self.retries.extend(state.map(|state| (now + unreadable::RETRY, found.input.clone(), state.id)));
            }
            Err(error) => {
                context.unreadable.settle(&name);
                tracing::error!("{error}; this file is left alone until it changes");
            }
        }
        self.watch.close(&found, state);
        Ok(())
    }

    /// The queue has lost something of these closed files: they are opened again.
    fn send_again(&mut self, lost: Vec<FileId>) {
        for file in lost {
            self.watch.give_again(file);
        }
    }
}

/// Whether there is nothing at an input's path.
fn is_gone(input: &Input) -> bool {
    input.path().is_some_and(|path| matches!(path.try_exists(), Ok(false)))
}
