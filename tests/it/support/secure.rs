//! One real Redis with TLS, client certificates and an ACL, whose certificates and users can be changed while it runs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::app::App;
use super::certificates::{Certificates, Issued, Wish, named};
use super::node::{Access, Node};
use super::postgres::free_port;

/// A server. Its process ends when this is dropped.
pub struct Secure {
    pub certificates: Arc<Certificates>,
    pub node: Node,
    access: Access,
    _dir: TempDir,
}

impl Secure {
    /// Starts one.
    pub fn start() -> Self {
        let (certificates, dir, port) = (Arc::new(Certificates::new()), TempDir::new().unwrap(), free_port());
        let access = Access { tls: Some(certificates.clone()), acl: true };
        let mut arguments = access.server_arguments(port, dir.path());
        arguments.extend(["--appendonly", "yes"].map(String::from));
        let node = Node::start(port, dir.path(), &access, arguments);
        Self { certificates, node, access, _dir: dir }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("rediss://localhost:{}", self.node.port)
    }

    /// The program, told all that it needs.
    pub fn app(&self, database: &str) -> App {
        App::new(&self.url(), database).with_all(self.access.variables())
    }

    /// The server shows one for this name, signed by who signed the others.
    pub fn show_for(&self, name: &str) {
        self.show(&self.certificates.authority().issue(&named(&[name])));
    }

    /// The server shows one that ended a year ago.
    pub fn show_expired(&self) {
        let ends = Some(SystemTime::now() - Duration::from_secs(365 * 86_400));
        self.show(&self.certificates.authority().issue(&Wish { ends, ..named(&["localhost"]) }));
    }

    fn show(&self, issued: &Issued) {
        self.certificates.put_server(issued);
        self.reload();
    }

    /// The server reads its certificate files again. Whoever it is that asks: it may be that nobody trusts it just now.
    pub fn reload(&self) {
        let path = self.certificates.path("server.crt");
        let mut cli = self.access.cli(self.node.port);
        let done = cli.arg("--insecure").args(["CONFIG", "SET", "tls-cert-file"]).arg(path).output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert_eq!(said.trim(), "OK", "{}", String::from_utf8_lossy(&done.stderr));
    }
}
