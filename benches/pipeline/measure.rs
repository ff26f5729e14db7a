//! Clocks, processes, and the table.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// Lines of the table.
#[derive(Default)]
pub struct Table(Vec<[String; 4]>);

impl Table {
    /// What, ours, the peer's, and how they compare.
    pub fn line(&mut self, what: &str, ours: impl Into<String>, peer: impl Into<String>, ratio: impl Into<String>) {
        let line = [what.to_owned(), ours.into(), peer.into(), ratio.into()];
        eprintln!("{}", line.join(" | "));
        self.0.push(line);
    }

    pub fn text(&self) -> String {
        let mut out = "| what | telemetry | beside it | ratio |\n|---|---|---|---|\n".to_owned();
        for line in &self.0 {
            let _ = writeln!(out, "| {} |", line.join(" | "));
        }
        out
    }
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How long something took, s.
pub fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let began = Instant::now();
    let done = work();
    (began.elapsed().as_secs_f64(), done)
}

/// With thousands apart.
pub fn number(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

pub fn seconds(value: f64) -> String {
    format!("{value:.2} s")
}

pub fn ms(value: f64) -> String {
    format!("{:.1} ms", value * 1000.0)
}

pub fn times(ratio: f64) -> String {
    format!("{ratio:.1} ×")
}

/// CPU time that a process (with those of its children that have ended) has used.
pub fn cpu(pid: u32) -> Duration {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return Duration::ZERO };
    // Behind the name, which may have spaces: utime, stime, cutime, cstime are the fields 14 to 17 of proc_pid_stat(5).
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11..15].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// The same, with all that live below it.
pub fn cpu_tree(pid: u32) -> Duration {
    // Its own first: a child that ends meanwhile is then counted once, or not at all, never twice.
    let own = cpu(pid);
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|child| child.parse().ok()).map(cpu_tree).sum::<Duration>() + own
}

/// The most memory a process ever had, MiB.
pub fn peak_memory(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// The date, in UTC.
pub fn today() -> String {
    telemetry::model::TimeMs::now().to_string()[..10].to_owned()
}

/// What it was measured on.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1)).unwrap_or("?");
    let cores = info.lines().filter(|line| line.starts_with("processor")).count();
    let memory =
        read("/proc/meminfo").split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1048576.0;
    let version = |program: &str, argument: &str| {
        let out = std::process::Command::new(program).arg(argument).output();
        out.ok().map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default()
    };
    let redis = version("redis-server", "--version");
    let redis = redis.split_whitespace().find(|word| word.starts_with("v=")).map_or("?", |word| &word[2..]).to_owned();
    let postgres = version("psql", "--version");
    let postgres = postgres.split_whitespace().nth(2).unwrap_or("?").to_owned();
    format!("{cores} cores ({model}), {memory:.0} GiB, Redis {redis}, PostgreSQL {postgres}")
}
