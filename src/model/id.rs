//! 128-bit digests, and the ids that are digests: of sources, families and dictionaries.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

/// A 128-bit content hash (XXH3), written as 32 hex digits.
///
/// It tells contents apart; it does not defend against somebody who forges them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Digest(u128);

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

    /// A digest that was computed elsewhere (piece by piece, by a test).
    #[must_use]
    pub const fn from_u128(number: u128) -> Self {
        Self(number)
    }

    /// The reverse of [`Digest::from_u128`].
    #[must_use]
    pub const fn to_u128(self) -> u128 {
        self.0
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
        // Digits only: the parser of numbers also takes a sign.
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("`{text}` is not an id: 32 hex digits are expected"));
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| format!("`{text}` is not an id: 32 hex digits are expected"))
    }
}

/// An id that is a digest of something, told apart by its type from ids of something else.
macro_rules! digest_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(transparent)]
        pub struct $name(Digest);

        impl $name {
            /// The id that this digest is, as it was kept or computed.
            #[must_use]
            pub const fn from_digest(digest: Digest) -> Self {
                Self(digest)
            }

            /// The digest, to be kept or hashed.
            #[must_use]
            pub const fn digest(self) -> Digest {
                self.0
            }

            /// The digest's big-endian bytes.
            #[must_use]
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

digest_id! {
    /// The source that a row came from: a hash of the cluster's name and the content's beginning, or of `--source-id`.
    SourceId
}

digest_id! {
    /// What sources have in common that may be the same content under several ids: the digest of the cluster's name and the first
    /// record. Sources that cannot be anything else are families of their own.
    FamilyId
}

digest_id! {
    /// A dictionary segment: the digest of its encoded bytes.
    DictionaryId
}

impl SourceId {
    /// What an entry is said to be of whose own fields do not say it. No content has this id.
    pub const UNKNOWN: Self = Self(Digest(0));
}

impl FamilyId {
    /// The family that a source is alone in (at first), or whose members are rounds of it.
    #[must_use]
    pub const fn of_source(source: SourceId) -> Self {
        Self(source.0)
    }
}

impl DictionaryId {
    /// The id of encoded dictionary bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Digest::of(bytes))
    }
}

/// A number that a store gives to something of its own, told apart by its type from numbers of something else.
macro_rules! store_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        #[repr(transparent)]
        pub struct $name(i64);

        impl $name {
            /// The id that the store has given.
            #[must_use]
            pub const fn from_store(id: i64) -> Self {
                Self(id)
            }

            /// As the store keeps it.
            #[must_use]
            pub const fn to_store(self) -> i64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

store_id! {
    /// A series in a store. Ids are positive; the default comes before all of them.
    SeriesId
}

store_id! {
    /// A description of a GPU in a store: a driver upgrade makes a new one.
    GpuId
}

store_id! {
    /// A block of GPUs in a store: [`BlockId::GPUS`] of them, with neighbouring ids.
    BlockId
}

impl BlockId {
    /// How many GPUs a block has.
    pub const GPUS: usize = 16;

    /// The block of a GPU.
    #[must_use]
    pub const fn of(gpu: GpuId) -> Self {
        Self(gpu.0.div_euclid(Self::GPUS as i64))
    }

    /// The place of a GPU in its block, from 0.
    #[must_use]
    pub const fn place(gpu: GpuId) -> usize {
        gpu.0.rem_euclid(Self::GPUS as i64) as usize
    }

    /// The GPUs of the block, whether there are such or not.
    pub fn gpus(self) -> impl Iterator<Item = GpuId> {
        let first = self.0.saturating_mul(Self::GPUS as i64);
        (0..Self::GPUS as i64).map(move |place| GpuId(first.saturating_add(place)))
    }
}

/// A consumer group of the queue, by its name: the collectors that share one store. Names come from the configuration, and from the queue,
/// where anybody may have made one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct GroupId(String);

impl GroupId {
    /// The group of this name.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_32_hex_digits_and_nothing_else() {
        let text = "00112233445566778899aabbccddeeff";
        assert_eq!(text.parse::<Digest>().map(|digest| digest.to_string()), Ok(text.to_owned()));
        for wrong in
            ["", "+0112233445566778899aabbccddeeff", "00112233445566778899aabbccddeefg", "00112233-4455-6677-8899-aabbccddee"]
        {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }
}
