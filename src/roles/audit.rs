//! Being written.

use std::sync::Arc;

use crate::cli::Audit;
use crate::config::Config;
use crate::runtime::{Exit, Lifecycle};

/// `telemetry audit`.
pub async fn run(config: Arc<Config>, lifecycle: Lifecycle, what: Audit) -> anyhow::Result<Exit> {
    let _ = (config, lifecycle, what);
    anyhow::bail!("not there yet")
}
