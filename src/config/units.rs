//! How values are written in TOML: durations as "5s", sizes as "1MiB" or a number of bytes. Secrets are never written.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The JSON Schema of a duration.
pub(super) fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "duration" })
}

/// The JSON Schema of a size.
pub(super) fn size_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "integer"], "format": "size", "minimum": 0 })
}

/// The JSON Schema of a secret.
pub(super) fn secret_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "writeOnly": true })
}

/// Sizes in bytes: "1MiB", "512KiB", "64kB", or an integer.
pub(super) mod size {
    use super::{Deserializer, Serializer, de, fmt};

    const KIB: usize = 1024;
    const MIB: usize = 1024 * KIB;

    pub(in super::super) fn serialize<S: Serializer>(bytes: &usize, serializer: S) -> Result<S::Ok, S::Error> {
        match *bytes {
            b if b >= MIB && b % MIB == 0 => serializer.collect_str(&format_args!("{}MiB", b / MIB)),
            b if b >= KIB && b % KIB == 0 => serializer.collect_str(&format_args!("{}KiB", b / KIB)),
            b => serializer.collect_str(&format_args!("{b}B")),
        }
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
        struct Size;

        impl de::Visitor<'_> for Size {
            type Value = usize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"1MiB\", \"512KiB\" or a number of bytes")
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<usize, E> {
                usize::try_from(bytes).map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<usize, E> {
                usize::try_from(bytes).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(bytes), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<usize, E> {
                let parsed = text.trim().parse::<bytesize::ByteSize>().ok().and_then(|size| usize::try_from(size.as_u64()).ok());
                parsed.ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Size)
    }
}

/// A size that need not be set, as [`size`], up to TiB.
pub(super) mod optional_size {
    use super::{Deserializer, Serializer, size};

    const GIB: u64 = 1 << 30;

    pub(in super::super) fn serialize<S: Serializer>(bytes: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match *bytes {
            Some(b) if b >= GIB && b % GIB == 0 => serializer.collect_str(&format_args!("{}GiB", b / GIB)),
            Some(b) => size::serialize(&usize::try_from(b).unwrap_or(usize::MAX), serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        size::deserialize(deserializer).map(|bytes| Some(bytes as u64))
    }
}

/// Secrets can be read; where they are written, `<redacted>` appears instead.
pub(super) mod secret {
    use secrecy::{ExposeSecret, SecretString};

    use super::Serializer;

    // serde prescribes these signatures: `serialize_with` passes a reference to the field.
    pub(in super::super) fn redacted<S: Serializer>(_: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }

    pub(in super::super) fn url<S: Serializer>(url: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
        let text = url.as_ref().map_or(String::new(), |url| redact_url(url.expose_secret()));
        serializer.serialize_str(&text)
    }

    /// The text that replaces a secret.
    pub(in super::super) const REDACTED: &str = "<redacted>";

    /// Query parameters that are never secret.
    const PLAIN: [&str; 14] = [
        "sslmode",
        "sslrootcert",
        "sslcert",
        "sslnegotiation",
        "channel_binding",
        "hostaddr",
        "application_name",
        "connect_timeout",
        "target_session_attrs",
        "options",
        "node",
        "sentinelServiceName",
        "keepalives",
        "dbname",
    ];

    /// The URL without its secrets. Where it is not certain which part is secret, nothing is shown.
    pub(in super::super) fn redact_url(text: &str) -> String {
        let Ok(url) = url::Url::parse(text) else { return REDACTED.to_owned() };
        let rest = [Some(url.path()), url.query(), url.fragment()];
        if rest.into_iter().flatten().any(|part| part.contains('@')) || url.cannot_be_a_base() {
            return REDACTED.to_owned();
        }
        let mut shown = format!("{}://", url.scheme());
        if !url.username().is_empty() || url.password().is_some() {
            shown.push_str(url.username());
            if url.password().is_some() {
                shown.push(':');
                shown.push_str(REDACTED);
            }
            shown.push('@');
        }
        shown.push_str(url.host_str().unwrap_or_default());
        if let Some(port) = url.port() {
            shown.push_str(&format!(":{port}"));
        }
        shown.push_str(url.path());
        let mut separator = '?';
        for (name, value) in url.query_pairs() {
            let value = if PLAIN.contains(&name.as_ref()) { value.as_ref() } else { REDACTED };
            shown.push_str(&format!("{separator}{name}={value}"));
            separator = '&';
        }
        if url.fragment().is_some() {
            shown.push_str(&format!("#{REDACTED}"));
        }
        shown
    }
}

/// Where to listen: an address with a port, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Do not listen.
    Off,
    /// Listen on this address.
    At(SocketAddr),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At).map_err(|_| {
            format!("`{text}` is not an address to listen on: write IP:PORT (127.0.0.1:9464, 0.0.0.0:9464, [::]:9464; port 0 takes a free port), or off")
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Listen {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Listen".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "address" })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::secret::redact_url;
    use super::*;

    #[test]
    fn urls_keep_what_is_not_secret() {
        assert_eq!(redact_url("redis://h:6379"), "redis://h:6379");
        assert_eq!(redact_url("redis://u:hunter2@h:6379/0"), "redis://u:<redacted>@h:6379/0");
        assert_eq!(redact_url("redis://:hunter2@h"), "redis://:<redacted>@h");
        assert_eq!(
            redact_url("postgres://u:hunter2@h/d?sslmode=require&password=hunter2"),
            "postgres://u:<redacted>@h/d?sslmode=require&password=<redacted>"
        );
        assert_eq!(redact_url("host=h password=hunter2"), "<redacted>");
        assert_eq!(redact_url("redis://u:12/hunter2@h"), "<redacted>");
    }

    proptest! {
        #[test]
        fn no_password_survives(secret in "[a-z0-9/#?:@&=% ]{0,6}SECRET[a-z0-9/#?:@&=% ]{0,6}", scheme in "redis|postgres") {
            let shown = redact_url(&format!("{scheme}://user:{secret}@host:1234/db"));
            prop_assert!(!shown.contains("SECRET"), "{}", shown);
        }
    }

    #[test]
    fn listen_is_an_address_or_off() {
        assert_eq!("off".parse(), Ok(Listen::Off));
        assert!("127.0.0.1:0".parse::<Listen>().is_ok());
        assert!("localhost".parse::<Listen>().is_err());
    }
}
