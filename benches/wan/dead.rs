//! How much memory a streamer takes while its line is dead: what it has is what it had.

use std::time::{Duration, Instant};

use crate::support::app::{App, wait_for};
use crate::support::proxy::Proxy;
use crate::support::redis::RedisServer;

/// What may come on top while nothing can be sent, MiB.
const SLACK: f64 = 4.0;

/// Cuts the line at full rate, for half of the time silently; prints what was seen, and whether it stayed flat.
pub async fn run(rows: u64, seconds: u64) -> bool {
    let redis = RedisServer::start();
    let line = Proxy::to(redis.port()).await;
    let app = App::new(&format!("redis://127.0.0.1:{}", line.port()), "");
    // Several files at once, as many as there are partitions.
    let files: Vec<String> = (0..8).map(|i| app.export(&format!("{i}.csv"), 80, rows / 6400, i).0).collect();
    let mut arguments = vec!["stream", "--cluster", "wan"];
    files.iter().for_each(|file| arguments.extend(["--csv", file]));
    let mut stream = app.start(&arguments);
    let published = || stream.metric("telemetry_rows_published_total").unwrap_or(0.0);
    wait_for("the full rate", || async { published() > rows as f64 / 10.0 }).await;
    println!("\n| line | after | memory of `stream` |\n|---|---|---|");
    println!("| open, {} of {rows} rows sent | | {:.1} MiB |", published(), memory(stream.pid()));
    let (mut settled, mut most) = (0.0_f64, 0.0_f64);
    for (name, half) in [("silent", false), ("closed", true)] {
        if half {
            line.cut();
        } else {
            line.silence();
        }
        let began = Instant::now();
        let mut next = 5;
        while began.elapsed() < Duration::from_secs(seconds / 2) {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = memory(stream.pid());
            // Windows fill within the first seconds.
            if !half && began.elapsed() < Duration::from_secs(5) {
                settled = settled.max(now);
            } else {
                most = most.max(now);
            }
            if began.elapsed() >= Duration::from_secs(next) {
                println!("| {name} | {next} s | {now:.1} MiB |");
                next *= 2;
            }
        }
    }
    line.mend();
    let well = most <= settled + SLACK;
    println!("| the most, {seconds} s long | | {most:.1} MiB |");
    assert_eq!(stream.wait(), 0, "{}", stream.log());
    println!("\n{}: {settled:.1} MiB within 5 s, then {most:.1} MiB at most", if well { "flat" } else { "FAILED: not flat" });
    well
}

/// What a process has in memory, MiB.
fn memory(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}
