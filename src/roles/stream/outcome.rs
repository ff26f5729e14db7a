//! How reading a source ends.

use super::identify::Unidentified;
use crate::model::Position;
use crate::source::SourceError;
use crate::transport::TransportError;

/// Why a pump ended.
#[derive(Debug)]
pub(super) enum PumpEnd {
    /// The source is at its end and everything is in the queue.
    Finished(Position),
    /// The file was rewritten in place: another content begins under its name.
    Restarted,
    /// The queue is elsewhere: seek.
    Elsewhere(Option<Position>),
    /// A followed file has nothing new, everything of it is in the queue, and others need its place.
    Closed,
    /// The process is to end.
    Interrupted,
}

/// What ends a source for good.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceFailure {
    /// The input.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The queue.
    #[error(transparent)]
    Queue(#[from] TransportError),
    /// `--strict`, or what a user has to change.
    #[error("{0}")]
    Stopped(String),
}

impl SourceFailure {
    /// As the end of the process says it: what the queue refuses is still found as that.
    pub(super) fn into_error(self) -> anyhow::Error {
        match self {
            Self::Queue(error) => error.into(),
            other => other.into(),
        }
    }

    /// Whether the system could not read the file: trying again can help.
    pub(super) fn is_io(&self) -> bool {
        matches!(self, Self::Source(SourceError::Io { .. }))
    }

    /// Whether the other sources cannot go on either.
    pub(super) fn ends_all(&self) -> bool {
        match self {
            Self::Source(error) => matches!(error, SourceError::Rejects { .. }),
            Self::Queue(_) | Self::Stopped(_) => true,
        }
    }
}

impl From<Unidentified> for SourceFailure {
    fn from(error: Unidentified) -> Self {
        match error {
            Unidentified::Source(error) => Self::Source(error),
            Unidentified::Queue(error) => Self::Queue(error),
        }
    }
}
