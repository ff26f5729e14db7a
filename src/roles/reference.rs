//! `telemetry reference DIR` (hidden): docs/reference from the code.

use std::path::Path;

use crate::runtime::Exit;

/// Writes the documents.
pub fn run(_directory: &Path) -> anyhow::Result<Exit> {
    Ok(Exit::Done)
}
