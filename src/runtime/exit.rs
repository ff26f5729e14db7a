//! How a process ends, and what it says then.

use std::process::ExitCode;

use crate::config::ConfigError;
use crate::printable;

/// How a role ended without an error of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done what was asked for: exit code 0.
    Done,
    /// Stopped before its end: exit code 1.
    Stopped,
    /// Ended, and what it found is not good (it said so itself, an `audit` that does not close): exit code 1.
    Failed,
}

/// 0 done · 1 failed · 2 wrong usage or configuration.
#[must_use]
pub fn exit_code(result: &anyhow::Result<Exit>) -> u8 {
    match result {
        Ok(Exit::Done) => 0,
        Ok(Exit::Stopped | Exit::Failed) => 1,
        Err(error) if error.chain().any(|cause| cause.is::<ConfigError>()) => 2,
        Err(_) => 1,
    }
}

/// Says an error, once, with its causes, and gives the exit code.
#[must_use]
pub fn report(result: &anyhow::Result<Exit>) -> ExitCode {
    if let Err(error) = result {
        // `{:#}` is the chain of causes on one line.
        let said = format!("{error:#}");
        // A fault in a configuration file is shown with its line; nothing else has lines of its own.
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
