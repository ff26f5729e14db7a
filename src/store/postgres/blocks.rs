//! The table `gpu_block`: of each of a block's 16 GPUs, from when to when it has samples, and which commit wrote to the block last. Its rows
//! are what commits and maintenance lock. Of 10,000 GPUs there are 625, so a commit that has something of all of them changes few rows, each
//! within its page.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use tokio_postgres::Row;

use crate::model::{BlockId, TimeMs};
use crate::store::chunk::Spans;

/// What a GPU's row and its block's say of its times. Where nothing was written by programs that know blocks, the times are in the table
/// `gpu` still; later, they are there no more than history.
const FIRST_SEEN: &str = "coalesce(b.first_seen[(g.id & 15) + 1], g.first_seen)";
const LAST_SEEN: &str = "coalesce(b.last_seen[(g.id & 15) + 1], g.last_seen)";

/// GPUs as readers know them. A schema that is not migrated yet has no blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) has_blocks: bool,
}

impl Seen {
    /// The GPUs that meet these conditions on `g`, and have samples: a table of a query that goes through all of them. Its times are
    /// worked out before anything is sorted, which would carry the times of the whole block along.
    pub(super) fn gpus(self, conditions: &str) -> String {
        let (first, last, blocks) = self.times();
        format!(
            "(SELECT g.id, g.cluster, g.hostname, g.gpu_index, g.uuid, g.mig_instance, {first} AS first_seen, {last} AS last_seen \
                FROM gpu g{blocks} WHERE {first} IS NOT NULL{conditions} OFFSET 0) g"
        )
    }

    /// The time of a GPU's first sample, the time of its last one, and what these are to be joined with, after `gpu g`.
    pub(super) fn times(self) -> (&'static str, &'static str, &'static str) {
        if self.has_blocks {
            (FIRST_SEEN, LAST_SEEN, " LEFT JOIN gpu_block b ON b.id = g.id >> 4")
        } else {
            ("g.first_seen", "g.last_seen", "")
        }
    }
}

/// Locks blocks in the order of ids.
pub(super) const LOCK: &str =
    "SELECT id, last_seen, commit_token FROM gpu_block WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";

/// Locks blocks in the order of ids, widens the times of their GPUs and leaves a token, in one statement; returns what they said before.
/// $2 and $3 have 16 times for each id of $1; infinite ones where there is nothing of a GPU: an array with nulls would have to be walked
/// through to find its middle. Each time by itself: that takes a third of the time that it takes to make tables of arrays.
pub(super) static UPDATE: LazyLock<String> = LazyLock::new(|| {
    let widened = |column: &str, wider: &str, parameter: &str, nothing: &str| {
        let time = |place| {
            format!("nullif({wider}(l.{column}[{place}], ({parameter}::timestamptz[])[l.before + {place}]), '{nothing}')")
        };
        (1..=BlockId::GPUS).map(time).collect::<Vec<_>>().join(", ")
    };
    format!(
        "WITH n AS (SELECT * FROM unnest($1::bigint[]) WITH ORDINALITY AS n (id, nth)), \
         l AS (SELECT b.id, (n.nth::int - 1) * {} AS before, b.first_seen, b.last_seen, b.commit_token FROM gpu_block b JOIN n ON n.id = b.id \
                ORDER BY b.id FOR NO KEY UPDATE OF b) \
         UPDATE gpu_block b SET first_seen = ARRAY[{}], last_seen = ARRAY[{}], commit_token = $4 \
         FROM l WHERE b.id = l.id RETURNING l.id, l.last_seen, l.commit_token",
        BlockId::GPUS,
        widened("first_seen", "least", "$2", "infinity"),
        widened("last_seen", "greatest", "$3", "-infinity"),
    )
});

/// What a block's row said under its lock, before this commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BlockState {
    /// By place.
    pub(super) last_seen: [Option<TimeMs>; BlockId::GPUS],
    pub(super) token: Option<i64>,
}

/// The states in the rows of [`LOCK`] and [`UPDATE`].
pub(super) fn states(rows: &[Row]) -> HashMap<BlockId, BlockState> {
    let state = |row: &Row| {
        let mut last_seen = [None; BlockId::GPUS];
        for (place, time) in last_seen.iter_mut().zip(row.get::<_, Vec<Option<TimeMs>>>(1)) {
            *place = time;
        }
        (row.get(0), BlockState { last_seen, token: row.get(2) })
    };
    rows.iter().map(state).collect()
}

/// The parameters of [`UPDATE`].
pub(super) struct Changes {
    pub(super) ids: Vec<BlockId>,
    pub(super) oldest: Vec<TimeMs>,
    pub(super) newest: Vec<TimeMs>,
}

impl Changes {
    /// Those that a commit makes which has samples of these GPUs.
    pub(super) fn new(spans: &Spans) -> Self {
        let mut blocks: BTreeMap<BlockId, [(TimeMs, TimeMs); BlockId::GPUS]> = BTreeMap::new();
        for (gpu, span) in spans {
            blocks.entry(BlockId::of(*gpu)).or_insert([(TimeMs::MAX, TimeMs::MIN); BlockId::GPUS])[BlockId::place(*gpu)] = *span;
        }
        let (oldest, newest) = blocks.values().flatten().copied().unzip();
        Self { ids: blocks.into_keys().collect(), oldest, newest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::GpuId;

    #[test]
    fn a_commit_changes_blocks_in_the_order_of_ids() {
        let at = TimeMs::from_millis;
        let spans = Spans::from(
            [(33, (1, 2)), (3, (5, 9)), (4, (6, 6))].map(|(gpu, (first, last))| (GpuId::from_store(gpu), (at(first), at(last)))),
        );
        let changes = Changes::new(&spans);
        assert_eq!(changes.ids, [BlockId::from_store(0), BlockId::from_store(2)]);
        assert_eq!((changes.oldest.len(), changes.newest.len()), (32, 32));
        assert_eq!((changes.oldest[3], changes.newest[3], changes.oldest[17]), (at(5), at(9), at(1)));
        assert_eq!((changes.oldest[5], changes.newest[5]), (TimeMs::MAX, TimeMs::MIN));
    }
}
