//! Whether the store is still the one that this group commits to, and when that has to be asked.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{Partition, SourceId};
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

/// What a partition says of the store that the group commits to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct StoreMark {
    /// The id of the store, where a collector has said it.
    pub store: Option<String>,
    /// The generation of the mark: drawn anew whenever everything is to be sent again, which forgets the mark. `None`: that never was.
    pub generation: Option<String>,
}

/// What follows from the answers to marks that were to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// The store's mark stands.
    Stands,
    /// Everything was set back since the marks were looked at, maybe for another store: compare anew, from the beginning.
    SetBack,
}

/// A comparison of the store with what the group has committed to, as the queue says. Marks are looked at before the store is asked which one
/// it is, everything is compared before a mark is written, and a mark is written only where its generation is the one that was looked at:
/// neither does a store that is refused leave its mark, nor one that was replaced meanwhile. Either would keep the right one out.
#[derive(Clone, Debug)]
pub struct Comparison {
    looked: Vec<(Partition, Option<StoreMark>)>,
    compares_sources: bool,
    is_complete: bool,
    behind: Vec<(Partition, Vec<(SourceId, u64)>)>,
}

impl Comparison {
    /// Begins with what each partition says; `None` where it is away. Sources are compared if that is asked for, or if the queue knows no
    /// store: one that was emptied would take any.
    #[must_use]
    pub fn begin(looked: Vec<(Partition, Option<StoreMark>)>, compares_sources: bool) -> Self {
        let is_complete = looked.iter().all(|(_, mark)| mark.is_some());
        let mut comparison = Self { looked, compares_sources, is_complete, behind: Vec::new() };
        comparison.compares_sources |= !comparison.is_marked();
        comparison
    }

    /// The store has said which one it is.
    ///
    /// # Errors
    /// A partition has the mark of another one.
    pub fn store_is(&self, store: &str) -> Result<(), OtherStore> {
        self.marks().try_for_each(|marked| same_mark(store, marked))
    }

    /// Whether each partition is asked for its sources now.
    #[must_use]
    pub fn compares_sources(&self) -> bool {
        self.compares_sources
    }

    /// A partition is away, which keeps nobody from the others: it is compared later.
    pub fn passed_over(&mut self) {
        self.is_complete = false;
    }

    /// Compares what was committed of a partition's sources with what is settled ([`compare`]).
    ///
    /// # Errors
    /// The store has less of a source.
    pub fn sources(
        &mut self,
        partition: Partition,
        committed: &[(SourceId, u64)],
        settled: &[(SourceId, u64)],
    ) -> Result<(), OtherStore> {
        let behind = compare(committed, settled)?;
        if !behind.is_empty() {
            self.behind.push((partition, behind));
        }
        Ok(())
    }

    /// Where the store's mark is to be written, and the generation that was seen there.
    #[must_use]
    pub fn to_mark(&self) -> Vec<(Partition, Option<String>)> {
        // What is away may have the mark of another store.
        if !self.is_complete && !self.is_marked() {
            return Vec::new();
        }
        let unmarked = self.looked.iter().filter_map(|(partition, mark)| Some((*partition, mark.as_ref()?)));
        unmarked.filter(|(_, mark)| mark.store.is_none()).map(|(partition, mark)| (partition, mark.generation.clone())).collect()
    }

    /// Whether partitions are looked at once more instead: none has a mark, and none is to be written, so nothing else would say that another
    /// store was marked while this one was compared.
    #[must_use]
    pub fn looks_again(&self) -> bool {
        !self.is_complete && !self.is_marked()
    }

    /// Partitions that were to be marked, or looked at once more, have answered what they say now.
    ///
    /// # Errors
    /// One of them has got the mark of another store.
    pub fn marked(&mut self, store: &str, answers: &[(Partition, StoreMark)]) -> Result<Marked, OtherStore> {
        let seen = |of: &Partition| self.looked.iter().find(|(partition, _)| partition == of).and_then(|(_, mark)| mark.as_ref());
        let is_as_seen = |(partition, now): &(Partition, StoreMark)| match seen(partition) {
            Some(before) => before.generation == now.generation,
            // It was away: what it says may be older or newer than what the store has said.
            None => now.store.as_deref().is_none_or(|marked| marked == store),
        };
        if !answers.iter().all(is_as_seen) {
            return Ok(Marked::SetBack);
        }
        answers.iter().filter_map(|(_, mark)| mark.store.as_deref()).try_for_each(|marked| same_mark(store, marked))?;
        self.is_complete &= answers.len() >= self.to_mark().len();
        Ok(Marked::Stands)
    }

    /// Sources that partitions know less of than the store has, and how far they are settled: they are to be told.
    #[must_use]
    pub fn behind(&self) -> &[(Partition, Vec<(SourceId, u64)>)] {
        &self.behind
    }

    /// Whether no partition was passed over.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    fn marks(&self) -> impl Iterator<Item = &str> {
        self.looked.iter().filter_map(|(_, mark)| mark.as_ref()?.store.as_deref())
    }

    fn is_marked(&self) -> bool {
        self.marks().next().is_some()
    }
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
    use crate::model::{Digest, Partitions};

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

    fn says(store: Option<&str>, generation: Option<&str>) -> StoreMark {
        StoreMark { store: store.map(str::to_owned), generation: generation.map(str::to_owned) }
    }

    fn partition(number: u16) -> Partition {
        Partitions::new(3).and_then(|partitions| partitions.get(number)).expect("one of three")
    }

    #[test]
    fn a_mark_is_written_last_and_only_where_it_is_missing() {
        let [first, second, third] = [0, 1, 2].map(partition);
        let looked =
            |third_says| vec![(first, Some(says(None, Some("g")))), (second, Some(says(None, None))), (third, third_says)];
        let nowhere = Comparison::begin(looked(Some(says(None, None))), false);
        assert!(nowhere.compares_sources(), "any store would be taken");
        assert_eq!(nowhere.to_mark(), [(first, Some("g".to_owned())), (second, None), (third, None)]);

        let marked = Comparison::begin(looked(Some(says(Some("a"), None))), false);
        assert!(!marked.compares_sources());
        assert_eq!(marked.to_mark(), [(first, Some("g".to_owned())), (second, None)]);
        assert_eq!(marked.store_is("a"), Ok(()));
        assert_eq!(marked.store_is("b"), Err(OtherStore::Another { store: "b".into(), marked: "a".into() }));
        assert!(Comparison::begin(looked(Some(says(Some("a"), None))), true).compares_sources());

        let mut away = Comparison::begin(looked(None), true);
        assert!(!away.is_complete());
        assert_eq!(away.to_mark(), [], "what is away may have the mark of another store");
        let meanwhile = [(first, says(Some("b"), Some("g"))), (second, says(None, None))];
        assert!(matches!(away.marked("a", &meanwhile), Err(OtherStore::Another { .. })), "somebody marked it");
        assert_eq!(away.marked("a", &[(third, says(Some("b"), None))]), Ok(Marked::SetBack), "it is here again");
        assert_eq!(away.marked("a", &[(third, says(Some("a"), Some("h")))]), Ok(Marked::Stands));
        assert!(away.looks_again() && !marked.looks_again() && !nowhere.looks_again());
    }

    #[test]
    fn a_comparison_during_which_everything_was_set_back_begins_anew() {
        let looked = vec![(partition(0), Some(says(None, Some("g")))), (partition(1), Some(says(None, None)))];
        let mut comparison = Comparison::begin(looked, true);
        let answers = |one, other| [(partition(0), one), (partition(1), other)];
        let stands = answers(says(Some("a"), Some("g")), says(Some("a"), None));
        assert_eq!(comparison.marked("a", &stands), Ok(Marked::Stands));
        assert!(comparison.is_complete());
        for set_back in [
            answers(says(Some("a"), Some("g")), says(None, Some("h"))),
            answers(says(None, Some("h")), says(Some("a"), None)),
            answers(says(Some("b"), Some("h")), says(Some("b"), Some("h"))),
            answers(says(None, None), says(Some("a"), None)),
        ] {
            assert_eq!(comparison.marked("a", &set_back), Ok(Marked::SetBack), "{set_back:?}");
        }
        let other = answers(says(Some("b"), Some("g")), says(Some("a"), None));
        assert!(matches!(comparison.marked("a", &other), Err(OtherStore::Another { .. })));

        assert_eq!(comparison.sources(partition(0), &[(source(1), 1)], &[(source(1), 1)]), Ok(()));
        assert_eq!(comparison.behind(), []);
        assert_eq!(comparison.sources(partition(1), &[(source(1), 1)], &[(source(1), 2)]), Ok(()));
        assert_eq!(comparison.behind(), [(partition(1), vec![(source(1), 2)])]);
        assert!(comparison.sources(partition(1), &[(source(1), 3)], &[(source(1), 2)]).is_err());
        assert_eq!(comparison.marked("a", &stands[..1]), Ok(Marked::Stands));
        assert!(!comparison.is_complete(), "one was not marked");
        assert_eq!((comparison.is_complete(), comparison.to_mark()), (false, vec![]));
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
