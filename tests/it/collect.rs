//! What a collector does with entries that are not what they should be, and with a store that does not let it.

mod maintenance;
mod malformed;
mod marks;
mod retention;

use std::process::Command;

use telemetry::model::DictionaryId;
use telemetry::transport::Consumer;
use telemetry::transport::redis::RedisTransport;

use crate::support::app::{App, Holds, text, wait_for};
use crate::support::place::{Place, ready};
use crate::support::postgres::{PASSWORD, Server};
use crate::support::redis::{RedisServer, Reply, config};

const PARTITIONS: u16 = 8;

impl Place {
    fn letters(&self) -> Vec<serde_json::Value> {
        let done = self.app.run(&["dead-letters", "list", "--json"]).exits(0);
        serde_json::from_str::<serde_json::Value>(&done.stdout).unwrap().as_array().unwrap().clone()
    }

    async fn scalar(&self, sql: &str) -> i64 {
        self.database.client().await.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Reads the only entry as another collector, which never says anything again. Returns the name under which attempts to decode it
    /// are noted.
    async fn taken_by_one_that_died(&self) -> String {
        let dead = telemetry::config::Redis {
            prefix: "telemetry".into(),
            partitions: telemetry::model::Partitions::new(PARTITIONS).unwrap(),
            consumer: "dead".into(),
            ..config(&self.redis.url())
        };
        let queue = RedisTransport::connect(&dead).await.unwrap();
        let mut taken = Vec::new();
        for partition in Consumer::partitions(&*queue) {
            taken.extend(queue.receive(partition, 10).await.unwrap());
        }
        let [delivery] = &taken[..] else { panic!("{taken:?}") };
        let receipt = &delivery.receipt;
        format!("{}/{}/{}/{}/decoding", receipt.partition, receipt.entry, delivery.source, delivery.rows)
    }

    fn store(&self, csv: &str, cluster: &str) {
        self.stream(csv, cluster, &["--until", "stored"]).exits(0);
    }
}

/// A source's id.
pub(super) fn source(n: usize) -> String {
    format!("{n:032x}")
}

fn varint(mut number: u64, to: &mut Vec<u8>) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

/// A field of a protobuf message: bytes, or numbers that are packed.
fn field(tag: u64, content: &[u8], to: &mut Vec<u8>) {
    varint(tag << 3 | 2, to);
    varint(content.len() as u64, to);
    to.extend_from_slice(content);
}

/// A good envelope around any message.
fn seal(version: u8, message: &[u8]) -> Vec<u8> {
    let mut sealed = vec![b'T', b'L', b'B', version];
    sealed.extend(zstd::bulk::compress(message, 19).unwrap());
    sealed
}

/// A regular batch of one series and so many rows: a few hundred bytes, however many they are.
pub(super) fn regular(source: u128, rows: usize) -> Vec<u8> {
    let mut message = Vec::new();
    field(1, &source.to_be_bytes(), &mut message);
    field(2, &source.to_be_bytes(), &mut message);
    varint(7 << 3, &mut message);
    varint(rows as u64, &mut message);
    field(8, &[7; 16], &mut message);
    for tag in [9, 10, 12, 16] {
        field(tag, &[0], &mut message);
    }
    let (mut len, mut time) = (Vec::new(), Vec::new());
    varint(rows as u64, &mut len);
    varint(1_735_689_600_000 << 1, &mut time);
    field(11, &len, &mut message);
    field(14, &time, &mut message);
    // The second row is one further, and so on.
    let mut row_dd = vec![0; rows - 1];
    row_dd[0] = 2;
    field(13, &row_dd, &mut message);
    field(15, &vec![0; rows - 1], &mut message);
    field(17, &vec![0; rows], &mut message);
    seal(1, &message)
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_entries_are_buried_at_once_and_hold_nobody_up() {
    let place = Place::new().await;
    let junk = 400;
    for n in 1..=junk {
        place.redis.add_entry((n % usize::from(PARTITIONS)) as u16, &source(n), (0, 10), &[b'x'; 40]);
    }
    // A fleet whose edges were upgraded first: what they sent stays.
    for n in 1..=40 {
        place.redis.add_entry((n % usize::from(PARTITIONS)) as u16, &source(1000 + n), (0, 10), &seal(2, b"of a later version"));
    }
    let mut collect = place.app.start(&["collect"]);
    let (csv, holds) = place.app.export("a.csv", 4, 20, 1);
    place.store(&csv, "healthy");
    holds.arrive(&place.database, "healthy").await;
    wait_for("dead letters of all that is damaged", || async { place.letters().len() == junk }).await;
    assert_eq!(place.scalar("SELECT count(*) FROM batch_failure").await, 0, "nothing was tried again");
    wait_for("entries that are held back", || async { collect.metric("telemetry_held_back_entries") == Some(40.0) }).await;
    assert!(collect.log().contains("version 2 is not known here") && collect.log().contains("upgrade"), "{}", collect.log());
    let pending: i64 = (0..PARTITIONS)
        .map(|p| match place.redis.command(&["XPENDING", &format!("{{telemetry:{p}}}:stream"), "collectors"]) {
            Reply::List(summary) => match summary[0] {
                Reply::Int(n) => n,
                _ => 0,
            },
            other => panic!("{other:?}"),
        })
        .sum();
    assert_eq!(pending, 40, "they are in the queue, and nothing else is");
    assert!(collect.get("/readyz").is_some_and(|(status, _)| status == 200), "{}", collect.log());
    collect.signal("TERM");
    assert_eq!(collect.wait(), 0, "{}", collect.log());
}

/// Whoever forges entries names any rows, or none that can be read: nobody's payload is lost for that.
#[tokio::test(flavor = "multi_thread")]
async fn letters_of_the_same_rows_are_all_kept_and_counted() {
    let place = Place::new().await;
    let (unreadable, forged) = (700, 3);
    for n in 0..unreadable {
        place.redis.add_entry(0, "?", (0, 5), format!("unreadable {n}").as_bytes());
    }
    for n in 0..forged {
        place.redis.add_entry(1, &source(17), (0, 5), format!("forged {n}").as_bytes());
    }
    let collect = place.app.start(&["collect"]);
    let all = unreadable + forged;
    wait_for("all letters", || async { collect.metric("telemetry_dead_letters_total") == Some(f64::from(all)) }).await;
    wait_for("their number", || async { collect.metric("telemetry_dead_letters_kept") == Some(f64::from(all)) }).await;
    assert_eq!(place.letters().len(), all as usize);
    assert_eq!(place.scalar("SELECT count(DISTINCT payload) FROM dead_letter").await, i64::from(all));
    let id = place.scalar("SELECT id FROM dead_letter WHERE payload = 'forged 2'").await.to_string();
    let shown = place.app.run(&["dead-letters", "show", &id]).exits(0);
    assert!(shown.stdout.contains(&source(17)), "{}", shown.stdout);
    place.app.run(&["dead-letters", "retry", &id]).exits(1).says(&["still cannot be decoded"]);
    place.app.run(&["dead-letters", "drop", "--all"]).exits(0);
    assert!(place.letters().is_empty());
}

/// Within the memory of a small pod: what a few kilobytes unfold to is bounded before it is allocated.
#[tokio::test(flavor = "multi_thread")]
async fn what_unfolds_beyond_all_bounds_is_a_dead_letter() {
    let mut place = Place::new().await;
    place.app = place.app.with("MALLOC_ARENA_MAX", "1");
    let mut collect = place.app.start(&["collect"]);
    ready(&collect).await;
    let limited = Command::new("prlimit").arg(format!("--pid={}", collect.pid())).arg(format!("--as={}", 1 << 30)).status();
    assert!(limited.unwrap().success());

    let many = |tag: u64, elements: usize| {
        let mut message = Vec::with_capacity(2 * elements);
        (0..elements).for_each(|_| field(tag, b"", &mut message));
        seal(1, &message)
    };
    let dictionaries = many(8, 33_000_000);
    assert!(dictionaries.len() < 10_000, "{} bytes", dictionaries.len());
    let rows = regular(3, 4 << 20);
    assert!(rows.len() < 1000, "{} bytes", rows.len());
    let mut cluster = Vec::new();
    field(3, &vec![b'c'; 20 << 20], &mut cluster);
    let bombs = [
        (dictionaries, 10),
        (many(8, 10_000_000), 10),
        (rows, 4 << 20),
        (regular(4, (1 << 20) + 1), (1 << 20) + 1),
        (seal(1, &cluster), 1),
    ];
    for (n, (payload, rows)) in bombs.iter().enumerate() {
        place.redis.add_entry(n as u16, &source(n + 1), (0, *rows), payload);
    }
    let (csv, holds) = place.app.export("a.csv", 2, 20, 1);
    place.store(&csv, "healthy");
    wait_for("dead letters", || async { place.letters().len() == bombs.len() }).await;
    holds.arrive(&place.database, "healthy").await;
    assert!(collect.ended().is_none(), "{}", collect.log());
    let reasons: Vec<String> = place.letters().iter().map(|letter| letter["reason"].to_string()).collect();
    for words in ["unfolds to", "`dictionaries` has more than 512", "`cluster` has 20971520 bytes"] {
        assert!(reasons.iter().any(|reason| reason.contains(words)), "{words}: {reasons:?}");
    }
}

/// A dictionary of GPUs, each with eight texts of this length, and a batch of one row of each.
fn long_texts(source: u128, gpus: usize, length: usize) -> (DictionaryId, Vec<u8>, Vec<u8>) {
    let (mut dictionary, mut numbers, mut series) = (Vec::new(), Vec::new(), Vec::new());
    field(1, b"", &mut dictionary);
    for n in 0..gpus {
        let mut own = format!("{source}-{n}-").into_bytes();
        own.resize(length, b't');
        field(1, &own, &mut dictionary);
        let number = n as u64 + 1;
        [number, number, 0, number, number, number, number, number, number]
            .iter()
            .for_each(|number| varint(*number, &mut numbers));
        [n as u64, 0, 0, 0, 0, 0].iter().for_each(|number| varint(*number, &mut series));
    }
    field(2, &numbers, &mut dictionary);
    field(3, &series, &mut dictionary);
    let mut dictionary = seal(1, &dictionary);
    dictionary[2] = b'D';
    let id = DictionaryId::of(&dictionary);

    let mut message = Vec::new();
    field(1, &source.to_be_bytes(), &mut message);
    field(2, &source.to_be_bytes(), &mut message);
    field(3, b"long", &mut message);
    varint(7 << 3, &mut message);
    varint(gpus as u64, &mut message);
    field(8, &id.to_bytes(), &mut message);
    // Zigzag: the first of each is 0, every next one is one more.
    let mut ascending = vec![2; gpus];
    ascending[0] = 0;
    let mut times = Vec::new();
    varint(1_735_689_600_000 << 1, &mut times);
    times.resize(times.len() + gpus - 1, 0);
    for (tag, content) in [
        (9, vec![0; gpus]),
        (10, ascending.clone()),
        (11, vec![1; gpus]),
        (12, ascending),
        (14, times),
        (16, vec![0; gpus]),
        (17, vec![0; gpus]),
    ] {
        field(tag, &content, &mut message);
    }
    (id, dictionary, seal(1, &message))
}

/// What GPUs are called is bounded, and what dictionaries unfold to is given back once it is stored.
#[tokio::test(flavor = "multi_thread")]
async fn long_texts_neither_fill_a_collector_nor_stay_in_it() {
    let mut place = Place::new().await;
    place.app = place.app.with("MALLOC_ARENA_MAX", "1").with("TELEMETRY__COLLECT__MAX_MEMORY", "64MiB");
    let mut collect = place.app.start(&["collect"]);
    ready(&collect).await;
    let limited = Command::new("prlimit").arg(format!("--pid={}", collect.pid())).arg(format!("--as={}", 1 << 30)).status();
    assert!(limited.unwrap().success());
    const BATCHES: usize = 30;
    const GPUS: usize = 60;
    let add = |n: usize, length: usize| {
        let (id, dictionary, batch) = long_texts(n as u128 + 1, GPUS, length);
        let partition = n as u16 % PARTITIONS;
        place.redis.set_dictionary(partition, &id.to_string(), &dictionary);
        place.redis.add_entry(partition, &source(n + 1), (0, GPUS as u64), &batch);
    };
    (0..BATCHES).for_each(|n| add(n, 1 << 16));
    add(BATCHES, (1 << 16) + 1);
    wait_for("all GPUs", || async { place.scalar("SELECT count(*) FROM gpu").await == (BATCHES * GPUS) as i64 }).await;
    wait_for("a dead letter", || async { place.letters().len() == 1 }).await;
    assert!(place.letters()[0]["reason"].to_string().contains("`texts` has 65537 bytes"), "{:?}", place.letters());
    assert!(collect.ended().is_none(), "{}", collect.log());
}

/// What is kept under a dictionary's name and is longer than one can be is not read whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_dictionary_longer_than_any_is_damaged() {
    let mut place = Place::new().await;
    place.app = place.app.with("MALLOC_ARENA_MAX", "1");
    let mut collect = place.app.start(&["collect"]);
    ready(&collect).await;
    let limited = Command::new("prlimit").arg(format!("--pid={}", collect.pid())).arg(format!("--as={}", 1 << 30)).status();
    assert!(limited.unwrap().success());
    let key = format!("{{telemetry:1}}:dict:{}", "07".repeat(16));
    // 200 MiB of zeros. A script copies a value three times: for one of 500 MiB a busy machine needs longer than `redis.command_timeout`.
    place.redis.ok(&["SETRANGE", &key, "209715199", "x"]);
    place.redis.add_entry(1, &source(1), (0, 1), &regular(1, 2));
    place.redis.add_entry(1, &source(1), (0, 2), &regular(1, 2));
    wait_for("dead letters", || async { place.letters().len() == 2 }).await;
    let (csv, holds) = place.app.export("a.csv", 2, 20, 1);
    place.stream(&csv, "healthy", &["--until", "stored"]).exits(0);
    holds.arrive(&place.database, "healthy").await;
    assert!(collect.ended().is_none(), "{}", collect.log());
    assert!(collect.log().contains("longer than one can be"), "{}", collect.log());
}

/// Many of the largest batches there may be, at once: they wait for each other, within the budget.
#[tokio::test(flavor = "multi_thread")]
async fn the_largest_batches_wait_for_each_other() {
    let mut place = Place::new().await;
    place.app = place.app.with("MALLOC_ARENA_MAX", "1").with("TELEMETRY__COLLECT__MAX_MEMORY", "64MiB");
    let mut collect = place.app.start(&["collect"]);
    ready(&collect).await;
    let limited = Command::new("prlimit").arg(format!("--pid={}", collect.pid())).arg(format!("--as={}", 1 << 30)).status();
    assert!(limited.unwrap().success());
    for n in 0..32usize {
        // Its dictionary is not there: each ends as a dead letter after it was decoded a few times.
        place.redis.add_entry(n as u16 % PARTITIONS, &source(n + 1), (0, 1 << 20), &regular(n as u128 + 1, 1 << 20));
    }
    let (csv, holds) = place.app.export("a.csv", 2, 20, 1);
    place.store(&csv, "healthy");
    holds.arrive(&place.database, "healthy").await;
    wait_for("dead letters", || async { !place.letters().is_empty() }).await;
    assert!(place.letters()[0]["reason"].to_string().contains("is not in the queue"), "{:?}", place.letters());
    assert!(collect.ended().is_none(), "{}", collect.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_collectors_again_and_again_is_not_decoded_again() {
    let mut place = Place::new().await;
    place.app = place.app.with("TELEMETRY__REDIS__CLAIM_IDLE", "1s");
    let mut collect = place.app.start(&["collect"]);
    ready(&collect).await;
    collect.signal("TERM");
    assert_eq!(collect.wait(), 0, "{}", collect.log());
    let (csv, holds) = place.app.export("a.csv", 2, 20, 1);
    place.app.run(&["stream", "--csv", &csv, "--cluster", "k"]).exits(0);
    // Another one reads it, begins to decode it, and dies; the first delivery is not noted, a second one was.
    let entry = place.taken_by_one_that_died().await;
    let client = place.database.client().await;
    let note = "INSERT INTO batch_failure (entry, failures, last_reason, last_at) VALUES ($1, 1, '', now())";
    client.execute(note, &[&entry]).await.unwrap();

    // Twice is not enough: it is decoded, and the attempts are forgotten.
    let mut collect = place.app.start(&["collect"]);
    holds.arrive(&place.database, "k").await;
    assert_eq!(place.scalar("SELECT count(*) FROM batch_failure").await, 0, "it was decoded, and that is over");
    collect.signal("TERM");
    assert_eq!(collect.wait(), 0, "{}", collect.log());

    let (csv, holds) = place.app.export("b.csv", 2, 20, 2);
    place.app.run(&["stream", "--csv", &csv, "--cluster", "l"]).exits(0);
    let entry = place.taken_by_one_that_died().await;
    client.execute(&note.replace(", 1,", ", 2,"), &[&entry]).await.unwrap();
    let _collect = place.app.start(&["collect"]);
    wait_for("a dead letter", || async { place.letters().len() == 1 }).await;
    assert!(place.letters()[0]["reason"].to_string().contains("3 collectors began to decode it"), "{:?}", place.letters());
    assert_eq!(Holds::stored(&place.database, "l").await.rows(), 0);
    place.app.run(&["dead-letters", "retry", "--all"]).exits(0);
    holds.arrive(&place.database, "l").await;
}

/// Only a table's owner can add the partition of a new day. Whichever writer meets that, the collector ends and says so; a new one
/// says it at its start.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_ends_a_collector_whichever_writer_meets_it() {
    let place = Place::new().await;
    let admin = place.database.client().await;
    admin
        .batch_execute(&format!("CREATE ROLE collects LOGIN PASSWORD '{PASSWORD}'; GRANT ALL ON SCHEMA public TO collects"))
        .await
        .unwrap();
    let url = place.database.url.replace("postgres://postgres:", "postgres://collects:");
    let app = App::new(&place.redis.url(), &url);
    let mut collect = app.start(&["collect"]);
    let (csv, holds) = app.export("a.csv", 2, 20, 1);
    place.store(&csv, "r");
    holds.arrive(&place.database, "r").await;

    admin
        .batch_execute("ALTER TABLE sample_chunk OWNER TO postgres; GRANT ALL ON ALL TABLES IN SCHEMA public TO collects")
        .await
        .unwrap();
    let later = place.app.dir.path().join("later.csv");
    std::fs::write(&later, std::fs::read_to_string(&csv).unwrap().replace("\"2025-01-", "\"2025-03-")).unwrap();
    app.run(&["stream", "--csv", text(&later), "--cluster", "r"]).exits(0);
    wait_for("the collector's end", || {
        let log = std::fs::read_to_string(collect.log_path()).unwrap();
        async move { log.contains("error: ") }
    })
    .await;
    assert_eq!(collect.wait(), 2, "{}", collect.log());
    assert!(collect.log().contains("must be owner"), "{}", collect.log());

    let mut again = app.start(&["collect"]);
    assert_eq!(again.wait(), 2, "{}", again.log());
    for words in ["only its owner can add the partition of a new day", "collects"] {
        assert!(again.log().contains(words), "{words}: {}", again.log());
    }
    admin.batch_execute("ALTER TABLE sample_chunk OWNER TO collects").await.unwrap();
    admin.batch_execute("ALTER TABLE source OWNER TO postgres; REVOKE INSERT ON source FROM collects").await.unwrap();
    let mut again = app.start(&["collect"]);
    assert_eq!(again.wait(), 2, "{}", again.log());
    assert!(again.log().contains("read and write source is missing"), "{}", again.log());
    admin.batch_execute("GRANT SELECT, INSERT, UPDATE, DELETE ON source TO collects").await.unwrap();
    let _collect = app.start(&["collect"]);
    let both = holds.clone().plus(&holds);
    both.arrive(&place.database, "r").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_asks_postgresql() {
    let redis = RedisServer::start();
    let server = Server::start();
    let database = Server::empty_database(&server).await;
    let app = App::new(&redis.url(), &database.url);
    let collect = app.start(&["collect"]);
    ready(&collect).await;
    server.stop();
    let (status, said) = collect.get("/readyz").unwrap();
    assert!(status == 503 && said.contains("postgresql: PostgreSQL at 127.0.0.1:"), "{status} {said}");
    server.start_again();
    ready(&collect).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_of_the_future_are_counted_rejects_and_make_no_partitions() {
    let place = Place::new().await;
    let _collect = place.app.start(&["collect"]);
    let (csv, holds) = place.app.export("a.csv", 1, 20, 1);
    let mut rows = std::fs::read_to_string(&csv).unwrap();
    let row = rows.lines().nth(1).unwrap().to_owned();
    for year in 2090..2100 {
        rows.push_str(&format!("{}\n", row.replace("\"2025-", &format!("\"{year}-"))));
    }
    std::fs::write(&csv, rows).unwrap();
    place.store(&csv, "f");
    holds.arrive(&place.database, "f").await;
    let days = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'sample_chunk'::regclass";
    assert_eq!(place.scalar(days).await, 1);
    let report: serde_json::Value = serde_json::from_str(&place.app.run(&["audit", "--json"]).exits(0).stdout).unwrap();
    assert_eq!(report["sources"][0]["rejected"], serde_json::json!({"time_in_future": 10}));

    // An export of two years, a value a day, is more than one batch may bring by itself; people may store it.
    let header = std::fs::read_to_string(&csv).unwrap().lines().next().unwrap().to_owned();
    let days_of_years: Vec<String> = (2001..2003)
        .flat_map(|year| (1..=12).flat_map(move |month| (1..=28).map(move |day| format!("\"{year}-{month:02}-{day:02}T"))))
        .map(|day| row.replace("\"2025-01-01T", &day))
        .collect();
    let years = place.app.dir.path().join("years.csv");
    let content = format!("{header}\n{}\n", days_of_years.join("\n"));
    std::fs::write(&years, &content).unwrap();
    let until_stored = place.stream(text(&years), "y", &["--until", "stored"]).exits(0);
    assert!(!until_stored.stderr.contains("safely in PostgreSQL"), "a streamer cannot know: {}", until_stored.stderr);
    until_stored.says(&["in PostgreSQL: stored, or kept in dead letters"]);
    assert_eq!(place.letters().len(), 1);
    assert!(place.letters()[0]["reason"].to_string().contains("672 different days"), "{:?}", place.letters());
    assert_eq!(place.scalar(days).await, 1, "no partition for it");
    place.app.run(&["dead-letters", "retry", "--all"]).exits(0);
    Holds::of(content.as_bytes()).arrive(&place.database, "y").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_acknowledged_is_acknowledged_when_it_can_be() {
    let place = Place::new().await;
    let collect = place.app.start(&["collect"]);
    let (first, _) = place.app.export("a.csv", 1, 5, 1);
    place.store(&first, "n");
    // The next commit waits for us, so that Redis refuses writes by the time it is to be acknowledged.
    let ours = place.database.client().await;
    ours.batch_execute("BEGIN; LOCK TABLE source IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let (second, holds) = place.app.export("b.csv", 2, 30, 2);
    place.app.run(&["stream", "--csv", &second, "--cluster", "m"]).exits(0);
    let waiting = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
                   WHERE NOT l.granted AND d.datname = current_database()";
    wait_for("a commit that waits", || async { place.scalar(waiting).await > 0 }).await;
    place.redis.ok(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    ours.batch_execute("ROLLBACK").await.unwrap();
    wait_for("a warning", || async {
        collect.log().contains("could not be acknowledged") && collect.log().contains("NOREPLICAS")
    })
    .await;
    place.redis.ok(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    // It ends when Redis knows that everything is stored.
    let mut stream = place.app.start(&["stream", "--csv", &second, "--cluster", "m", "--until", "stored"]);
    assert_eq!(stream.wait(), 0, "{}", stream.log());
    wait_for("no backlog", || async { collect.metric("telemetry_lag_entries") == Some(0.0) }).await;
    holds.arrive(&place.database, "m").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_damaged_chunk_hides_stays_in_the_queue_and_holds_nobody_up() {
    let place = Place::new().await;
    let collect = place.app.start(&["collect"]);
    let (first, holds_first) = place.app.export("a.csv", 1, 20, 1);
    place.stream(&first, "n", &["--until", "stored"]).exits(0);
    let client = place.database.client().await;
    client.batch_execute("CREATE TABLE undamaged AS SELECT * FROM sample_slab; UPDATE sample_slab SET n = n + 1").await.unwrap();
    // Everything comes again, and nobody can say whether it is stored.
    place.app.run(&["replay", "--all"]).exits(0);
    place.app.run(&["stream", "--csv", &first, "--cluster", "n"]).exits(0);
    wait_for("an entry that is held back", || async { collect.metric("telemetry_held_back_entries") == Some(1.0) }).await;
    let said = collect.log();
    assert!(said.contains("ERROR") && said.contains("is damaged") && said.contains("DELETE FROM sample_slab_2025"), "{said}");
    // Others go on.
    let (second, holds_second) = place.app.export("b.csv", 2, 30, 2);
    place.stream(&second, "m", &["--until", "stored"]).exits(0);
    holds_second.arrive(&place.database, "m").await;
    assert!(place.letters().is_empty(), "it is not given up");
    assert_eq!(place.scalar("SELECT count(*) FROM batch_failure").await, 0, "and it is not the batch's fault");
    assert_eq!(collect.metric("telemetry_lag_entries"), Some(1.0), "{}", collect.log());
    // Once the chunk is whole, it is stored without anybody's doing: here, nothing of it is missing.
    client.batch_execute("UPDATE sample_slab c SET n = u.n FROM undamaged u WHERE u.id = c.id").await.unwrap();
    wait_for("nothing that is held back", || async {
        collect.metric("telemetry_held_back_entries") == Some(0.0) && collect.metric("telemetry_lag_entries") == Some(0.0)
    })
    .await;
    holds_first.arrive(&place.database, "n").await;
}
