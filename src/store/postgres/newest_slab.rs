//! `newest` for slabs. Most series have their newest sample in the last slab or two of their block, which are read whole. Of the others
//! only the heads are looked through, which say what a slab has; then those slabs are read that may have the newest sample of a series.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::pin;

use futures_util::TryStreamExt;

use super::error::Result;
use super::newest::{Best, better, since};
use super::slab::{self, Head};
use super::snapshot::Asked;
use crate::model::{BlockId, SeriesId, TimeMs};
use crate::store::Ids;

/// How many slabs of each block are read whole, in a first and a second question.
const READ_WHOLE: [i64; 2] = [1, 4];

/// How far the slabs of a block were looked through.
struct Search {
    /// Those of its series that are wanted.
    series: HashSet<SeriesId>,
    /// The slabs before this one (by t_max and id) come next.
    before: (TimeMs, i64),
}

impl Search {
    /// Whether a slab that comes next may have something that is newer than what is known: it comes before the last one that was read.
    fn may_go_on(&self, best: &Best) -> bool {
        self.series.iter().any(|series| best.get(series).is_none_or(|(time, id, _)| (*time, *id) < self.before))
    }
}

type Searches = BTreeMap<BlockId, Search>;

/// The newest samples of these series in slabs that begin between two midnights.
pub(super) async fn of_slabs(asked: Asked<'_>, wanted: &[Ids], begins: (TimeMs, TimeMs), best: &mut Best) -> Result<()> {
    let mut searches = Searches::new();
    for ids in wanted {
        let start = || Search { series: HashSet::new(), before: (TimeMs::MAX, i64::MAX) };
        searches.entry(BlockId::of(ids.gpu)).or_insert_with(start).series.insert(ids.series);
    }
    for limit in READ_WHOLE {
        if !searches.is_empty() {
            last_slabs(asked, &mut searches, begins, limit, best).await?;
        }
    }
    if searches.is_empty() {
        return Ok(());
    }
    let heads = candidates(asked, &searches, begins, best).await?;
    read(asked, &heads, &searches, best).await
}

/// What the next slabs of each block are found by.
#[derive(Default)]
struct Places {
    blocks: Vec<BlockId>,
    since: Vec<TimeMs>,
    t_max: Vec<TimeMs>,
    ids: Vec<i64>,
}

/// The next slabs of each block, the latest first.
fn next_slabs(searches: &Searches, best: &Best, columns: &str, limit: &str) -> (String, Places) {
    let mut places = Places::default();
    for (block, search) in searches {
        places.blocks.push(*block);
        places.since.push(since(&search.series, best));
        places.t_max.push(search.before.0);
        places.ids.push(search.before.1);
    }
    let sql = format!(
        "SELECT s.* FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::bigint[]) AS w (block, since, t_max, id) \
          CROSS JOIN LATERAL (SELECT {columns} FROM sample_slab q \
            WHERE q.block_id = w.block AND q.t_max >= w.since AND q.t_max <= w.t_max AND q.t_min >= $5 AND q.t_min < $6 \
              AND (q.t_max, q.id) < (w.t_max, w.id) ORDER BY q.t_max DESC, q.id DESC {limit}) s"
    );
    (sql, places)
}

/// Reads so many slabs of each block; leaves the searches that are to go on.
async fn last_slabs(
    asked: Asked<'_>,
    searches: &mut Searches,
    (from, before): (TimeMs, TimeMs),
    limit: i64,
    best: &mut Best,
) -> Result<()> {
    let (sql, places) = next_slabs(searches, best, slab::COLUMNS, &format!("LIMIT {limit}"));
    let Places { blocks, since, t_max, ids } = &places;
    let mut rows = pin!(asked.rows(&sql, &[blocks, since, t_max, ids, &from, &before]).await?);
    let mut found: HashMap<BlockId, i64> = HashMap::new();
    while let Some(row) = asked.session.within(rows.try_next()).await? {
        let slab = slab::decode(asked.session, &row)?;
        let Some(search) = searches.get_mut(&slab.block) else { continue };
        *found.entry(slab.block).or_default() += 1;
        search.before = search.before.min((slab.t_max, slab.id));
        for (series, time, value) in slab.newest(|id| search.series.contains(&id)) {
            better(best, series, time, slab.id, value);
        }
    }
    // There are no more slabs, or none that could change anything.
    searches.retain(|block, search| found.get(block) == Some(&limit) && search.may_go_on(best));
    Ok(())
}

/// The heads of those of the other slabs that may have the newest sample of a series.
async fn candidates(asked: Asked<'_>, searches: &Searches, begins: (TimeMs, TimeMs), best: &Best) -> Result<Vec<Head>> {
    let (sql, places) = next_slabs(searches, best, slab::HEAD_COLUMNS, "");
    let Places { blocks, since, t_max, ids } = &places;
    let mut rows = pin!(asked.rows(&sql, &[blocks, since, t_max, ids, &begins.0, &begins.1]).await?);
    // Of each series there is a sample at this time or later.
    let mut floors: HashMap<SeriesId, TimeMs> = best.iter().map(|(series, (time, ..))| (*series, *time)).collect();
    let mut heads = Vec::new();
    while let Some(row) = asked.session.within(rows.try_next()).await? {
        let head = slab::head(asked.session, &row)?;
        let Some(search) = searches.get(&head.block) else { continue };
        let mut may_be_newest = false;
        for series in head.series.iter().filter(|series| search.series.contains(series)) {
            let floor = floors.entry(*series).or_insert(TimeMs::MIN);
            may_be_newest |= head.t_max >= *floor;
            *floor = (*floor).max(head.t_min);
        }
        if may_be_newest {
            heads.push(Head { series: Vec::new(), ..head });
        }
    }
    Ok(heads)
}

/// Reads slabs, and keeps the newest samples.
async fn read(asked: Asked<'_>, heads: &[Head], searches: &Searches, best: &mut Best) -> Result<()> {
    if heads.is_empty() {
        return Ok(());
    }
    let columns = slab::COLUMNS.split(", ").map(|column| format!("s.{column}")).collect::<Vec<_>>().join(", ");
    let sql = format!(
        "SELECT {columns} FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::timestamptz[]) AS w (block, id, t_min, t_max) \
           JOIN sample_slab s ON s.block_id = w.block AND s.t_max = w.t_max AND s.t_min = w.t_min AND s.id = w.id"
    );
    let blocks: Vec<BlockId> = heads.iter().map(|head| head.block).collect();
    let ids: Vec<i64> = heads.iter().map(|head| head.id).collect();
    let t_min: Vec<TimeMs> = heads.iter().map(|head| head.t_min).collect();
    let t_max: Vec<TimeMs> = heads.iter().map(|head| head.t_max).collect();
    let mut rows = pin!(asked.rows(&sql, &[&blocks, &ids, &t_min, &t_max]).await?);
    while let Some(row) = asked.session.within(rows.try_next()).await? {
        let slab = slab::decode(asked.session, &row)?;
        let search = searches.get(&slab.block);
        for (series, time, value) in slab.newest(|id| search.is_some_and(|search| search.series.contains(&id))) {
            better(best, series, time, slab.id, value);
        }
    }
    Ok(())
}
