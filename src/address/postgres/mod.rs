//! `DATABASE_URL`: what it may be, and what is wrong with one that is not. No message ever shows a password.

mod ssl_mode;
mod tls_parameters;

use std::fmt;

use tokio_postgres::Config;
use tokio_postgres::config::Host;

pub use self::ssl_mode::SslMode;
pub use self::tls_parameters::TlsParameters;

/// The hosts and the database of a URL, without secrets. As text: `host:port/database`, with several hosts `a:5432,b:5433/database`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// One or more hosts: the name or address, or the directory of the socket; and the port.
    pub hosts: Vec<(String, u16)>,
    /// The database.
    pub database: String,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (host, port)) in self.hosts.iter().enumerate() {
            let separator = if n > 0 { "," } else { "" };
            if host.contains(':') {
                write!(f, "{separator}[{host}]:{port}")?;
            } else {
                write!(f, "{separator}{host}:{port}")?;
            }
        }
        write!(f, "/{}", self.database)
    }
}

const DEFAULT_PORT: u16 = 5432;
const EXAMPLE: &str = "postgres://user@host:5432/database";
/// The parameters that the client knows. Those that concern TLS are taken out before it sees the URL.
const PARAMETERS: [&str; 15] = [
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "load_balance_hosts",
    "options",
    "password",
    "port",
    "target_session_attrs",
];

/// Checks a database URL (`postgres://…`, or `key=value` pairs) and says where it leads.
///
/// # Errors
///
/// What is wrong with it, in words, without its password.
pub fn validate_url(url: &str) -> Result<Endpoint, String> {
    parse(url).map(|(_, endpoint, _)| endpoint)
}

/// The client's configuration for a URL, where it leads, and its parameters that concern TLS.
///
/// # Errors
///
/// As [`validate_url`].
pub fn parse(url: &str) -> Result<(Config, Endpoint, TlsParameters), String> {
    if url.trim().is_empty() {
        return Err(format!("the database URL is empty; expected {EXAMPLE}"));
    }
    if let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| !scheme.contains('=')) {
        if scheme != "postgres" && scheme != "postgresql" {
            let scheme = scheme.get(..20).unwrap_or(scheme);
            return Err(format!("the database URL has the scheme `{scheme}`; expected postgres:// or postgresql:// ({EXAMPLE})"));
        }
        check_parts(rest)?;
    } else if !url.contains('=') {
        return Err(format!("the database URL is not a URL; expected {EXAMPLE}"));
    }
    let (rest, tls) = tls_parameters::take(url)?;
    let config = rest.parse::<Config>().map_err(|error| explain(&rest, &error))?;
    let endpoint = endpoint_of(&config)?;
    Ok((config, endpoint, tls))
}

/// Finds the mistakes that the client would refuse without saying where they are, or accept silently.
fn check_parts(rest: &str) -> Result<(), String> {
    if rest.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(
            "the database URL has a space, a line break or a control character in it; in a password write them as %20, %0A, …"
                .into(),
        );
    }
    if rest.contains('#') {
        return Err("the database URL has a `#` in it; in a password it is written %23".into());
    }
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = before.split_once('/').unwrap_or((before, ""));
    // With an `@` further on, what looks like host and port may be the beginning of a password with an unescaped `/` or `?`.
    let hidden = !authority.contains('@') && rest[authority.len()..].contains('@');
    if hidden {
        return Err("the database URL has a `/` or `?` before its `@`; in a password they are written %2F and %3F".into());
    }
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    if authority.matches('@').count() > 1 {
        return Err("the database URL has more than one `@`; in a password it is written %40".into());
    }
    for host in hosts.split(',') {
        let port = match host.rsplit_once(']') {
            Some((_, after)) => after.strip_prefix(':'),
            None => host.split_once(':').map(|(_, port)| port),
        };
        if let Some(port) = port
            && port.parse::<u16>().map_or(true, |port| port == 0)
        {
            return Err(format!("the database URL has the port `{port}`; expected a number from 1 to 65535"));
        }
    }
    if hosts.is_empty() && !query.split('&').any(|pair| pair.starts_with("host=")) {
        return Err(format!("the database URL names no host; expected {EXAMPLE}"));
    }
    if database.is_empty() && !query.split('&').any(|pair| pair.starts_with("dbname=")) {
        return Err(format!("the database URL names no database; expected {EXAMPLE}"));
    }
    Ok(())
}

/// Why the client does not take a URL. It may quote what it does not understand, which may be a part of the password: only names of
/// parameters are shown, and only where they cannot be such a part.
fn explain(url: &str, error: &tokio_postgres::Error) -> String {
    match unknown_parameter(url) {
        Some(Unknown::Named(name)) => {
            return format!(
                "the database URL has the parameter `{name}`, which is not known; there are {}, and those of TLS (sslmode, sslrootcert, \
                 sslcert, sslkey, sslnegotiation, sslsni, ssl_min_protocol_version)",
                PARAMETERS.join(", ")
            );
        }
        Some(Unknown::BehindPassword) => {
            return "the database URL has an unknown parameter after its password; if it is a part of the password, quote that \
                    (password='…'), or escape it in a URL (a space is %20, an & is %26)"
                .to_owned();
        }
        None => {}
    }
    let detail = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    match PARAMETERS.iter().find(|name| detail.contains(&format!("`{name}`"))) {
        Some(name) => format!("the database URL has a value for {name} that it cannot have"),
        None => format!(
            "the database URL cannot be read: a parameter without a value, or a bad %-escape or quote in it; expected {EXAMPLE}, or \
             key=value pairs such as host, port, user, dbname"
        ),
    }
}

/// A parameter that the client does not know.
enum Unknown {
    Named(String),
    /// It may be a part of the password, which ends where it should not.
    BehindPassword,
}

/// The first parameter that the client does not know.
fn unknown_parameter(url: &str) -> Option<Unknown> {
    let is_url = url.split_once("://").is_some_and(|(scheme, _)| !scheme.contains('='));
    let (before, query) = if is_url { url.split_once('?')? } else { ("", url) };
    let mut after_password = is_url && (!before.contains('@') || query.contains('@'));
    let mut judge = |key: &str, is_open_password: bool| {
        if key == "user" || PARAMETERS.contains(&key) {
            after_password |= is_open_password;
            return None;
        }
        let is_word = !key.is_empty() && key.len() <= 40 && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        Some(if is_word && !after_password { Unknown::Named(key.to_owned()) } else { Unknown::BehindPassword })
    };
    if is_url {
        // A plus is a plus here.
        let query = query.replace('+', "%2B");
        return url::form_urlencoded::parse(query.as_bytes()).find_map(|(key, _)| judge(&key, key == "password"));
    }
    tls_parameters::pairs(query).iter().find_map(|pair| judge(pair.key, pair.key == "password" && !pair.is_quoted))
}

fn endpoint_of(config: &Config) -> Result<Endpoint, String> {
    let name = |host: &Host| match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(path) => path.display().to_string(),
    };
    let mut names: Vec<String> = config.get_hosts().iter().map(name).collect();
    if names.is_empty() {
        names = config.get_hostaddrs().iter().map(ToString::to_string).collect();
    }
    if names.is_empty() {
        return Err(format!("the database URL names no host; expected {EXAMPLE}"));
    }
    let database = config.get_dbname().unwrap_or_default().to_owned();
    if database.is_empty() {
        return Err(format!("the database URL names no database; expected {EXAMPLE} or dbname=…"));
    }
    let (hosts, addresses, ports) = (config.get_hosts().len(), config.get_hostaddrs().len(), config.get_ports().len());
    if hosts > 0 && addresses > 0 && hosts != addresses {
        return Err(format!("the database URL has {hosts} hosts and {addresses} of hostaddr; they belong together in pairs"));
    }
    if ports > 1 && ports != hosts.max(addresses) {
        return Err(format!("the database URL has {ports} ports for {} hosts; give one, or one each", hosts.max(addresses)));
    }
    // One port is that of every host.
    let port = |n: usize| config.get_ports().get(n).or(config.get_ports().first()).copied().unwrap_or(DEFAULT_PORT);
    let hosts = names.into_iter().enumerate().map(|(n, name)| (name, port(n))).collect();
    Ok(Endpoint { hosts, database })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn good_urls_lead_somewhere() {
        for (url, expected) in [
            ("postgres://u:secret@db.example:5433/telemetry", "db.example:5433/telemetry"),
            ("postgresql://db/telemetry?sslmode=disable", "db:5432/telemetry"),
            ("postgres://u:p%40%2F@[::1]:5432/t?sslmode=prefer&application_name=x", "[::1]:5432/t"),
            ("postgres://u@a:1,b:2/t", "a:1,b:2/t"),
            ("postgres://u@a,b/t", "a:5432,b:5432/t"),
            ("host=a,b port=6000 dbname=t", "a:6000,b:6000/t"),
            ("postgres://u:p@db/t?sslmode=verify-full&sslrootcert=/ca.pem&channel_binding=require", "db:5432/t"),
            ("host=db dbname=t sslmode=verify-ca sslrootcert='/my ca.pem' sslnegotiation=direct", "db:5432/t"),
            ("postgres://u@%2Frun%2Fpostgresql/t", "/run/postgresql:5432/t"),
            ("host=db user=u password='a b' dbname=t port=6000", "db:6000/t"),
        ] {
            assert_eq!(validate_url(url).expect(url).to_string(), expected);
        }
    }

    #[test]
    fn bad_urls_say_what_is_wrong_and_keep_the_password() {
        for (url, says) in [
            ("", "empty"),
            ("db.example", "not a URL"),
            ("mysql://u:hunter2@db/t", "mysql"),
            ("http://db/t", "scheme"),
            ("postgres://u:hunter2@db:54x2/t", "54x2"),
            ("postgres://u:hunter2@db:99999/t", "99999"),
            ("postgres://u:hunter2@db:0/t", "port"),
            ("postgres://u:hunter2@db:/t", "port"),
            ("postgres://u:hunter2@db", "names no database"),
            ("postgres://u:hunter2@db/", "names no database"),
            ("postgres://u:hunter2@/t", "names no host"),
            ("postgres://u:hunter2/x@db/t", "%2F"),
            ("postgres://u:hunter2#x@db/t", "%23"),
            ("postgres://u:hunter2@x@db/t", "%40"),
            ("postgres://u:hunter2 @db/t", "space"),
            ("postgres://u:hunter2@db/t\n", "line break"),
            ("postgres://u:hunter2@db/t?sslmode=maybe", "maybe"),
            ("postgres://u:hunter2@db/t?sslcrl=/x", "sslcrl"),
            ("postgres://u:hunter2@db/t?host=a&hostaddr=127.0.0.1", "pairs"),
            ("host=a,b port=1,2,3 dbname=t", "ports"),
            ("postgres://u:hunter2@db/t?nonsense=1", "parameter `nonsense`, which is not known"),
            ("postgres://u:hunter2@db/t?application_name=x&poolsize=5&sslmode=prefer", "`poolsize`"),
            ("postgres://u@db/t?poolsize=5&password=hunter2", "`poolsize`"),
            ("postgres://u@db/t?password=x&hunter2=1", "after its password"),
            ("postgres://u:x@y/z?hunter2=1@db/t", "after its password"),
            ("postgres://u:hunter2@db/t?keepalives_idle=soon", "keepalives_idle"),
            ("host=db user=u password=hunter2", "no database"),
            ("host=db dbname=t password=x hunter2=1", "after its password"),
            ("host=db dbname=t password='hunter2' nonsense=1", "`nonsense`"),
            ("host=db dbname=t nonsense=1 password=hunter2", "`nonsense`"),
            ("host=db dbname=t nonsense=1", "`nonsense`"),
            ("host=db dbname=t nonsense", "cannot be read"),
            ("host=db dbname=t sslmode=maybe", "maybe"),
            ("user=u dbname=t", "no host"),
        ] {
            let said = validate_url(url).expect_err(url);
            assert!(said.contains(says), "{url}: {said}");
            assert!(!said.contains("hunter2"), "{url}: {said}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_or_talk(password in "[a-z/?#@:%\\[\\] =é]{0,12}", tail in "[ -~]{0,20}") {
            let url = format!("postgres://u:hunter2{password}@db{tail}");
            if let Err(said) = validate_url(&url) {
                prop_assert!(!said.contains("hunter2"), "{} -> {}", url, said);
            }
        }
    }
}
