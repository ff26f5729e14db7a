//! What others wrote into the keys that collectors and streamers tell each other by.

use crate::support::app::{App, Role, text, wait_for};
use crate::support::place::{Place, ready};
use crate::support::postgres::Server;
use crate::support::redis::{RedisServer, Reply};

const META: &str = "{telemetry:0}:meta";
const COMMITTED: &str = "{telemetry:0}:committed:collectors";

impl Place {
    pub(super) async fn of_one_partition() -> Self {
        let redis = RedisServer::start();
        let database = Server::shared().empty_database().await;
        let app = App::new(&redis.url(), &database.url).with("TELEMETRY__REDIS__PARTITIONS", "1");
        Self { redis, database, app }
    }

    fn field(&self, key: &str, field: &str) -> Reply {
        self.redis.command(&["HGET", key, field])
    }
}

async fn ends(mut collect: Role) {
    ready(&collect).await;
    collect.signal("TERM");
    assert_eq!(collect.wait(), 0, "{}", collect.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_mark_that_is_malformed_is_replaced_and_another_refuses() {
    let place = Place::of_one_partition().await;
    ends(place.app.start(&["collect"])).await;
    let mark = place.field(META, "store:collectors");
    place.redis.ok(&["HSET", META, "store:collectors", "nonsense"]);
    let collect = place.app.start(&["collect"]);
    ready(&collect).await;
    wait_for("a count", || async {
        collect.metric("telemetry_queue_malformed_total{key=\"store\"}").is_some_and(|times| times >= 1.0)
    })
    .await;
    let said = collect.log();
    for words in ["WARN", "the mark of the store in the field store:collectors", META, "malformed", "it is nonsense", "HDEL"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let (csv, holds) = place.app.export("a.csv", 2, 20, 1);
    place.store(&csv, "m");
    holds.arrive(&place.database, "m").await;
    ends(collect).await;
    assert_eq!(place.field(META, "store:collectors"), mark, "its own mark is there again");

    let other = Server::shared().empty_database().await;
    let done = App::new(&place.redis.url(), &other.url).with("TELEMETRY__REDIS__PARTITIONS", "1").run(&["collect"]).exits(1);
    done.says(&["this PostgreSQL is another store", "telemetry replay --all"]);
    assert_eq!(place.field(META, "store:collectors"), mark);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_row_that_is_malformed_is_said_and_written_anew() {
    let place = Place::of_one_partition().await;
    let collect = place.app.start(&["collect"]);
    let (csv, _) = place.app.export("a.csv", 2, 20, 1);
    place.store(&csv, "c");
    let Reply::List(sources) = place.redis.command(&["HKEYS", COMMITTED]) else { panic!("the sources") };
    let [Reply::Text(source)] = &sources[..] else { panic!("{sources:?}") };
    let committed = place.field(COMMITTED, source);

    // All is stored, but a streamer cannot know.
    place.redis.ok(&["HSET", COMMITTED, source, "many"]);
    let mut stream = place.app.start(&["stream", "--csv", &csv, "--cluster", "c", "--until", "stored"]);
    wait_for("a count", || async {
        stream.metric("telemetry_queue_malformed_total{key=\"committed\"}").is_some_and(|times| times >= 2.0)
    })
    .await;
    let said = stream.log();
    let which = format!("the committed row of source {source} in {COMMITTED}");
    for words in
        ["WARN", &which, "malformed", "it is many", "is not told what is stored", "restart a collector of the group collectors"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(said.matches(&which).count(), 1, "said once: {said}");
    assert!(stream.ended().is_none(), "{said}");
    // What is said there helps.
    ends(collect).await;
    let collect = place.app.start(&["collect"]);
    assert_eq!(stream.wait(), 0, "{}", stream.log());
    assert_eq!(place.field(COMMITTED, source), committed);

    // A row that is lost is known again as well.
    place.redis.ok(&["DEL", COMMITTED]);
    ends(collect).await;
    let collect = place.app.start(&["collect"]);
    place.store(&csv, "c");
    assert_eq!(place.field(COMMITTED, source), committed);

    // The source's next rows do the same, without a restart.
    place.redis.ok(&["HSET", COMMITTED, source, "many"]);
    let (more, _) = place.app.export("more.csv", 2, 40, 2);
    let rows = std::fs::read_to_string(&more).unwrap();
    let longer = format!("{}{}", std::fs::read_to_string(&csv).unwrap(), rows.split_once('\n').unwrap().1);
    let path = place.app.dir.path().join("a.csv");
    std::fs::write(&path, longer).unwrap();
    place.store(text(&path), "c");
    assert_eq!(place.field(COMMITTED, source), Reply::Text((2 * 60 * 10).to_string()));
    ends(collect).await;
}
