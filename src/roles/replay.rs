//! `telemetry replay`: sets sources back, so that streamers send them again from the start. Rows that are stored already are not
//! stored twice.

use std::sync::Arc;

use anyhow::Context as _;

use crate::cli;
use crate::config::Config;
use crate::runtime::{Exit, Lifecycle};
use crate::transport::Inspector;
use crate::transport::redis::RedisTransport;

/// Runs the command: `Exit::Failed` where a source is not known.
pub async fn run(config: Arc<Config>, _: Lifecycle, what: cli::Replay) -> anyhow::Result<Exit> {
    let queue = RedisTransport::connect(&config.redis()?).await?;
    let mut exit = Exit::Done;
    let mut set_back = 0;
    if what.all {
        set_back = queue.reset(None).await.context("not all sources are set back; run the command again, that does no harm")?;
    }
    for source in what.source {
        match queue.reset(Some(source)).await? {
            0 => {
                super::print_error(&format!(
                    "Redis does not know the source {source}, so it would start at the beginning anyway; `telemetry audit` lists the \
                     known sources"
                ));
                exit = Exit::Failed;
            }
            _ => set_back += 1,
        }
    }
    let them = if set_back == 1 { "it" } else { "them" };
    if set_back > 0 || exit == Exit::Done {
        super::print(&format!(
            "{} start. Streamers that follow {them} send {them} again without a restart; run other streamers again. Rows that are \
             stored already are not stored twice.\n",
            if set_back == 1 {
                "1 source is set back to its".to_owned()
            } else {
                format!("{set_back} sources are set back to their")
            }
        ))?;
    }
    Ok(exit)
}
