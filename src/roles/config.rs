//! `telemetry config show|check|schema`.

use anyhow::Context;

use crate::cli::ConfigCommand;
use crate::config::{self, Config};
use crate::runtime::Exit;

/// Shows or checks what was loaded.
pub fn run(what: ConfigCommand, config: &Config) -> anyhow::Result<Exit> {
    match what {
        ConfigCommand::Schema => return schema(),
        ConfigCommand::Show => super::print(|out| out.write_all(config.show().as_bytes()))?,
        ConfigCommand::Check => {
            config.check()?;
            super::print(|out| writeln!(out, "the configuration is good"))?;
        }
    }
    Ok(Exit::Done)
}

/// Prints the JSON Schema; needs no configuration.
pub fn schema() -> anyhow::Result<Exit> {
    let text = serde_json::to_string_pretty(&config::schema()).context("the schema cannot be written as JSON")?;
    super::print(|out| writeln!(out, "{text}"))?;
    Ok(Exit::Done)
}
