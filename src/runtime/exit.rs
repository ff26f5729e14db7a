//! How a process ends: its exit code, and the error that it prints.

use std::process::ExitCode;

use crate::config::ConfigError;
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
}

/// The exit code: 0 success · 1 failure · 2 wrong usage or configuration.
#[must_use]
pub fn exit_code(result: &anyhow::Result<Exit>) -> u8 {
    match result {
        Ok(Exit::Done) => 0,
        Ok(Exit::Stopped | Exit::Failed) => 1,
        Err(error) if error.chain().any(|cause| cause.is::<ConfigError>()) => 2,
        Err(_) => 1,
    }
}

/// Prints an error with its causes, and returns the exit code.
#[must_use]
pub fn report(result: &anyhow::Result<Exit>) -> ExitCode {
    if let Err(error) = result {
        // `{:#}` is the chain of causes on one line.
        let said = format!("{error:#}");
        // An error in a configuration file quotes the line, so it has line breaks of its own; no other error has.
        let is_configuration = error.chain().any(|cause| cause.is::<ConfigError>());
        let shown = if is_configuration { printable::text(said.trim_end()) } else { printable::line(said.trim_end()) };
        eprintln!("error: {shown}");
    }
    ExitCode::from(exit_code(result))
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
    }
}
