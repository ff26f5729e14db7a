//! What answers hold together is bounded, however long texts are and whoever takes nothing.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;

use super::Serving;
use crate::support::app::{App, wait_for};
use crate::support::postgres::{Database, Server};

const MIB: usize = 1 << 20;
/// What the process takes at most, with `http.query_memory` of 64 MiB: half of what it would take without a bound.
const MOST: usize = 160 * MIB;

/// GPUs 0 to `count` - 1 of one host, with a text of so many bytes in each column that only describes them.
async fn gpus(database: &Database, count: i32, bytes: i32) {
    let sql = "INSERT INTO gpu (key, cluster, uuid, hostname, gpu_index, device, model, driver_version, pci_bus_id, mig_profile, \
                                mig_instance, first_seen, last_seen) \
               SELECT gen_random_uuid(), 'lab', 'GPU-' || n, 'host', n, t, t, t, t, t, '', now(), now() \
                 FROM generate_series(0, $1 - 1) n, (SELECT repeat('x', $2) AS t) one";
    database.client().await.execute(sql, &[&count, &bytes]).await.unwrap();
}

async fn serving(count: i32, bytes: i32) -> Serving {
    let database = Server::shared().database().await;
    gpus(&database, count, bytes).await;
    let app = App::new("", &database.url)
        .with("TELEMETRY__HTTP__QUERY_MEMORY", "64MiB")
        .with("TELEMETRY__HTTP__QUERY_QUEUE_TIMEOUT", "500ms")
        .with("TELEMETRY__HTTP__STALL_TIMEOUT", "10m")
        .with("TELEMETRY__HTTP__MIN_TRANSFER_RATE", "0");
    Serving::start(app, &["serve"]).await
}

/// The most memory that the process ever had, in bytes.
fn peak(serving: &Serving) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", serving.role.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_ends_where_its_texts_are_very_long() {
    let serving = serving(400, 1 << 16).await;
    let (mut seen, mut pages, mut cursor) = (BTreeSet::new(), 0, String::new());
    loop {
        let answer = serving.ask(&format!("/api/v1/gpus?limit=1000{cursor}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.body.len() < 5 * MIB, "{} bytes", answer.body.len());
        pages += 1;
        let page = answer.json();
        for gpu in page["data"].as_array().unwrap() {
            assert!(seen.insert(gpu["uuid"].as_str().unwrap().to_owned()), "{} twice", gpu["uuid"]);
        }
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.len(), 400);
    assert!((30..50).contains(&pages), "each has as many as it may: {pages}");
    assert!(peak(&serving) < MOST, "{} bytes", peak(&serving));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_takes_are_bounded() {
    // An answer of six megabytes: more than the system takes for a client that reads nothing.
    let serving = serving(10_000, 64).await;
    const PATH: &str = "/api/v1/gpus?limit=10000";
    let whole = serving.ask(PATH);
    assert!(whole.status == 200 && whole.body.len() > 5 * MIB, "{} bytes", whole.body.len());
    let idle: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", serving.port)).unwrap();
            write!(stream, "GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            stream
        })
        .collect();
    wait_for("what others hold is missing", || async {
        let answer = serving.ask(PATH);
        assert!(answer.status == 200 || answer.header("retry-after").is_some(), "{}", answer.text());
        answer.status == 503 && answer.text().contains("http.query_memory")
    })
    .await;
    wait_for("an answer that needs little", || async { serving.ask("/api/v1/gpus?limit=10").status == 200 }).await;
    assert!(peak(&serving) < MOST, "{} bytes", peak(&serving));
    drop(idle);
    wait_for("what they held is given back", || async { serving.ask(PATH).status == 200 }).await;
    assert!(peak(&serving) < MOST, "{} bytes", peak(&serving));
}
