//! 128-bit digests, and the identity of a source.

use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh3::xxh3_128;

/// A 128-bit content hash (XXH3), written as 32 hex digits.
///
/// It tells contents apart; it does not defend against somebody who forges them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Digest(pub u128);

impl Digest {
    /// The digest of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxh3_128(bytes))
    }

    /// The digest of several parts. Each part's length is hashed too, so that `["ab", "c"]` and `["a", "bc"]` differ.
    #[must_use]
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(hasher.digest128())
    }

    /// The same but for its last 32 bits, which are the other's: what decides on the partition is the same in both.
    #[must_use]
    pub fn beside(self, other: Self) -> Self {
        const LAST: u128 = u32::MAX as u128;
        Self(self.0 & !LAST | other.0 & LAST)
    }

    /// Which of so many partitions it belongs to, by its last 32 bits.
    #[must_use]
    pub fn partition(self, partitions: u16) -> u16 {
        let last = (self.0 & u128::from(u32::MAX)) % u128::from(partitions.max(1));
        u16::try_from(last).expect("a remainder of a u16 is a u16")
    }

    /// Big-endian bytes: sorting them sorts the digests.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The reverse of [`Digest::to_bytes`]; `None` unless there are 16 bytes.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(u128::from_be_bytes(bytes.try_into().ok()?)))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 32 {
            return Err(format!("`{text}` is not an id: 32 hex digits are expected"));
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| format!("`{text}` is not an id: 32 hex digits are expected"))
    }
}

/// Which source a row came from: a hash of the cluster's name and the content's beginning, or of `--source-id`.
pub type SourceId = Digest;
