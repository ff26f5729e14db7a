//! How a process ends: its exit code, and the error that it prints.

use std::process::ExitCode;

use crate::config::{ConfigError, LogFormat};
use crate::model::TimeMs;
use crate::printable;

/// How a role ended without an error of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It has done its work: exit code 0.
    Done,
    /// It was stopped before its work was done: exit code 1.
    Stopped,
    /// It ended with a bad result that it has reported itself (an `audit` with missing rows): exit code 1.
    Failed,
    /// It found the configuration wrong, and has reported that itself (`check`): exit code 2.
    Misconfigured,
}

/// The exit code: 0 success · 1 failure · 2 wrong usage or configuration.
#[must_use]
pub fn exit_code(result: &anyhow::Result<Exit>) -> u8 {
    match result {
        Ok(Exit::Done) => 0,
        Ok(Exit::Stopped | Exit::Failed) => 1,
        Ok(Exit::Misconfigured) => 2,
        Err(error) if error.chain().any(|cause| cause.is::<ConfigError>()) => 2,
        Err(_) => 1,
    }
}

/// Prints an error with its causes in the format of log lines, and returns the exit code.
#[must_use]
pub fn report(result: &anyhow::Result<Exit>, format: LogFormat) -> ExitCode {
    if let Err(error) = result {
        // `{:#}` is the chain of causes on one line.
        let said = format!("{error:#}");
        // An error in a configuration file quotes the line, so it has line breaks of its own; no other error has.
        let is_configuration = error.chain().any(|cause| cause.is::<ConfigError>());
        if is_configuration && format == LogFormat::Text {
            eprintln!("error: {}", printable::text(said.trim_end()));
        } else {
            print_error(format, &said);
        }
    }
    ExitCode::from(exit_code(result))
}

/// Prints an error to stderr, on one line: as text, or as the log's JSON has it.
pub fn print_error(format: LogFormat, error: &str) {
    let error = error.trim_end();
    match format {
        LogFormat::Text => eprintln!("error: {}", printable::line(error)),
        LogFormat::Json => {
            let time = TimeMs::now().to_string();
            eprintln!("{}", serde_json::json!({ "timestamp": time, "level": "ERROR", "message": error, "target": "telemetry" }));
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_configuration_error_anywhere_in_the_chain_is_2() {
        let wrapped = Err(ConfigError::usage("no")).context("outer");
        assert_eq!(exit_code(&wrapped), 2);
        assert_eq!(exit_code(&Err(anyhow::anyhow!("no"))), 1);
        assert_eq!(exit_code(&Ok(Exit::Done)), 0);
        assert_eq!(exit_code(&Ok(Exit::Stopped)), 1);
        assert_eq!(exit_code(&Ok(Exit::Misconfigured)), 2);
    }
}
