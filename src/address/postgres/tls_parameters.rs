//! What `DATABASE_URL` says of TLS, as libpq understands it: taken out before the client sees the URL, which knows three modes and
//! no certificates.

use super::SslMode;

/// The parameters of a database URL that concern TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsParameters {
    /// `sslmode`.
    pub mode: Option<SslMode>,
    /// `sslrootcert`: a path, or `system`.
    pub ca: Option<String>,
    /// `sslcert`.
    pub cert: Option<String>,
    /// `sslkey`.
    pub key: Option<String>,
    /// `sslnegotiation`: whether TLS begins with the first byte, without asking the server whether it has TLS.
    pub direct: Option<bool>,
    /// `sslsni`: whether the handshake names the host.
    pub sni: Option<bool>,
    /// `ssl_min_protocol_version`: whether nothing older than TLS 1.3 is accepted.
    pub newest: Option<bool>,
}

/// The URL (or `key=value` pairs) without what concerns TLS, and what that was.
pub(super) fn take(url: &str) -> Result<(String, TlsParameters), String> {
    let mut found = TlsParameters::default();
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        let mut kept = String::new();
        for pair in pairs(url) {
            if !found.take(pair.key, &pair.value)? {
                kept.push_str(pair.text);
            }
        }
        return Ok((kept, found));
    }
    let Some((before, query)) = url.split_once('?') else { return Ok((url.to_owned(), found)) };
    let mut kept = before.to_owned();
    let mut separator = '?';
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        // A plus is a plus here.
        let escaped = pair.replace('+', "%2B");
        let (key, value) = url::form_urlencoded::parse(escaped.as_bytes()).next().unwrap_or_default();
        if !found.take(&key, &value)? {
            kept.push(separator);
            kept.push_str(pair);
            separator = '&';
        }
    }
    Ok((kept, found))
}

impl TlsParameters {
    /// Takes a parameter that concerns TLS; `false`: it does not.
    fn take(&mut self, key: &str, value: &str) -> Result<bool, String> {
        let refuse = |expected: &str| {
            let value: String = value.chars().take(20).collect();
            Err(format!("the database URL has {key}={value}; expected {expected}"))
        };
        let path = Some(value.to_owned()).filter(|value| !value.is_empty());
        match key {
            "sslmode" => match SslMode::ALL.into_iter().find(|mode| mode.name() == value) {
                Some(mode) => set(key, &mut self.mode, Some(mode))?,
                None => return refuse("disable, allow, prefer, require, verify-ca or verify-full"),
            },
            "sslrootcert" => set(key, &mut self.ca, path)?,
            "sslcert" => set(key, &mut self.cert, path)?,
            "sslkey" => set(key, &mut self.key, path)?,
            "sslnegotiation" => match value {
                "postgres" | "direct" => set(key, &mut self.direct, Some(value == "direct"))?,
                _ => return refuse("postgres or direct"),
            },
            "sslsni" => match value {
                "0" | "1" => set(key, &mut self.sni, Some(value == "1"))?,
                _ => return refuse("0 or 1"),
            },
            "ssl_min_protocol_version" => match value {
                // Nothing older than 1.2 is spoken in any case.
                "" | "TLSv1" | "TLSv1.1" | "TLSv1.2" => set(key, &mut self.newest, Some(false))?,
                "TLSv1.3" => set(key, &mut self.newest, Some(true))?,
                _ => return refuse("TLSv1.2 or TLSv1.3"),
            },
            "ssl_max_protocol_version" if value.is_empty() || value == "TLSv1.3" => {}
            // There is neither compression nor GSSAPI here: who does not insist on them loses nothing.
            "sslcompression" => {}
            "gssencmode" if matches!(value, "disable" | "prefer") => {}
            "channel_binding" => match value {
                "disable" | "prefer" | "require" => return Ok(false),
                _ => return refuse("disable, prefer or require"),
            },
            "sslpassword" => {
                return Err(
                    "the database URL has sslpassword; a key with a passphrase cannot be used: store it without one".into()
                );
            }
            "ssl_max_protocol_version"
            | "gssencmode"
            | "sslcrl"
            | "sslcrldir"
            | "sslcertmode"
            | "requirepeer"
            | "require_auth" => {
                return Err(format!(
                    "the database URL has {key}, which is not supported here; there are sslmode, sslrootcert, sslcert, sslkey, \
                     sslnegotiation, sslsni, ssl_min_protocol_version and channel_binding"
                ));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn set<T: PartialEq>(key: &str, place: &mut Option<T>, value: Option<T>) -> Result<(), String> {
    if place.is_some() && *place != value {
        return Err(format!("the database URL has {key} twice, and not the same: leave one"));
    }
    *place = value;
    Ok(())
}

/// A `key=value` pair.
pub(super) struct Pair<'a> {
    pub(super) key: &'a str,
    value: String,
    /// Whether quotes say where its value ends.
    pub(super) is_quoted: bool,
    /// The pair as it is written, with the space around it.
    text: &'a str,
}

/// `key=value` pairs: values with spaces in single quotes, a backslash before quotes and backslashes. What is not written so is
/// kept as the rest, for the client to complain about.
pub(super) fn pairs(text: &str) -> Vec<Pair<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some(pair) = pair(rest) else {
            found.push(Pair { key: "", value: String::new(), is_quoted: false, text: rest });
            break;
        };
        rest = &rest[pair.text.len()..];
        found.push(pair);
    }
    found
}

/// The first pair.
fn pair(text: &str) -> Option<Pair<'_>> {
    let (key, after) = text.split_once('=')?;
    let after = after.trim_start();
    let quoted = after.starts_with('\'');
    let mut value = String::new();
    let mut chars = after.char_indices().skip(usize::from(quoted));
    let end = loop {
        match chars.next() {
            Some((_, '\\')) => value.extend(chars.next().map(|(_, escaped)| escaped)),
            Some((at, '\'')) if quoted => break at + 1,
            Some((at, c)) if !quoted && c.is_whitespace() => break at,
            Some((_, c)) => value.push(c),
            None if quoted => return None,
            None => break after.len(),
        }
    };
    let rest = after[end..].trim_start();
    Some(Pair { key: key.trim(), value, is_quoted: quoted, text: &text[..text.len() - rest.len()] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_tls_is_taken_out() {
        let (kept, found) = take(
            "postgres://u:p%2B@h/t?application_name=a+b&sslmode=verify-full&sslrootcert=%2Fa+b%20c&channel_binding=require&sslsni=0",
        )
        .unwrap();
        assert_eq!(kept, "postgres://u:p%2B@h/t?application_name=a+b&channel_binding=require");
        let expected = TlsParameters {
            mode: Some(SslMode::VerifyFull),
            ca: Some("/a+b c".to_owned()),
            sni: Some(false),
            ..TlsParameters::default()
        };
        assert_eq!(found, expected);
        assert_eq!(take("postgres://h/t").unwrap(), ("postgres://h/t".to_owned(), TlsParameters::default()));

        let (kept, found) =
            take(r"host=h password='it\'s sslmode=maybe' sslmode = require  sslcert='/a b' sslkey=/a\ b sslnegotiation=direct dbname=t")
                .unwrap();
        assert_eq!(kept, r"host=h password='it\'s sslmode=maybe' dbname=t");
        let path = Some("/a b".to_owned());
        let expected = TlsParameters {
            mode: Some(SslMode::Require),
            cert: path.clone(),
            key: path,
            direct: Some(true),
            ..TlsParameters::default()
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for (parameters, says) in [
            ("sslmode=maybe", "verify-ca or verify-full"),
            ("sslmode=", "disable, allow"),
            ("sslmode=require&sslmode=prefer", "twice"),
            ("sslnegotiation=never", "postgres or direct"),
            ("channel_binding=maybe", "disable, prefer or require"),
            ("sslcrl=/x", "sslcrl, which is not supported"),
            ("sslpassword=hunter2", "passphrase"),
            ("gssencmode=require", "gssencmode"),
            ("ssl_max_protocol_version=TLSv1.1", "ssl_max_protocol_version"),
        ] {
            let said = take(&format!("postgres://h/t?{parameters}")).expect_err(parameters);
            assert!(said.contains(says) && !said.contains("hunter2"), "{parameters}: {said}");
            let said = take(&format!("host=h {}", parameters.replace('&', " "))).err();
            // An empty value needs quotes there; the client says so.
            assert!(said.is_some_and(|said| said.contains(says)) || parameters == "sslmode=", "{parameters}");
        }
        assert!(take("postgres://h/t?sslmode=require&sslmode=require&sslcompression=0&gssencmode=disable").is_ok());
    }

    #[test]
    fn what_is_no_pair_is_left_to_the_client() {
        for text in ["", "host", "host=h 'x", "host=h password='x", "=", "host=h sslmode='require"] {
            assert_eq!(take(text).unwrap().0, text);
        }
    }
}
