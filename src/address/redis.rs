//! Checks `redis.url` before anything else sees it. Messages never contain the user part: it may be a password.

use std::borrow::Cow;
use std::fmt;

use percent_encoding::percent_decode_str;
use secrecy::SecretString;

/// Host and port of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The parts of a URL. Whether a single server, a cluster or sentinels stand behind it is found out by asking.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The servers to ask first, one or more: any node of a cluster, or any sentinel.
    pub seeds: Vec<Address>,
    /// Database number.
    pub database: u8,
    /// ACL user.
    pub username: Option<String>,
    /// Password; not shown by `Debug`.
    pub password: Option<SecretString>,
    /// Whether the URL asks for TLS.
    pub tls: bool,
    /// The name under which sentinels know the server.
    pub service: Option<String>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, seed) in self.seeds.iter().enumerate() {
            write!(f, "{}{seed}", if n > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

const FORM: &str = "it must look like redis://host:6379, rediss://user:password@host:6379 or redis://host:6379/0";
const ESCAPES: &str = "in a user name or password write / as %2F, ? as %3F, # as %23 and % as %25";

/// Checks a URL and takes it apart. Percent-encoding in the user and password is decoded; what does not decode is taken as it is.
///
/// # Errors
/// What is wrong with it and how it should be; never the password.
pub fn validate_url(url: &str) -> Result<Endpoint, String> {
    if url.is_empty() {
        return Err(format!("it is empty; {FORM}"));
    }
    if url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("it contains white space or a control character; {FORM}"));
    }
    let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("it has no scheme; {FORM}"))?;
    let tls = tls_of(scheme)?;

    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    if tail.contains('@') {
        return Err(format!("there is an @ after the host; {ESCAPES}"));
    }
    let (user, addresses) = match authority.rsplit_once('@') {
        Some((user, addresses)) => (Some(user), addresses),
        None => (None, authority),
    };
    let mut seeds = addresses.split(',').map(address_of).collect::<Result<Vec<_>, _>>()?;
    let (database, query) = database_of(tail)?;
    let service = query_of(query, &mut seeds)?;

    let (username, password) = match user {
        None | Some("") => (None, None),
        Some(user) => match user.split_once(':') {
            Some((name, password)) => (Some(name), Some(password)),
            None => (Some(user), None),
        },
    };
    Ok(Endpoint {
        seeds,
        database,
        username: username.filter(|n| !n.is_empty()).map(decoded),
        password: password.filter(|p| !p.is_empty()).map(|p| SecretString::from(decoded(p))),
        tls,
        service,
    })
}

/// Whether a scheme asks for TLS. The forms for clusters and sentinels are taken too; what is there is found out by asking.
fn tls_of(scheme: &str) -> Result<bool, String> {
    let lower = scheme.to_ascii_lowercase();
    let family = lower.strip_suffix("-cluster").or_else(|| lower.strip_suffix("-sentinel")).unwrap_or(&lower);
    match family {
        "redis" | "valkey" => Ok(false),
        "rediss" | "valkeys" => Ok(true),
        // A scheme is shown only if it can be nothing else (not the beginning of a password with :// in it).
        _ if !lower.is_empty() && lower.len() <= 20 && lower.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) => {
            Err(format!("{lower}:// is not a scheme of Redis; {FORM}"))
        }
        _ => Err(format!("its scheme is not one of Redis; {FORM}")),
    }
}

fn address_of(address: &str) -> Result<Address, String> {
    let (host, port) = if let Some(inner) = address.strip_prefix('[') {
        let (host, after) = inner.split_once(']').ok_or("the [ of an IPv6 address is not closed")?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err("what is in [ ] is not an IPv6 address".to_owned());
        }
        match after {
            "" => (host, None),
            _ => (host, Some(after.strip_prefix(':').ok_or("there is something between ] and the port")?)),
        }
    } else {
        match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        }
    };
    if host.is_empty() {
        return Err(format!("it names no host; {FORM}"));
    }
    if !address.starts_with('[') && !host.chars().all(|c| c.is_alphanumeric() || "._-".contains(c)) {
        return Err(format!("the host has a character that a host name cannot have; {FORM}"));
    }
    let port = match port {
        None => 6379,
        Some(port) => match port.parse::<u16>() {
            Ok(number) if number > 0 && port.chars().all(|c| c.is_ascii_digit()) => number,
            // Not shown: with a forgotten @ it is the password.
            _ => return Err(format!("its port is not a number from 1 to 65535; {FORM}")),
        },
    };
    Ok(Address { host: host.to_owned(), port })
}

/// The database number and the query of what follows the host.
fn database_of(tail: &str) -> Result<(u8, &str), String> {
    if tail.contains('#') {
        return Err(format!("it contains a #; {ESCAPES}"));
    }
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    let database = match path.strip_prefix('/').unwrap_or(path) {
        "" => 0,
        number if number.chars().all(|c| c.is_ascii_digit()) => {
            number.parse().map_err(|_| "the database number after the host is above 255".to_owned())?
        }
        _ => return Err("what follows the host is not a database number; it must be like /0".to_owned()),
    };
    Ok((database, query))
}

/// `node=host:port` adds a seed, `sentinelServiceName=name` names the server that sentinels watch.
fn query_of(query: &str, seeds: &mut Vec<Address>) -> Result<Option<String>, String> {
    let mut service = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("node", address)) => seeds.push(address_of(address)?),
            Some(("sentinelServiceName", name)) if !name.is_empty() => service = Some(decoded(name)),
            _ => {
                return Err(
                    "after the ? it takes node=host:port (more nodes to ask) and sentinelServiceName=name, and nothing else"
                        .to_owned(),
                );
            }
        }
    }
    Ok(service)
}

/// The percent-decoded text, or the text as it is where it is not UTF-8 in percent-encoding.
fn decoded(text: &str) -> String {
    let is_escape = |rest: &str| rest.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    if !text.split('%').skip(1).all(is_escape) {
        return text.to_owned();
    }
    percent_decode_str(text).decode_utf8().map_or_else(|_| text.to_owned(), Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn good_urls() {
        let at = |url: &str| validate_url(url).map(|e| format!("{e}/{}", e.database));
        assert_eq!(at("redis://localhost"), Ok("localhost:6379/0".into()));
        assert_eq!(at("redis://localhost:7000/"), Ok("localhost:7000/0".into()));
        assert_eq!(at("valkey://10.0.0.1:7000/3"), Ok("10.0.0.1:7000/3".into()));
        assert_eq!(at("REDIS://redis.edge-1.svc:6379"), Ok("redis.edge-1.svc:6379/0".into()));
        assert_eq!(at("redis://[::1]:7000/2"), Ok("[::1]:7000/2".into()));
        assert_eq!(at("redis://:p@h"), Ok("h:6379/0".into()));
        assert_eq!(at("redis://a:1,b,[::1]:2"), Ok("a:1,b:6379,[::1]:2/0".into()));
        assert_eq!(at("redis-cluster://a:1?node=b:2&node=c"), Ok("a:1,b:2,c:6379/0".into()));
        let sentinel = validate_url("rediss-sentinel://u:p@a:26379?sentinelServiceName=my%20master").expect("a good URL");
        assert_eq!((sentinel.tls, sentinel.service.as_deref()), (true, Some("my master")));
        assert!(!validate_url("valkey-cluster://h").expect("a good URL").tls && validate_url("valkeys://h").expect("good").tls);
    }

    #[test]
    fn users_and_passwords() {
        let of = |url: &str| {
            let e = validate_url(url).expect("a good URL");
            (e.username, e.password.map(|p| p.expose_secret().to_owned()))
        };
        let pair = |u: &str, p: &str| (Some(u.to_owned()), Some(p.to_owned()));
        assert_eq!(of("redis://u:p@h"), pair("u", "p"));
        assert_eq!(of("redis://:p@h"), (None, Some("p".into())));
        assert_eq!(of("redis://u@h"), (Some("u".into()), None));
        assert_eq!(of("redis://@h"), (None, None));
        assert_eq!(of("redis://u:a%2Fb%40c%3a%C3%A9@h"), pair("u", "a/b@c:é"));
        assert_eq!(of("redis://u:100%@h"), pair("u", "100%"));
        assert_eq!(of("redis://u:%ff@h"), pair("u", "%ff"));
        assert_eq!(of("redis://u:a@b:c@h"), pair("u", "a@b:c"));
    }

    #[test]
    fn bad_urls_say_what_is_wrong() {
        for (url, word) in [
            ("", "empty"),
            ("localhost:6379", "scheme"),
            ("http://x", "http://"),
            ("redis://", "host"),
            ("redis://:6379", "host"),
            ("redis://h:99999", "port"),
            ("redis://h:0", "port"),
            ("redis://h:", "port"),
            ("redis://h:+1", "port"),
            ("redis://h:12ab", "port"),
            ("redis://h:1/abc", "database"),
            ("redis://h:1/300", "database"),
            ("redis://h:1/1/", "database"),
            ("redis://h:1?nodes=b:2", "node="),
            ("redis://h:1?node=b:x", "port"),
            ("redis-sentinel://h:1?sentinelServiceName=", "sentinelServiceName"),
            ("redis://h:1#x", "#"),
            ("redis://h 1", "white space"),
            (" redis://h", "white space"),
            ("redis://a,,b", "host"),
            ("redis://h!x", "character"),
            ("redis://[::1", "IPv6"),
            ("redis://[zz]:1", "IPv6"),
            ("redis://u:se/cret@h", "%2F"),
            ("redisss-cluster://h", "scheme"),
        ] {
            let error = validate_url(url).expect_err(url);
            assert!(error.contains(word), "{url}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(url in ".*", scheme in "(redis|valkey|rediss)://", rest in "[a-z0-9:@/?#%\\[\\], é-]{0,40}") {
            let _ = validate_url(&url);
            let _ = validate_url(&format!("{scheme}{rest}"));
        }

        #[test]
        fn messages_do_not_show_the_password(head in "[a-z0-9:/?#@%]{0,6}", tail in "[a-z0-9:/?#@%,]{0,6}") {
            let password = format!("{head}S3CRET{tail}");
            for url in [format!("redis://u:{password}@host:1"), format!("redis://u:{password}"), format!("u:{password}@host")] {
                if let Err(message) = validate_url(&url) {
                    prop_assert!(!message.contains("S3CRET"), "{message}");
                }
            }
        }

        #[test]
        fn any_encoded_password_comes_back(password in "\\PC{1,20}") {
            let encoded: String = password.bytes().map(|b| format!("%{b:02X}")).collect();
            let endpoint = validate_url(&format!("redis://u:{encoded}@h:1/2")).expect("a good URL");
            let got = endpoint.password.expect("it has one");
            prop_assert_eq!(got.expose_secret(), password.as_str());
        }
    }
}
