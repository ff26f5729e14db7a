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
        self.sign(CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap(), names[0])
    }

    /// One that has run out long ago.
    pub fn issue_expired(&self, names: &[&str]) -> Issued {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 2, 1);
        self.sign(params, names[0])
    }

    fn sign(&self, mut params: CertificateParams, name: &str) -> Issued {
        let key = KeyPair::generate().unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        Issued { cert: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }
}

/// What a server on this machine and its clients need, as files: `ca.crt`, and `.crt` and `.key` of `server` and `client`.
pub struct Certificates {
    dir: TempDir,
    authority: Authority,
}

impl Certificates {
    /// For `localhost` and 127.0.0.1.
    pub fn new() -> Self {
        let all = Self { dir: TempDir::new().unwrap(), authority: Authority::new() };
        all.put_all(&all.authority);
        all
    }

    /// Who signed them in the beginning.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// One of the files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts others in the place of those of a role.
    pub fn put(&self, role: &str, issued: &Issued) {
        std::fs::write(self.path(&format!("{role}.crt")), &issued.cert).unwrap();
        std::fs::write(self.path(&format!("{role}.key")), &issued.key).unwrap();
    }

    /// Puts those of this authority in the place of all.
    pub fn put_all(&self, authority: &Authority) {
        std::fs::write(self.path("ca.crt"), authority.pem()).unwrap();
        self.put("server", &authority.issue(&["localhost", "127.0.0.1"]));
        self.put("client", &authority.issue(&["telemetry"]));
    }
}
