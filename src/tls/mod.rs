//! TLS for all rooms: the settings of clients, read again when their files change; certificates; messages for errors.
//!
//! TLS 1.2 and 1.3, by rustls with ring. Settings for a certificate or key take PEM text or the path of a file. A changed file takes
//! effect with the next handshake.

mod client;
mod facts;
mod pem;
mod verify;
mod words;

pub use self::client::{ClientSettings, ClientTls, Current, Handshake, Names, Verify};
pub use self::facts::{Facts, alternative_names, facts};
pub use self::pem::{Pem, certificates, private_key};
pub use self::words::{Remedy, explain, explain_io, remedy, within};

use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};

/// The crypto provider of the whole program. It is passed explicitly, so that nothing depends on what another crate has installed.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
