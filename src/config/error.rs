//! What is wrong with a configuration: one message that names the key, where its value came from, why, and what to do.

use std::path::PathBuf;

use super::origin::{Origin, Origins};

/// A configuration that cannot be used: exit code 2. Never holds a secret.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConfigError {
    /// A value that cannot be used.
    #[error("{key} ({origin}): {reason}")]
    Invalid {
        /// `section.key`.
        key: String,
        /// Where the value came from.
        origin: Origin,
        /// Why, and what to do.
        reason: String,
    },
    /// A value that the command needs and that is not set.
    #[error("{key} is not set: {how}")]
    Missing {
        /// `section.key`.
        key: &'static str,
        /// How to set it.
        how: &'static str,
    },
    /// A configuration file that cannot be read.
    #[error("configuration file {}: {reason}", path.display())]
    File {
        /// Its path, as it was given.
        path: PathBuf,
        /// Why it cannot be read; with line, column and caret where the error has a place.
        reason: String,
    },
    /// An environment variable that sets no known key, or has a value of the wrong type.
    #[error("environment variable {name}: {reason}")]
    Variable {
        /// Name of the variable.
        name: String,
        /// Why it is refused.
        reason: String,
    },
    /// A flag with a value of the wrong type.
    #[error("{name}: {reason}")]
    Flag {
        /// Name of the flag, with its dashes.
        name: &'static str,
        /// Why it is refused.
        reason: String,
    },
    /// Any other wrong use of the program.
    #[error("{0}")]
    Usage(String),
}

impl ConfigError {
    pub(super) fn invalid(key: &str, origins: &Origins, reason: impl Into<String>) -> Self {
        Self::Invalid { key: key.to_owned(), origin: origins.of(key).clone(), reason: reason.into() }
    }

    /// A usage error with this message.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }
}
