//! The content of /readyz: which parts of a role are not ready, and why.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The state of a role's parts, and what is to be known of those that are ready. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, Result<(), String>>>>, Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Health {
    /// Records that a part is ready, or why it is not. The reason must not contain secrets: the admin server shows it to everyone.
    pub fn set(&self, component: &'static str, state: Result<(), String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(component, state);
    }

    /// Removes a part.
    pub fn forget(&self, component: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(component);
    }

    /// Notes what is to be known of a part also when it is ready; `None`: nothing.
    pub fn note(&self, component: &'static str, what: Option<String>) {
        let mut notes = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        match what {
            Some(what) => notes.insert(component, what),
            None => notes.remove(component),
        };
    }

    /// One line for each part of which something is to be known.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let notes = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        notes.iter().map(|(name, what)| format!("{name}: {what}")).collect()
    }

    /// One line for each part that is not ready; empty = ready. As long as no part has been recorded, the role is starting.
    #[must_use]
    pub fn not_ready(&self) -> Vec<String> {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if parts.is_empty() {
            return vec!["starting".to_owned()];
        }
        let not_ready = parts.iter().filter_map(|(name, state)| state.as_ref().err().map(|reason| format!("{name}: {reason}")));
        not_ready.collect()
    }

    /// One line for each part that is not ready, without the reasons, which name hosts and errors: for public addresses.
    #[must_use]
    pub fn not_ready_in_brief(&self) -> Vec<String> {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if parts.is_empty() {
            return vec!["starting".to_owned()];
        }
        parts.iter().filter(|(_, state)| state.is_err()).map(|(name, _)| format!("{name}: not ready")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_ready_is_said() {
        let health = Health::default();
        assert_eq!(health.not_ready(), ["starting"]);
        health.set("redis", Err("connecting".to_owned()));
        health.set("postgres", Ok(()));
        assert_eq!(health.not_ready(), ["redis: connecting"]);
        assert_eq!(health.not_ready_in_brief(), ["redis: not ready"]);
        let shared = health.clone();
        shared.set("redis", Ok(()));
        assert!(health.not_ready().is_empty());
        health.note("redis", Some("a replica".to_owned()));
        assert_eq!((shared.notes(), shared.not_ready()), (vec!["redis: a replica".to_owned()], vec![]));
        health.note("redis", None);
        assert!(shared.notes().is_empty());
    }
}
