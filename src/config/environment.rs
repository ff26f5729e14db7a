//! The environment: `TELEMETRY__SECTION__KEY` for any key, and the well-known names of deployment guides.

use std::ffi::{OsStr, OsString};

use super::error::ConfigError;
use super::keys::{Key, ValueKind};
use super::suggest;

/// Prefix of the variables that set a key by its path.
pub(super) const PREFIX: &str = "TELEMETRY__";

/// The well-known names and the keys that they set. A key's own variable (`TELEMETRY__…`) takes precedence over them.
pub const WELL_KNOWN: [(&str, &str); 14] = [
    ("CLUSTER_NAME", "cluster"),
    ("DATABASE_URL", "postgres.url"),
    ("DB_PASSWORD", "postgres.password"),
    ("DB_PASSWORD_FILE", "postgres.password_file"),
    ("REDIS_CA_CERT", "redis.tls.ca"),
    ("REDIS_CLIENT_CERT", "redis.tls.cert"),
    ("REDIS_CLIENT_KEY", "redis.tls.key"),
    ("REDIS_PASSWORD", "redis.password"),
    ("REDIS_PASSWORD_FILE", "redis.password_file"),
    ("REDIS_TLS_ENABLED", "redis.tls.enabled"),
    ("REDIS_TLS_SERVER_NAME", "redis.tls.server_name"),
    ("REDIS_URL", "redis.url"),
    ("REDIS_USERNAME", "redis.username"),
    ("TELEMETRY_API_TOKENS_FILE", "http.tokens_file"),
];

/// The keys that variables set, each with its value and the name of the variable; well-known names first, so that later ones
/// override them. An empty variable counts as unset.
pub(super) fn read(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    keys: &[Key],
) -> Result<Vec<(String, toml::Value, String)>, ConfigError> {
    let mut set = Vec::new();
    for (name, value) in variables {
        let Some(name) = name.to_str() else { continue };
        let known = WELL_KNOWN.iter().find(|(known, _)| *known == name);
        let path = match (known, name.strip_prefix(PREFIX)) {
            (Some((_, path)), _) => (*path).to_owned(),
            (None, Some(rest)) => rest.to_ascii_lowercase().replace("__", "."),
            (None, None) if is_misspelt(name, keys) => return Err(unknown(name, keys)),
            (None, None) => continue,
        };
        let Some(key) = keys.iter().find(|key| key.path == path) else { return Err(unknown(name, keys)) };
        if value.is_empty() {
            continue;
        }
        set.push((known.is_none(), key.path.clone(), typed(name, &value, key)?, name.to_owned()));
    }
    set.sort_by(|a, b| (a.0, &a.3).cmp(&(b.0, &b.3)));
    Ok(set.into_iter().map(|(_, path, value, name)| (path, value, name)).collect())
}

/// Whether this would be the variable of a key, had it two underscores between its parts: it would be passed over without a word.
fn is_misspelt(name: &str, keys: &[Key]) -> bool {
    let single = |text: &str| text.replace("__", "_");
    name.starts_with("TELEMETRY_") && keys.iter().any(|key| single(&key.variable()) == single(name))
}

fn unknown(name: &str, keys: &[Key]) -> ConfigError {
    let names: Vec<String> = keys.iter().map(Key::variable).collect();
    let meant = suggest::nearest(name, names.iter().map(String::as_str));
    let hint =
        meant.map_or_else(|| "`telemetry config schema` lists the keys".to_owned(), |meant| format!("did you mean {meant}?"));
    ConfigError::Variable { name: name.to_owned(), reason: format!("there is no such key; {hint}") }
}

/// Converts a value to the kind that its key takes: a password of digits stays text, a number becomes a number.
fn typed(name: &str, value: &OsStr, key: &Key) -> Result<toml::Value, ConfigError> {
    let refuse = |reason: String| ConfigError::Variable { name: name.to_owned(), reason };
    let Some(text) = value.to_str() else { return Err(refuse("is not UTF-8 text".to_owned())) };
    let trimmed = text.trim();
    match key.kind {
        ValueKind::Integer => {
            let number = trimmed.replace('_', "").parse::<i64>();
            number.map(toml::Value::Integer).map_err(|_| refuse(format!("`{text}` is not a whole number")))
        }
        ValueKind::Bool => match trimmed.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(toml::Value::Boolean(true)),
            "false" | "0" | "no" | "off" => Ok(toml::Value::Boolean(false)),
            _ => Err(refuse(format!("`{text}` is neither true nor false"))),
        },
        ValueKind::List => Ok(list(trimmed)),
        ValueKind::Text => Ok(toml::Value::String(text.to_owned())),
        ValueKind::Duration | ValueKind::Size | ValueKind::Address | ValueKind::Choice(_) => {
            Ok(toml::Value::String(trimmed.to_owned()))
        }
    }
}

/// Parses a list, written as TOML (`["a", "b"]`) or separated by commas (`a,b`).
fn list(text: &str) -> toml::Value {
    let written = toml::from_str::<toml::Table>(&format!("list = {text}")).ok().and_then(|mut table| table.remove("list"));
    match written {
        Some(array @ toml::Value::Array(_)) => array,
        _ => toml::Value::Array(text.split(',').map(|item| toml::Value::String(item.trim().to_owned())).collect()),
    }
}
