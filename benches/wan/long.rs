//! How much goes through a line that is long.

use std::time::{Duration, Instant};

use telemetry::roles::generate::Generate;

use crate::measure::{median, number};
use crate::support::app::App;
use crate::support::proxy::Proxy;
use crate::support::redis::RedisServer;

/// Round trips, ms.
const LENGTHS: [u64; 4] = [0, 50, 100, 200];
/// Of the rate without delay, this must be left at 100 ms while rows flow.
const WANTED: f64 = 0.8;

/// How the rows are laid out.
struct Layout {
    name: &'static str,
    files: u64,
}

#[derive(Default)]
struct Measured {
    /// Rows a second, from the first that was accepted to the last.
    flowing: Vec<f64>,
    /// s until the first was accepted.
    first: Vec<f64>,
    /// s from start to end.
    whole: Vec<f64>,
}

/// Measures and prints; whether what is wanted holds.
pub async fn run(rows: u64, runs: usize) -> bool {
    let layouts = [
        Layout { name: "one file", files: 1 },
        Layout { name: "eight files", files: 8 },
        Layout { name: "200 small files", files: 200 },
    ];
    println!("| rows in | round trip | rows/s while they flow | of 0 ms | first batch after | whole run | of 0 ms |");
    println!("|---|---|---|---|---|---|---|");
    let mut well = true;
    for layout in layouts {
        let app = App::new("", "");
        let rows = write(&app, rows, layout.files);
        let mut measured: Vec<Measured> = LENGTHS.iter().map(|_| Measured::default()).collect();
        for _ in 0..runs {
            for (length, measured) in LENGTHS.iter().zip(&mut measured) {
                once(&app, rows, Duration::from_millis(*length), measured).await;
            }
        }
        let base = (median(measured[0].flowing.clone()), median(measured[0].whole.clone()));
        for (length, m) in LENGTHS.iter().zip(measured) {
            let (flowing, first, whole) = (median(m.flowing), median(m.first), median(m.whole));
            let kept = (flowing / base.0, base.1 / whole);
            println!(
                "| {} | {length} ms | {} | {:.0} % | {first:.2} s | {whole:.2} s | {:.0} % |",
                layout.name,
                number(flowing),
                kept.0 * 100.0,
                kept.1 * 100.0
            );
            well &= *length != 100 || layout.files == 200 || kept.0 >= WANTED;
        }
    }
    println!("\n{}", if well { "more than 80 % are left at 100 ms" } else { "FAILED: less than 80 % are left at 100 ms" });
    well
}

/// Writes so many rows into so many files; gives how many there are.
fn write(app: &App, rows: u64, files: u64) -> u64 {
    let steps = (rows / files / 800).max(1);
    let dir = app.dir.path().join("csv");
    std::fs::create_dir(&dir).unwrap();
    let mut written = 0;
    for seed in 0..files {
        let generate = Generate {
            gpus: 80,
            duration: Duration::from_secs(steps),
            interval: Duration::from_secs(1),
            seed,
            start_ms: telemetry::model::TimeMs::from_millis(1_735_689_600_000),
        };
        let mut file = std::io::BufWriter::new(std::fs::File::create(dir.join(format!("{seed:03}.csv"))).unwrap());
        written += generate.write(&mut file).unwrap();
    }
    written
}

async fn once(app: &App, rows: u64, round_trip: Duration, measured: &mut Measured) {
    let redis = RedisServer::start();
    let line = Proxy::to(redis.port()).await;
    line.delay(round_trip / 2);
    let app = App::new(&format!("redis://127.0.0.1:{}", line.port()), "")
        .with("TELEMETRY__STREAM__CSV", app.dir.path().join("csv").to_str().unwrap());
    let app = app.with("TELEMETRY__REDIS__COMMAND_TIMEOUT", "3s").with("TELEMETRY__REDIS__MAX_BACKLOG", "1000000");
    let began = Instant::now();
    let mut stream = app.start(&["stream", "--cluster", "wan"]);
    let (mut first, mut last) = (None, None);
    while stream.ended().is_none() {
        let published = stream.metric("telemetry_rows_published_total").unwrap_or(0.0);
        if published > 0.0 {
            first.get_or_insert((Instant::now(), published));
        }
        if published >= rows as f64 {
            last.get_or_insert(Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(stream.wait(), 0, "{}", stream.log());
    let whole = began.elapsed().as_secs_f64();
    let (first, sent) = first.expect("rows were sent");
    let last = last.unwrap_or_else(Instant::now);
    measured.first.push((first - began).as_secs_f64());
    measured.flowing.push((rows as f64 - sent) / (last - first).as_secs_f64());
    measured.whole.push(whole);
    eprintln!("{} ms: {whole:.2} s", round_trip.as_millis());
}
