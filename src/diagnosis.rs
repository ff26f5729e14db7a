//! What `telemetry check` prints: one step after another of reaching something, each with what was seen and what to do.

use serde::Serialize;

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// It works, and is not as it should be.
    Warning,
    /// It does not work.
    Failed,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What was looked at, in a word or two.
    pub name: &'static str,
    /// How it went.
    pub outcome: Outcome,
    /// What was seen. No secrets.
    pub seen: String,
    /// What to do about it; empty where there is nothing to do.
    pub todo: String,
}

impl Step {
    /// As it should be.
    pub fn ok(name: &'static str, seen: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Ok, seen: seen.into(), todo: String::new() }
    }

    /// It works, and something is to be done.
    pub fn warning(name: &'static str, seen: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Warning, seen: seen.into(), todo: todo.into() }
    }

    /// It does not work.
    pub fn failed(name: &'static str, seen: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Failed, seen: seen.into(), todo: todo.into() }
    }
}
