//! `telemetry config show`: the effective values as TOML, each with where it came from.

use std::fmt::Write;

use super::units::secret::REDACTED;
use super::{Config, Origin, keys};

impl Config {
    /// All keys as TOML, each value with a comment on where it came from. Keys that are not set are comments. Secrets are redacted.
    #[must_use]
    pub fn show(&self) -> String {
        let values = toml::Table::try_from(self).unwrap_or_default();
        let mut text = String::new();
        let mut section = String::new();
        for key in keys() {
            let (inside, name) = key.path.rsplit_once('.').unwrap_or(("", &key.path));
            if inside != section {
                inside.clone_into(&mut section);
                let _ = writeln!(text, "\n[{section}]");
            }
            let origin = self.origin(&key.path);
            let line = match keys::lookup(&values, &key.path) {
                // Serializing has redacted the secrets already; this is a second guard.
                Some(_) if key.secret && !key.path.ends_with(".url") => format!("{name} = \"{REDACTED}\""),
                Some(value) => format!("{name} = {value}"),
                None => format!("# {name} is not set"),
            };
            let _ = match origin {
                Origin::Default if line.starts_with('#') => writeln!(text, "{line}"),
                origin => writeln!(text, "{line:<40} # {origin}"),
            };
        }
        text
    }
}
