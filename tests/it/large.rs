//! Entries and dictionaries that are larger than the memory of the collector that meets them.

use crate::support::app::{Role, wait_for};
use crate::support::place::Place;

/// Memory of a small pod: the address space, of which the program itself has a part.
const MEMORY: u64 = 700 << 20;
const ENTRIES: usize = 4;
const ENTRY_BYTES: usize = 100 << 20;
const GROUP: &str = "collectors";

impl Place {
    /// With a collector that is called `one`, and has time where Redis is slow.
    async fn of_one() -> Self {
        let mut place = Self::new().await;
        place.app = place.app.with("MALLOC_ARENA_MAX", "1").with("TELEMETRY__REDIS__CONSUMER", "one");
        place.app = place.app.with("TELEMETRY__REDIS__COMMAND_TIMEOUT", "10s");
        place
    }

    /// A collector that has no more memory than a small pod.
    fn small_collector(&self) -> Role {
        self.app.start_with_memory(MEMORY, &["collect"])
    }

    /// Adds entries of junk, and has a consumer read them that says nothing more.
    fn add_junk(&self, consumer: &str) {
        let stream = "{telemetry:1}:stream";
        self.redis.ok(&["XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM"]);
        let script = "redis.call('XADD', KEYS[1], '*', 's', ARGV[1], 'f', '0', 'e', '10', 'd', string.rep(string.rep('x', 1024), ARGV[2] / 1024)) \
                      redis.call('XREADGROUP', 'GROUP', ARGV[3], ARGV[4], 'COUNT', 1, 'STREAMS', KEYS[1], '>') return 1";
        for n in 1..=ENTRIES {
            self.redis.ok(&["EVAL", script, "1", stream, &format!("{n:032x}"), &ENTRY_BYTES.to_string(), GROUP, consumer]);
        }
    }

    /// All that was added becomes dead letters, and what is healthy is stored.
    async fn is_mended_by(&self, collect: &mut Role, letters: usize, words: &str) {
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

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_killed_a_collector_do_not_kill_it_when_it_starts_again() {
    let place = Place::of_one().await;
    place.add_junk("one");
    let mut collect = place.small_collector();
    place.is_mended_by(&mut collect, ENTRIES, "holds 104857600 bytes, but a batch has at most 34603008").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_killed_a_collector_do_not_kill_the_next_one() {
    let place = Place::of_one().await;
    place.add_junk("dead");
    let mut collect = place.small_collector();
    place.is_mended_by(&mut collect, ENTRIES, "holds 104857600 bytes, but a batch has at most 34603008").await;
}
