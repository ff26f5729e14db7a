//! `make capacity`: what a pipeline of some size needs. Prints the tables of docs/capacity.md.
//!
//! Live: files that are streamed at the pace of their own timestamps (one scrape a second) into a Redis that nobody reads, observed
//! after the first seconds, when the dictionaries have been sent. Drain: what waits is stored by one collector, and by two.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends with a panic")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to a person")]

#[expect(dead_code, reason = "the other bench uses the rest")]
#[path = "../pipeline/measure.rs"]
mod measure;
#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/it/support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use measure::{cpu, cpu_tree, number};
use support::app::{App, Role, Seeded, wait_for};
use support::postgres::Server;
use support::redis::{RedisServer, Reply};

/// Metrics of each GPU in what is generated.
const METRICS: u32 = 10;
/// Live: seconds before the observation, and of it.
const LIVE: (u64, u64) = (8, 30);
/// Drain: GPUs and seconds of each of the files, one for each partition.
const DRAIN: (u32, u64, usize) = (64, 300, 8);

fn main() {
    // `cargo test --benches` and `cargo bench -- --list` must not measure.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!("{}; {}\n", measure::today(), measure::machine());
    println!(
        "| data | files × GPUs | batches/s | bytes/GPU/s on the line | bytes/sample | Redis: bytes/GPU/s | bytes/batch beyond its payload |\n|---|---|---|---|---|---|---|"
    );
    for (name, data) in [("quiet", Data::Quiet), ("walking", Data::Walking), ("noise", Data::Noise)] {
        for (files, gpus) in [(1, 8), (1, 64), (1, 512), (8, 8)] {
            println!("{}", runtime.block_on(live(name, data, files, gpus)));
        }
    }
    println!(
        "\n| batches of | collectors | rows/s | batches/s | CPU s a million rows: collect | PostgreSQL | Redis | PostgreSQL bytes/sample |\n|---|---|---|---|---|---|---|---|"
    );
    let server = Server::start();
    for rows in [65_536, 640] {
        for collectors in [1, 2] {
            println!("{}", runtime.block_on(drain(&server, rows, collectors)));
        }
    }
}

/// How values move from one sample to the next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Data {
    /// As generated: half of them stay.
    Quiet,
    /// Half of them move by a unit, or by an eighth where they are no whole numbers.
    Walking,
    /// Each is another number: what no codec can shrink.
    Noise,
}

/// Writes an export in which values move as they are told to.
fn export(app: &App, name: &str, gpus: u32, seconds: u64, seed: u64, data: Data) -> String {
    let (path, _) = app.export(name, gpus, seconds, seed);
    if data == Data::Quiet {
        return path;
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let mut random = Seeded(seed);
    let mut last: HashMap<String, f64> = HashMap::new();
    let mut out = String::with_capacity(text.len());
    for (number, line) in text.lines().enumerate() {
        if number == 0 {
            let _ = writeln!(out, "{line}");
            continue;
        }
        // The value is the eleventh cell; the last one, the labels, has commas of its own.
        let cells: Vec<&str> = line.splitn(12, ',').collect();
        let series = format!("{}{}", cells[1], cells[4]);
        let before = last.get(&series).copied().unwrap_or_else(|| cells[10].trim_matches('"').parse().unwrap());
        let value = match data {
            Data::Noise => random.below(90_000_000) as f64 / 1e6,
            _ if random.below(2) == 0 => before,
            _ => {
                let step = if before.fract() == 0.0 { 1.0 } else { 0.125 };
                // A share above 100 % would be rejected.
                (before + if random.below(2) == 0 { step } else { -step })
                    .clamp(0.0, if before <= 100.0 { 100.0 } else { f64::MAX })
            }
        };
        last.insert(series, value);
        let _ = writeln!(out, "{},\"{value}\",{}", cells[..10].join(","), cells[11]);
    }
    std::fs::write(&path, out).unwrap();
    path
}

/// What Redis says of itself.
#[derive(Clone, Copy)]
struct Seen {
    at: Instant,
    /// Bytes that came in and went out.
    line: f64,
    memory: f64,
    entries: f64,
    /// Bytes of the batches themselves, as the streamer counts them.
    payload: f64,
}

fn see(redis: &RedisServer, stream: &Role) -> Seen {
    Seen {
        at: Instant::now(),
        line: info(redis, "stats", "total_net_input_bytes:") + info(redis, "stats", "total_net_output_bytes:"),
        memory: info(redis, "memory", "used_memory:"),
        entries: waiting(redis) as f64,
        payload: stream.metric("telemetry_bytes_wire_total").unwrap(),
    }
}

/// Entries of all partitions.
fn waiting(redis: &RedisServer) -> i64 {
    (0..8).map(|p| redis.int(&["XLEN", &format!("{{telemetry:{p}}}:stream")])).sum()
}

async fn live(name: &str, data: Data, files: u32, gpus: u32) -> String {
    let redis = RedisServer::start_with(&["--appendonly", "no"]);
    let app = App::new(&redis.url(), "").with("TELEMETRY__REDIS__MAX_BACKLOG", "1000000");
    let seconds = LIVE.0 + LIVE.1 + 10;
    let paths: Vec<String> =
        (0..files).map(|n| export(&app, &format!("{n}.csv"), gpus, seconds, u64::from(n) + 1, data)).collect();
    let mut arguments = vec!["stream", "--cluster", "edge", "--realtime", "--csv"];
    arguments.extend(paths.iter().map(String::as_str));
    let stream = app.start(&arguments);
    tokio::time::sleep(Duration::from_secs(LIVE.0)).await;
    let before = see(&redis, &stream);
    tokio::time::sleep(Duration::from_secs(LIVE.1)).await;
    let after = see(&redis, &stream);
    let passed = (after.at - before.at).as_secs_f64();
    let of_gpus = f64::from(files * gpus);
    let batches = after.entries - before.entries;
    let (line, memory) = (after.line - before.line, after.memory - before.memory);
    let per_gpu = line / passed / of_gpus;
    format!(
        "| {name} | {files} × {gpus} | {:.1} | {per_gpu:.1} | {:.2} | {:.1} | {:.0} |",
        batches / passed,
        per_gpu / f64::from(METRICS),
        memory / passed / of_gpus,
        (memory - (after.payload - before.payload)) / batches,
    )
}

async fn drain(server: &Server, batch: u32, collectors: usize) -> String {
    let (redis, database) = (RedisServer::start(), server.empty_database().await);
    let app = App::new(&redis.url(), &database.url)
        .with("TELEMETRY__REDIS__MAX_BACKLOG", "1000000")
        .with("TELEMETRY__BATCH__MAX_ROWS", &batch.to_string());
    app.run(&["migrate"]).exits(0);
    let (gpus, seconds, files) = DRAIN;
    let paths: Vec<String> =
        (0..files).map(|n| export(&app, &format!("{n}.csv"), gpus, seconds, n as u64 + 1, Data::Walking)).collect();
    for path in &paths {
        app.run(&["stream", "--cluster", "edge", "--csv", path]).exits(0);
    }
    let rows = (u64::from(gpus * METRICS) * seconds * files as u64) as f64;
    let batches = waiting(&redis) as f64;
    let redis_pid = info(&redis, "server", "process_id:") as u32;
    let postmaster = postmaster(&database).await;
    let (redis_before, postgres_before) = (cpu(redis_pid), cpu_tree(postmaster));
    let began = Instant::now();
    let running: Vec<Role> = (0..collectors).map(|_| app.start(&["collect"])).collect();
    // What is stored is acknowledged, and what is acknowledged is trimmed.
    wait_for("everything stored", || async { waiting(&redis) == 0 }).await;
    let took = began.elapsed().as_secs_f64();
    let used = running.iter().map(|role| cpu(role.pid()).as_secs_f64()).sum::<f64>();
    let of_postgres = cpu_tree(postmaster).saturating_sub(postgres_before).as_secs_f64();
    let of_redis = cpu(redis_pid).saturating_sub(redis_before).as_secs_f64();
    drop(running);
    let client = database.client().await;
    client.batch_execute("VACUUM").await.unwrap();
    let sql = "SELECT sum(pg_total_relation_size(oid))::int8 FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
    let stored = client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) as f64;
    let million = rows / 1e6;
    format!(
        "| {} rows | {collectors} | {} | {:.0} | {:.2} | {:.2} | {:.2} | {:.1} |",
        number(f64::from(batch)),
        number(rows / took),
        batches / took,
        used / million,
        of_postgres / million,
        of_redis / million,
        stored / rows
    )
}

/// The process that all others of a PostgreSQL are children of.
async fn postmaster(database: &support::postgres::Database) -> u32 {
    let client = database.client().await;
    let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let stat = std::fs::read_to_string(format!("/proc/{backend}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn info(redis: &RedisServer, section: &str, name: &str) -> f64 {
    let Reply::Text(text) = redis.command(&["INFO", section]) else { panic!("no INFO") };
    let line = text.lines().find(|line| line.starts_with(name)).expect("it is there");
    line[name.len()..].trim().parse().unwrap()
}
