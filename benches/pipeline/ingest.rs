//! From a file to committed rows.

use std::process::Command;
use std::time::Duration;

use csv_async::{AsyncReaderBuilder, ByteRecord};

use crate::Size;
use crate::measure::{Table, cpu, cpu_tree, median, number, peak_memory, seconds, timed, times};
use crate::support::app::{App, wait_for};
use crate::support::postgres::Server;
use crate::support::redis::{RedisServer, Reply};

/// The table that a `\copy` needs.
pub const FLAT: &str = "CREATE TABLE flat (timestamp timestamptz, metric_name text, gpu_id int, device text, uuid text, \"modelName\" text, \
     \"Hostname\" text, container text, pod text, namespace text, value float8, labels_raw text)";
pub const INDEX: &str = "CREATE INDEX ON flat (uuid, metric_name, timestamp)";

#[derive(Default)]
struct Measured {
    ours: Vec<f64>,
    bare: Vec<f64>,
    indexed: Vec<f64>,
    parse: Vec<f64>,
    wire: f64,
    stored: f64,
    flat: f64,
    indexed_size: f64,
    /// CPU seconds of: stream, collect, redis, postgres; postgres for `\copy` bare.
    cpu: [Vec<f64>; 5],
    memory: [f64; 2],
}

pub async fn run(size: &Size, table: &mut Table) {
    let server = Server::start();
    let postmaster = postmaster(&server).await;
    let app = App::new("", "");
    // 80 series of each metric, steps of a second: ten metrics.
    let gpus = 80u32;
    let (csv, holds) = app.export("bench.csv", gpus, size.rows / (u64::from(gpus) * 10), 1);
    let rows = holds.rows() as f64;
    let bytes = std::fs::metadata(&csv).unwrap().len() as f64;
    eprintln!("{} rows, {:.0} bytes each", number(rows), bytes / rows);
    let mut m = Measured::default();
    for _ in 0..size.runs {
        ours(&server, postmaster, &csv, rows, &mut m).await;
        let (time, of_server) = copy(&server, postmaster, &csv, false, &mut m).await;
        m.bare.push(time);
        m.cpu[4].push(of_server);
        let (time, _) = copy(&server, postmaster, &csv, true, &mut m).await;
        m.indexed.push(time);
        m.parse.push(parse(&csv).await);
    }
    report(rows, bytes, m, table);
}

/// The process that all others of a PostgreSQL are children of.
async fn postmaster(server: &Server) -> u32 {
    let client = server.empty_database().await.client().await;
    let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let stat = std::fs::read_to_string(format!("/proc/{backend}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn report(rows: f64, bytes: f64, m: Measured, table: &mut Table) {
    let million = rows / 1e6;
    let ours = median(m.ours);
    let rate = |time: f64| format!("{} ({:.2} M rows/s)", seconds(time), million / time);
    let (bare, indexed, parse) = (median(m.bare), median(m.indexed), median(m.parse));
    table.line("end to end, file to committed rows; `psql \\copy`, bare table", rate(ours), rate(bare), times(bare / ours));
    table.line("the same; `psql \\copy`, indexed table", rate(ours), rate(indexed), times(indexed / ours));
    table.line("the same; csv-async reading the file's records, and nothing else", rate(ours), rate(parse), times(parse / ours));
    let wire = format!("{:.2}", m.wire / rows);
    table.line(
        "bytes a sample into Redis, all traffic; in the file",
        wire,
        format!("{:.0}", bytes / rows),
        times(bytes / m.wire),
    );
    let per = |size: f64| format!("{:.1}", size / rows);
    table.line("bytes a sample in PostgreSQL; flat table, bare", per(m.stored), per(m.flat), times(m.flat / m.stored));
    table.line("the same; flat table, indexed", per(m.stored), per(m.indexed_size), times(m.indexed_size / m.stored));
    let [stream, collect, redis, postgres, copied] = m.cpu.map(median);
    let each = [stream, collect, redis, postgres].map(|cpu| format!("{:.2}", cpu / million)).join(" + ");
    let total = stream + collect + redis + postgres;
    table.line(
        "CPU seconds a million rows: stream + collect + Redis + PostgreSQL; PostgreSQL under `\\copy`, bare (without psql)",
        format!("{each} = {:.2}", total / million),
        format!("{:.2}", copied / million),
        times(copied / total),
    );
    table.line("peak memory: stream, collect", format!("{:.0} MiB, {:.0} MiB", m.memory[0], m.memory[1]), "", "");
}

async fn ours(server: &Server, postmaster: u32, csv: &str, rows: f64, m: &mut Measured) {
    let (redis, database) = (RedisServer::start(), server.empty_database().await);
    let app = App::new(&redis.url(), &database.url);
    let collect = app.start(&["collect"]);
    wait_for("a collector", || async { collect.get("/readyz").is_some_and(|(status, _)| status == 200) }).await;
    let redis_pid = u32::try_from(info(&redis, "server", "process_id:") as u64).unwrap();
    let (before_redis, before_server) = (cpu(redis_pid), cpu_tree(postmaster));
    let before_bytes = info(&redis, "stats", "total_net_input_bytes:");
    // Held open until it was measured: at its end everything is stored.
    let (time, mut stream) = timed(|| {
        let mut stream = app.start(&["stream", "--csv", csv, "--cluster", "bench", "--until", "stored"]);
        let mut memory = (Duration::ZERO, 0.0);
        while stream.ended().is_none() {
            memory = (cpu(stream.pid()).max(memory.0), peak_memory(stream.pid()).max(memory.1));
            std::thread::sleep(Duration::from_millis(10));
        }
        (stream, memory)
    });
    assert_eq!(stream.0.wait(), 0, "{}", stream.0.log());
    assert_eq!(collect.metric("telemetry_rows_stored_total"), Some(rows));
    m.ours.push(time);
    m.wire = info(&redis, "stats", "total_net_input_bytes:") - before_bytes;
    let used = [
        stream.1.0,
        cpu(collect.pid()),
        cpu(redis_pid).saturating_sub(before_redis),
        cpu_tree(postmaster).saturating_sub(before_server),
    ];
    for (all, used) in m.cpu.iter_mut().zip(used) {
        all.push(used.as_secs_f64());
    }
    m.memory = [m.memory[0].max(stream.1.1), m.memory[1].max(peak_memory(collect.pid()))];
    let client = database.client().await;
    client.batch_execute("VACUUM").await.unwrap();
    let sql = "SELECT sum(pg_total_relation_size(oid))::int8 FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
    m.stored = client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) as f64;
}

fn info(redis: &RedisServer, section: &str, name: &str) -> f64 {
    let Reply::Text(text) = redis.command(&["INFO", section]) else { panic!("no INFO") };
    let line = text.lines().find(|line| line.starts_with(name)).expect("it is there");
    line[name.len()..].trim().parse().unwrap()
}

/// Seconds, and CPU seconds of the server.
async fn copy(server: &Server, postmaster: u32, csv: &str, indexed: bool, m: &mut Measured) -> (f64, f64) {
    let database = server.empty_database().await;
    let client = database.client().await;
    client.batch_execute(FLAT).await.unwrap();
    if indexed {
        client.batch_execute(INDEX).await.unwrap();
    }
    let before = cpu_tree(postmaster);
    let command = format!("\\copy flat from '{csv}' with (format csv, header)");
    let (time, done) = timed(|| Command::new("psql").args(["-qX", "-c", &command]).arg(&database.url).status().unwrap());
    assert!(done.success());
    let used = cpu_tree(postmaster).saturating_sub(before).as_secs_f64();
    client.batch_execute("VACUUM").await.unwrap();
    let size = client.query_one("SELECT pg_total_relation_size('flat')", &[]).await.unwrap().get::<_, i64>(0) as f64;
    *(if indexed { &mut m.indexed_size } else { &mut m.flat }) = size;
    client.batch_execute("DROP TABLE flat").await.unwrap();
    (time, used)
}

/// Every record of the file, with csv-async alone.
async fn parse(csv: &str) -> f64 {
    let file = tokio::fs::File::open(csv).await.unwrap();
    let mut reader = AsyncReaderBuilder::new().buffer_capacity(1 << 19).create_reader(file);
    let began = std::time::Instant::now();
    let (mut record, mut records) = (ByteRecord::new(), 0u64);
    while reader.read_byte_record(&mut record).await.unwrap() {
        records += 1;
    }
    assert!(records > 0);
    began.elapsed().as_secs_f64()
}
