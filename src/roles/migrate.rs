//! `telemetry migrate`: updates the schema, lets roles read by SQL, and ends.

use std::sync::Arc;

use crate::cli::Migrate;
use crate::config::Config;
use crate::runtime::{Exit, Lifecycle};
use crate::store::Store;
use crate::store::postgres::PostgresStore;

/// Runs the command.
pub async fn run(config: Arc<Config>, asked: Migrate, _: Lifecycle) -> anyhow::Result<Exit> {
    let store = PostgresStore::connect(&super::postgres(&config)?)?;
    store.migrate().await?;
    super::print(&format!("The schema is up to date. The id of this store is {}.\n", store.id().await?))?;
    for role in &asked.grant_read {
        store.grant_read(role).await?;
        super::print(&format!(
            "The role {role} may read the samples by SQL: the views samples and rejected_rows, the function samples_between.\n"
        ))?;
    }
    Ok(Exit::Done)
}
