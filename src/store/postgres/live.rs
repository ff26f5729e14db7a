//! The form of a store that a fleet is written to live: sets of series, blocks of GPUs, slabs.
//!
//! Programs of earlier versions do not know it. So before the first program writes in it, that is *announced*: programs that start are
//! refused by what the schema says of itself, and a collector of an older program that still runs is refused by the triggers on `gpu` and
//! `series`, which look for the same note. Whoever is in the middle of a commit is waited for, so that what they have written is known
//! when the times of GPUs move into their blocks.

use super::error::Result;
use super::pool::Session;
use super::series::Caches;

const IS_ANNOUNCED: &str = "SELECT FROM schema_step WHERE name = 'live' AND compatible_from = version";

/// Commits of older programs lock `gpu` and `series` as they write to them.
const WAIT_FOR_WRITERS: &str = "LOCK TABLE gpu, series IN SHARE ROW EXCLUSIVE MODE";

const FILL_BLOCKS: &str = "INSERT INTO gpu_block (id, first_seen, last_seen) \
     SELECT b.id, array_agg(g.first_seen ORDER BY p.place), array_agg(g.last_seen ORDER BY p.place) \
       FROM (SELECT DISTINCT id >> 4 AS id FROM gpu) b CROSS JOIN generate_series(0, 15) p (place) \
       LEFT JOIN gpu g ON g.id = b.id * 16 + p.place \
      GROUP BY b.id ORDER BY b.id";

const NOTE: &str = "UPDATE schema_step SET compatible_from = version WHERE name = 'live'; \
     INSERT INTO schema_migration (version, name, checksum) \
     SELECT version, name, checksum FROM schema_step WHERE name = 'live' ON CONFLICT (version) DO NOTHING";

/// Makes sure that this form is announced: to be called, outside of any transaction, before anything is written in it. What is known to the
/// caches costs nothing.
pub(super) async fn announce(session: &Session, caches: &Caches) -> Result<()> {
    if caches.is_announced() {
        return Ok(());
    }
    let epoch = caches.epoch();
    if session.query(IS_ANNOUNCED, &[]).await?.is_empty() {
        session.batch("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
        session.batch(WAIT_FOR_WRITERS).await?;
        // Another one may have done it meanwhile.
        if session.query(IS_ANNOUNCED, &[]).await?.is_empty() {
            session.batch(FILL_BLOCKS).await?;
            session.batch(NOTE).await?;
        }
        session.batch("COMMIT").await?;
    }
    caches.know_announced(epoch);
    Ok(())
}
