//! libpq's sslmode.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// libpq's sslmode: whether to use TLS, and how closely to look at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// Without TLS, except where the server insists on it.
    Allow,
    /// With TLS, except where the server has none.
    Prefer,
    /// Always TLS, and the server is not verified; where an authority is given, as verify-ca.
    Require,
    /// Always TLS, with a server whose certificate the authority has signed.
    VerifyCa,
    /// Always TLS, with a server whose certificate the authority has signed for the name that is connected to.
    VerifyFull,
}

impl SslMode {
    /// All modes, the weakest first.
    pub const ALL: [Self; 6] = [Self::Disable, Self::Allow, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    /// The mode as it is written in a URL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}
