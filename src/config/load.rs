//! Defaults → files → environment → flags; the later one wins, key by key.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use serde::Deserialize;

use super::check::Check;
use super::error::ConfigError;
use super::origin::{Origin, Origins};
use super::{Config, environment, file, keys};

/// A flag that was given.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The key it sets.
    pub key: &'static str,
    /// Its name, with dashes.
    pub name: &'static str,
    /// Its value.
    pub value: toml::Value,
}

/// Reads all layers strictly and validates the result. URLs and secret files are checked when a command needs them
/// ([`Config::redis`], [`Config::postgres`]).
pub fn load(
    files: &[PathBuf],
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    flags: &[Flag],
) -> Result<Config, ConfigError> {
    let keys = keys();
    let mut layers = Layers::default();
    for path in files {
        for (key, value, line) in file::read(path, &keys)? {
            layers.set(key, value, Origin::File { path: path.clone(), line });
        }
    }
    for (key, value, name) in environment::read(variables, &keys)? {
        alone(&key, &value).map_err(|reason| ConfigError::Variable { name: name.clone(), reason })?;
        layers.set(key, value, Origin::Variable(name));
    }
    for flag in flags {
        alone(flag.key, &flag.value).map_err(|reason| ConfigError::Flag { name: flag.name, reason })?;
        layers.set(flag.key.to_owned(), flag.value.clone(), Origin::Flag(flag.name));
    }
    let config = layers.merge()?;
    let mut check = Check::new(&config.origins);
    config.validate(&mut check);
    check.done()?;
    Ok(config)
}

#[derive(Default)]
struct Layers {
    values: BTreeMap<String, toml::Value>,
    origins: Origins,
}

impl Layers {
    fn set(&mut self, key: String, value: toml::Value, origin: Origin) {
        self.origins.set(&key, origin);
        self.values.insert(key, value);
    }

    fn merge(self) -> Result<Config, ConfigError> {
        let mut table = toml::Table::new();
        for (path, value) in self.values {
            insert(&mut table, &path, value);
        }
        // Each value has been accepted on its own, so this does not fail; if it does, the message names the key.
        let mut config = Config::deserialize(table).map_err(|error| ConfigError::Usage(error.message().to_owned()))?;
        config.origins = self.origins;
        Ok(config)
    }
}

/// Deserializes one key on its own, so that an error is about this key.
fn alone(path: &str, value: &toml::Value) -> Result<(), String> {
    let mut table = toml::Table::new();
    insert(&mut table, path, value.clone());
    Config::deserialize(table).map(drop).map_err(|error| file::plain(error.message()))
}

fn insert(table: &mut toml::Table, path: &str, value: toml::Value) {
    match path.split_once('.') {
        None => {
            table.insert(path.to_owned(), value);
        }
        Some((first, rest)) => {
            let inner = table.entry(first).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let toml::Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}
