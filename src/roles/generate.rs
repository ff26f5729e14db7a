//! `telemetry generate`: a synthetic DCGM export, for trials, tests and measurements.
//!
//! The same arguments give the same bytes. GPUs run jobs that begin and end; memory, temperature, power and clocks follow the
//! utilization. The layout is that of a Prometheus export of dcgm-exporter: 12 columns, metric by metric, with slightly different
//! times.

use std::io::{self, Write};
use std::time::Duration;

use crate::cli;
use crate::model::TimeMs;
use crate::runtime::Exit;

/// Number of GPUs of one host.
const GPUS_PER_HOST: u32 = 8;
/// Framebuffer of the simulated board, MiB.
const FRAMEBUFFER: u32 = 81_007;
const MODEL: &str = "NVIDIA H100 80GB HBM3";
const DRIVER: &str = "550.90.07";

/// The metrics, each with the quarter of the scrape in which it is taken.
const METRICS: [(&str, i64); 10] = [
    ("DCGM_FI_DEV_GPU_UTIL", 0),
    ("DCGM_FI_DEV_MEM_COPY_UTIL", 0),
    ("DCGM_FI_DEV_POWER_USAGE", 0),
    ("DCGM_FI_DEV_GPU_TEMP", 1),
    ("DCGM_FI_DEV_FB_USED", 1),
    ("DCGM_FI_DEV_FB_FREE", 1),
    ("DCGM_FI_DEV_DEC_UTIL", 2),
    ("DCGM_FI_DEV_ENC_UTIL", 3),
    ("DCGM_FI_DEV_SM_CLOCK", 3),
    ("DCGM_FI_DEV_MEM_CLOCK", 3),
];

/// What to generate.
#[derive(Clone, Copy, Debug)]
pub struct Generate {
    /// Number of GPUs, eight per host.
    pub gpus: u32,
    /// Time range; a scrape exactly at its end is not included.
    pub duration: Duration,
    /// Time between scrapes, at least 1 ms.
    pub interval: Duration,
    /// Seed of the random values: another seed gives other jobs and uuids.
    pub seed: u64,
    /// Time of the first scrape, ms since 1970.
    pub start_ms: TimeMs,
}

/// Runs the command.
pub fn run(what: &cli::Generate) -> anyhow::Result<Exit> {
    let cli::Generate { gpus, duration, interval, seed, start } = *what;
    let generate = Generate { gpus, duration, interval, seed, start_ms: start.into() };
    super::print_bytes(|out| generate.write(out).map(|_| ()))?;
    Ok(Exit::Done)
}

/// A small generator whose sequence never changes between versions (SplitMix64, Steele et al. 2014).
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u32) -> u32 {
        ((self.next() >> 32).wrapping_mul(u64::from(n)) >> 32) as u32
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.below(one_in.max(1)) == 0
    }
}

/// The job that a host runs.
#[derive(Clone, Debug)]
struct Job {
    number: u32,
    team: &'static str,
    /// Number of GPUs that the job uses: the first ones of the host.
    gpus: u32,
    utilization: u32,
    memory: u32,
    steps_left: u32,
}

struct Host {
    random: Random,
    job: Option<Job>,
    jobs: u32,
}

struct Gpu {
    uuid: String,
    hostname: String,
    index: u32,
    /// The cells between time and value of a row, for each metric; the same until the job changes.
    middle: Vec<String>,
    /// The cells after the value of a row, for each metric.
    end: Vec<String>,
    /// Number of the job that the cells describe.
    cells_for: Option<u32>,
    utilization: u32,
    memory: u32,
    /// In thousandths, so that printing needs no rounding.
    celsius_milli: u32,
    power_milli: u32,
}

impl Generate {
    /// Writes the export; returns the number of rows.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<u64> {
        let mut seeds = Random(self.seed);
        let n_hosts = self.gpus.div_ceil(GPUS_PER_HOST);
        let mut hosts: Vec<Host> = (0..n_hosts).map(|_| Host { random: Random(seeds.next()), job: None, jobs: 0 }).collect();
        let mut gpus: Vec<Gpu> = (0..self.gpus).map(|i| Gpu::new(i, &mut seeds)).collect();
        out.write_all(b"timestamp,metric_name,gpu_id,device,uuid,modelName,Hostname,container,pod,namespace,value,labels_raw\n")?;
        let interval = i64::try_from(self.interval.as_millis()).unwrap_or(i64::MAX).max(1);
        let steps = self.duration.as_millis().div_ceil(interval.unsigned_abs().into()) as i64;
        // Whole seconds where the interval is long enough, as in real exports.
        let apart = if interval >= 4000 { 1000 } else { interval / 4 };
        let (mut rows, mut line) = (0, Vec::with_capacity(1024));
        for step in 0..steps {
            for host in &mut hosts {
                host.step();
            }
            for (i, gpu) in gpus.iter_mut().enumerate() {
                let host = &mut hosts[i / GPUS_PER_HOST as usize];
                gpu.step(host);
            }
            for (metric, (_, quarter)) in METRICS.iter().enumerate() {
                let time = time_text(self.start_ms.as_millis() + step * interval + quarter * apart);
                for gpu in &gpus {
                    line.clear();
                    line.push(b'"');
                    line.extend_from_slice(time.as_bytes());
                    line.extend_from_slice(gpu.middle[metric].as_bytes());
                    gpu.value(metric, &mut line);
                    line.extend_from_slice(gpu.end[metric].as_bytes());
                    out.write_all(&line)?;
                    rows += 1;
                }
            }
        }
        Ok(rows)
    }
}

fn time_text(ms: i64) -> String {
    // `generate` accepts no start that has no such text.
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |t| t.to_string())
}

impl Host {
    /// Begins and ends jobs.
    fn step(&mut self) {
        match &mut self.job {
            Some(job) if job.steps_left > 0 => job.steps_left -= 1,
            Some(_) => self.job = None,
            None if self.random.chance(20) || (self.jobs == 0 && self.random.chance(2)) => {
                let r = &mut self.random;
                let teams = ["ml-research", "recsys", "speech", "inference"];
                self.job = Some(Job {
                    number: self.jobs,
                    team: teams[r.below(4) as usize],
                    gpus: [1, 2, 4, 8, 8, 8][r.below(6) as usize],
                    utilization: [97, 95, 88, 60, 35, 0][r.below(6) as usize],
                    memory: 8_000 + r.below(70_000),
                    steps_left: 60 + r.below(600),
                });
                self.jobs += 1;
            }
            None => {}
        }
    }
}

impl Gpu {
    fn new(i: u32, seeds: &mut Random) -> Self {
        let (a, b) = (seeds.next(), seeds.next());
        let uuid = format!(
            "GPU-{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            a >> 32,
            (a >> 16) & 0xffff,
            a & 0xffff,
            b >> 48,
            b & 0xffff_ffff_ffff
        );
        Self {
            uuid,
            hostname: format!("gpu-node-{:03}", i / GPUS_PER_HOST + 1),
            index: i % GPUS_PER_HOST,
            middle: Vec::new(),
            end: Vec::new(),
            cells_for: None,
            utilization: 0,
            memory: 4,
            celsius_milli: 27_000 + seeds.below(6_000),
            power_milli: 70_000,
        }
    }

    fn step(&mut self, host: &mut Host) {
        let job = host.job.as_ref().filter(|job| self.index < job.gpus);
        if self.middle.is_empty() || self.cells_for != job.map(|j| j.number) {
            self.make_cells(job);
        }
        let (target, memory) = job.map_or((0, 4), |j| (j.utilization, j.memory));
        self.memory = memory;
        self.utilization = match target {
            0 => 0,
            t => (t + host.random.below(7)).saturating_sub(3).min(100),
        };
        let power = 70_000 + self.utilization * 5_600 + if memory > 1024 { 45_000 } else { 0 };
        self.power_milli = (self.power_milli * 2 + power) / 3 + host.random.below(900);
        let celsius = 27_000 + self.power_milli / 13;
        self.celsius_milli = (self.celsius_milli * 9 + celsius) / 10;
    }

    fn make_cells(&mut self, job: Option<&Job>) {
        let Self { uuid, hostname: host, index, .. } = self;
        let (container, pod, namespace) = match job {
            Some(job) => ("main".to_owned(), format!("{}-{host}-{}", job.team, job.number), job.team.to_owned()),
            None => Default::default(),
        };
        self.middle = METRICS
            .iter()
            .map(|(metric, _)| {
                format!(
                    "\",\"{metric}\",\"{index}\",\"nvidia{index}\",\"{uuid}\",\"{MODEL}\",\"{host}\",\"{container}\",\"{pod}\",\"{namespace}\",\""
                )
            })
            .collect();
        self.end = METRICS
            .iter()
            .map(|(metric, _)| {
                let labels = [
                    ("DCGM_FI_DRIVER_VERSION", DRIVER),
                    ("Hostname", host),
                    ("UUID", uuid),
                    ("__name__", metric),
                    ("device", &format!("nvidia{index}")),
                    ("gpu", &index.to_string()),
                    ("instance", &format!("{host}:9400")),
                    ("job", "dcgm-exporter"),
                    ("modelName", MODEL),
                ];
                let raw: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"\"{value}\"\"")).collect();
                format!("\",\"{}\"\n", raw.join(","))
            })
            .collect();
        self.cells_for = job.map(|j| j.number);
    }

    fn value(&self, metric: usize, out: &mut Vec<u8>) {
        let busy = self.utilization > 0;
        let whole = match metric {
            0 => self.utilization,
            1 => self.utilization * 2 / 5,
            2 => {
                let written = write!(out, "{}.{:03}", self.power_milli / 1000, self.power_milli % 1000);
                return written.unwrap_or_default(); // a Vec takes everything
            }
            3 => self.celsius_milli / 1000,
            4 => self.memory,
            5 => FRAMEBUFFER - self.memory,
            6 | 7 => 0,
            8 => {
                if busy {
                    1980
                } else {
                    345
                }
            }
            _ => 2619,
        };
        let written = write!(out, "{whole}");
        written.unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(generate: &Generate) -> (u64, String) {
        let mut out = Vec::new();
        let rows = generate.write(&mut out).expect("memory takes everything");
        (rows, String::from_utf8(out).expect("text"))
    }

    fn some() -> Generate {
        Generate {
            gpus: 11,
            duration: Duration::from_secs(60),
            interval: Duration::from_secs(5),
            seed: 1,
            start_ms: TimeMs::from_millis(1_735_689_600_000),
        }
    }

    #[test]
    fn rows_are_gpus_by_metrics_by_steps() {
        let (rows, text) = text(&some());
        assert_eq!(rows, 11 * 10 * 12);
        assert_eq!(text.lines().count() as u64, rows + 1);
        assert!(text.contains("2025-01-01T00:00:03Z") && !text.contains("2025-01-01T00:01:00Z"));
        assert!(text.contains("gpu-node-002"), "eight a host");
    }

    #[test]
    fn the_same_arguments_give_the_same_bytes() {
        assert_eq!(text(&some()), text(&some()));
        assert_ne!(text(&some()), text(&Generate { seed: 2, ..some() }));
    }
}
