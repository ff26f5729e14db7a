//! What a command answers.

use std::fmt;
use std::sync::Arc;

/// A text of any bytes.
pub type Bytes = Arc<[u8]>;

/// Makes a text.
#[must_use]
pub fn bytes(text: impl AsRef<[u8]>) -> Bytes {
    Arc::from(text.as_ref())
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reply {
    /// Nothing: a null, of whatever kind.
    Nil,
    /// A number.
    Int(i64),
    /// A text.
    Bulk(Bytes),
    /// A status, such as OK.
    Status(String),
    /// An error, its code first.
    Error(String),
    /// Several answers.
    Array(Vec<Reply>),
}

impl Reply {
    /// A text.
    #[must_use]
    pub fn bulk(text: impl AsRef<[u8]>) -> Self {
        Self::Bulk(bytes(text))
    }

    /// OK.
    #[must_use]
    pub fn ok() -> Self {
        Self::Status("OK".to_owned())
    }

    /// An error whose code is ERR.
    #[must_use]
    pub fn err(text: &str) -> Self {
        Self::Error(format!("ERR {text}"))
    }

    /// A count.
    #[must_use]
    pub fn count(count: usize) -> Self {
        Self::Int(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// The parts of an array; none of anything else.
    #[must_use]
    pub fn parts(&self) -> &[Self] {
        match self {
            Self::Array(parts) => parts,
            _ => &[],
        }
    }

    /// The text of a text or a status.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Bulk(text) => std::str::from_utf8(text).ok(),
            Self::Status(text) => Some(text),
            _ => None,
        }
    }

    /// The number, where it is one.
    #[must_use]
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil => f.write_str("nil"),
            Self::Int(number) => write!(f, "{number}"),
            Self::Bulk(text) => write!(f, "{:?}", String::from_utf8_lossy(text)),
            Self::Status(text) => write!(f, "+{text}"),
            Self::Error(text) => write!(f, "-{text}"),
            Self::Array(parts) => f.debug_list().entries(parts).finish(),
        }
    }
}
