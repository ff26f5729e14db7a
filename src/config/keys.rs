//! All keys, from the JSON Schema: the one catalogue behind environment variables, `config show` and the reference.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::Config;

/// What kind of value a key takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// Any text.
    Text,
    /// A duration: "250ms", "5s".
    Duration,
    /// A size: "1MiB", or a number of bytes.
    Size,
    /// An address to listen on: "127.0.0.1:9464".
    Address,
    /// A whole number.
    Integer,
    /// true or false.
    Bool,
    /// A list of texts.
    List,
    /// One of these words.
    Choice(Vec<String>),
}

impl ValueKind {
    /// What the reference calls it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Duration => "duration".to_owned(),
            Self::Size => "size".to_owned(),
            Self::Address => "address".to_owned(),
            Self::Integer => "integer".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::List => "list of texts".to_owned(),
            Self::Choice(choices) => choices.join(" or "),
        }
    }
}

/// A key of the configuration.
#[derive(Clone, Debug)]
pub struct Key {
    /// `section.key`.
    pub path: String,
    /// What kind of value it takes.
    pub kind: ValueKind,
    /// The description from its doc comment.
    pub description: String,
    /// The built-in value as TOML; `None` = not set.
    pub default: Option<String>,
    /// Whether its value is never printed.
    pub secret: bool,
}

impl Key {
    /// The variable that sets it: `TELEMETRY__SECTION__KEY`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{}{}", super::environment::PREFIX, self.path.to_ascii_uppercase().replace('.', "__"))
    }
}

/// The JSON Schema of a configuration file.
#[must_use]
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<Config>().to_value()
}

/// Every key, section by section.
#[must_use]
pub fn keys() -> Vec<Key> {
    let mut keys = Vec::new();
    collect(&schema(), "", &mut keys);
    let sections = [
        "cluster", "log", "admin", "redis", "postgres", "stream", "batch", "collect", "store", "http", "probe", "data",
        "shutdown",
    ];
    let place = |key: &Key| sections.iter().position(|s| key.path.split('.').next() == Some(s));
    // The keys of a table come before its inner tables, as TOML requires.
    keys.sort_by_key(|key| (place(key), key.path.matches('.').count()));
    let defaults = toml::Table::try_from(Config::default()).unwrap_or_default();
    for key in &mut keys {
        key.default = lookup(&defaults, &key.path).map(ToString::to_string);
    }
    keys
}

/// The value at `section.key`.
pub(super) fn lookup<'a>(table: &'a toml::Table, path: &str) -> Option<&'a toml::Value> {
    let mut parts = path.split('.');
    let first = table.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

fn collect(schema: &Value, prefix: &str, keys: &mut Vec<Key>) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    for (name, property) in properties {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        if property.get("properties").is_some() {
            collect(property, &path, keys);
            continue;
        }
        let description = property.get("description").and_then(Value::as_str).unwrap_or_default();
        keys.push(Key {
            path,
            kind: kind(property),
            description: description.split_whitespace().collect::<Vec<_>>().join(" "),
            default: None,
            secret: property.get("writeOnly").and_then(Value::as_bool).unwrap_or_default(),
        });
    }
}

fn kind(property: &Value) -> ValueKind {
    // In the schema, a key that need not be set is either its kind or null.
    let nested = property.get("anyOf").and_then(Value::as_array).and_then(|any| any.first());
    let property = nested.unwrap_or(property);
    let choices = choices(property);
    if !choices.is_empty() {
        return ValueKind::Choice(choices);
    }
    match property.get("format").and_then(Value::as_str) {
        Some("duration") => return ValueKind::Duration,
        Some("size") => return ValueKind::Size,
        Some("address") => return ValueKind::Address,
        _ => {}
    }
    let kind = property.get("type");
    let is = |name: &str| match kind {
        Some(Value::String(kind)) => kind == name,
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == name),
        _ => false,
    };
    if is("integer") {
        ValueKind::Integer
    } else if is("boolean") {
        ValueKind::Bool
    } else if is("array") {
        ValueKind::List
    } else {
        ValueKind::Text
    }
}

fn choices(property: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    if let Some(values) = property.get("enum").and_then(Value::as_array) {
        return values.iter().filter_map(text).collect();
    }
    let variants = property.get("oneOf").and_then(Value::as_array);
    variants.into_iter().flatten().filter_map(|variant| variant.get("const").and_then(text)).collect()
}
