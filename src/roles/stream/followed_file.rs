//! A followed file that has nothing more for now: is the queue where we think it is, and is the file still the one we read?

use std::time::Duration;

use tokio::time::Instant;

use super::context::StreamContext;
use super::outcome::{PumpEnd, SourceFailure};
use crate::model::{Position, SourceId};
use crate::protocol::window::is_elsewhere;
use crate::source::CsvReader;
use crate::source::follow::Change;

/// How often the queue is asked where it is in the source.
const ASK: Duration = Duration::from_secs(1);
/// How long a file that was renamed or removed may still be written to by who has it open.
const GRACE: Duration = Duration::from_secs(5);

/// What a look at a followed file brought.
#[derive(Debug)]
pub(super) enum Look {
    /// Nothing new: the file is the one that was read, and is at its path.
    Unchanged,
    /// It has grown, or is not at its path any more.
    Changed,
    /// The pump has to end.
    End(PumpEnd),
}

/// A followed file, between two looks at it.
#[derive(Debug)]
pub(super) struct FollowedFile {
    source: SourceId,
    asked: Instant,
    gone_since: Option<Instant>,
}

impl FollowedFile {
    pub(super) fn new(source: SourceId) -> Self {
        Self { source, asked: Instant::now(), gone_since: None }
    }

    /// Looks at queue and file, while nothing is in flight; `confirmed` is where the queue is as far as it has answered.
    pub(super) async fn look(
        &mut self,
        context: &StreamContext,
        reader: &mut CsvReader,
        confirmed: Option<Position>,
    ) -> Result<Look, SourceFailure> {
        if self.asked.elapsed() >= ASK {
            self.asked = Instant::now();
            match context.publisher.position(self.source).await {
                Ok(at) if is_elsewhere(at, confirmed) => return Ok(Look::End(PumpEnd::Elsewhere(at))),
                Ok(_) => {}
                Err(error) if error.is_transient() => tracing::debug!(%error, "asking Redis for a position"),
                Err(error) => return Err(error.into()),
            }
        }
        match reader.look().await? {
            Change::None => {
                self.gone_since = None;
                return Ok(Look::Unchanged);
            }
            Change::Grown => self.gone_since = None,
            Change::Restarted => return Ok(Look::End(PumpEnd::Restarted)),
            Change::Replaced | Change::Removed => {
                if self.gone_since.get_or_insert_with(Instant::now).elapsed() >= GRACE {
                    reader.finish();
                }
            }
        }
        Ok(Look::Changed)
    }
}
