//! The main path with the real program: CSV → Redis → PostgreSQL, every row once, every flag.

use std::io::Write;

use crate::support::app::{App, Holds, text, wait_for};
use crate::support::place::{Place, ready};

#[tokio::test(flavor = "multi_thread")]
async fn every_row_arrives_once() {
    let place = Place::new().await;
    let mut collect = place.app.start(&["collect", "--cluster", "central"]);
    let (csv, holds) = place.app.export("a.csv", 10, 50, 1);
    place.stream(&csv, "edge-a", &[]).exits(0).says(&["every row is safely in Redis"]);
    holds.arrive(&place.database, "edge-a").await;
    // The same again adds nothing; another cluster's is another source; `--until stored` ends when it is there.
    let again = format!("nothing new: all {} rows are already", holds.rows());
    place.stream(&csv, "edge-a", &[]).exits(0).says(&[&again, "already safely in Redis"]);
    place
        .stream(&csv, "edge-b", &["--until", "stored"])
        .exits(0)
        .says(&["every row is in PostgreSQL: stored, or kept in dead letters"]);
    place.stream(&csv, "edge-b", &["--until", "stored"]).exits(0).says(&[&again, "already in PostgreSQL: stored, or kept"]);
    assert_eq!(Holds::stored(&place.database, "edge-b").await, holds);
    holds.arrive(&place.database, "edge-a").await;

    let rows = holds.rows() as f64;
    assert_eq!(collect.metric("telemetry_rows_stored_total"), Some(2.0 * rows));
    assert_eq!(collect.metric("message_queue_connection_status{cluster=\"central\",component=\"collector\"}"), Some(1.0));
    let latency =
        "cross_cluster_latency_seconds_count{source_cluster=\"edge-a\",target_cluster=\"central\",component=\"collector\"}";
    assert!(collect.metric(latency).is_some_and(|batches| batches >= 1.0), "{:?}", collect.get("/metrics"));
    let report = place.audit();
    place.app.run(&["audit", "--log-level", "info"]).exits(0).says(&["started"]);
    assert_eq!(report["sources"].as_array().unwrap().len(), 2);
    assert_eq!(report["sources"][0]["stored"], serde_json::json!(holds.rows()));

    collect.signal("TERM");
    assert_eq!(collect.wait(), 0, "{}", collect.log());
    // Between two runs rows wait in Redis.
    let (more, more_holds) = place.app.export("more.csv", 3, 20, 9);
    place.stream(&more, "edge-a", &[]).exits(0);
    assert_eq!(
        place.audit()["sources"].as_array().unwrap().iter().map(|s| s["queued"].as_i64().unwrap()).sum::<i64>(),
        more_holds.rows()
    );
    let _collect = place.app.start(&["collect"]);
    holds.plus(&more_holds).arrive(&place.database, "edge-a").await;
}

/// What is committed is said to be so in the partition where the streamer looks for it, however many there are.
async fn stored_is_said_with(partitions: &str) {
    let mut place = Place::new().await;
    place.app = place.app.with("TELEMETRY__REDIS__PARTITIONS", partitions);
    let _collect = place.app.start(&["collect"]);
    let directory = place.app.dir.path().join("exports");
    std::fs::create_dir(&directory).unwrap();
    let mut all = Holds::default();
    for seed in 1..=6 {
        let (_, holds) = place.app.export(&format!("exports/{seed}.csv"), 8, 30, seed);
        assert_eq!(holds.rows(), 2_400);
        all = all.plus(&holds);
    }
    let arguments = ["stream", "--csv", text(&directory), "--cluster", "edge", "--until", "stored"];
    let mut stream = place.app.start(&arguments);
    assert_eq!(stream.wait(), 0, "{}", stream.log());
    assert_eq!(Holds::stored(&place.database, "edge").await, all);
    place.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_is_said_with_three_partitions() {
    stored_is_said_with("3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_is_said_with_five_partitions() {
    stored_is_said_with("5").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_rows_are_counted_kept_and_can_stop_a_run() {
    let place = Place::new().await;
    let _collect = place.app.start(&["collect"]);
    let (csv, _) = place.app.export("a.csv", 1, 3, 1);
    let mut bytes = std::fs::read_to_string(&csv).unwrap();
    let blank = bytes.lines().nth(1).unwrap().replace(",\"0\",\"DCGM_FI_DRIVER", ",\"N/A\",\"DCGM_FI_DRIVER");
    assert!(blank.contains("N/A"), "{blank}");
    bytes.push_str(&format!("{blank}\n{blank}\nshort,row\n"));
    std::fs::write(&csv, &bytes).unwrap();
    let rejects = place.app.dir.path().join("rejects.csv");
    let done = place.stream(&csv, "edge-r", &["--rejects", text(&rejects), "--until", "stored"]).exits(0);
    assert!(done.stderr.contains("rejected=3"), "{}", done.stderr);
    let kept = std::fs::read_to_string(&rejects).unwrap();
    assert_eq!(kept.lines().count(), 4, "{kept}");
    assert!(kept.contains(",32,30,blank_value,N/A,") && kept.contains(",34,32,short_row,,"), "{kept}");
    let report = place.audit();
    let source = &report["sources"][0];
    assert_eq!(
        (&source["stored"], &source["rejected"]),
        (&serde_json::json!(30), &serde_json::json!({"blank_value": 2, "short_row": 1}))
    );
    // A stretch of rejects alone is sent too, and so the sum closes.
    place.stream(&csv, "edge-s", &["--strict"]).exits(1).says(&["line 32", "blank_value", "--strict"]);
    place.stream(&csv, "edge-t", &["--rejects", "/dev/full"]).exits(1).says(&["/dev/full", "No space left"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_line_says_why_rows_were_rejected() {
    let place = Place::new().await;
    let _collect = place.app.start(&["collect"]);
    let path = place.app.dir.path().join("times.csv");
    let header = "timestamp,metric_name,uuid,value\n";
    std::fs::write(&path, format!("{header}18.07.2025,M,GPU-1,1\n18.07.2025,M,GPU-1,2\n2025-07-18 20:42:34,M,GPU-1,3\n"))
        .unwrap();
    let done = place.stream(text(&path), "edge-u", &["--until", "stored"]).exits(0);
    let last = done.stderr.lines().last().unwrap();
    for words in [
        "WARN",
        "all 3 rows are rejected",
        "2 × bad_time",
        "times.csv, line 2",
        "RFC 3339",
        "1 × no_time_zone",
        "line 4",
        "--rejects",
    ] {
        assert!(last.contains(words), "`{words}` is missing in {last}");
    }
    std::fs::write(&path, format!("{header}2025-07-18T20:42:34Z,M,GPU-1,1\n2025-07-18T20:42:35Z,M,GPU-1,N/A\n")).unwrap();
    let done = place.stream(text(&path), "edge-v", &["--until", "stored"]).exits(0);
    let last = done.stderr.lines().last().unwrap();
    assert!(
        last.contains(
            "1 of 2 rows is in PostgreSQL: stored, or kept in dead letters; the other one is rejected. 1 × blank_value"
        ),
        "{last}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_gzip_directories_and_globs() {
    let place = Place::new().await;
    let _collect = place.app.start(&["collect"]);
    let (csv, holds) = place.app.export("a.csv", 8, 40, 1);
    let bytes = std::fs::read(&csv).unwrap();
    let arguments = ["stream", "--csv", "-", "--cluster", "pipe", "--until", "stored"];
    place.app.run_with_input(&arguments, &bytes).exits(0);
    place.app.run_with_input(&arguments, &bytes).exits(0);
    // A pipe with a path.
    let fifo = place.app.dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let (into, content) = (fifo.clone(), bytes.clone());
    let writer = std::thread::spawn(move || std::fs::write(into, content).unwrap());
    place.stream(text(&fifo), "pipe", &["--until", "stored"]).exits(0);
    writer.join().unwrap();
    holds.arrive(&place.database, "pipe").await;

    let directory = place.app.dir.path().join("exports");
    std::fs::create_dir(&directory).unwrap();
    let gzip = std::process::Command::new("gzip").args(["-c", &csv]).output().unwrap();
    std::fs::write(directory.join("b.csv.gz"), gzip.stdout).unwrap();
    std::fs::write(directory.join("notes.txt"), "not a CSV").unwrap();
    let (other, other_holds) = place.app.export("exports/c.csv", 2, 30, 7);
    place.stream(text(&directory), "dir", &["--until", "stored"]).exits(0);
    place.stream(&format!("{}/*.csv*", directory.display()), "dir", &["--until", "stored"]).exits(0);
    // The same content unpacked, under another name: nothing new.
    place.stream(&csv, "dir", &["--until", "stored"]).exits(0);
    place.stream(&other, "dir", &["--until", "stored"]).exits(0);
    holds.plus(&other_holds).arrive(&place.database, "dir").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_file_grows_rotates_and_survives_restarts() {
    let place = Place::new().await;
    let _collect = place.app.start(&["collect"]);
    let (csv, holds) = place.app.export("all.csv", 8, 60, 3);
    let bytes = std::fs::read(&csv).unwrap();
    let directory = place.app.dir.path().join("logs");
    std::fs::create_dir(&directory).unwrap();
    let path = directory.join("live.csv");
    let mut file = std::fs::File::create(&path).unwrap();
    let follow = ["stream", "--csv", text(&directory), "--cluster", "f", "--follow"];
    let mut stream = place.app.start(&follow);
    // Pieces that end anywhere, also in the middle of a row; a kill between two of them.
    for (i, piece) in bytes.chunks(bytes.len() / 7 + 13).enumerate() {
        file.write_all(piece).unwrap();
        if i == 3 {
            wait_for("some rows", || async { Holds::stored(&place.database, "f").await.rows() > 100 }).await;
            stream.kill();
            stream = place.app.start(&follow);
        }
    }
    holds.arrive(&place.database, "f").await;
    // Rotated by renaming; the new file under the old name is another source.
    std::fs::rename(&path, directory.join("live.csv.1")).unwrap();
    let (next, next_holds) = place.app.export("next.csv", 4, 30, 4);
    std::fs::copy(&next, &path).unwrap();
    let both = holds.plus(&next_holds);
    both.arrive(&place.database, "f").await;
    // Rewritten in place.
    let (third, third_holds) = place.app.export("third.csv", 1, 30, 5);
    std::fs::write(&path, std::fs::read(&third).unwrap()).unwrap();
    let all = both.plus(&third_holds);
    all.arrive(&place.database, "f").await;
    stream.signal("TERM");
    assert_eq!(stream.wait(), 0, "{}", stream.log());
    place.audit();
}

/// What comes late is said once and waited for: no directory, none with a CSV in it, a file without a byte or with nothing but a header
/// (as Kubernetes mounts an empty ConfigMap: links that are put in place of others).
#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_rows_yet_is_followed() {
    let place = Place::new().await;
    let _collect = place.app.start(&["collect"]);
    let at = |name: &str| text(&place.app.dir.path().join(name)).to_owned();
    let [absent, empty, other] = ["absent", "empty", "other"].map(at);
    for directory in [&empty, &other] {
        std::fs::create_dir(directory).unwrap();
    }
    std::fs::write(format!("{other}/notes.txt"), "not a CSV").unwrap();
    let (csv, holds) = place.app.export("later.export", 2, 20, 1);
    let bytes = std::fs::read(&csv).unwrap();
    let header = bytes.iter().position(|b| *b == b'\n').unwrap() + 1;
    let (blank, headed, mounted) = (at("blank.csv"), at("headed.csv"), at("mounted.csv"));
    std::fs::write(&blank, "").unwrap();
    std::fs::write(&headed, &bytes[..header]).unwrap();
    std::fs::write(at("before"), "").unwrap();
    std::os::unix::fs::symlink(at("before"), &mounted).unwrap();
    let mut stream = place.app.start(&[
        "stream",
        "--follow",
        "--cluster",
        "late",
        "--csv",
        &absent,
        &empty,
        &other,
        &blank,
        &headed,
        &mounted,
    ]);
    let said = [
        format!("{absent} does not exist"),
        format!("{empty} is an empty directory"),
        format!("{other} has no *.csv and no *.csv.gz (it has notes.txt)"),
        format!("{blank} is empty"),
        format!("{headed} has no complete row yet"),
        format!("{mounted} is empty"),
    ];
    wait_for("a warning for each", || async { said.iter().all(|words| stream.log().contains(words)) }).await;
    ready(&stream).await;
    assert!(stream.ended().is_none(), "{}", stream.log());

    let seeds = std::cell::Cell::new(10);
    let rows = || {
        seeds.set(seeds.get() + 1);
        let (csv, holds) = place.app.export("next.export", 2, 20, seeds.get());
        (std::fs::read(csv).unwrap(), holds)
    };
    let mut expected = holds;
    std::fs::create_dir(&absent).unwrap();
    for file in [format!("{absent}/a.csv"), format!("{empty}/a.csv"), format!("{other}/a.csv"), blank, at("after")] {
        let (bytes, holds) = rows();
        std::fs::write(file, bytes).unwrap();
        expected = expected.plus(&holds);
    }
    std::fs::OpenOptions::new().append(true).open(&headed).unwrap().write_all(&bytes[header..]).unwrap();
    std::os::unix::fs::symlink(at("after"), at("link")).unwrap();
    std::fs::rename(at("link"), &mounted).unwrap();
    expected.arrive(&place.database, "late").await;
    for words in &said {
        assert_eq!(stream.log().matches(words).count(), 1, "{}", stream.log());
    }
    stream.signal("TERM");
    assert_eq!(stream.wait(), 0, "{}", stream.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_known_again_however_much_it_grew() {
    let place = Place::new().await;
    let _collect = place.app.start(&["collect"]);
    let (csv, holds) = place.app.export("all.csv", 8, 60, 3);
    let bytes = std::fs::read(&csv).unwrap();
    let path = place.app.dir.path().join("grow.csv");
    let grow = |rows: usize| {
        let end = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(rows).map_or(bytes.len(), |(i, _)| i + 1);
        std::fs::write(&path, &bytes[..end]).unwrap();
    };
    for rows in [0, 3, 20, 400, 4000] {
        grow(rows);
        place.stream(text(&path), "g", &[]).exits(0);
    }
    grow(usize::MAX);
    // Redis forgets everything: the file, seen small in the beginning, is now another source for it, but not for the store.
    wait_for("all rows but the last", || async { Holds::stored(&place.database, "g").await.rows() == 4000 }).await;
    place.redis.ok(&["FLUSHALL"]);
    let moved = place.app.dir.path().join("moved.csv");
    std::fs::rename(&path, &moved).unwrap();
    place.stream(text(&moved), "g", &["--until", "stored"]).exits(0);
    holds.arrive(&place.database, "g").await;
    place.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_that_begin_alike_are_told_apart() {
    let place = Place::new().await;
    let _collect = place.app.start(&["collect"]);
    let (csv, _) = place.app.export("one.csv", 8, 60, 3);
    let one = std::fs::read_to_string(&csv).unwrap();
    // The first 2,000 rows are the same (far more than 64 KiB), the rest is later by a year.
    let cut = one.lines().take(2001).map(|l| l.len() + 1).sum::<usize>();
    let other = format!("{}{}", &one[..cut], one[cut..].replace("\"2025-", "\"2026-"));
    let path = place.app.dir.path().join("two.csv");
    std::fs::write(&path, &other).unwrap();
    place.stream(&csv, "t", &["--until", "stored"]).exits(0);
    place.stream(text(&path), "t", &["--until", "stored"]).exits(0);
    place.stream(text(&path), "t", &["--until", "stored"]).exits(0);
    place.stream(&csv, "t", &["--until", "stored"]).exits(0);
    let header = one.lines().next().unwrap().len() + 1;
    let union = format!("{}{}", one, &other[cut..]);
    assert!(header < cut);
    Holds::of(union.as_bytes()).arrive(&place.database, "t").await;
    place.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_are_new_sources_and_restamped_times_are_now() {
    let place = Place::new().await;
    let _collect = place.app.start(&["collect"]);
    let (csv, holds) = place.app.export("a.csv", 2, 10, 1);
    let mut stream = place.app.start(&["stream", "--csv", &csv, "--cluster", "loop", "--loop", "--restamp", "--rate", "2000"]);
    // A round is a source of its own, and its times follow those of the one before.
    wait_for("three rounds", || async { Holds::stored(&place.database, "loop").await.rows() > 3 * holds.rows() }).await;
    stream.signal("TERM");
    assert_eq!(stream.wait(), 1, "a stream that was stopped before its end");
    let client = place.database.client().await;
    let old: i64 =
        client.query_one("SELECT count(*) FROM samples WHERE ts < now() - interval '1 hour'", &[]).await.unwrap().get(0);
    assert_eq!(old, 0, "times are shifted to now");
    // Another id for the same content.
    place.stream(&csv, "named", &["--source-id", "mine", "--until", "stored"]).exits(0);
    place.stream(&csv, "named", &["--source-id", "mine", "--until", "stored"]).exits(0);
    holds.arrive(&place.database, "named").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_cannot_be_read_becomes_a_dead_letter() {
    let place = Place::new().await;
    let _collect = place.app.start(&["collect"]);
    let (csv, holds) = place.app.export("a.csv", 2, 10, 1);
    place.stream(&csv, "d", &["--until", "stored"]).exits(0);
    let stream = "{telemetry:0}:stream";
    let source = "0".repeat(30) + "10";
    for (first, end) in [("0", "5"), ("5", "9")] {
        place.redis.ok(&["XADD", stream, "*", "s", &source, "f", first, "e", end, "d", "no batch at all"]);
    }
    let list = || {
        let done = place.app.run(&["dead-letters", "list", "--json"]).exits(0);
        serde_json::from_str::<serde_json::Value>(&done.stdout).unwrap().as_array().unwrap().clone()
    };
    wait_for("two dead letters", || async { list().len() == 2 }).await;
    // Others were not held up.
    let (more, more_holds) = place.app.export("b.csv", 1, 10, 2);
    place.stream(&more, "d", &["--until", "stored"]).exits(0);
    holds.plus(&more_holds).arrive(&place.database, "d").await;
    let report = place.audit();
    let of_source = report["sources"].as_array().unwrap().iter().find(|s| s["source"] == *source).unwrap().clone();
    assert_eq!((&of_source["dead"], &of_source["read"]), (&serde_json::json!(9), &serde_json::json!(9)));
    let id = list()[0]["id"].to_string();
    place.app.run(&["dead-letters", "show", &id]).exits(0);
    let retried = place.app.run(&["dead-letters", "retry", &id]).exits(1);
    assert!(retried.stderr.contains("not a batch"), "{}", retried.stderr);
    place.app.run(&["dead-letters", "drop", &id]).exits(0);
    place.app.run(&["dead-letters", "drop", &id]).exits(1).says(&["there is no dead letter"]);
    assert_eq!(list().len(), 1);
    let report = place.audit();
    let of_source = report["sources"].as_array().unwrap().iter().find(|s| s["source"] == *source).unwrap().clone();
    assert_eq!((&of_source["dead"], &of_source["dropped"]), (&serde_json::json!(4), &serde_json::json!(5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_one_clear_error() {
    let place = Place::new().await;
    let dir = place.app.dir.path();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (good, _) = place.app.export("good.csv", 1, 2, 1);
    let columns = write("columns.csv", b"metric_name,Hostname,value\nx,y,1\n");
    let binary = write("binary.csv", &[0, 159, 146, 150, 0, 1, 2, 3]);
    let empty = write("empty.csv", b"");
    let header = write("header.csv", b"timestamp,metric_name,uuid,value\n");
    place.stream(&dir.join("no.csv").display().to_string(), "x", &[]).exits(1).says(&["no.csv", "No such file"]);
    place.stream(&columns, "x", &[]).exits(1).says(&["columns.csv", "timestamp", "uuid"]);
    place.stream(&binary, "x", &[]).exits(1).says(&["binary.csv"]);
    place.stream(&empty, "x", &[]).exits(1).says(&["empty.csv", "is empty"]);
    place.stream(&header, "x", &[]).exits(0);
    // One bad file keeps nobody from the others.
    let done = place.app.run(&["stream", "--csv", &columns, &good, "--cluster", "x"]).exits(1).says(&["columns.csv"]);
    assert!(!done.stderr.contains("good.csv:"), "{}", done.stderr);
    let mut collect = place.app.start(&["collect"]);
    ready(&collect).await;
    assert_eq!(place.audit()["sources"][0]["read"], serde_json::json!(20));
    // The port is taken.
    let listen = format!("127.0.0.1:{}", place.redis.port());
    place.app.run(&["collect", "--admin-listen", &listen]).exits(2).says(&[&listen, "admin"]);
    collect.signal("TERM");
    assert_eq!(collect.wait(), 0);

    for (redis, database, code, words) in [
        ("http://x", "", 2, "REDIS_URL"),
        ("redis://:p%61ss@127.0.0.1:notaport", "", 2, "REDIS_URL"),
        (place.redis.url().as_str(), "mysql://x/y", 2, "DATABASE_URL"),
        (place.redis.url().as_str(), &place.database.url.replace("/test_", "/no_such_"), 2, "no_such_"),
        (place.redis.url().as_str(), &place.database.url.replace('@', "wrong-@"), 2, "password"),
    ] {
        let app = App::new(redis, database);
        let command = if database.is_empty() { vec!["stream", "--csv", &good] } else { vec!["migrate"] };
        let done = app.run(&command).exits(code).says(&[words]);
        assert!(!done.stderr.contains("pass@") && !done.stderr.contains("wrong-"), "a secret is shown: {}", done.stderr);
    }
    place.app.run(&["stream", "--csv", "-", "--follow"]).exits(2).says(&["standard input"]);
    place.app.run(&["stream", "--csv", &good, "--follow", "--until", "stored"]).exits(2).says(&["until"]);
    App::new(&place.redis.url(), "")
        .with("TELEMETRY__REDIS__PARTITIONS", "3")
        .run(&["stream", "--csv", &good])
        .exits(2)
        .says(&["redis.partitions"]);
    App::new(&place.redis.url(), &place.database.url)
        .with("TELEMETRY__BATCH__MAX_ROWS", "many")
        .run(&["collect"])
        .exits(2)
        .says(&["TELEMETRY__BATCH__MAX_ROWS"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_cut_off_and_completed_later_has_every_row_once() {
    let place = Place::new().await;
    let _collect = place.app.start(&["collect"]);
    let (csv, holds) = place.app.export("all.csv", 8, 10, 3);
    let bytes = std::fs::read(&csv).unwrap();
    let path = place.app.dir.path().join("cut.csv");
    // Cut in the middle of a row, longer, shorter, then whole: a copy that is looked at while it is made.
    let whole = bytes.len();
    for percent in [30, 60, 45, 100, 20, 100] {
        let row = bytes[..whole * percent / 100].iter().rposition(|b| *b == b'\n').unwrap() + 1;
        std::fs::write(&path, &bytes[..whole.min(row + 60)]).unwrap();
        place.stream(text(&path), "c", &["--until", "stored"]).exits(0);
    }
    holds.arrive(&place.database, "c").await;
    place.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_file_rewritten_between_two_looks_is_read_from_its_start() {
    let place = Place::new().await;
    let _collect = place.app.start(&["collect"]);
    let (first, first_holds) = place.app.export("first.csv", 2, 20, 3);
    let (second, second_holds) = place.app.export("second.csv", 2, 60, 4);
    let path = place.app.dir.path().join("live.csv");
    std::fs::copy(&first, &path).unwrap();
    let _stream = place.app.start(&["stream", "--csv", text(&path), "--cluster", "w", "--follow"]);
    first_holds.arrive(&place.database, "w").await;
    // The same inode, in one go, and longer than before.
    std::fs::write(&path, std::fs::read(&second).unwrap()).unwrap();
    first_holds.plus(&second_holds).arrive(&place.database, "w").await;
}
