//! An authority of one's own, and certificates for servers and clients on this machine.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// An authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key, PEM.
pub struct Issued {
    pub cert: String,
    pub key: String,
}

impl Authority {
    /// A new one: nobody trusts it who is not told.
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "an authority of tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Its certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for these names and addresses.
    pub fn issue(&self, names: &[&str]) -> Issued {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names[0]);
        Issued { cert: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }
}

/// What a server on this machine and its clients need, as files: `ca.crt`, and `.crt` and `.key` of `server` and `client`.
pub struct Certificates {
    dir: TempDir,
}

impl Certificates {
    /// For `localhost` and 127.0.0.1.
    pub fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let authority = Authority::new();
        std::fs::write(dir.path().join("ca.crt"), authority.pem()).unwrap();
        for (role, names) in [("server", ["localhost", "127.0.0.1"].as_slice()), ("client", ["telemetry"].as_slice())] {
            let issued = authority.issue(names);
            std::fs::write(dir.path().join(format!("{role}.crt")), issued.cert).unwrap();
            std::fs::write(dir.path().join(format!("{role}.key")), issued.key).unwrap();
        }
        Self { dir }
    }

    /// One of the files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}
