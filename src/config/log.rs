//! `[log]`: which log lines are written to stderr, and in which format.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text for people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Logs go to stderr.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Log {
    /// `text` for people (coloured on a terminal), `json` for machines.
    pub format: LogFormat,
    /// off, error, warn, info, debug or trace; or a list such as `info,telemetry::store=debug`. Where it is not set, commands that
    /// answer and end (check, audit, top, groups, dead-letters, replay) use `warn`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned() }
    }
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl Log {
    pub(super) fn validate(&self, check: &mut Check<'_>) {
        let known = |level: &str| LEVELS.contains(&level.to_ascii_lowercase().as_str());
        let bad = self.level.split(',').map(str::trim).find(|part| match part.split_once('=') {
            Some((target, level)) => target.is_empty() || !known(level),
            None => !known(part),
        });
        if let Some(bad) = bad {
            check.refuse(
                "log.level",
                format!(
                    "`{bad}` is not a level: use one of {}, or a list such as info,telemetry::store=debug",
                    LEVELS.join(", ")
                ),
            );
        }
    }
}
