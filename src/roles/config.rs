//! `telemetry config show|check|schema`.

use crate::cli::ConfigCommand;
use crate::config::{self, Config};
use crate::runtime::Exit;

/// Shows or checks what was loaded.
pub fn run(what: ConfigCommand, config: &Config) -> anyhow::Result<Exit> {
    match what {
        ConfigCommand::Schema => return schema(),
        ConfigCommand::Show => super::print(&config.show())?,
        ConfigCommand::Check => {
            super::check_configuration(config)?;
            super::print("The configuration is valid.\n")?;
        }
    }
    Ok(Exit::Done)
}

/// Prints the JSON Schema; needs no configuration.
pub fn schema() -> anyhow::Result<Exit> {
    super::print_json(&config::schema())?;
    Ok(Exit::Done)
}
