//! What a run is asked to do, from the environment (`make chaos NAME=value`).

use std::time::Duration;

use crate::plan::KINDS;

/// The settings.
pub struct Settings {
    /// How long faults go on (`CHAOS_SECONDS`, 600).
    pub time: Duration,
    /// Which faults, in which order (`SEED`, another each time).
    pub seed: u64,
    /// A single Redis instead of a cluster (`CHAOS_REDIS=single`).
    pub single: bool,
    /// These kinds of faults only (`CHAOS_ONLY=lost-writes,…`); empty: all.
    pub only: Vec<String>,
}

impl Settings {
    /// Reads them.
    pub fn from_environment() -> Result<Self, String> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let number = |name: &str, otherwise: u64| match variable(name) {
            Some(text) => text.parse().map_err(|_| format!("{name}=`{text}`: a whole number is wanted")),
            None => Ok(otherwise),
        };
        let single = match variable("CHAOS_REDIS").as_deref() {
            None | Some("cluster") => false,
            Some("single") => true,
            Some(other) => return Err(format!("CHAOS_REDIS=`{other}`: `cluster` or `single` is wanted")),
        };
        let only: Vec<String> = variable("CHAOS_ONLY").map(|all| all.split(',').map(str::to_owned).collect()).unwrap_or_default();
        if let Some(unknown) = only.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
            return Err(format!("CHAOS_ONLY: there is no `{unknown}`; the kinds are {}", KINDS.join(", ")));
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Ok(Self { time: Duration::from_secs(number("CHAOS_SECONDS", 600)?), seed: number("SEED", now)?, single, only })
    }
}
