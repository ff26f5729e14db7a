//! The store: rows and the covered ranges of their sources, changed in one step. Every row that is stored is counted, so that one which is stored
//! twice shows.

use std::collections::BTreeMap;

use crate::model::{RowRange, RowSet, SourceId};
use crate::planted::Planted;

/// What the store has of a source.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Rows that are stored.
    pub covered: RowSet,
    /// Rows of dead letters.
    pub dead: RowSet,
    /// How often each row was written.
    written: Vec<u8>,
}

impl Account {
    /// How far the source is settled, from row 0 without a gap.
    #[must_use]
    pub fn settled(&self) -> u64 {
        let mut all = self.covered.clone();
        all.extend(&self.dead);
        all.ranges().first().filter(|range| range.first == 0).map_or(0, |range| range.end)
    }

    /// A row that was written more than once.
    #[must_use]
    pub fn written_twice(&self) -> Option<usize> {
        self.written.iter().position(|times| *times > 1)
    }

    /// Rows that were written at least once and are not covered.
    #[must_use]
    pub fn written(&self, row: u64) -> bool {
        usize::try_from(row).ok().and_then(|row| self.written.get(row)).is_some_and(|times| *times > 0)
    }

    fn write(&mut self, rows: RowRange) {
        let end = usize::try_from(rows.end).unwrap_or(usize::MAX);
        if self.written.len() < end {
            self.written.resize(end, 0);
        }
        for row in rows.first..rows.end {
            if let Some(times) = usize::try_from(row).ok().and_then(|row| self.written.get_mut(row)) {
                *times = times.saturating_add(1);
            }
        }
    }
}

/// Batches to be stored: source and rows of each.
pub type Group = Vec<(SourceId, RowRange)>;

/// A state of the store.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Which store it is.
    pub id: u64,
    accounts: BTreeMap<SourceId, Account>,
    failures: BTreeMap<String, u32>,
}

impl Ledger {
    /// An empty store.
    #[must_use]
    pub fn new(id: u64) -> Self {
        Self { id, ..Self::default() }
    }

    /// What it has of a source.
    #[must_use]
    pub fn account(&self, source: SourceId) -> Option<&Account> {
        self.accounts.get(&source)
    }

    /// What it has of all sources.
    pub fn accounts(&self) -> impl Iterator<Item = (&SourceId, &Account)> {
        self.accounts.iter()
    }

    /// How far a source is settled.
    #[must_use]
    pub fn settled(&self, source: SourceId) -> u64 {
        self.accounts.get(&source).map_or(0, Account::settled)
    }

    /// What is covered of the group's sources before anything is locked.
    #[must_use]
    pub fn learn(&self, group: &Group) -> Vec<RowSet> {
        group
            .iter()
            .map(|(source, _)| self.accounts.get(source).map(|account| account.covered.clone()).unwrap_or_default())
            .collect()
    }

    /// Commits a group: rows that are not covered are written. Gives how far its sources are settled.
    ///
    /// `learnt` is what was covered before the lock; the shipped stores look again under it.
    pub fn commit(&mut self, group: &Group, learnt: &[RowSet], planted: Option<Planted>) -> Vec<(SourceId, u64)> {
        for ((source, rows), learnt) in group.iter().zip(learnt) {
            let account = self.accounts.entry(*source).or_default();
            let covered = if planted == Some(Planted::CoverageNotLocked) { learnt } else { &account.covered };
            let fresh = RowSet::from(*rows).minus(covered);
            for range in fresh.ranges() {
                account.write(*range);
            }
            if planted != Some(Planted::CommitWithoutRange) || account.covered.is_empty() {
                account.covered.insert(*rows);
            }
        }
        self.settled_of(group.iter().map(|(source, _)| *source), planted)
    }

    fn settled_of(&self, sources: impl Iterator<Item = SourceId>, planted: Option<Planted>) -> Vec<(SourceId, u64)> {
        let mut settled: BTreeMap<SourceId, u64> = BTreeMap::new();
        for source in sources {
            let row = match planted {
                Some(Planted::SettledAhead) => self.accounts.get(&source).map_or(0, |account| account.covered.end()),
                _ => self.settled(source),
            };
            settled.insert(source, row);
        }
        settled.into_iter().collect()
    }

    /// Notes a failure of an entry: how many that makes.
    pub fn note_failure(&mut self, entry: String) -> u32 {
        let failures = self.failures.entry(entry).or_default();
        *failures += 1;
        *failures
    }

    /// Forgets the failures of an entry.
    pub fn forget_failures(&mut self, entry: &str) {
        self.failures.remove(entry);
    }

    /// Keeps dead letters, and forgets the failures of their entries.
    pub fn bury(&mut self, letters: &[(SourceId, RowRange, String)]) -> Vec<(SourceId, u64)> {
        for (source, rows, entry) in letters {
            self.accounts.entry(*source).or_default().dead.insert(*rows);
            self.failures.remove(entry);
        }
        self.settled_of(letters.iter().map(|(source, ..)| *source), None)
    }
}
