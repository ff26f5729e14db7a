//! Entries that can neither be stored nor be given up: in a version of the format that this collector does not know (edges were
//! upgraded first), or such that a damaged chunk keeps the store from saying whether it has them. They stay in the queue, and are
//! kept from being delivered again and again; others go on meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Shared;
use crate::batch::DecodeError;
use crate::model::Partition;
use crate::runtime::observe;
use crate::transport::Receipt;

/// How often it is said, and looked for what was held back long enough.
const EVERY: Duration = Duration::from_secs(30);
/// After so many times `redis.claim_idle` entries are let go, so that a newer collector beside this one can claim them.
const LET_GO_AFTER: u32 = 10;

/// What keeps an entry from being stored.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// It is in a version of the format that a newer collector may know.
    UnknownVersion(DecodeError),
    /// The store cannot say whether it has the rows: names the chunk, and says what to do.
    DamagedChunk(String),
}

#[derive(Default)]
struct Entries {
    /// Since when, by partition and id.
    entries: BTreeMap<(Partition, String), (Instant, Receipt)>,
    /// When it was said last, of each kind of obstacle.
    version_said: Option<Instant>,
    damage_said: Option<Instant>,
}

/// The entries that are held back.
#[derive(Default)]
pub(super) struct HeldBack(Mutex<Entries>);

impl HeldBack {
    /// Holds an entry back. Its claim is kept, as for everything in hand.
    pub(super) fn add(&self, receipt: Receipt, obstacle: &Obstacle) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let partition = receipt.partition;
        held.entries.insert((partition, receipt.entry.clone()), (Instant::now(), receipt));
        let entries = held.entries.len();
        observe::held_back(entries);
        match obstacle {
            Obstacle::UnknownVersion(error) if is_due(&mut held.version_said) => {
                tracing::warn!(%partition, entries, "entries stay in the queue until a newer collector reads them: {error}");
            }
            Obstacle::DamagedChunk(error) if is_due(&mut held.damage_said) => {
                tracing::error!(
                    %partition,
                    entries,
                    "entries stay in the queue, because a damaged chunk hides whether they are stored; they are tried again later: {error}"
                );
            }
            Obstacle::UnknownVersion(_) | Obstacle::DamagedChunk(_) => {}
        }
    }

    /// Lets go what was held back long enough. What another connection has read meanwhile is that one's.
    pub(super) async fn keep_up(shared: &Arc<Shared>) {
        let patience = shared.config.redis.claim_idle * LET_GO_AFTER;
        while shared.rest(EVERY.min(patience)).await {
            let mut due = Vec::new();
            {
                let mut held = shared.held_back.0.lock().unwrap_or_else(PoisonError::into_inner);
                held.entries.retain(|_, (since, receipt)| {
                    let stays = since.elapsed() < patience;
                    if !stays {
                        due.push(receipt.clone());
                    }
                    stays
                });
                observe::held_back(held.entries.len());
            }
            shared.put_back(due).await;
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
