//! Settings that are PEM text or the path of a PEM file.

use std::path::{Path, PathBuf};

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The value of a PEM setting. It has no `Debug`, because it may be a private key.
#[derive(Clone)]
pub enum Pem {
    /// PEM text.
    Text(String),
    /// Path of a PEM file.
    File(PathBuf),
}

impl Pem {
    /// Takes a setting that contains a PEM header as text, any other as a path.
    #[must_use]
    pub fn of(setting: &str) -> Self {
        if setting.contains("-----BEGIN") { Self::Text(setting.to_owned()) } else { Self::File(setting.trim().into()) }
    }

    /// The path, where the setting is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Text(_) => None,
            Self::File(path) => Some(path),
        }
    }

    /// The PEM bytes.
    ///
    /// # Errors
    /// `key` (the setting's name), the file and why it cannot be read.
    pub fn read(&self, key: &str) -> Result<Vec<u8>, String> {
        match self {
            // Many environment files write line breaks as a literal `\n`.
            Self::Text(text) if !text.trim().contains('\n') => Ok(text.replace("\\n", "\n").into_bytes()),
            Self::Text(text) => Ok(text.clone().into_bytes()),
            Self::File(path) => std::fs::read(path).map_err(|error| {
                format!("{key}: {} cannot be read: {error}; set PEM text or the path of a PEM file", path.display())
            }),
        }
    }

    /// The path, or "the text given"; for messages.
    fn place(&self) -> String {
        match self {
            Self::Text(_) => "the text given".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }
}

/// The certificates in a PEM setting, at least one.
///
/// # Errors
/// `key` and what is wrong.
pub fn certificates(key: &str, pem: &Pem) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = pem.read(key)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{key}: {} is not a certificate in PEM: {error}", pem.place()))?;
    if certificates.is_empty() {
        return Err(format!("{key}: {} contains no certificate", pem.place()));
    }
    Ok(certificates)
}

/// The private key in a PEM setting.
///
/// # Errors
/// `key` and what is wrong; never the text.
pub fn private_key(key: &str, pem: &Pem) -> Result<PrivateKeyDer<'static>, String> {
    let bytes = pem.read(key)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        format!("{key}: {} is not a private key in PEM: {error} (a key with a passphrase cannot be used: remove it)", pem.place())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_paths_are_told_apart() {
        assert!(Pem::of("-----BEGIN CERTIFICATE-----\nx").file().is_none());
        assert_eq!(Pem::of(" /etc/tls/ca.crt\n").file(), Some(Path::new("/etc/tls/ca.crt")));
        let said = certificates("redis.tls.ca", &Pem::of("/does/not/exist")).unwrap_err();
        assert!(said.contains("redis.tls.ca") && said.contains("/does/not/exist"), "{said}");
        let said = private_key("redis.tls.key", &Pem::of("-----BEGIN S3CRET")).unwrap_err();
        assert!(said.contains("redis.tls.key") && !said.contains("S3CRET"), "{said}");
    }

    #[test]
    fn line_breaks_that_an_environment_file_wrote_out_are_line_breaks() {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let pem = made.cert.pem().replace('\n', "\\n");
        assert_eq!(certificates("ca", &Pem::of(&pem)).unwrap().len(), 1);
    }
}
