//! Entries that can neither be stored nor be given up: in a version of the format that this collector does not know (edges were
//! upgraded first), or such that a damaged chunk keeps the store from saying whether it has them. They stay in the queue, and are
//! kept from being delivered again and again; others go on meanwhile.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::batch::DecodeError;
use crate::model::Partition;
use crate::runtime::observe;

/// How often it is said that entries are held back, and which of them are due is looked for.
pub(super) const EVERY: Duration = Duration::from_secs(30);

/// What keeps an entry from being stored.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// It is in a version of the format that a newer collector may know.
    UnknownVersion(DecodeError),
    /// The store cannot say whether it has the rows: names the chunk, and says what to do.
    DamagedChunk(String),
}

/// When it was said last, of each kind of obstacle, that entries are held back.
#[derive(Default)]
struct Told {
    version: Option<Instant>,
    damage: Option<Instant>,
}

/// Says now and then that entries are held back.
#[derive(Default)]
pub(super) struct HeldBack(Mutex<Told>);

impl HeldBack {
    /// One more is held back, and so many are.
    pub(super) fn tell(&self, partition: Partition, entries: usize, obstacle: &Obstacle) {
        observe::held_back(entries);
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match obstacle {
            Obstacle::UnknownVersion(error) if is_due(&mut told.version) => {
                tracing::warn!(%partition, entries, "entries stay in the queue until a newer collector reads them: {error}");
            }
            Obstacle::DamagedChunk(error) if is_due(&mut told.damage) => {
                tracing::error!(
                    %partition,
                    entries,
                    "entries stay in the queue, because a damaged chunk hides whether they are stored; they are tried again later: {error}"
                );
            }
            Obstacle::UnknownVersion(_) | Obstacle::DamagedChunk(_) => {}
        }
    }
}

/// Whether it is time to say something again; it counts as said then.
fn is_due(said: &mut Option<Instant>) -> bool {
    let due = said.is_none_or(|said| said.elapsed() >= EVERY);
    if due {
        *said = Some(Instant::now());
    }
    due
}
