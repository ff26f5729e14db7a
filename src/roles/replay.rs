//! `telemetry replay`: sets sources back, so that streamers send them again from the start; what is stored stays single.

use std::sync::Arc;

use anyhow::bail;

use crate::cli;
use crate::config::Config;
use crate::runtime::{Exit, Lifecycle};
use crate::transport::Inspector;
use crate::transport::redis::RedisTransport;

/// Runs the command.
pub async fn run(config: Arc<Config>, _: Lifecycle, what: cli::Replay) -> anyhow::Result<Exit> {
    let queue = RedisTransport::connect(&config.redis()?).await?;
    let mut set_back = 0;
    if what.all {
        set_back = queue.reset(None).await?;
    }
    for source in what.source {
        if queue.reset(Some(source)).await? == 0 {
            bail!("Redis knows no source {source}; `telemetry audit` lists those there are");
        }
        set_back += 1;
    }
    println!(
        "{set_back} sources are set back to their start. Streamers that follow them send them again by themselves; run the others again. \
         What is stored stays single."
    );
    Ok(Exit::Done)
}
