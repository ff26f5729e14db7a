//! Being written.

use std::sync::Arc;

use crate::cli::DeadLetters;
use crate::config::Config;
use crate::runtime::{Exit, Lifecycle};

/// `telemetry dead-letters`.
pub async fn run(config: Arc<Config>, lifecycle: Lifecycle, what: DeadLetters) -> anyhow::Result<Exit> {
    let _ = (config, lifecycle, what);
    anyhow::bail!("not there yet")
}
