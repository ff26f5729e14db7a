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
    /// How often it was tried, and the store was away.
    failures: u32,
    rests: Rests,
}

impl Default for StoreAttempts {
    fn default() -> Self {
        Self { failures: 0, rests: Rests::new(RESTS.0, RESTS.1) }
    }
}

impl StoreAttempts {
    /// Whether the store has been away since this began.
    #[must_use]
    pub fn was_away(&self) -> bool {
        self.failures > 0
    }

    /// Whether the store has been away since this began, so that before the next attempt it has to be compared ([`same_mark`], [`compare`]).
    #[must_use]
    pub fn must_compare(&self) -> bool {
        self.was_away()
    }

    /// What a count is at least that each try of this raises by one: one that was not answered may have raised it as well, and happened once all the
    /// same.
    #[must_use]
    pub fn certain(&self, count: u32) -> u32 {
        count.saturating_sub(self.failures).max(1)
    }

    /// The store, or the queue in a comparison, is away: how long to rest before the next attempt.
    #[must_use]
    pub fn away(&mut self) -> Rest {
        self.failures = self.failures.saturating_add(1);
        self.rests.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Digest;

    fn source(n: u128) -> SourceId {
        SourceId::from_digest(Digest::from_u128(n))
    }

    #[test]
    fn a_store_is_compared_with_what_was_committed() {
        assert_eq!(same_mark("a", "a"), Ok(()));
        assert_eq!(same_mark("a", "b"), Err(OtherStore::Another { store: "a".into(), marked: "b".into() }));
        let committed = [(source(1), 10), (source(2), 0), (source(3), 5)];
        assert_eq!(compare(&committed, &[(source(3), 5), (source(1), 10)]), Ok(vec![]));
        let behind = vec![(source(1), 11), (source(2), 1)];
        assert_eq!(
            compare(&committed, &[(source(3), 5), (source(1), 11), (source(2), 1)]),
            Ok(behind),
            "the queue is told again"
        );
        let older = |source, committed, settled| Err(OtherStore::Older { source, committed, settled });
        assert_eq!(compare(&committed, &[(source(1), 9), (source(3), 5)]), older(source(1), 10, 9));
        assert_eq!(compare(&committed, &[(source(1), 10)]), older(source(3), 5, 0));
    }

    #[test]
    fn a_store_that_was_away_is_compared_before_it_is_used() {
        let mut attempts = StoreAttempts::default();
        assert!(!attempts.must_compare());
        let rests: Vec<_> = (0..8).map(|_| attempts.away().longest.as_millis()).collect();
        assert_eq!(rests, [400, 800, 1600, 3200, 5000, 5000, 5000, 5000]);
        assert!(attempts.must_compare());
    }

    #[test]
    fn what_was_counted_without_an_answer_counts_once() {
        let mut attempts = StoreAttempts::default();
        assert_eq!(attempts.certain(2), 2);
        let _rests = (attempts.away(), attempts.away());
        assert_eq!([attempts.certain(3), attempts.certain(5)], [1, 3], "both tries may have counted");
        assert_eq!(attempts.certain(1), 1, "or none of them");
    }
}
