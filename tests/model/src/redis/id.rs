//! Ids of entries.

use std::fmt;

use super::reply::Reply;

/// The id of an entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Id {
    /// Milliseconds.
    pub ms: u64,
    /// The number within them.
    pub seq: u64,
}

/// What a text that is no id is answered.
const INVALID: &str = "Invalid stream ID specified as stream command argument";

impl Id {
    /// The greatest.
    pub const MAX: Self = Self { ms: u64::MAX, seq: u64::MAX };

    /// The one after it; `None` after the greatest.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        match (self.seq.checked_add(1), self.ms.checked_add(1)) {
            (Some(seq), _) => Some(Self { seq, ..self }),
            (None, Some(ms)) => Some(Self { ms, seq: 0 }),
            (None, None) => None,
        }
    }

    /// The one before it; `None` before the least.
    #[must_use]
    pub fn previous(self) -> Option<Self> {
        match (self.seq.checked_sub(1), self.ms.checked_sub(1)) {
            (Some(seq), _) => Some(Self { seq, ..self }),
            (None, Some(ms)) => Some(Self { ms, seq: u64::MAX }),
            (None, None) => None,
        }
    }

    /// Reads `ms-seq`, or `ms` alone with a sequence for those.
    ///
    /// # Errors
    /// What Redis says.
    pub fn parse(text: &[u8], missing: u64) -> Result<Self, Reply> {
        let text = std::str::from_utf8(text).ok().filter(|text| text.len() < 128).ok_or_else(|| Reply::err(INVALID))?;
        let read = || match text.split_once('-') {
            Some((ms, seq)) => Some(Self { ms: unsigned(ms)?, seq: unsigned(seq)? }),
            None => Some(Self { ms: unsigned(text)?, seq: missing }),
        };
        read().ok_or_else(|| Reply::err(INVALID))
    }

    /// Reads the start of a range: `-`, `+`, an id, or `(` and an id that is left out.
    ///
    /// # Errors
    /// What Redis says.
    pub fn start(text: &[u8]) -> Result<Self, Reply> {
        let (id, exclusive) = Self::bound(text, 0)?;
        let id = if exclusive { id.next() } else { Some(id) };
        id.ok_or_else(|| Reply::err("invalid start ID for the interval"))
    }

    /// Reads the end of a range.
    ///
    /// # Errors
    /// What Redis says.
    pub fn end(text: &[u8]) -> Result<Self, Reply> {
        let (id, exclusive) = Self::bound(text, u64::MAX)?;
        let id = if exclusive { id.previous() } else { Some(id) };
        id.ok_or_else(|| Reply::err("invalid end ID for the interval"))
    }

    fn bound(text: &[u8], missing: u64) -> Result<(Self, bool), Reply> {
        match text {
            b"-" => Ok((Self::default(), false)),
            b"+" => Ok((Self::MAX, false)),
            [b'(', rest @ ..] => Ok((Self::parse(rest, missing)?, true)),
            _ => Ok((Self::parse(text, missing)?, false)),
        }
    }

    /// As an answer.
    #[must_use]
    pub fn reply(self) -> Reply {
        Reply::bulk(self.to_string())
    }
}

/// What `strtoull` takes: white space and a sign before, and zeros.
fn unsigned(text: &str) -> Option<u64> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}']);
    let digits = text.strip_prefix('+').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) { None } else { digits.parse().ok() }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
