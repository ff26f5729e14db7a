//! Which source a content is.
//!
//! A source is content, not a path: its id is a hash of the cluster's name and the content's beginning, 64 KiB or what there was
//! of it when it was first seen. A registry, looked up by the digest of the first record, remembers how long that beginning was, so
//! that a file that has grown since is found again. Two contents that begin alike and part later get ids of their own when that
//! is noticed ([`CsvReader::fork`](crate::source::CsvReader::fork)), by a beginning that reaches to where they part.

use xxhash_rust::xxh3::Xxh3;

use super::follow::FileId;
use super::stream::Stream;
use super::{Content, Input};
use crate::model::{Digest, FamilyId, SourceId};
use crate::source::{PREFIX_BYTES, SourceError};

/// A registered content: the one whose first `length` bytes have the digest `prefix` is `source`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownContent {
    /// How many bytes were hashed.
    pub length: u64,
    /// Their digest.
    pub prefix: Digest,
    /// The source.
    pub source: SourceId,
}

impl KnownContent {
    /// The content that begins so, with the id that follows from it: in the partition of its first record.
    fn new(cluster: &str, first_record: FamilyId, prefix: Digest, length: u64) -> Self {
        let source =
            SourceId::from_digest(Digest::of_parts(&[b"content", cluster.as_bytes(), &prefix.to_bytes(), &length.to_be_bytes()]));
        Self { length, prefix, source: source.with_partition_of(first_record) }
    }
}

/// The beginning of a content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Beginning {
    /// Digest of the cluster's name and the bytes up to the end of the first record (of the header, while there is none), its
    /// line end left out, at most 64 KiB: what the registry is asked with, and what sources that may be the same have in common.
    pub first_record: FamilyId,
    /// Whether there was a record. Without one, the content is better looked at again when there is.
    pub has_record: bool,
    /// What the content is if nobody knows it yet.
    pub fresh: KnownContent,
}

/// The id that `--source-id` asks for.
#[must_use]
pub fn named(cluster: &str, text: &str) -> SourceId {
    SourceId::from_digest(Digest::of_parts(&[b"named", cluster.as_bytes(), text.as_bytes()]))
}

/// The id of one round of `--loop`, or of a run with `--restamp`; the source's own id is the family of all of them.
#[must_use]
pub fn round(source: SourceId, nonce: u64, round: u64) -> SourceId {
    let round = Digest::of_parts(&[b"round", &source.to_bytes(), &nonce.to_be_bytes(), &round.to_be_bytes()]);
    SourceId::from_digest(round).with_partition_of(FamilyId::of_source(source))
}

impl Beginning {
    /// What the window's bytes, from the content's first one on, say: `first` is the first record (or the header, while there is none)
    /// with its line end.
    pub(in crate::source) fn new(cluster: &str, first: &[u8], has_record: bool, bytes: &[u8]) -> Self {
        let first = &first[..first.len().min(PREFIX_BYTES as usize)];
        let first = first.strip_suffix(b"\n").unwrap_or(first);
        let first = first.strip_suffix(b"\r").unwrap_or(first);
        let prefix = &bytes[..bytes.len().min(PREFIX_BYTES as usize)];
        let first_record = FamilyId::from_digest(Digest::of_parts(&[b"first record", cluster.as_bytes(), first]));
        let fresh = KnownContent::new(cluster, first_record, Digest::of(prefix), prefix.len() as u64);
        Self { first_record, has_record, fresh }
    }
}

/// How much of a content must be in memory to compare it with some candidates; longer ones than 64 KiB are read anew.
pub(in crate::source) fn bytes_needed(known: &[KnownContent]) -> u64 {
    known.iter().map(|candidate| candidate.length).filter(|length| *length <= PREFIX_BYTES).max().unwrap_or(0)
}

impl Content {
    /// Which of the registered contents this one is: the longest that matches. While the window still begins where the content does, and
    /// has [`bytes_needed`] of it, if there are so many.
    pub(in crate::source) async fn recognise(&self, known: &[KnownContent]) -> Result<Option<KnownContent>, SourceError> {
        let mut candidates = known.to_vec();
        candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.length));
        let mut longest: Option<Vec<(u64, Digest)>> = None;
        for candidate in candidates {
            let digest = if candidate.length <= PREFIX_BYTES {
                // The window begins at 0: a header is shorter than what it keeps.
                self.window[..self.real_len()].get(..candidate.length as usize).map(Digest::of)
            } else {
                if longest.is_none() {
                    let lengths: Vec<u64> = known.iter().map(|c| c.length).filter(|l| *l > PREFIX_BYTES).collect();
                    longest = Some(self.prefixes(&lengths).await?);
                }
                longest.iter().flatten().find(|(length, _)| *length == candidate.length).map(|(_, digest)| *digest)
            };
            if digest == Some(candidate.prefix) {
                return Ok(Some(candidate));
            }
        }
        Ok(None)
    }

    /// An identity for a content that began like a known one, and is another at a checkpoint: its beginning up to there (or all
    /// of it, if it is shorter) tells the two apart.
    pub(in crate::source) async fn fork(
        &self,
        cluster: &str,
        first_record: FamilyId,
        checkpoint: u64,
    ) -> Result<KnownContent, SourceError> {
        let found = self.prefixes(&[checkpoint]).await?;
        match found.first() {
            Some((length, digest)) => Ok(KnownContent::new(cluster, first_record, *digest, *length)),
            None => Err(SourceError::CannotRewind { name: self.name.clone(), offset: 0 }),
        }
    }

    /// The digests of some beginnings, read anew from the file, wherever its path leads by now; of one that is longer than the file, that
    /// of the whole file. None for a pipe.
    async fn prefixes(&self, lengths: &[u64]) -> Result<Vec<(u64, Digest)>, SourceError> {
        let fail = |cause| SourceError::io(&self.name, cause);
        let (Some(ours), Input::File(_)) = (self.stream.file(), &self.input) else { return Ok(Vec::new()) };
        let mut stream = match self.stream.again().await {
            Some(stream) => stream,
            None => {
                let stream = Stream::open(&self.input, self.block).await?;
                let Some(theirs) = stream.file() else { return Ok(Vec::new()) };
                let theirs = FileId::of(&theirs.metadata().await.map_err(fail)?);
                if theirs != FileId::of(&ours.metadata().await.map_err(fail)?) {
                    return Ok(Vec::new());
                }
                stream
            }
        };
        let mut lengths = lengths.to_vec();
        lengths.sort_unstable();
        lengths.dedup();
        let (mut hasher, mut hashed, mut found, mut block) = (Xxh3::new(), 0u64, Vec::new(), Vec::new());
        for length in lengths {
            while hashed < length {
                if block.is_empty() && stream.read(&mut block, false).await.map_err(fail)? == 0 {
                    break;
                }
                let take = block.len().min(usize::try_from(length - hashed).unwrap_or(usize::MAX));
                hasher.update(&block[..take]);
                block.drain(..take);
                hashed += take as u64;
            }
            found.push((hashed, Digest::from_u128(hasher.digest128())));
        }
        Ok(found)
    }
}
