//! What a commit changes in a source's ledger, and what of a batch is written. Pure, and the same for every store.

use std::collections::BTreeMap;

use crate::batch::Batch;
use crate::model::{Reason, RowSet, SourceId, TimeMs};

/// Rejected rows in one [`RejectedRows`] at most.
const MAX_REJECTS: usize = 10_000;

/// What a commit adds to the ledger of a source.
#[derive(Default)]
pub(in crate::store) struct LedgerChange {
    pub(in crate::store) rows: RowSet,
    pub(in crate::store) valid: u64,
    pub(in crate::store) duplicate: u64,
    pub(in crate::store) extra: u64,
    pub(in crate::store) rejected: BTreeMap<Reason, u64>,
    pub(in crate::store) newest: Option<TimeMs>,
}

/// Rejected rows of one reason: (row, line).
pub(in crate::store) struct RejectedRows {
    pub(in crate::store) source: SourceId,
    pub(in crate::store) reason: Reason,
    pub(in crate::store) rows: Vec<(u64, u64)>,
}

impl LedgerChange {
    /// Enters a batch of which nothing is covered.
    pub(in crate::store) fn take_new(&mut self, batch: &Batch, rejected: &mut Vec<RejectedRows>) {
        self.rows.insert(batch.rows);
        self.valid += batch.row.len() as u64;
        self.newest = self.newest.max(batch.time_ms.iter().copied().max());
        self.take_rejects(batch, &RowSet::from(batch.rows), rejected);
    }

    /// Enters a batch of which something may be covered: `own` by the source itself. `stored`: which of its samples the store has
    /// already. Returns how many rejects are new.
    pub(in crate::store) fn take_overlapping(
        &mut self,
        batch: &Batch,
        own: &RowSet,
        stored: &[bool],
        rejected: &mut Vec<RejectedRows>,
    ) -> u64 {
        for (row, is_stored) in batch.row.iter().zip(stored) {
            match (own.contains(*row), is_stored) {
                (false, _) => {
                    self.valid += 1;
                    self.duplicate += u64::from(*is_stored);
                }
                // Another content than what was there before: not one of the source's rows as the ledger counts them.
                (true, false) => self.extra += 1,
                (true, true) => {}
            }
        }
        let fresh = RowSet::from(batch.rows).minus(own);
        self.rows.extend(&fresh);
        self.newest = self.newest.max(batch.time_ms.iter().copied().max());
        self.take_rejects(batch, &fresh, rejected)
    }

    /// Notes the rejects of a batch at these rows. Returns how many.
    fn take_rejects(&mut self, batch: &Batch, rows: &RowSet, rejected: &mut Vec<RejectedRows>) -> u64 {
        let mut by_reason: BTreeMap<_, Vec<(u64, u64)>> = BTreeMap::new();
        for reject in batch.rejects.iter().filter(|reject| rows.contains(reject.row)) {
            by_reason.entry(reject.reason).or_default().push((reject.row, reject.line));
        }
        let mut taken = 0;
        for (reason, rows) in by_reason {
            *self.rejected.entry(reason).or_default() += rows.len() as u64;
            taken += rows.len() as u64;
            let source = batch.header.source;
            rejected.extend(rows.chunks(MAX_REJECTS).map(|rows| RejectedRows { source, reason, rows: rows.to_vec() }));
        }
        taken
    }
}
