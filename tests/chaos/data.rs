//! Exports that grow, and exports that are finished: what is in them is known to the row.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::support::app::{Holds, Seeded};

const HEAD: &str = "timestamp,metric_name,gpu_id,device,uuid,modelName,Hostname,container,pod,namespace,value,labels_raw\n";
/// Metric, and its greatest value.
const METRICS: [(&str, u64); 5] = [
    ("DCGM_FI_DEV_GPU_UTIL", 100),
    ("DCGM_FI_DEV_POWER_USAGE", 700),
    ("DCGM_FI_DEV_GPU_TEMP", 90),
    ("DCGM_FI_DEV_FB_USED", 80_000),
    ("DCGM_FI_DEV_SM_CLOCK", 1_980),
];
const GPUS: u64 = 4;
/// One row of so many has no value.
const BLANK: u64 = 50;
/// 2025-01-01, ms.
const BEGIN: i64 = 1_735_689_600_000;

/// What is in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub holds: Holds,
    /// Rows without a value.
    pub blank: i64,
}

impl Content {
    /// All rows.
    pub fn rows(&self) -> i64 {
        self.holds.rows() + self.blank
    }
}

/// A file. Its host's name is its own, so that what is stored of it can be told.
pub struct Export {
    pub path: PathBuf,
    pub host: String,
    pub content: Content,
    random: Seeded,
    file: File,
    /// What is not yet written: a line is often torn for a while.
    rest: Vec<u8>,
}

impl Export {
    /// A new file, with its header.
    pub fn begin(dir: &Path, host: &str, seed: u64) -> Self {
        let path = dir.join(format!("{host}.csv"));
        let file = File::create(&path).unwrap();
        let rest = HEAD.as_bytes().to_vec();
        Self { path, host: host.to_owned(), content: Content::default(), random: Seeded(seed), file, rest }
    }

    /// Adds rows; the last one may be written in part only.
    pub fn grow(&mut self, rows: u64) {
        for _ in 0..rows {
            self.row();
        }
        let held_back = (self.random.below(300) as usize).min(self.rest.len());
        let rest = self.rest.split_off(self.rest.len() - held_back);
        self.file.write_all(&self.rest).unwrap();
        self.rest = rest;
    }

    /// Writes what was held back.
    pub fn finish(&mut self) {
        self.file.write_all(&std::mem::take(&mut self.rest)).unwrap();
    }

    /// Rows that are whole in the file.
    fn whole(&self) -> i64 {
        self.content.rows() - self.rest.iter().filter(|byte| **byte == b'\n').count() as i64
    }

    fn row(&mut self) {
        let n = self.content.rows() as u64;
        let (series, step) = (n % (GPUS * METRICS.len() as u64), n / (GPUS * METRICS.len() as u64));
        let (gpu, (metric, most)) = (series % GPUS, METRICS[(series / GPUS) as usize]);
        let time = jiff::Timestamp::from_millisecond(BEGIN + step as i64 * 100).unwrap();
        let host = &self.host;
        let value = if self.random.below(BLANK) == 0 {
            self.content.blank += 1;
            "N/A".to_owned()
        } else {
            let thousandths = self.random.below(most * 1000);
            let entry = self.content.holds.0.entry(metric.to_owned()).or_default();
            *entry = (entry.0 + 1, entry.1 + thousandths as i64);
            format!("{}.{:03}", thousandths / 1000, thousandths % 1000)
        };
        writeln!(
            self.rest,
            "\"{time}\",\"{metric}\",\"{gpu}\",\"nvidia{gpu}\",\"GPU-{host}-{gpu}\",\"NVIDIA H100 80GB HBM3\",\"{host}\",\"\",\"\",\"\",\
             \"{value}\",\"job=\"\"dcgm-exporter\"\"\""
        )
        .unwrap();
    }
}

/// All files.
#[derive(Default)]
pub struct Files {
    /// Those that grow, a few in each directory.
    growing: Vec<Export>,
    /// Those that do not grow any more.
    finished: Vec<Export>,
    begun: u64,
}

impl Files {
    /// Another file that grows.
    pub fn begin(&mut self, dir: &Path, seed: u64) {
        self.begun += 1;
        let directory = dir.file_name().unwrap_or_default().to_string_lossy();
        self.growing.push(Export::begin(dir, &format!("{directory}-{:03}", self.begun), seed ^ (self.begun << 20)));
    }

    /// A finished file with so many rows; gives its path.
    pub fn finished(&mut self, dir: &Path, seed: u64, rows: u64) -> PathBuf {
        self.begin(dir, seed);
        let mut export = self.growing.pop().expect("it was begun");
        export.grow(rows);
        export.finish();
        let path = export.path.clone();
        self.finished.push(export);
        path
    }

    /// A growing file, one of the oldest, is done; another begins in its directory.
    fn rotate(&mut self, seed: u64) {
        let mut old = self.growing.remove(0);
        old.finish();
        let dir = old.path.parent().expect("it is in a directory").to_owned();
        self.finished.push(old);
        self.begin(&dir, seed);
    }

    /// How many rows each growing file has now, by path.
    pub fn marks(&self) -> BTreeMap<String, i64> {
        self.growing.iter().map(|export| (export.path.to_string_lossy().into_owned(), export.whole())).collect()
    }

    /// Every file.
    pub fn all(&self) -> impl Iterator<Item = &Export> {
        self.finished.iter().chain(&self.growing)
    }
}

/// Lets files grow until it is told to stop.
pub struct Grower {
    files: Arc<Mutex<Files>>,
    stop: std::sync::mpsc::Sender<()>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Grower {
    /// `rows` a second in each file; every `rotate` one file ends and another begins.
    pub fn start(files: Files, rows: u64, rotate: Duration, seed: u64) -> Self {
        const TICK: Duration = Duration::from_millis(100);
        let files = Arc::new(Mutex::new(files));
        let (stop, stopped) = std::sync::mpsc::channel();
        let shared = files.clone();
        let thread = std::thread::spawn(move || {
            let mut rotated = Instant::now();
            while stopped.recv_timeout(TICK) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let mut files = lock(&shared);
                for export in &mut files.growing {
                    export.grow(rows / 10);
                }
                if rotated.elapsed() >= rotate {
                    rotated = Instant::now();
                    files.rotate(seed);
                }
            }
            lock(&shared).growing.iter_mut().for_each(Export::finish);
        });
        Self { files, stop, thread: Some(thread) }
    }

    /// The files.
    pub fn files(&self) -> std::sync::MutexGuard<'_, Files> {
        lock(&self.files)
    }

    /// Nothing grows any more; every line is whole.
    pub fn stop(&mut self) {
        let _ = self.stop.send(());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("files could grow");
        }
    }
}

fn lock(files: &Mutex<Files>) -> std::sync::MutexGuard<'_, Files> {
    files.lock().unwrap_or_else(PoisonError::into_inner)
}
