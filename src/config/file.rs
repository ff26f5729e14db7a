//! Configuration files: strict TOML. Errors have line, column and caret, and never show a secret.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::keys::{self, Key};
use super::{Config, suggest};

/// Reads a file; returns its keys with their values and lines.
pub(super) fn read(path: &Path, keys: &[Key]) -> Result<Vec<(String, toml::Value, usize)>, ConfigError> {
    let refuse = |reason: String| ConfigError::File { path: path.to_owned(), reason };
    let bytes = std::fs::read(path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| refuse("is not UTF-8 text".to_owned()))?;
    parse(&text, keys).map_err(refuse)
}

/// Parses the text of a file; the error is a message.
pub(super) fn parse(text: &str, keys: &[Key]) -> Result<Vec<(String, toml::Value, usize)>, String> {
    let render = |error: &toml::de::Error| Rendered { text, keys }.error(error);
    toml::from_str::<Config>(text).map_err(|error| render(&error))?;
    let values: toml::Table = toml::from_str(text).map_err(|error| render(&error))?;
    let spans = DeTable::parse(text).map_err(|error| render(&error))?;
    let mut lines = BTreeMap::new();
    walk(spans.get_ref(), "", &mut |path, offset| {
        lines.insert(path, line_of(text, offset));
    });
    let found = lines.into_iter().filter_map(|(path, line)| {
        let value = keys::lookup(&values, &path)?.clone();
        Some((path, value, line))
    });
    Ok(found.collect())
}

fn walk(table: &DeTable<'_>, prefix: &str, found: &mut impl FnMut(String, usize)) {
    for (name, value) in table {
        let path = if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
        match value.get_ref() {
            DeValue::Table(inner) => walk(inner, &path, found),
            _ => found(path, name.span().start),
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.get(..offset).map_or(1, |before| before.matches('\n').count() + 1)
}

/// Renders TOML errors as the toml crate does, but hides values that may be secret.
struct Rendered<'a> {
    text: &'a str,
    keys: &'a [Key],
}

impl Rendered<'_> {
    fn error(&self, error: &toml::de::Error) -> String {
        let message = error.message().trim();
        let Some(span) = error.span() else { return self.hint(message) };
        let start = floor(self.text, span.start);
        let number = line_of(self.text, start);
        let begin = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let end = self.text[start..].find('\n').map_or(self.text.len(), |at| start + at);
        let line = self.text[begin..end].trim_end_matches('\r');
        let column = self.text[begin..start].chars().count() + 1;
        let gutter = " ".repeat(number.to_string().len());
        let head = format!("TOML parse error at line {number}, column {column}");
        let (shown, message) =
            if self.may_show(line) { (line.to_owned(), message.to_owned()) } else { (hide(line), without_value(message)) };
        let caret = if column <= shown.chars().count() + 1 {
            format!("{}{}", " ".repeat(column - 1), "^".repeat(width(self.text, &span, end)))
        } else {
            String::new()
        };
        format!("{head}\n{gutter} |\n{number} | {shown}\n{gutter} | {}\n{}", caret.trim_end(), self.hint(&message))
    }

    /// A line is shown whole only if its key is not secret: known as that, or unknown and like no secret one.
    fn may_show(&self, line: &str) -> bool {
        let line = line.trim();
        let Some((name, value)) = line.split_once('=') else { return line.starts_with('[') && !line.contains("://") };
        let leaf = name.trim().rsplit('.').next().unwrap_or_default().trim_matches(['"', '\'', ' ']);
        let mut same = self.keys.iter().filter(|key| key.path.rsplit('.').next() == Some(leaf)).peekable();
        let is_plain = match same.peek() {
            Some(_) => same.all(|key| !key.secret),
            None => !self.is_like_a_secret(leaf) && !is_like_a_secret(value),
        };
        is_plain && !value.contains("://")
    }

    fn is_like_a_secret(&self, unknown: &str) -> bool {
        let names = self.keys.iter().flat_map(|key| key.path.split('.'));
        let meant = suggest::nearest(unknown, names);
        let secret = |name: &str| self.keys.iter().any(|key| key.secret && key.path.rsplit('.').next() == Some(name));
        is_like_a_secret(unknown) || meant.is_some_and(secret)
    }

    /// Adds a suggestion for an unknown name.
    fn hint(&self, message: &str) -> String {
        let message = &plain(message);
        let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
        let Some(unknown) = unknown else { return message.clone() };
        let names = self.keys.iter().flat_map(|key| key.path.split('.'));
        match suggest::nearest(unknown, names) {
            Some(name) => format!("{message}; did you mean `{name}`?"),
            None => message.clone(),
        }
    }
}

/// Whether a name, or a value that names its parts, speaks of something that nobody is to see.
fn is_like_a_secret(text: &str) -> bool {
    const WORDS: [&str; 10] = ["pass", "pwd", "pw", "secret", "token", "cred", "auth", "key", "url", "dsn"];
    let text = text.to_ascii_lowercase();
    WORDS.iter().any(|word| text.contains(word)) || text.contains('@')
}

/// Replaces serde's names of types by words for users.
pub(super) fn plain(message: &str) -> String {
    let message = message.replace("expected a duration", "expected a duration such as \"250ms\", \"5s\", \"1m\"");
    ["usize", "u64", "u32", "u16", "i32"]
        .iter()
        .fold(message, |message, name| message.replace(&format!("expected {name}"), "expected a whole number"))
}

fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default()
}

fn width(text: &str, span: &Range<usize>, line_end: usize) -> usize {
    let end = floor(text, span.end.min(line_end));
    text.get(span.start..end).map_or(1, |marked| marked.chars().count()).max(1)
}

fn hide(line: &str) -> String {
    match line.split_once('=') {
        Some((name, _)) => format!("{}= <redacted>", name),
        None => "<redacted>".to_owned(),
    }
}

/// serde's messages quote the value, which may be secret: keeps only what was expected.
fn without_value(message: &str) -> String {
    if message.starts_with("unknown field") || message.starts_with("duplicate key") {
        return message.to_owned();
    }
    match message.rsplit_once("expected ") {
        Some((_, expected)) => format!("this value is not valid here, expected {expected}"),
        None => "this value is not valid here".to_owned(),
    }
}
