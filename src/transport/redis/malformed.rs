//! Values in Redis that are not what they should be. Whoever shares the Redis may have written them, so none of them ends a role: it is
//! passed over, counted by the kind of its key, and named once in the log with the command that mends it.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::printable;

/// Keys (of each kind) that the log names in the life of a process; further ones are only counted.
const NAMED: usize = 20;
/// Bytes of a name that are shown.
const SHOWN: usize = 120;

/// The kinds of keys whose values are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyKind {
    /// The stream itself.
    Stream,
    /// What stands in an entry beside its payload.
    Entries,
    /// Consumer groups and consumers: their names, and where groups stand.
    Groups,
    /// Positions of sources.
    Positions,
    /// Rows up to which sources are committed.
    Committed,
    /// Dictionaries, and the entries that refer to them.
    Dictionaries,
    /// Leases of sources.
    Leases,
    /// The number of partitions.
    Partitions,
    /// Marks of stores.
    Store,
    /// Identities of contents.
    Registry,
}

impl KeyKind {
    /// Every kind, in the order of their declaration.
    pub const ALL: [Self; 10] = [
        Self::Stream,
        Self::Entries,
        Self::Groups,
        Self::Positions,
        Self::Committed,
        Self::Dictionaries,
        Self::Leases,
        Self::Partitions,
        Self::Store,
        Self::Registry,
    ];

    /// Its name as a label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Entries => "entries",
            Self::Groups => "groups",
            Self::Positions => "positions",
            Self::Committed => "committed",
            Self::Dictionaries => "dictionaries",
            Self::Leases => "leases",
            Self::Partitions => "partitions",
            Self::Store => "store",
            Self::Registry => "registry",
        }
    }

    /// The kind of a key, by its name.
    fn of(key: &str) -> Self {
        match key.rsplit_once("}:").map(|(_, name)| name.split(':').next().unwrap_or_default()) {
            Some("positions") => Self::Positions,
            Some("committed") => Self::Committed,
            Some("dict" | "dicts") => Self::Dictionaries,
            Some("lease") => Self::Leases,
            Some("meta") => Self::Partitions,
            Some("registry") => Self::Registry,
            _ => Self::Stream,
        }
    }
}

/// What was found malformed so far.
#[derive(Default)]
pub(super) struct Malformed {
    counts: [AtomicU64; KeyKind::ALL.len()],
    /// What the log has named.
    named: Mutex<BTreeSet<(KeyKind, String)>>,
}

impl Malformed {
    /// Counts a value that is passed over, and names it where it is met for the first time: which it is, what is wrong with it, and what
    /// to do.
    pub(super) fn note(&self, kind: KeyKind, which: &str, wrong: &str, todo: &str) {
        self.counts[kind as usize].fetch_add(1, Ordering::Relaxed);
        let name = || tracing::warn!("{which} in Redis is malformed and is passed over: {wrong}. To mend it: {todo}");
        self.once(kind, which, name);
    }

    /// Counts an answer to which a key stood in the way, and says so where it is met for the first time.
    pub(super) fn blocked(&self, key: &str, error: &impl std::fmt::Display) {
        let kind = KeyKind::of(key);
        self.counts[kind as usize].fetch_add(1, Ordering::Relaxed);
        self.once(kind, key, || tracing::warn!("{error}"));
    }

    fn once(&self, kind: KeyKind, which: &str, say: impl FnOnce()) {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let known = named.iter().filter(|(of, _)| *of == kind).count();
        if known > NAMED || named.contains(&(kind, which.to_owned())) {
            return;
        }
        named.insert((kind, which.to_owned()));
        drop(named);
        if known == NAMED {
            tracing::warn!("more malformed values of this kind ({}) are in Redis; they are passed over and counted", kind.name());
        } else {
            say();
        }
    }

    /// How often values of each kind were passed over.
    pub(super) fn counts(&self) -> [(KeyKind, u64); KeyKind::ALL.len()] {
        KeyKind::ALL.map(|kind| (kind, self.counts[kind as usize].load(Ordering::Relaxed)))
    }
}

/// A name as an argument of a command that is typed at redis-cli's prompt. What is very long is cut, and cannot be used.
pub(super) fn quoted(name: &[u8]) -> Cow<'_, str> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"_:.{}-@/".contains(b);
    if let (true, Ok(text)) = (!name.is_empty() && name.len() <= SHOWN && name.iter().all(plain), std::str::from_utf8(name)) {
        return Cow::Borrowed(text);
    }
    let mut quoted = String::from("\"");
    for &byte in name.iter().take(SHOWN) {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..=b'~' => quoted.push(char::from(byte)),
            _ => quoted.push_str(&format!("\\x{byte:02x}")),
        }
    }
    quoted.push('"');
    if name.len() > SHOWN {
        quoted.push_str(&format!("… ({} bytes)", name.len()));
    }
    Cow::Owned(quoted)
}

/// A value that is not what it should be, in a message.
pub(super) fn shown(value: &[u8]) -> String {
    format!("it is {}", printable::line(&quoted(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_redis_cli_reads_them() {
        assert_eq!(quoted(b"{t:0}:committed:collectors"), "{t:0}:committed:collectors");
        assert_eq!(quoted(b""), "\"\"");
        assert_eq!(quoted(b"a b\"\\\n\xff"), "\"a b\\\"\\\\\\x0a\\xff\"");
        let long = quoted(&[b'x'; 1_000]).into_owned();
        assert!(long.len() < 200 && long.ends_with("(1000 bytes)"), "{long}");
    }

    #[test]
    fn keys_are_counted_by_their_kind() {
        for (key, kind) in [
            ("{t:0}:stream", KeyKind::Stream),
            ("{a}b:0}:positions", KeyKind::Positions),
            ("{t:0}:committed:a:stream", KeyKind::Committed),
            ("{t:0}:dict:0", KeyKind::Dictionaries),
            ("{t:0}:dicts", KeyKind::Dictionaries),
            ("{t:0}:lease:0", KeyKind::Leases),
            ("{t:0}:meta", KeyKind::Partitions),
            ("{t:0}:registry:0", KeyKind::Registry),
        ] {
            assert_eq!(KeyKind::of(key), kind, "{key}");
        }
        for (at, kind) in KeyKind::ALL.into_iter().enumerate() {
            assert_eq!(at, kind as usize);
        }
        let malformed = Malformed::default();
        for n in 0..50 {
            malformed.note(KeyKind::Groups, &n.to_string(), "", "");
            malformed.note(KeyKind::Groups, &n.to_string(), "", "");
        }
        assert_eq!(malformed.counts()[KeyKind::Groups as usize], (KeyKind::Groups, 100));
        assert_eq!(malformed.named.lock().unwrap().len(), NAMED + 1, "what is remembered is bounded");
    }
}
