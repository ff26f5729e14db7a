//! What a commit changes in a source's ledger, and what of a batch is written. Pure, and the same for every store.

use std::collections::BTreeMap;

use super::compare::Outcome;
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
    pub(in crate::store) expired: u64,
    pub(in crate::store) extra: u64,
    pub(in crate::store) conflict: u64,
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
    /// Enters a batch. `own`: the rows that its source covers already; `outcome`: what becomes of its samples. Returns how many rejects
    /// are new.
    pub(in crate::store) fn take(
        &mut self,
        batch: &Batch,
        own: &RowSet,
        outcome: &Outcome,
        rejected: &mut Vec<RejectedRows>,
    ) -> u64 {
        self.conflict += outcome.conflicts;
        self.newest = self.newest.max(batch.time_ms.iter().copied().max());
        if !own.overlaps(batch.rows) {
            self.valid += batch.row.len() as u64;
            self.duplicate += outcome.duplicates();
            self.expired += outcome.expired();
            self.rows.insert(batch.rows);
            return self.take_rejects(batch, &RowSet::from(batch.rows), rejected);
        }
        for (at, row) in batch.row.iter().enumerate() {
            let (is_duplicate, is_expired) = (outcome.is_duplicate(at), outcome.is_expired(at));
            if !own.contains(*row) {
                self.valid += 1;
                self.duplicate += u64::from(is_duplicate);
                self.expired += u64::from(is_expired);
            } else if !is_duplicate && !is_expired {
                // Another content than what was there before: not one of the source's rows as the ledger counts them.
                self.extra += 1;
            }
        }
        let fresh = RowSet::from(batch.rows).minus(own);
        self.rows.extend(&fresh);
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
