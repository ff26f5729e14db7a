//! Whether the store is still the one that this group commits to, and when that has to be asked.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::SourceId;
use crate::protocol::rest::{Rest, Rests};

/// First and longest rest between attempts at a store that is away.
const RESTS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// In what the store is not the one that the queue's entries were committed to so far: rows that the queue has let go would be missing in
/// it for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OtherStore {
    /// It is another store.
    Another {
        /// The store's id.
        store: String,
        /// The id of the one that was committed to.
        marked: String,
    },
    /// It is an older state: a restored backup, or a failover that lost commits.
    Older {
        /// A source of which it has less.
        source: SourceId,
        /// Up to here it was committed, as the queue says.
        committed: u64,
        /// Up to here the store has it.
        settled: u64,
    },
}

/// Compares the store's id with the mark that the queue has of the group's store.
///
/// # Errors
/// They differ.
pub fn same_mark(store: &str, marked: &str) -> Result<(), OtherStore> {
    if store == marked {
        return Ok(());
    }
    Err(OtherStore::Another { store: store.to_owned(), marked: marked.to_owned() })
}

/// Compares how far sources were committed, as the queue says, with how far the store has them settled. One that the store does not name
/// is one that it has nothing of. Gives the sources that the queue knows less of than the store has, and how far they are settled: what the
/// queue was told is lost, and it is to be told again, since whoever waits for a source that was stored long ago would wait for ever.
///
/// # Errors
/// The store has less of a source.
pub fn compare(committed: &[(SourceId, u64)], settled: &[(SourceId, u64)]) -> Result<Vec<(SourceId, u64)>, OtherStore> {
    let settled: BTreeMap<_, _> = settled.iter().copied().collect();
    let mut behind = Vec::new();
    for &(source, committed) in committed {
        let settled = settled.get(&source).copied().unwrap_or(0);
        match settled.cmp(&committed) {
            Ordering::Less => return Err(OtherStore::Older { source, committed, settled }),
            Ordering::Equal => {}
            Ordering::Greater => behind.push((source, settled)),
        }
    }
    Ok(behind)
}

/// Something that is done on the store, as often as it takes. A store that was away may come back as another one, or as an older one: that
/// is found out before it is used again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoreAttempts {
    away: bool,
    rests: Rests,
}

impl Default for StoreAttempts {
    fn default() -> Self {
        Self { away: false, rests: Rests::new(RESTS.0, RESTS.1) }
    }
}

impl StoreAttempts {
    /// Whether the store has been away since this began.
    #[must_use]
    pub fn was_away(&self) -> bool {
        self.away
    }

    /// Whether the store has been away since this began, so that before the next attempt it has to be compared ([`same_mark`], [`compare`]).
    #[must_use]
    pub fn must_compare(&self) -> bool {
        self.was_away()
    }

    /// The store, or the queue in a comparison, is away: how long to rest before the next attempt.
    #[must_use]
    pub fn away(&mut self) -> Rest {
        self.away = true;
        self.rests.next()
    }
}
