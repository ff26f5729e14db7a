//! `telemetry config show|check|schema`.

use std::path::PathBuf;

use crate::cli::ConfigCommand;
use crate::config::{self, Config};
use crate::printable;
use crate::runtime::Exit;

/// Shows or checks what was loaded.
pub fn run(what: ConfigCommand, config: &Config, files: &[PathBuf]) -> anyhow::Result<Exit> {
    match what {
        ConfigCommand::Schema => return schema(),
        ConfigCommand::Show => super::print(&config.show())?,
        ConfigCommand::Check => {
            super::check_configuration(config)?;
            let files: Vec<_> = files.iter().map(|file| printable::line(&file.display().to_string()).into_owned()).collect();
            let read = if files.is_empty() {
                "no file (--config names one)".to_owned()
            } else {
                format!("{}, in this order", files.join(", "))
            };
            super::print(&format!("The configuration is valid. Read: {read}, then the environment and the flags.\n"))?;
        }
    }
    Ok(Exit::Done)
}

/// Prints the JSON Schema; needs no configuration.
pub fn schema() -> anyhow::Result<Exit> {
    super::print_json(&config::schema())?;
    Ok(Exit::Done)
}
