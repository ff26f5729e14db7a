//! Progress of a run: a bar on a terminal, else a log line every 10 seconds.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio_util::sync::CancellationToken;

use super::{Console, Lifecycle};

const LINE_INTERVAL: Duration = Duration::from_secs(10);
const BAR_INTERVAL: Duration = Duration::from_millis(200);

/// Counts rows and bytes; a task of the lifecycle shows them. Clones share the counters.
#[derive(Clone, Debug)]
pub struct Progress {
    counted: Arc<Counted>,
    done: CancellationToken,
}

#[derive(Debug, Default)]
struct Counted {
    rows: AtomicU64,
    bytes: AtomicU64,
    total: Option<u64>,
}

impl Progress {
    pub(super) fn start(lifecycle: &Lifecycle, console: &Console, total: Option<u64>) -> Self {
        let progress = Self { counted: Arc::new(Counted { total, ..Counted::default() }), done: CancellationToken::new() };
        let (counted, done, stopping) = (progress.counted.clone(), progress.done.clone(), lifecycle.stopping());
        let console = console.clone();
        lifecycle.spawn("progress", async move {
            let shown = async {
                if std::io::stderr().is_terminal() { bar(&counted, &done, &console).await } else { lines(&counted, &done).await }
            };
            tokio::select! {
                () = shown => {}
                () = stopping.cancelled() => {}
            }
            console.show(None);
            Ok(())
        });
        progress
    }

    /// Adds rows and bytes that were read. It is cheap; call it once per batch.
    pub fn advance(&self, rows: u64, bytes: u64) {
        self.counted.rows.fetch_add(rows, Ordering::Relaxed);
        self.counted.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Shows the last state and ends.
    pub fn finish(&self) {
        self.done.cancel();
    }
}

impl Counted {
    fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn line(&self, per_second: f64) -> String {
        let mut line = format!("{} rows", HumanCount(self.rows()));
        line.push_str(&format!(", {:.0} rows/s, {}", per_second, HumanBytes(self.bytes())));
        if let Some(total) = self.total.filter(|total| *total > 0) {
            let percent = self.bytes().min(total) as f64 * 100.0 / total as f64;
            line.push_str(&format!(" of {} ({percent:.0} %)", HumanBytes(total)));
        }
        line
    }
}

async fn lines(counted: &Counted, done: &CancellationToken) {
    let (mut rows, mut since) = (counted.rows(), Instant::now());
    while tokio::time::timeout(LINE_INTERVAL, done.cancelled()).await.is_err() {
        let per_second = (counted.rows() - rows) as f64 / since.elapsed().as_secs_f64().max(1e-3);
        (rows, since) = (counted.rows(), Instant::now());
        tracing::info!("progress: {}", counted.line(per_second));
    }
}

async fn bar(counted: &Counted, done: &CancellationToken, console: &Console) {
    let bar = match counted.total {
        Some(total) => ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr())
            .with_style(style("{wide_bar} {bytes} of {total_bytes}  {msg}  {eta}")),
        None => ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style("{spinner} {bytes}  {msg}")),
    };
    console.show(Some(bar.clone()));
    let start = Instant::now();
    while tokio::time::timeout(BAR_INTERVAL, done.cancelled()).await.is_err() {
        let per_second = counted.rows() as f64 / start.elapsed().as_secs_f64().max(1e-3);
        bar.set_message(format!("{} rows, {} rows/s", HumanCount(counted.rows()), HumanCount(per_second as u64)));
        bar.set_position(counted.bytes());
    }
    bar.finish_and_clear();
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_rows_bytes_and_share() {
        let counted = Counted { rows: 1234.into(), bytes: 512.into(), total: Some(1024) };
        assert_eq!(counted.line(10.0), "1,234 rows, 10 rows/s, 512 B of 1.00 KiB (50 %)");
    }
}
