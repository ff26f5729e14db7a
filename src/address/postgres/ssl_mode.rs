//! libpq's sslmode.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// libpq's sslmode: whether to use TLS, and how closely to look at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// Without TLS.
    Disable,
    /// Without; with TLS where the server insists on it.
    Allow,
    /// With TLS; without where the server has none.
    Prefer,
    /// With TLS, to whomever; with an authority given, as verify-ca.
    Require,
    /// With TLS, to a server that the authority has signed.
    VerifyCa,
    /// With TLS, to a server that the authority has signed for the name we connect to.
    VerifyFull,
}

impl SslMode {
    /// All, from the weakest on.
    pub const ALL: [Self; 6] = [Self::Disable, Self::Allow, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    /// As it is written.
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
