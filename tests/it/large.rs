//! Entries and dictionaries that are larger than the memory of the collector that meets them.

use crate::collect::{regular, source};
use crate::support::app::{App, Role, wait_for};
use crate::support::place::{Place, ready};
use crate::support::postgres::Server;
use crate::support::redis::RedisServer;

/// Memory of a small pod: the address space, of which the program itself has a part.
const MEMORY: u64 = 700 << 20;
const ENTRIES: usize = 4;
const ENTRY_BYTES: usize = 100 << 20;
const GROUP: &str = "collectors";

impl Place {
    /// With a collector that is called `one`, and has time where Redis is slow.
    async fn of_one() -> Self {
        // Hundreds of MiB, and nothing of it is to last: it is not written to disk.
        let redis = RedisServer::start_with(&["--appendonly", "no"]);
        let database = Server::shared().empty_database().await;
        let app = App::new(&redis.url(), &database.url);
        let mut place = Self { redis, database, app };
        place.app = place.app.with("MALLOC_ARENA_MAX", "1").with("TELEMETRY__REDIS__CONSUMER", "one");
        place.app = place.app.with("TELEMETRY__REDIS__COMMAND_TIMEOUT", "10s");
        place
    }

    /// A collector that has no more memory than a small pod.
    fn small_collector(&self) -> Role {
        self.app.start_with_memory(MEMORY, &["collect"])
    }

    /// Adds entries of junk to a partition, and has a consumer read them that says nothing more.
    fn add_junk(&self, partition: u16, entries: usize, junk: &[u8], consumer: &str) {
        let stream = format!("{{telemetry:{partition}}}:stream");
        self.redis.ok(&["XGROUP", "CREATE", &stream, GROUP, "0", "MKSTREAM"]);
        let read = "redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1, 'STREAMS', KEYS[1], '>') return 1";
        for n in 1..=entries {
            self.redis.add_entry(partition, &source(n * 16 + usize::from(partition)), (0, 10), junk);
            self.redis.ok(&["EVAL", read, "1", &stream, GROUP, consumer]);
        }
    }

    /// All that was added becomes dead letters, and what is healthy is stored.
    async fn is_mended_by(&self, collect: &mut Role, letters: usize, words: &str) {
        ready(collect).await;
        wait_for("dead letters", || async {
            let done = self.app.run(&["dead-letters", "list", "--json"]).exits(0);
            let listed: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
            let listed = listed.as_array().unwrap();
            assert!(listed.iter().all(|letter| letter["reason"].to_string().contains(words)), "{listed:?}");
            listed.len() == letters
        })
        .await;
        let (csv, holds) = self.app.export("a.csv", 4, 20, 1);
        self.stream(&csv, "healthy", &["--until", "stored"]).exits(0);
        holds.arrive(&self.database, "healthy").await;
        wait_for("an empty queue", || async { self.redis.int(&["XLEN", "{telemetry:1}:stream"]) == 0 }).await;
        assert!(collect.ended().is_none(), "{}", collect.log());
    }
}

/// Whoever reads them first may die of them; nobody does again.
#[tokio::test(flavor = "multi_thread")]
async fn entries_that_killed_a_collector_kill_none_that_starts_after_it() {
    for who_died in ["one", "another"] {
        let place = Place::of_one().await;
        place.add_junk(1, ENTRIES, &vec![b'x'; ENTRY_BYTES], who_died);
        let mut collect = place.small_collector();
        place.is_mended_by(&mut collect, ENTRIES, "holds 104857600 bytes, but a batch has at most 34603008").await;
    }
}

/// As long as a batch may be, in each of many partitions: what was left of them is fetched one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn the_longest_entries_that_were_delivered_before_are_not_fetched_all_at_once() {
    const PARTITIONS: u16 = 16;
    let mut place = Place::of_one().await;
    place.app = place.app.with("TELEMETRY__REDIS__PARTITIONS", &PARTITIONS.to_string());
    let junk = vec![b'x'; 31 << 20];
    for partition in 0..PARTITIONS {
        place.add_junk(partition, 1, &junk, if partition % 2 == 0 { "one" } else { "another" });
    }
    let mut collect = place.small_collector();
    place.is_mended_by(&mut collect, PARTITIONS.into(), "not a batch or dictionary of this pipeline").await;
}

/// One that is as long as a dictionary can be, in each of many partitions, all asked for at once: they wait for each other.
#[tokio::test(flavor = "multi_thread")]
async fn the_longest_dictionaries_are_not_fetched_all_at_once() {
    const PARTITIONS: u16 = 16;
    let mut place = Place::of_one().await;
    place.app = place.app.with("TELEMETRY__REDIS__PARTITIONS", &PARTITIONS.to_string());
    for partition in 0..PARTITIONS {
        let key = format!("{{telemetry:{partition}}}:dict:{}", "07".repeat(16));
        // 32 MiB of zeros, which are nobody's dictionary.
        place.redis.ok(&["SETRANGE", &key, "33554431", "x"]);
        let number = usize::from(partition) + 1;
        place.redis.add_entry(partition, &source(number), (0, 2), &regular(number as u128, 2));
    }
    let mut collect = place.small_collector();
    place.is_mended_by(&mut collect, PARTITIONS.into(), "digest").await;
}
