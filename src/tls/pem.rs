//! A setting that is PEM text or a path to it.

use std::path::{Path, PathBuf};

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// PEM, as a setting gives it. No `Debug`: it may be a key.
#[derive(Clone)]
pub enum Pem {
    /// The text itself.
    Text(String),
    /// Where the text is.
    File(PathBuf),
}

impl Pem {
    /// Text where it looks like PEM, else a path.
    #[must_use]
    pub fn of(setting: &str) -> Self {
        if setting.contains("-----BEGIN") { Self::Text(setting.to_owned()) } else { Self::File(setting.trim().into()) }
    }

    /// The file, where it is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Text(_) => None,
            Self::File(path) => Some(path),
        }
    }

    /// Its bytes.
    ///
    /// # Errors
    /// `key` (the setting's name), the file and why it cannot be read.
    pub fn read(&self, key: &str) -> Result<Vec<u8>, String> {
        match self {
            // `\n` written out is what is left of line breaks in many an environment file.
            Self::Text(text) if !text.trim().contains('\n') => Ok(text.replace("\\n", "\n").into_bytes()),
            Self::Text(text) => Ok(text.clone().into_bytes()),
            Self::File(path) => std::fs::read(path).map_err(|error| {
                format!("{key}: {} cannot be read: {error}; give PEM text or the path of a file with it", path.display())
            }),
        }
    }

    /// For messages: the path, or that it is text.
    fn place(&self) -> String {
        match self {
            Self::Text(_) => "the text given".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }
}

/// The certificates in it, at least one.
///
/// # Errors
/// `key` and what is wrong.
pub fn certificates(key: &str, pem: &Pem) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = pem.read(key)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{key}: {} is no certificate in PEM: {error}", pem.place()))?;
    if certificates.is_empty() {
        return Err(format!("{key}: {} has no certificate in it", pem.place()));
    }
    Ok(certificates)
}

/// The private key in it.
///
/// # Errors
/// `key` and what is wrong; never the text.
pub fn private_key(key: &str, pem: &Pem) -> Result<PrivateKeyDer<'static>, String> {
    let bytes = pem.read(key)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        format!("{key}: {} is no private key in PEM: {error} (a key with a passphrase has to be stored without one)", pem.place())
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
