//! `telemetry generate`: synthetic DCGM CSV. Being written.

use std::io::{self, Write};
use std::time::Duration;

use crate::cli;
use crate::runtime::Exit;

/// What to generate.
#[derive(Clone, Debug)]
pub struct Generate {
    /// GPUs.
    pub gpus: u32,
    /// How much time it covers.
    pub duration: Duration,
    /// Time between two samples of a series.
    pub interval: Duration,
    /// The same seed gives the same rows.
    pub seed: u64,
    /// Time of the first sample, ms since 1970.
    pub start: i64,
}

impl Generate {
    /// Writes header and rows.
    pub fn write(&self, _out: &mut dyn Write) -> io::Result<()> {
        Err(io::Error::other("not there yet"))
    }
}

/// `telemetry generate`.
pub fn run(what: &cli::Generate) -> anyhow::Result<Exit> {
    let cli::Generate { gpus, duration, interval, seed, start } = *what;
    let generate = Generate { gpus, duration, interval, seed, start: start.as_millisecond() };
    super::print(|out| generate.write(out))?;
    Ok(Exit::Done)
}
