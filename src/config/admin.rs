//! `[admin]`: where /livez, /readyz and /metrics are served.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::Listen;

/// The admin server of a long-running role.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Admin {
    /// IP:PORT on which /livez, /readyz and /metrics are served, or `off`. Not set: 127.0.0.1:9464 for roles that run until they are
    /// stopped; a `stream` that ends by itself serves none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<Listen>,
}
