//! TLS as every room needs it: what a client trusts and shows, read again when its files change; certificates and errors in words.
//!
//! TLS 1.2 and 1.3, by rustls with ring. Settings that hold a certificate or key take PEM text or a path to a file; a file takes
//! effect with the next handshake after it changed.

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

/// The only provider there is; said where it is needed, so that nothing depends on what another crate has installed.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
