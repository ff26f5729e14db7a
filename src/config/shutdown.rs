//! `[shutdown]`: how long a role may take to shut down.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::units;

/// The first SIGTERM or SIGINT drains; a second one, or the deadline, forces the shutdown.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Shutdown {
    /// Maximum time of draining. Keep it below Kubernetes' terminationGracePeriodSeconds (30 s unless set).
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "units::duration")]
    pub deadline: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(25) }
    }
}

impl Shutdown {
    pub(super) fn validate(&self, check: &mut Check<'_>) {
        check.positive("shutdown.deadline", self.deadline, "nothing could be finished after a signal");
    }
}
