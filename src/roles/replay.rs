//! Being written.

use std::sync::Arc;

use crate::cli::Replay;
use crate::config::Config;
use crate::runtime::{Exit, Lifecycle};

/// `telemetry replay`.
pub async fn run(config: Arc<Config>, lifecycle: Lifecycle, what: Replay) -> anyhow::Result<Exit> {
    let _ = (config, lifecycle, what);
    anyhow::bail!("not there yet")
}
