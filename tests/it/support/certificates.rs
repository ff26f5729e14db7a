//! Authorities of one's own, and certificates for servers and clients on this machine.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// An authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, PEM.
    pub pem: String,
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Issued {
    pub cert: String,
    pub key: String,
}

impl Issued {
    /// Written as `name.crt` and `name.key`.
    pub fn write(&self, directory: &Path, name: &str) {
        std::fs::write(directory.join(format!("{name}.crt")), &self.cert).unwrap();
        std::fs::write(directory.join(format!("{name}.key")), &self.key).unwrap();
    }
}

/// What a certificate is to say.
pub struct Wish<'a> {
    /// Whose it is.
    pub common_name: &'a str,
    /// DNS names and addresses.
    pub names: &'a [&'a str],
    pub serial: u64,
    pub ends: Option<SystemTime>,
}

/// A certificate for these names.
pub fn named<'a>(names: &'a [&'a str]) -> Wish<'a> {
    Wish { common_name: "test", names, serial: 1, ends: None }
}

/// A certificate of a client.
pub fn client(common_name: &str, serial: u64) -> Wish<'_> {
    Wish { common_name, names: &[], serial, ends: None }
}

impl Wish<'_> {
    fn params(&self) -> CertificateParams {
        let names: Vec<String> = self.names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, self.common_name);
        params.serial_number = Some(self.serial.into());
        if let Some(ends) = self.ends {
            params.not_after = ends.into();
        }
        params
    }

    /// Signed by itself, and marked as an authority, as `openssl req -x509` does it.
    pub fn self_signed(&self) -> Issued {
        let key = KeyPair::generate().unwrap();
        let mut params = self.params();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Issued { cert: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
    }
}

impl Authority {
    /// A new one: nobody trusts it who is not told.
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub fn issue(&self, wish: &Wish<'_>) -> Issued {
        let key = KeyPair::generate().unwrap();
        Issued { cert: wish.params().signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
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
        let all = Self { dir: TempDir::new().unwrap(), authority: Authority::new("an authority of tests") };
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

    /// Puts another certificate in the place of the server's.
    pub fn put_server(&self, issued: &Issued) {
        issued.write(self.dir.path(), "server");
    }

    /// Everybody trusts these, and nobody else.
    pub fn trust(&self, authorities: &[&Authority]) {
        let all: String = authorities.iter().map(|authority| authority.pem.as_str()).collect();
        std::fs::write(self.path("ca.crt"), all).unwrap();
    }

    /// Puts those of this authority in the place of all.
    pub fn put_all(&self, authority: &Authority) {
        self.trust(&[authority]);
        self.show(authority);
    }

    /// Server and clients show those of this authority.
    pub fn show(&self, authority: &Authority) {
        authority.issue(&named(&["localhost", "127.0.0.1"])).write(self.dir.path(), "server");
        authority.issue(&client("telemetry", 2)).write(self.dir.path(), "client");
    }
}
