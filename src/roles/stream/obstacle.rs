//! What keeps a question to the queue from being answered, in the log and on /readyz.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::runtime::Lifecycle;
use crate::transport::TransportError;

/// The part of /readyz that says why the queue takes nothing.
pub(super) const PART: &str = "queue";
/// What is said of a queue that is full.
pub(super) const FULL: &str = "full; waiting for collectors to make room";

/// Questions that wait because the queue is full or a key is in their way.
#[derive(Debug, Default)]
pub(super) struct Obstacles {
    full: AtomicUsize,
    waiting: AtomicUsize,
}

/// One question, from its first try to its answer.
pub(super) struct Question<'a> {
    lifecycle: &'a Lifecycle,
    obstacles: &'a Obstacles,
    full: bool,
    waiting: bool,
}

impl<'a> Question<'a> {
    pub(super) fn new(lifecycle: &'a Lifecycle, obstacles: &'a Obstacles) -> Self {
        Self { lifecycle, obstacles, full: false, waiting: false }
    }

    /// It was not answered, and is asked again. Whichever of many questions is first says so.
    pub(super) fn unanswered(&mut self, error: &TransportError) {
        let why = match error {
            TransportError::Full { .. } => FULL.to_owned(),
            TransportError::Blocked { .. } => error.to_string(),
            _ => return,
        };
        if matches!(error, TransportError::Full { .. })
            && !std::mem::replace(&mut self.full, true)
            && self.obstacles.full.fetch_add(1, Ordering::Relaxed) == 0
        {
            tracing::warn!(%error, "the queue is {FULL}");
        }
        if !std::mem::replace(&mut self.waiting, true) {
            self.obstacles.waiting.fetch_add(1, Ordering::Relaxed);
        }
        self.lifecycle.health().set(PART, Err(why));
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        if self.full {
            self.obstacles.full.fetch_sub(1, Ordering::Relaxed);
        }
        if self.waiting && self.obstacles.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.lifecycle.health().forget(PART);
        }
    }
}
