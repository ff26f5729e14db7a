//! `telemetry migrate`: updates the schema and ends.

use std::sync::Arc;

use crate::config::Config;
use crate::runtime::{Exit, Lifecycle};
use crate::store::Store;
use crate::store::postgres::PostgresStore;

/// Runs the command.
pub async fn run(config: Arc<Config>, _: Lifecycle) -> anyhow::Result<Exit> {
    let store = PostgresStore::connect(&super::postgres(&config)?)?;
    store.migrate().await?;
    super::print(&format!("The schema is up to date. The id of this store is {}.\n", store.id().await?))?;
    Ok(Exit::Done)
}
