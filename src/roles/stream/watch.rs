//! A followed file that has nothing more for now: is the queue where we think it is, and is the file still the one we read?

use std::time::Duration;

use tokio::time::Instant;

use super::pump::{End, Failure};
use super::shared::Shared;
use crate::model::{Position, SourceId};
use crate::source::CsvReader;
use crate::source::follow::Change;

/// Between two questions to the queue.
const ASK: Duration = Duration::from_secs(1);
/// How long a file that was renamed or removed may still be written to by who has it open.
const GRACE: Duration = Duration::from_secs(5);

/// What is remembered between two looks.
#[derive(Debug)]
pub(super) struct Followed {
    source: SourceId,
    asked: Instant,
    gone_since: Option<Instant>,
}

impl Followed {
    pub(super) fn new(source: SourceId) -> Self {
        Self { source, asked: Instant::now(), gone_since: None }
    }

    /// Looks at queue and file, while nothing is in flight; `confirmed` is where the queue is as far as it has answered. `Some` where
    /// the pump has to end.
    pub(super) async fn look(
        &mut self,
        shared: &Shared,
        reader: &mut CsvReader,
        confirmed: Option<Position>,
    ) -> Result<Option<End>, Failure> {
        if self.asked.elapsed() >= ASK {
            self.asked = Instant::now();
            match shared.publisher.position(self.source).await {
                Ok(at) if at != confirmed => return Ok(Some(End::Elsewhere(at))),
                Ok(_) => {}
                Err(error) if error.is_transient() => tracing::debug!(%error, "asking Redis for a position"),
                Err(error) => return Err(error.into()),
            }
        }
        match reader.look().await? {
            Change::None | Change::Grown => self.gone_since = None,
            Change::Restarted => return Ok(Some(End::Restarted)),
            Change::Replaced | Change::Removed => {
                if self.gone_since.get_or_insert_with(Instant::now).elapsed() >= GRACE {
                    reader.finish();
                }
            }
        }
        Ok(None)
    }
}
