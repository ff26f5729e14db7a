//! Checks that the `validate` of every section shares. The first refusal is kept, with where the value came from.

use std::fmt::Display;
use std::time::Duration;

use super::error::ConfigError;
use super::origin::Origins;

/// Keeps the first refusal of a validation.
pub(super) struct Check<'a> {
    origins: &'a Origins,
    refused: Option<ConfigError>,
}

impl<'a> Check<'a> {
    pub(super) fn new(origins: &'a Origins) -> Self {
        Self { origins, refused: None }
    }

    pub(super) fn done(self) -> Result<(), ConfigError> {
        self.refused.map_or(Ok(()), Err)
    }

    /// Refuses a key.
    pub(super) fn refuse(&mut self, key: &str, reason: String) {
        if self.refused.is_none() {
            self.refused = Some(ConfigError::invalid(key, self.origins, reason));
        }
    }

    pub(super) fn at_least<T: PartialOrd + Display + Copy>(&mut self, key: &str, value: T, min: T, why: &str) {
        if value < min {
            self.refuse(key, format!("{value} is too small, at least {min} is needed: {why}"));
        }
    }

    pub(super) fn within<T: PartialOrd + Display + Copy>(&mut self, key: &str, value: T, min: T, max: T, why: &str) {
        if value < min || value > max {
            self.refuse(key, format!("{value} is outside {min} to {max}: {why}"));
        }
    }

    pub(super) fn positive(&mut self, key: &str, value: Duration, why: &str) {
        self.at_least_duration(key, value, Duration::from_millis(1), why);
    }

    pub(super) fn at_least_duration(&mut self, key: &str, value: Duration, min: Duration, why: &str) {
        if value < min {
            let (value, min) = (humantime::format_duration(value), humantime::format_duration(min));
            self.refuse(key, format!("{value} is too short, at least {min} is needed: {why}"));
        }
    }

    pub(super) fn at_most(&mut self, key: &str, value: Duration, max: Duration, why: &str) {
        if value > max {
            let (value, max) = (humantime::format_duration(value), humantime::format_duration(max));
            self.refuse(key, format!("{value} is too long, at most {max} is possible: {why}"));
        }
    }

    /// Checks a name that becomes part of keys and commands.
    pub(super) fn word(&mut self, key: &str, value: &str) {
        let odd = |c: char| c.is_whitespace() || c.is_control() || c == '{' || c == '}';
        if value.is_empty() || value.len() > 200 || value.contains(odd) {
            self.refuse(
                key,
                "must be 1 to 200 characters without spaces, control characters, { or }: it becomes part of keys in Redis"
                    .to_owned(),
            );
        }
    }
}
