//! The mark that tells the queue which store a group commits to: a store that is refused leaves none, the right one puts it back.

use crate::support::app::{App, wait_for};
use crate::support::place::{Place, ready};
use crate::support::postgres::Server;
use crate::support::redis::Reply;

const META: &str = "{telemetry:0}:meta";
const MARK: &str = "store:collectors";

impl Place {
    fn mark(&self) -> Reply {
        self.redis.command(&["HGET", META, MARK])
    }

    /// The program with the same queue and another store.
    async fn elsewhere(&self) -> App {
        let other = Server::shared().empty_database().await;
        App::new(&self.redis.url(), &other.url).with("TELEMETRY__REDIS__PARTITIONS", "1")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_refused_leaves_no_mark() {
    let place = Place::of_one_partition().await;
    let mut collect = place.app.start(&["collect"]);
    let (csv, holds) = place.app.export("a.csv", 2, 20, 1);
    place.store(&csv, "m");
    collect.signal("TERM");
    assert_eq!(collect.wait(), 0, "{}", collect.log());
    let mark = place.mark();
    assert!(matches!(mark, Reply::Text(_)), "{mark:?}");
    // As after a Redis that was emptied and filled again.
    place.redis.ok(&["HDEL", META, MARK]);

    let other = place.elsewhere().await;
    for _ in 0..2 {
        other.run(&["collect"]).exits(1).says(&["is older than what was committed", "telemetry replay --all"]);
        assert!(!matches!(place.mark(), Reply::Text(_)), "{:?}", place.mark());
    }
    // The right one is taken.
    let collect = place.app.start(&["collect"]);
    ready(&collect).await;
    assert_eq!(place.mark(), mark);
    place.store(&csv, "m");
    holds.arrive(&place.database, "m").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_collector_puts_back_the_mark_of_its_store() {
    let place = Place::of_one_partition().await;
    let collect = place.app.start(&["collect"]);
    ready(&collect).await;
    let mark = place.mark();
    // Nothing is committed that another store could be compared with.
    place.redis.ok(&["FLUSHALL"]);
    wait_for("the mark", || async { place.mark() == mark }).await;

    let other = place.elsewhere().await;
    other.run(&["migrate"]).exits(0);
    let checked = other.run(&["check"]).exits(1);
    for words in ["FAILED   postgres  store", "is another store", "DATABASE_URL"] {
        assert!(checked.stdout.contains(words), "{words}: {}", checked.stdout);
    }
    let checked = place.app.run(&["check"]);
    assert!(checked.stdout.contains("the one that the group collectors commits to"), "{}", checked.stdout);
    other.run(&["collect"]).exits(1).says(&["is another store"]);
    assert_eq!(place.mark(), mark);
}
