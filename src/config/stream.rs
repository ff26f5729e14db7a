//! `[stream]`: which input is read, how, and how fast.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::units;
use crate::batch::MAX_TEXT_BYTES;

/// When a run without `follow` is complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Until {
    /// Every row is safely in the queue.
    #[default]
    Queued,
    /// Every row is in the store.
    Stored,
}

/// The streamer's input.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Stream {
    /// Files, directories (their *.csv and *.csv.gz), globs, or `-` for stdin.
    pub csv: Vec<String>,
    /// Follow the input: growing files, new files, rotated files.
    pub follow: bool,
    /// When a run without `follow` is complete: `queued` (every row is safely in the queue) or `stored` (every row is in the store: stored, or kept in a dead letter).
    pub until: Until,
    /// Start over at the end of the input; each round is a new source.
    #[serde(rename = "loop")]
    pub looped: bool,
    /// Shift the timestamps of the input to now, to make it look live.
    pub restamp: bool,
    /// Maximum rows per second. Not set: as fast as the queue accepts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// Send rows at the pace of their timestamps.
    pub realtime: bool,
    /// File to which rejected rows are written, with their line numbers and reasons.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejects: Option<PathBuf>,
    /// End with an error at the first rejected row.
    pub strict: bool,
    /// Identity of the source. Not set: a fingerprint of its content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_id: Option<String>,
    /// Names of the columns of files without a header, in order, as a header would name them. A file that has a header uses its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Time between two checks of followed files and directories.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub poll: Duration,
    /// Maximum size of a record; a larger one is rejected as `record_too_long`.
    #[serde(with = "units::size")]
    #[schemars(schema_with = "units::size_schema")]
    pub max_record_bytes: usize,
    /// Maximum size of a cell that is kept as text (a label, a name); a row with a larger one is rejected as `cell_too_long`.
    #[serde(with = "units::size")]
    #[schemars(schema_with = "units::size_schema")]
    pub max_cell_bytes: usize,
    /// Maximum series of one source that are held in memory; beyond that, single ones make room, those first that have not come for long,
    /// and are parsed again when they return.
    pub max_series: usize,
    /// Maximum memory of the series of one source; beyond that, single ones make room in the same way.
    #[serde(with = "units::size")]
    #[schemars(schema_with = "units::size_schema")]
    pub max_series_bytes: usize,
    /// Number of bytes that are read from a file at once.
    #[serde(with = "units::size")]
    #[schemars(schema_with = "units::size_schema")]
    pub block_bytes: usize,
    /// Number of files per partition that are read at the same time.
    pub readers_per_partition: usize,
    /// Followed files that are open at once. Where there are more, those that have been quiet for longest are closed, and opened again
    /// when they change. Not set: half of what the process may open (`ulimit -n`), less 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_open_files: Option<usize>,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            csv: Vec::new(),
            follow: false,
            until: Until::Queued,
            looped: false,
            restamp: false,
            rate: None,
            realtime: false,
            rejects: None,
            strict: false,
            source_id: None,
            columns: Vec::new(),
            poll: Duration::from_millis(250),
            max_record_bytes: 1 << 20,
            max_cell_bytes: 4 << 10,
            max_series: 1_000_000,
            max_series_bytes: 160 << 20,
            block_bytes: 512 << 10,
            readers_per_partition: 1,
            max_open_files: None,
        }
    }
}

impl Stream {
    pub(super) fn validate(&self, check: &mut Check<'_>) {
        if self.follow && self.looped {
            check.refuse(
                "stream.loop",
                "cannot be combined with stream.follow: a followed file has no end at which to start over".to_owned(),
            );
        }
        if self.follow && self.until == Until::Stored {
            check.refuse(
                "stream.until",
                "cannot be `stored` with stream.follow: such a run has no end of its own, it runs until it is stopped".to_owned(),
            );
        }
        if self.follow && self.csv.iter().any(|path| path == "-") {
            check.refuse(
                "stream.follow",
                "cannot be combined with `-` in stream.csv: standard input cannot be followed; remove one of them".to_owned(),
            );
        }
        if let Some(rate) = self.rate {
            check.at_least("stream.rate", rate, 1, "nothing would ever be sent; remove the key for no limit");
        }
        if self.source_id.as_deref().is_some_and(|id| id.trim().is_empty()) {
            check.refuse("stream.source_id", "is empty; remove the key to use a fingerprint of the content".to_owned());
        }
        if self.csv.iter().any(String::is_empty) {
            check.refuse("stream.csv", "has an empty path; use . for the current directory, - for standard input".to_owned());
        }
        check.at_least_duration(
            "stream.poll",
            self.poll,
            Duration::from_millis(10),
            "the file system would be checked without a pause",
        );
        check.within("stream.max_record_bytes", self.max_record_bytes, 1024, 64 << 20, "a record is held in memory");
        check.within(
            "stream.max_cell_bytes",
            self.max_cell_bytes,
            64,
            MAX_TEXT_BYTES,
            "names and labels are held in memory for each series",
        );
        if self.max_cell_bytes > self.max_record_bytes {
            check.refuse(
                "stream.max_cell_bytes",
                format!("is {}, more than stream.max_record_bytes ({}) allows", self.max_cell_bytes, self.max_record_bytes),
            );
        }
        check.within("stream.max_series", self.max_series, 1, 10_000_000, "series are held in memory");
        check.within("stream.max_series_bytes", self.max_series_bytes, 1 << 20, 16 << 30, "series are held in memory");
        check.within("stream.block_bytes", self.block_bytes, 4096, 64 << 20, "each reader holds a block in memory");
        if let Some(files) = self.max_open_files {
            check.within("stream.max_open_files", files, 1, 1 << 20, "each open file takes a descriptor and buffers in memory");
        }
        check.within("stream.readers_per_partition", self.readers_per_partition, 1, 64, "each reader holds buffers in memory");
    }
}
