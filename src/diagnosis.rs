//! The steps of a diagnosis, which `telemetry check` prints: each with its outcome, what was found, and what to do.

use serde::Serialize;

/// The outcome of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Everything is as it should be.
    Ok,
    /// It works, but something should be changed.
    Warning,
    /// It does not work.
    Failed,
}

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What was checked, in a word or two.
    pub name: &'static str,
    /// The outcome.
    pub outcome: Outcome,
    /// What was found; without secrets.
    pub seen: String,
    /// What to do; empty where nothing needs to be done.
    pub todo: String,
}

impl Step {
    /// A step where everything is as it should be.
    pub fn ok(name: &'static str, seen: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Ok, seen: seen.into(), todo: String::new() }
    }

    /// A step that works, but where something should be changed.
    pub fn warning(name: &'static str, seen: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Warning, seen: seen.into(), todo: todo.into() }
    }

    /// A step that does not work.
    pub fn failed(name: &'static str, seen: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Failed, seen: seen.into(), todo: todo.into() }
    }
}
