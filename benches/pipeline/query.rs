//! What readers wait for.

use std::process::{Command, Stdio};

use tokio_postgres::Client;

use crate::ingest::{FLAT, INDEX};
use crate::measure::{Table, median, ms, number, peak_memory, seconds, timed, times};
use crate::support::app::{App, Role, wait_for};
use crate::support::http::{drain, get};
use crate::support::postgres::{Database, Server, free_port};

/// Questions of each kind.
const ASKED: usize = 21;
/// Downloads at the same time.
const DOWNLOADS: usize = 8;
const METRIC: &str = "DCGM_FI_DEV_POWER_USAGE";

pub async fn run(table: &mut Table) {
    let server = Server::start();
    fleet(&server, table).await;
    history(&server, table).await;
}

/// A store with a file in it, and a server over it.
async fn serving(database: &Database, csv: &str) -> (App, Role, u16) {
    let filler = App::new("", &database.url);
    let mut all = filler.start(&["all", "--csv", csv, "--cluster", "bench", "--listen", &format!("127.0.0.1:{}", free_port())]);
    wait_for("the file to be read", || async { all.log().contains("every row is safely") }).await;
    all.signal("TERM");
    assert_eq!(all.wait(), 0, "{}", all.log());
    let app = App::new("", &database.url).with("TELEMETRY__HTTP__RATE", "100000").with("TELEMETRY__HTTP__BURST", "100000");
    let port = free_port();
    let role = app.start(&["serve", "--listen", &format!("127.0.0.1:{port}")]);
    wait_for("a server", || async { role.get("/readyz").is_some_and(|(status, _)| status == 200) }).await;
    (app, role, port)
}

/// 640 GPUs, an hour, every 30 s: 768,000 rows.
async fn fleet(server: &Server, table: &mut Table) {
    let maker = App::new("", "");
    let csv = maker.dir.path().join("fleet.csv");
    let generate = "--gpus 640 --duration 1h --interval 30s --seed 2";
    write_export(&maker, generate, &csv);
    let csv = csv.to_str().unwrap();
    let database = server.empty_database().await;
    let (_app, _role, port) = serving(&database, csv).await;
    let flat = server.empty_database().await;
    let client = flat.client().await;
    client.batch_execute(&format!("{FLAT}; {INDEX}; CREATE INDEX ON flat (metric_name, timestamp)")).await.unwrap();
    let copy = format!("\\copy flat from '{csv}' with (format csv, header)");
    assert!(Command::new("psql").args(["-qX", "-c", &copy]).arg(&flat.url).status().unwrap().success());
    client.batch_execute("ANALYZE").await.unwrap();
    let uuid = get(port, "/api/v1/gpus?limit=1", &[]).unwrap().json()["data"][0]["uuid"].as_str().unwrap().to_owned();
    let questions = [
        (
            "the list of GPUs, 640; `GROUP BY uuid`",
            "/api/v1/gpus?limit=1000".to_owned(),
            "SELECT uuid, min(\"Hostname\"), min(gpu_id), min(timestamp), max(timestamp) FROM flat GROUP BY uuid".to_owned(),
        ),
        (
            "the newest value of a metric of each of 640 GPUs; `DISTINCT ON`",
            format!("/api/v1/telemetry/latest?metric={METRIC}&limit=10000"),
            format!(
                "SELECT DISTINCT ON (uuid) uuid, timestamp, value FROM flat WHERE metric_name = '{METRIC}' ORDER BY uuid, timestamp DESC"
            ),
        ),
        (
            "one GPU, one metric, 120 samples; SQL by the index",
            format!("/api/v1/gpus/{uuid}/telemetry?metric={METRIC}&limit=1000"),
            format!("SELECT timestamp, value FROM flat WHERE uuid = '{uuid}' AND metric_name = '{METRIC}' ORDER BY timestamp"),
        ),
        (
            "one GPU, all metrics, 1,200 samples; SQL by the index",
            format!("/api/v1/gpus/{uuid}/telemetry?limit=10000"),
            format!("SELECT timestamp, metric_name, value FROM flat WHERE uuid = '{uuid}' ORDER BY timestamp"),
        ),
        (
            "a metric of all GPUs by host and minute, 76,800 samples; `GROUP BY`",
            format!("/api/v1/telemetry/aggregate?metric={METRIC}&group_by=hostname&step=1m&limit=10000"),
            format!(
                "SELECT date_trunc('minute', timestamp), \"Hostname\", avg(value) FROM flat WHERE metric_name = '{METRIC}' GROUP BY 1, 2 ORDER BY 1, 2"
            ),
        ),
    ];
    for (what, path, sql) in questions {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ASKED {
            let (time, answer) = timed(|| get(port, &path, &[]).unwrap());
            assert_eq!(answer.status, 200, "{}", answer.text());
            ours.push(time);
            theirs.push(ask(&client, &sql).await);
        }
        let (ours, theirs) = (median(ours), median(theirs));
        table.line(what, ms(ours), ms(theirs), times(theirs / ours));
    }
}

async fn ask(client: &Client, sql: &str) -> f64 {
    let began = std::time::Instant::now();
    assert!(!client.query(sql, &[]).await.unwrap().is_empty());
    began.elapsed().as_secs_f64()
}

/// One GPU, all metrics, 24 h at 1 Hz.
async fn history(server: &Server, table: &mut Table) {
    let maker = App::new("", "");
    let csv = maker.dir.path().join("day.csv");
    write_export(&maker, "--gpus 1 --duration 24h --interval 1s --seed 4", &csv);
    let csv = csv.to_str().unwrap();
    let database = server.empty_database().await;
    let (_app, role, port) = serving(&database, csv).await;
    let uuid = get(port, "/api/v1/gpus?limit=1", &[]).unwrap().json()["data"][0]["uuid"].as_str().unwrap().to_owned();
    let flat = server.empty_database().await;
    let client = flat.client().await;
    client.batch_execute(FLAT).await.unwrap();
    let copy = format!("\\copy flat from '{csv}' with (format csv, header)");
    assert!(Command::new("psql").args(["-qX", "-c", &copy]).arg(&flat.url).status().unwrap().success());
    let narrow = "CREATE TABLE narrow AS SELECT timestamp AS ts, uuid, metric_name, value FROM flat ORDER BY timestamp; \
                  CREATE INDEX ON narrow (uuid, ts); \
                  CREATE TABLE metric AS SELECT row_number() OVER ()::int AS id, n.metric_name FROM (SELECT DISTINCT metric_name FROM flat) n; \
                  CREATE TABLE numbers AS SELECT ts, 1 AS gpu, id AS metric, value FROM narrow JOIN metric USING (metric_name) ORDER BY ts; \
                  CREATE INDEX ON numbers (gpu, ts); ANALYZE";
    client.batch_execute(narrow).await.unwrap();
    let rows = client.query_one("SELECT count(*) FROM narrow", &[]).await.unwrap().get::<_, i64>(0);
    let path = format!("/api/v1/gpus/{uuid}/telemetry");
    let names = format!("COPY (SELECT ts, metric_name, value FROM narrow WHERE uuid = '{uuid}' ORDER BY ts) TO STDOUT");
    let numbers = "COPY (SELECT ts, metric, value FROM numbers WHERE gpu = 1 ORDER BY ts) TO STDOUT".to_owned();
    let all = get(port, &path, &["Accept: application/x-ndjson"]).unwrap();
    assert_eq!(all.body.iter().filter(|byte| **byte == b'\n').count() as i64, rows);
    let (mut ours, mut theirs) = (Vec::new(), [Vec::new(), Vec::new()]);
    for _ in 0..5 {
        let (time, (_, whole)) = timed(|| drain(port, &path, &["Accept: application/x-ndjson"]));
        assert!(whole);
        ours.push(time);
        for (sql, times) in [&names, &numbers].into_iter().zip(&mut theirs) {
            let (time, done) =
                timed(|| Command::new("psql").args(["-qX", "-c", sql]).arg(&flat.url).stdout(Stdio::null()).status().unwrap());
            assert!(done.success());
            times.push(time);
        }
    }
    let ours = median(ours);
    let [names, numbers] = theirs.map(median);
    let what =
        format!("one GPU, all metrics, 24 h at 1 Hz ({} rows) as NDJSON; `psql` COPY of them from *narrow*", number(rows as f64));
    table.line(&what, seconds(ours), seconds(names), times(names / ours));
    table.line("the same; from *numbers*, without the metrics' names", seconds(ours), seconds(numbers), times(numbers / ours));
    let downloads: Vec<_> = (0..DOWNLOADS)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || drain(port, &path, &["Accept: application/x-ndjson"]).1)
        })
        .collect();
    assert!(downloads.into_iter().all(|download| download.join().unwrap()));
    let memory = format!("{:.0} MiB", peak_memory(role.pid()));
    table.line(&format!("peak memory of `serve`, {DOWNLOADS} such downloads at once"), memory, "", "");
}

fn write_export(app: &App, generate: &str, path: &std::path::Path) {
    let arguments: Vec<&str> = std::iter::once("generate").chain(generate.split(' ')).collect();
    let mut command = app.command(&arguments);
    assert!(command.stdout(std::fs::File::create(path).unwrap()).status().unwrap().success());
}
