//! Rows that are in the queue and wait to be stored (`--until stored`): where nobody stores any, that is said.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::SourceId;

/// How long nothing may be stored before that is said, and how long at most until it is said again.
const QUIET: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// Each time it is said after so many times as long.
const SELDOM: u32 = 4;

/// Rows of all sources of the process that wait to be stored.
#[derive(Debug, Default)]
pub(super) struct Storing(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// Rows by source.
    rows: HashMap<SourceId, u64>,
    /// When rows were found stored, or the queue did not say.
    since: Option<Instant>,
    /// After how long it is said (again).
    patience: Option<Duration>,
}

/// Rows of which none was stored for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unstored {
    pub(super) rows: u64,
    pub(super) elapsed: Duration,
}

impl Storing {
    /// The queue says that so many rows of a source wait. `Some` when it is time to say that nobody stores any.
    pub(super) fn wait(&self, source: SourceId, rows: u64, now: Instant) -> Option<Unstored> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = if rows == 0 { waiting.rows.remove(&source) } else { waiting.rows.insert(source, rows) };
        let since = match waiting.since {
            Some(since) if before == Some(rows) => since,
            _ => {
                (waiting.since, waiting.patience) = (Some(now), None);
                return None;
            }
        };
        let (elapsed, patience) = (now.saturating_duration_since(since), waiting.patience.unwrap_or(QUIET.0));
        if elapsed < patience {
            return None;
        }
        waiting.patience = Some(elapsed + (elapsed * (SELDOM - 1)).min(QUIET.1));
        Some(Unstored { rows: waiting.rows.values().sum(), elapsed })
    }

    /// The queue does not say how many wait: who knows what is stored meanwhile.
    pub(super) fn unknown(&self, now: Instant) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (waiting.since, waiting.patience) = (Some(now), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Digest;

    #[test]
    fn that_nobody_stores_is_said_once_and_then_seldom() {
        let (storing, begin) = (Storing::default(), Instant::now());
        let [a, b] = [1, 2].map(|n| SourceId::from_digest(Digest::from_u128(n)));
        let at = |seconds| begin + Duration::from_secs(seconds);
        let said = |from: u64, to: u64, rows: u64| -> Vec<(u64, u64)> {
            (from..to)
                .filter_map(|second| {
                    let unstored = [storing.wait(a, rows, at(second)), storing.wait(b, 5, at(second))];
                    let unstored = unstored.into_iter().flatten().next()?;
                    Some((unstored.elapsed.as_secs(), unstored.rows))
                })
                .collect()
        };
        assert_eq!(said(0, 1000, 100), [(10, 105), (40, 105), (160, 105), (460, 105), (760, 105)]);
        assert_eq!(said(1000, 1015, 60), [(10, 65)], "some were stored: it begins anew");
        storing.unknown(at(1015));
        assert_eq!(said(1015, 1024, 60), [], "nobody knows what was stored while the queue was away");
        assert_eq!((storing.wait(a, 0, at(1024)), storing.wait(b, 5, at(1025))), (None, None));
        assert_eq!(storing.wait(b, 5, at(1034)), Some(Unstored { rows: 5, elapsed: Duration::from_secs(10) }));
    }
}
