//! Query strings. A parameter is taken by name and checked; what is left at the end is unknown, and said to be.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use url::form_urlencoded;

use super::{QueryError, Result};

/// Characters of a text parameter at most.
const MAX_TEXT: usize = 1024;

/// The parameters of a request.
#[derive(Clone, Debug, Default)]
pub struct Params {
    pairs: Vec<(String, String)>,
    asked: Vec<&'static str>,
}

impl Params {
    /// Reads a query string.
    ///
    /// # Errors
    ///
    /// A value that is no UTF-8, too long, or has control characters.
    pub fn parse(query: Option<&str>) -> Result<Self> {
        let mut pairs = Vec::new();
        for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (decode(name), decode(value));
            let shown = name.clone().unwrap_or_else(|| "query".to_owned());
            let (Some(name), Some(value)) = (name, value) else {
                return Err(QueryError::bad(&printable(&shown), "is not UTF-8 in percent-encoding"));
            };
            let is_long = |text: &str| text.chars().nth(MAX_TEXT).is_some();
            if is_long(&value) || is_long(&name) {
                return Err(QueryError::bad(&printable(&name), format!("is longer than {MAX_TEXT} characters")));
            }
            if value.contains(char::is_control) {
                return Err(QueryError::bad(&printable(&name), "has control characters"));
            }
            pairs.push((name, value));
        }
        Ok(Self { pairs, asked: Vec::new() })
    }

    /// Every value of a parameter.
    pub(super) fn all(&mut self, name: &'static str) -> Vec<String> {
        self.asked.push(name);
        let mut found = Vec::new();
        self.pairs.retain(|(key, value)| {
            let hit = key == name;
            if hit {
                found.push(value.clone());
            }
            !hit
        });
        found
    }

    /// Nothing may be left.
    ///
    /// # Errors
    ///
    /// Names what is unknown, and what there is.
    pub fn end(self) -> Result<()> {
        let Some((name, _)) = self.pairs.first() else { return Ok(()) };
        let known =
            if self.asked.is_empty() { "it takes none".to_owned() } else { format!("there are: {}", self.asked.join(", ")) };
        Err(QueryError::bad(&printable(name), format!("there is no such parameter here; {known}")))
    }
}

/// `None`: not UTF-8, or a broken escape.
fn decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(found) = bytes[at..].iter().position(|b| *b == b'%') {
        let escape = bytes.get(at + found + 1..at + found + 3)?;
        escape.iter().all(u8::is_ascii_hexdigit).then_some(())?;
        at += found + 3;
    }
    percent_decode_str(&text.replace('+', " ")).decode_utf8().ok().map(Cow::into_owned)
}

fn printable(name: &str) -> String {
    form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::{AggregateParams, ClusterParam, PageParams};

    fn reason(result: Result<impl std::fmt::Debug>) -> String {
        result.expect_err("it is wrong").to_string()
    }

    #[test]
    fn what_is_wrong_is_named() {
        let params = |text| Params::parse(Some(text));
        let limit = |text| params(text).unwrap().take::<PageParams>().and_then(|page| page.limit.within("limit", 1, 10));
        assert!(reason(limit("limit=0")).starts_with("limit: `0`"));
        assert!(reason(limit("limit=")).starts_with("limit: ``"));
        assert!(reason(limit("limit=+1")).starts_with("limit:"));
        assert!(reason(limit("limit=1&limit=2")).contains("more than once"));
        assert!(reason(params("").unwrap().take::<AggregateParams>()).contains("metric: is required"));
        assert_eq!(limit("").unwrap(), None);
        assert_eq!(limit("limit=3").unwrap(), Some(3));
        assert!(reason(params("a=%00")).starts_with("a: has control"));
        assert!(reason(params("a=%ff")).starts_with("a: is not UTF-8"));
        assert!(reason(params("a=%f")).starts_with("a: is not UTF-8"));
        let long = format!("a={}", "x".repeat(2000));
        assert!(reason(params(&long)).contains("longer"));
        let mut some = params("limit=3&cluser=x").unwrap();
        some.take::<PageParams>().unwrap();
        assert_eq!(some.take::<ClusterParam>().unwrap().cluster, None);
        assert_eq!(reason(some.end()), "cluser: there is no such parameter here; there are: limit, cursor, cluster");
    }

    #[test]
    fn values_are_decoded() {
        let mut some = Params::parse(Some("a=%C3%A4+b%2Bc&b")).unwrap();
        assert_eq!(some.all("a"), ["ä b+c"]);
        assert_eq!(some.all("b"), [""]);
        assert!(some.end().is_ok());
    }
}
