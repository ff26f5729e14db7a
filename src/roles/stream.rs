//! Being written.

use std::sync::Arc;

use crate::config::Config;
use crate::runtime::{Exit, Lifecycle};

/// `telemetry stream`.
pub async fn run(config: Arc<Config>, lifecycle: Lifecycle) -> anyhow::Result<Exit> {
    let _ = (config, lifecycle);
    anyhow::bail!("not there yet")
}
