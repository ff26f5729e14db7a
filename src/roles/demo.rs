//! `telemetry demo`: runs everything in one process on generated data that looks live, and removes the data at the end.
//!
//! A simulated fleet writes its export into a file; `all` follows that file as it follows real ones. What the demo prints comes from
//! the API.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::all;
use super::generate::Generate;
use crate::cli::{Cli, Demo};
use crate::config::{self as settings};
use crate::model::{IntervalMs, TimeMs, parse_time};
use crate::runtime::{self, Exit, Lifecycle};

/// Length of the history that exists when the demo starts.
const HISTORY: Duration = Duration::from_secs(15 * 60);
/// Time between two scrapes.
const INTERVAL: Duration = Duration::from_secs(5);
/// Time after which the simulated fleet ends.
const FLEET_DURATION: Duration = Duration::from_secs(30 * 86_400);
const GPUS: u32 = 32;
const CLUSTER: &str = "demo";
const TEMPERATURE: &str = "DCGM_FI_DEV_GPU_TEMP";
const POWER: &str = "DCGM_FI_DEV_POWER_USAGE";
/// Timeout of the first answer of the API.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the command. It does not use the Redis and PostgreSQL of the environment.
pub fn run(demo: &Demo) -> anyhow::Result<Exit> {
    let directory = Directory::make()?;
    let listen = demo.listen.unwrap_or_else(free_address);
    let export = directory.0.join("export");
    std::fs::create_dir(&export).with_context(|| format!("{} cannot be created", export.display()))?;
    let (csv, data, address) = (export.display().to_string(), directory.0.join("data").display().to_string(), listen.to_string());
    let equivalent = Cli::try_parse_from([
        "telemetry",
        "--log-level",
        "warn",
        "all",
        "--csv",
        &csv,
        "--follow",
        "--cluster",
        CLUSTER,
        "--data-dir",
        &data,
        "--listen",
        &address,
        "--admin-listen",
        "off",
    ])
    .context("internal error: the demo's own command line")?;
    let config = Arc::new(settings::load(&[], [], &equivalent.flags())?);
    let file = export.join("fleet.csv");
    runtime::run(&config, "demo", None, |lifecycle| {
        let config = Arc::clone(&config);
        async move {
            let fleet = start_fleet(&lifecycle, &file);
            let answers = tokio::spawn(show(listen, lifecycle.draining()));
            let ended = all::run(config, lifecycle.clone()).await;
            answers.abort();
            fleet.cancel();
            ended
        }
    })
}

/// A temporary directory, removed when it is dropped.
struct Directory(PathBuf);

impl Directory {
    fn make() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("telemetry-demo-{}-{:08x}", std::process::id(), rand::random::<u32>()));
        std::fs::create_dir(&path).with_context(|| format!("{} cannot be created", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed is left in the system's directory for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// 127.0.0.1:8080, or a free port where that one is taken.
fn free_address() -> SocketAddr {
    let at = |port| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| listener.local_addr());
    at(8080).or_else(|_| at(0)).unwrap_or_else(|_| (Ipv4Addr::LOCALHOST, 8080).into())
}

/// Writes the export of the fleet: the history at once, each later row at its time.
fn start_fleet(lifecycle: &Lifecycle, file: &Path) -> CancellationToken {
    let (ended, path) = (lifecycle.stopping().child_token(), file.to_owned());
    let (told, failed) = (ended.clone(), lifecycle.clone());
    let history = i64::try_from(HISTORY.as_millis()).unwrap_or(0);
    let generate = Generate {
        gpus: GPUS,
        duration: FLEET_DURATION,
        interval: INTERVAL,
        seed: 7,
        start_ms: TimeMs::now().plus_millis(-history).floor_to(IntervalMs::SECOND),
    };
    tokio::task::spawn_blocking(move || {
        let written = File::create(&path).and_then(|file| generate.write(&mut PacedWriter::new(file, told.clone())));
        if let Err(error) = written.map(|_| ())
            && !told.is_cancelled()
        {
            tracing::error!(%error, "{} cannot be written: the simulated fleet has stopped", path.display());
            failed.drain();
        }
    });
    ended
}

/// Writes each line at the time with which it begins.
struct PacedWriter {
    out: BufWriter<File>,
    line: Vec<u8>,
    ended: CancellationToken,
}

impl PacedWriter {
    fn new(file: File, ended: CancellationToken) -> Self {
        Self { out: BufWriter::with_capacity(1 << 18, file), line: Vec::new(), ended }
    }

    fn pass(&mut self) -> io::Result<()> {
        let time = self.line.split(|b| *b == b',').next().map(|cell| cell.trim_ascii().strip_prefix(b"\"").unwrap_or(cell));
        let time = time.map(|cell| cell.strip_suffix(b"\"").unwrap_or(cell)).and_then(|cell| parse_time(cell).ok());
        while let Some(early) = time.map(|time| time.millis_since(TimeMs::now())).filter(|early| *early > 0) {
            if self.ended.is_cancelled() {
                return Err(io::Error::other("it ends"));
            }
            self.out.flush()?;
            std::thread::sleep(Duration::from_millis(early.unsigned_abs().min(200)));
        }
        self.out.write_all(&self.line)?;
        self.line.clear();
        Ok(())
    }
}

impl Write for PacedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.pass()?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Waits for the first answers, and prints them.
async fn show(address: SocketAddr, draining: CancellationToken) {
    let began = tokio::time::Instant::now();
    loop {
        match answers(address).await {
            Ok(text) => {
                let _ = super::print(&text);
                return;
            }
            Err(error) if began.elapsed() > PATIENCE => {
                tracing::error!("no answer from http://{address}: {error:#}");
                return;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
            () = draining.cancelled() => return,
        }
    }
}

/// A summary of answers of the API, for a terminal.
async fn answers(address: SocketAddr) -> anyhow::Result<String> {
    let clusters = get(address, "/api/v1/clusters").await?;
    let fleet = clusters["data"].get(0).context("nothing is stored yet")?;
    let history = i64::try_from(HISTORY.as_secs()).unwrap_or(0) as f64;
    if fleet["freshness_seconds"].as_f64().is_none_or(|age| age > history / 2.0) {
        anyhow::bail!("the history is not stored yet");
    }
    let latest = get(address, &format!("/api/v1/telemetry/latest?metric={TEMPERATURE}&limit=10000")).await?;
    let temperature = |row: &Value| row["value"].as_f64().unwrap_or(f64::MIN);
    let rows = latest["data"].as_array().context("no list")?;
    let hottest = rows.iter().max_by(|a, b| temperature(a).total_cmp(&temperature(b))).context("no temperature yet")?;
    let uuid = text(hottest, "uuid");
    let path = format!("/api/v1/gpus/{uuid}/telemetry?metric={POWER}&start_time=now-15m&step=15s&agg=avg&limit=1000");
    let power: Vec<f64> =
        get(address, &path).await?["data"].as_array().into_iter().flatten().filter_map(|row| row["value"].as_f64()).collect();
    let mut out = String::new();
    let (least, most) = power.iter().fold((f64::MAX, f64::MIN), |(least, most), v| (least.min(*v), most.max(*v)));
    let _ = write!(
        out,
        "\n  Page        http://{address}/\n  API docs    http://{address}/docs\n\n\
         \x20 Fleet       {} GPUs on {} hosts in cluster `{}`, newest sample {:.0} s old\n\
         \x20 Hottest     {} GPU {}: {} °C   ({uuid})\n\
         \x20 Its power   {least:.0} W {} {most:.0} W, the last 15 minutes\n\n\
         \x20 Try         curl 'http://{address}/api/v1/gpus?limit=2'\n\
         \x20             curl -H 'Accept: text/csv' 'http://{address}/api/v1/gpus/{uuid}/telemetry?metric={POWER}&start_time=now-1m'\n\n\
         The demo runs until Ctrl-C, and removes its data then.\n",
        fleet["gpus"],
        fleet["hosts"],
        text(fleet, "name"),
        fleet["freshness_seconds"].as_f64().unwrap_or(0.0),
        text(hottest, "hostname"),
        hottest["gpu_index"],
        hottest["value"],
        sparkline(&power),
    );
    Ok(out)
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_default()
}

/// Values as a row of bars, scaled between the smallest and the greatest.
fn sparkline(values: &[f64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let (least, most) = values.iter().fold((f64::MAX, f64::MIN), |(least, most), v| (least.min(*v), most.max(*v)));
    let bar = |value: &f64| {
        let height = if most > least { (value - least) / (most - least) * 7.0 } else { 3.0 };
        BARS[(height.round() as usize).min(7)]
    };
    values.iter().map(bar).collect()
}

/// The JSON answer of a GET request.
async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Value> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = hyper::Request::get(path).header("host", address.to_string()).body(Empty::<bytes::Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    driver.abort();
    anyhow::ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_high_as_values() {
        assert_eq!(sparkline(&[0.0, 7.0, 3.5, 1.0]), "▁█▅▂");
        assert_eq!(sparkline(&[5.0, 5.0]), "▄▄");
        assert_eq!(sparkline(&[]), "");
    }
}
