//! Followed files that could not be read: each is tried again, said once and then rarely, and counted until it is read.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::runtime::{Health, observe};

/// Between a failure and the next try.
pub(super) const RETRY: Duration = Duration::from_secs(3);
/// How long a failure that stays the same is not said again.
const QUIET: Duration = Duration::from_secs(300);
/// What /readyz calls it.
const PART: &str = "files";

/// The files that cannot be read now.
#[derive(Debug)]
pub(super) struct Unreadable {
    health: Health,
    files: Mutex<BTreeMap<String, Failure>>,
}

#[derive(Debug)]
struct Failure {
    reason: String,
    said: Instant,
}

impl Unreadable {
    pub(super) fn new(health: Health) -> Self {
        Self { health, files: Mutex::default() }
    }

    /// A file could not be read; `reason` names it.
    pub(super) fn note(&self, file: &str, reason: String, now: Instant) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let known = files.get(file).is_some_and(|failure| failure.reason == reason && now - failure.said < QUIET);
        if !known {
            tracing::warn!("{reason}; trying again every {RETRY:?}");
            files.insert(file.to_owned(), Failure { reason, said: now });
        }
        self.report(&files);
    }

    /// A file is read, or is gone.
    pub(super) fn settle(&self, file: &str) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.remove(file).is_some() {
            self.report(&files);
        }
    }

    fn report(&self, files: &BTreeMap<String, Failure>) {
        observe::source_files_unreadable(files.len());
        self.health.set(
            PART,
            match (files.first_key_value(), files.len()) {
                (None, _) => Ok(()),
                (Some((_, first)), 1) => Err(first.reason.clone()),
                (Some((_, first)), n) => Err(format!("{n} files cannot be read; the first: {}", first.reason)),
            },
        );
    }
}
