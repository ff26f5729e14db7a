//! Reading answers.

use fred::types::Value;

use crate::model::RowRange;
use crate::transport::{Result, TransportError};

/// The elements of an array; nothing for nil.
pub(super) fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values,
        Value::Null => Vec::new(),
        other => vec![other],
    }
}

/// Text. Redis gives it as bytes.
pub(super) fn text(value: &Value) -> Result<String> {
    value.as_string().ok_or_else(|| unexpected("text"))
}

/// A whole number, as a number or as text.
pub(super) fn number(value: &Value) -> Result<u64> {
    match value {
        Value::Integer(n) => u64::try_from(*n).map_err(|_| unexpected("a count")),
        other => text(other)?.parse().map_err(|_| unexpected("a whole number")),
    }
}

/// What a value stands for, if it is written exactly as it is written here: what scripts take for malformed is `None`, too.
pub(super) fn exact<T: std::str::FromStr + std::fmt::Display>(value: &Value) -> Option<T> {
    let text = value.as_string()?;
    let parsed: T = text.parse().ok()?;
    (parsed.to_string() == text).then_some(parsed)
}

/// Rows from the first to before the end, where both are known and in order.
pub(super) fn rows(first: Option<u64>, end: Option<u64>) -> Option<RowRange> {
    let (first, end) = (first?, end?);
    (first <= end).then_some(RowRange { first, end })
}

/// The bytes of a value, for messages.
pub(super) fn raw(value: &Value) -> &[u8] {
    value.as_bytes().unwrap_or_default()
}

/// Text that stands for something.
pub(super) fn parsed<T: std::str::FromStr<Err = String>>(value: &Value, key: &str) -> Result<T> {
    text(value)?
        .parse()
        .map_err(|why| TransportError::Corrupt(format!("the key {key} in Redis holds something else than it should: {why}")))
}

/// Field and value pairs of a hash, from a map or a flat array.
pub(super) fn pairs(value: Value) -> Vec<(Value, Value)> {
    match value {
        Value::Map(map) => map.inner().into_iter().map(|(k, v)| (Value::Bytes(k.into_bytes()), v)).collect(),
        other => {
            let mut values = list(other).into_iter();
            let mut pairs = Vec::new();
            while let (Some(field), Some(value)) = (values.next(), values.next()) {
                pairs.push((field, value));
            }
            pairs
        }
    }
}

/// An answer that makes no sense.
pub(super) fn unexpected(wanted: &str) -> TransportError {
    TransportError::Corrupt(format!("Redis gave an answer that makes no sense: {wanted} was expected"))
}
