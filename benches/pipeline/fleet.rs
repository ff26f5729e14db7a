//! A fleet that is stored as it comes: what a sample costs then, and packed; what a row costs when GPUs are many; and VictoriaMetrics
//! (Debian's package `victoria-metrics`) with the same samples, where it is installed.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::measure::{Table, median, ms, number, seconds, timed, times};
use crate::support::app::{App, Role, Seeded, wait_for};
use crate::support::http::get;
use crate::support::postgres::{Database, Server, free_port};
use crate::support::redis::RedisServer;

/// Questions of each kind.
const ASKED: usize = 21;
const METRIC: &str = "DCGM_FI_DEV_POWER_USAGE";

pub async fn run(table: &mut Table) {
    let server = Server::start();
    many_gpus(&server, table).await;
    for (what, generate) in [
        ("a generated fleet, 16 GPUs at 1 s", Data::Generated("--gpus 16 --duration 100m --interval 1s --seed 3")),
        ("a generated fleet, 128 GPUs at 15 s", Data::Generated("--gpus 128 --duration 3h --interval 15s --seed 3")),
        (
            "a busy run, 8 GPUs at 1 s: half of the metrics noise, times irregular",
            Data::Busy { gpus: 8, interval: 1000, ticks: 6000 },
        ),
        ("a busy run, 64 GPUs at 15 s", Data::Busy { gpus: 64, interval: 15_000, ticks: 720 }),
    ] {
        stored(&server, table, what, &generate).await;
    }
}

/// What is stored.
enum Data {
    /// By `telemetry generate`, with these arguments.
    Generated(&'static str),
    /// Made here: of ten metrics five hardly change, and five are noise about a mean, as on a GPU that trains. The scrapes jitter.
    Busy { gpus: u32, interval: i64, ticks: u32 },
}

impl Data {
    fn write(&self, path: &Path) {
        let file = std::fs::File::create(path).unwrap();
        match self {
            Self::Generated(arguments) => {
                let arguments: Vec<&str> = std::iter::once("generate").chain(arguments.split(' ')).collect();
                assert!(App::new("", "").command(&arguments).stdout(file).status().unwrap().success());
            }
            Self::Busy { gpus, interval, ticks } => busy(&mut std::io::BufWriter::new(file), *gpus, *interval, *ticks).unwrap(),
        }
    }
}

fn busy(out: &mut dyn Write, gpus: u32, interval: i64, ticks: u32) -> std::io::Result<()> {
    let mut random = Seeded(11);
    let begin = telemetry::model::TimeMs::from_millis(1_735_689_600_000);
    writeln!(out, "timestamp,metric_name,gpu_id,device,uuid,modelName,Hostname,container,pod,namespace,value,labels_raw")?;
    for tick in 0..ticks {
        for gpu in 0..gpus {
            let jitter = i64::try_from(random.below(40)).unwrap();
            let time = begin.plus_millis(i64::from(tick) * interval + jitter);
            let mut noise = |mean: u64, width: u64, scale: f64| (mean + random.below(width)) as f64 / scale;
            let values = [
                ("DCGM_FI_DEV_POWER_USAGE", noise(520_000, 180_000, 1000.0)),
                ("DCGM_FI_PROF_SM_ACTIVE", noise(700_000, 250_000, 1e6)),
                ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", noise(300_000, 350_000, 1e6)),
                ("DCGM_FI_PROF_DRAM_ACTIVE", noise(250_000, 300_000, 1e6)),
                ("DCGM_FI_PROF_NVLINK_TX_BYTES", noise(10_000_000_000, 90_000_000_000, 1.0)),
                ("DCGM_FI_DEV_GPU_UTIL", noise(98, 3, 1.0)),
                ("DCGM_FI_DEV_GPU_TEMP", noise(61, 3, 1.0)),
                ("DCGM_FI_DEV_FB_USED", 70_512.0),
                ("DCGM_FI_DEV_SM_CLOCK", if tick % 97 == 0 { 1965.0 } else { 1980.0 }),
                ("DCGM_FI_DEV_MEM_CLOCK", 2619.0),
            ];
            for (metric, value) in values {
                let (host, index) = (gpu / 8, gpu % 8);
                writeln!(
                    out,
                    "{time},{metric},{index},nvidia{index},GPU-b05e0000-0000-4000-8000-{gpu:012},NVIDIA H100 80GB HBM3,busy-{host:03},main,train-0-{host},research,{value},"
                )?;
            }
        }
    }
    Ok(())
}

/// A collector and a queue over a database.
struct Line {
    app: App,
    collect: Role,
    _redis: RedisServer,
}

impl Line {
    async fn over(database: &Database) -> Self {
        let redis = RedisServer::start();
        let app = App::new(&redis.url(), &database.url);
        let collect = app.start(&["collect"]);
        wait_for("a collector", || async { collect.get("/readyz").is_some_and(|(status, _)| status == 200) }).await;
        Self { app, collect, _redis: redis }
    }

    fn store(&self, csv: &str, more: &[&str]) {
        let mut arguments = vec!["stream", "--csv", csv, "--cluster", "bench", "--until", "stored"];
        arguments.extend(more);
        self.app.run(&arguments).exits(0);
    }
}

/// Bytes of all tables of a database, with their indexes.
async fn bytes(database: &Database) -> f64 {
    let sql = "SELECT sum(pg_total_relation_size(oid))::int8 FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
    database.client().await.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) as f64
}

/// Rows of an export.
fn rows_of(csv: &str) -> f64 {
    (BufReader::new(std::fs::File::open(csv).unwrap()).lines().count() - 1) as f64
}

/// A row of 10,000 GPUs beside one of 100, read at once; and questions to the larger store as it was written, packed by the hour or not.
async fn many_gpus(server: &Server, table: &mut Table) {
    let database = server.empty_database().await;
    let line = Line::over(&database).await;
    let mut each = Vec::new();
    let mut before = 0.0;
    for (name, generate) in [
        ("few.csv", "--gpus 100 --duration 5h --interval 15s --seed 7"),
        ("many.csv", "--gpus 10000 --duration 10m --interval 30s --seed 7"),
    ] {
        let path = line.app.dir.path().join(name);
        Data::Generated(generate).write(&path);
        let csv = path.to_str().unwrap();
        let rows = rows_of(csv);
        before = bytes(&database).await;
        let (time, ()) = timed(|| line.store(csv, &[]));
        each.push((time / rows, rows));
        std::fs::remove_file(path).unwrap();
    }
    let [(few, _), (many, rows)] = each[..] else { unreachable!() };
    table.line(
        "a row of 10,000 GPUs read at once; of 100 GPUs",
        format!("{:.2} µs", many * 1e6),
        format!("{:.2} µs", few * 1e6),
        times(many / few),
    );
    let written = (bytes(&database).await - before) / rows;
    table.line(
        "bytes a sample of 10,000 GPUs with 20 samples a series, as written, identities included",
        format!("{written:.1}"),
        "",
        "",
    );
    let (app, _role, port) = serving(&database).await;
    questions(&database, table, port, "as written").await;
    app.run(&["compact"]).exits(0);
    questions(&database, table, port, "packed").await;
}

async fn serving(database: &Database) -> (App, Role, u16) {
    let app = App::new("", &database.url).with("TELEMETRY__HTTP__RATE", "100000").with("TELEMETRY__HTTP__BURST", "100000");
    let port = free_port();
    let role = app.start(&["serve", "--listen", &format!("127.0.0.1:{port}")]);
    wait_for("a server", || async { role.get("/readyz").is_some_and(|(status, _)| status == 200) }).await;
    (app, role, port)
}

/// What is asked of a store of 10,000 GPUs, beside a narrow indexed table of the same samples.
async fn questions(database: &Database, table: &mut Table, port: u16, form: &str) {
    let client = database.client().await;
    client
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS narrow AS SELECT ts, gpu_uuid, metric_name, hostname, value FROM samples WHERE model <> '' AND gpu_uuid IN \
                (SELECT gpu_uuid FROM samples GROUP BY gpu_uuid HAVING count(*) < 1000); \
             CREATE INDEX IF NOT EXISTS narrow_gpu ON narrow (gpu_uuid, ts); \
             CREATE INDEX IF NOT EXISTS narrow_metric ON narrow (metric_name, gpu_uuid, ts DESC); ANALYZE narrow",
        )
        .await
        .unwrap();
    let uuid: String = client.query_one("SELECT gpu_uuid FROM narrow LIMIT 1", &[]).await.unwrap().get(0);
    let asked = [
        (
            "one GPU of 10,000, all metrics, its samples; SQL by the index",
            format!("/api/v1/gpus/{uuid}/telemetry?limit=10000"),
            format!("SELECT ts, metric_name, value FROM narrow WHERE gpu_uuid = '{uuid}' ORDER BY ts"),
        ),
        (
            "the newest value of a metric of 10,000 GPUs; `DISTINCT ON` by the index",
            format!("/api/v1/telemetry/latest?metric={METRIC}&limit=10000"),
            format!(
                "SELECT DISTINCT ON (gpu_uuid) gpu_uuid, ts, value FROM narrow WHERE metric_name = '{METRIC}' ORDER BY gpu_uuid, ts DESC"
            ),
        ),
    ];
    for (what, path, sql) in asked {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ASKED {
            let (time, answer) = timed(|| get(port, &path, &[]).unwrap());
            assert_eq!(answer.status, 200, "{}", answer.text());
            ours.push(time);
            let began = std::time::Instant::now();
            assert!(!client.query(&sql, &[]).await.unwrap().is_empty());
            theirs.push(began.elapsed().as_secs_f64());
        }
        let (ours, theirs) = (median(ours), median(theirs));
        table.line(&format!("{what} ({form})"), ms(ours), ms(theirs), times(theirs / ours));
    }
}

/// Bytes a sample: as written (a commit a scrape, nearly), packed, and in VictoriaMetrics.
async fn stored(server: &Server, table: &mut Table, what: &str, data: &Data) {
    let database = server.empty_database().await;
    let line = Line::over(&database).await;
    let path = line.app.dir.path().join("data.csv");
    data.write(&path);
    let csv = path.to_str().unwrap();
    let rows = rows_of(csv);
    let empty = bytes(&database).await;
    // Batches of about a scrape that are stored before the next one comes.
    line.store(csv, &["--rate", "20000"]);
    assert_eq!(line.collect.metric("telemetry_rows_stored_total"), Some(rows));
    let written = (bytes(&database).await - empty) / rows;
    line.app.run(&["compact"]).exits(0);
    let client = database.client().await;
    client.batch_execute("VACUUM").await.unwrap();
    let packed = bytes(&database).await / rows;
    let sql = "SELECT count(*) FROM samples";
    let began = std::time::Instant::now();
    assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) as f64, rows);
    let rate = rows / began.elapsed().as_secs_f64() / 1e6;
    table.line(
        &format!("{what} ({} samples): bytes a sample as written, packed", number(rows)),
        format!("{written:.1}, {packed:.2}"),
        "",
        format!("`count(*)` {rate:.1} M/s"),
    );
    match VictoriaMetrics::start() {
        None => table.line("the same in VictoriaMetrics", "", "not installed (apt-get install victoria-metrics)", ""),
        Some(peer) => {
            let (time, ()) = timed(|| peer.import(csv));
            let bytes = peer.merged().await / rows;
            table.line(
                "the same in VictoriaMetrics, merged, index included",
                format!("{packed:.2}"),
                format!("{bytes:.2} (read in {})", seconds(time)),
                times(bytes / packed),
            );
        }
    }
}

/// A server of its own in a directory of its own.
struct VictoriaMetrics {
    server: Child,
    directory: tempfile::TempDir,
    port: u16,
}

impl Drop for VictoriaMetrics {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl VictoriaMetrics {
    /// `None`: it is not installed.
    fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new("victoria-metrics");
        command.arg(format!("-storageDataPath={}", directory.path().display())).arg(format!("-httpListenAddr=127.0.0.1:{port}"));
        let server = command.arg("-retentionPeriod=100y").stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        Some(Self { server, directory, port })
    }

    fn ask(&self, path: &str) -> Option<String> {
        get(self.port, path, &[]).filter(|answer| answer.status < 300).map(|answer| answer.text().to_owned())
    }

    /// Imports an export, in parts.
    fn import(&self, csv: &str) {
        while self.ask("/health").is_none() {
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut part = String::new();
        for line in BufReader::new(std::fs::File::open(csv).unwrap()).lines().skip(1) {
            let line = line.unwrap();
            let cells: Vec<&str> = line.splitn(12, ',').collect();
            let [time, metric, index, device, uuid, model, host, container, pod, namespace, value, ..] = cells[..] else {
                panic!("{line}")
            };
            let ms = time.parse::<telemetry::model::TimeMs>().unwrap().as_millis();
            part.push_str(&format!(
                "{metric}{{cluster=\"bench\",gpu=\"{index}\",device=\"{device}\",UUID=\"{uuid}\",modelName=\"{model}\",Hostname=\"{host}\",container=\"{container}\",pod=\"{pod}\",namespace=\"{namespace}\"}} {value} {ms}\n"
            ));
            if part.len() > 8 << 20 {
                self.send(&std::mem::take(&mut part));
            }
        }
        self.send(&part);
    }

    fn send(&self, part: &str) {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            connection,
            "POST /api/v1/import/prometheus HTTP/1.1\r\nHost: v\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            part.len()
        )
        .unwrap();
        connection.write_all(part.as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(connection).read_line(&mut answer).unwrap();
        assert!(answer.contains(" 204 ") || answer.contains(" 200 "), "{answer}");
    }

    /// Bytes on disk once everything is merged.
    async fn merged(&self) -> f64 {
        self.ask("/internal/force_flush").expect("it flushes");
        self.ask("/internal/force_merge").expect("it merges");
        let active = || {
            self.ask("/metrics")
                .is_some_and(|text| text.lines().any(|line| line.starts_with("vm_active_force_merges ") && !line.ends_with(" 0")))
        };
        wait_for("the merge", || async { !active() }).await;
        size_of(self.directory.path())
    }
}

fn size_of(path: &Path) -> f64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(
            |entry| {
                if entry.path().is_dir() {
                    size_of(&entry.path())
                } else {
                    entry.metadata().map_or(0.0, |meta| meta.len() as f64)
                }
            },
        )
        .sum()
}
