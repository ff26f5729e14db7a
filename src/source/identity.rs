//! Which source a content is.
//!
//! A source is content, not a path: its id is a hash of the cluster's name and the content's beginning, 64 KiB or what there was
//! of it when it was first seen. A registry, looked up by the digest of the first record, remembers how long that beginning was, so
//! that a file that has grown since is found again. Two contents that begin alike and part later get ids of their own when that
//! is noticed ([`CsvReader::fork`]), by a beginning that reaches to where they part.

use xxhash_rust::xxh3::Xxh3;

use super::follow::FileId;
use super::input::Content;
use super::reader::Parsed;
use super::{CsvReader, Input, PREFIX_BYTES, SourceError};
use crate::model::{Digest, FamilyId, SourceId};

/// A registered content: the one whose first `length` bytes have the digest `prefix` is `source`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// How many bytes were hashed.
    pub length: u64,
    /// Their digest.
    pub prefix: Digest,
    /// The source.
    pub source: SourceId,
}

impl Known {
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
    pub fresh: Known,
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

impl CsvReader {
    /// Looks at the beginning, without taking a row; only before the first row was taken. A pipe is waited for until there is a
    /// record.
    ///
    /// # Errors
    /// The content cannot be read or has no header.
    pub async fn beginning(&mut self, cluster: &str) -> Result<Beginning, SourceError> {
        let file = self.content.file().is_some();
        let mut going = true;
        while self.header.is_none() && going {
            going = !matches!(self.fill().await?, super::Fill::Idle | super::Fill::End);
        }
        let mut record_end = None;
        if self.header.is_some() {
            while going && !self.ended && (self.real_len() as u64) < PREFIX_BYTES {
                if !file {
                    record_end = self.first_record_end().await;
                    if record_end.is_some() {
                        break;
                    }
                }
                going = self.read_block().await?;
            }
            if record_end.is_none() {
                record_end = self.first_record_end().await;
            }
        }
        let header_end = (self.row_end - self.base) as usize;
        let bytes = &self.bytes()[..self.real_len()];
        let first = &bytes[..record_end.unwrap_or(header_end).min(PREFIX_BYTES as usize)];
        let first = first.strip_suffix(b"\n").unwrap_or(first);
        let first = first.strip_suffix(b"\r").unwrap_or(first);
        let prefix = &bytes[..bytes.len().min(PREFIX_BYTES as usize)];
        let first_record = FamilyId::from_digest(Digest::of_parts(&[b"first record", cluster.as_bytes(), first]));
        Ok(Beginning {
            first_record,
            has_record: record_end.is_some(),
            fresh: Known::new(cluster, first_record, Digest::of(prefix), prefix.len() as u64),
        })
    }

    /// Where the first record ends in the window, if it is there as a whole (or is longer than 64 KiB).
    async fn first_record_end(&mut self) -> Option<usize> {
        let (at, newlines) = (self.at, self.newlines);
        self.restart(at, newlines);
        let mut found = None;
        loop {
            match self.parse().await {
                Parsed::Blank => continue,
                Parsed::Nothing => break,
                Parsed::Record(_, end) => found = Some(end.min(self.real_len())),
                Parsed::TooLong(begin) | Parsed::Open(begin) => {
                    let line = self.bytes()[begin..self.real_len()].iter().position(|b| *b == b'\n');
                    found = Some(line.map_or(self.real_len(), |at| begin + at + 1));
                }
            }
            break;
        }
        // Back to where it was, to be read as a row later.
        self.restart(at, 0);
        self.starved = false;
        found
    }

    /// Which of the registered contents this one is: the longest that matches. Only before the first row was taken. A pipe is
    /// read until there is as much as the candidates need, at most 64 KiB; longer candidates do not match a pipe.
    ///
    /// # Errors
    /// The content cannot be read.
    pub async fn recognise(&mut self, known: &[Known]) -> Result<Option<Known>, SourceError> {
        let mut candidates = known.to_vec();
        candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.length));
        let short = candidates.iter().map(|c| c.length).filter(|l| *l <= PREFIX_BYTES).max().unwrap_or(0);
        while (self.real_len() as u64) < short && !self.ended && self.read_block().await? {}
        let mut longest: Option<Vec<(u64, Digest)>> = None;
        for candidate in candidates {
            let digest = if candidate.length <= PREFIX_BYTES {
                // What was read so far begins at 0: a header is shorter than what the window keeps.
                self.bytes()[..self.real_len()].get(..candidate.length as usize).map(Digest::of)
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
    ///
    /// # Errors
    /// The content cannot be read, or is a pipe.
    pub async fn fork(&self, cluster: &str, first_record: FamilyId, checkpoint: u64) -> Result<Known, SourceError> {
        let found = self.prefixes(&[checkpoint]).await?;
        match found.first() {
            Some((length, digest)) => Ok(Known::new(cluster, first_record, *digest, *length)),
            None => Err(SourceError::CannotRewind { name: self.name.clone(), offset: 0 }),
        }
    }

    /// The digests of some beginnings, read anew from the file, wherever its path leads by now; of one that is longer than the file, that
    /// of the whole file. None for a pipe.
    async fn prefixes(&self, lengths: &[u64]) -> Result<Vec<(u64, Digest)>, SourceError> {
        let fail = |cause| SourceError::io(&self.name, cause);
        let (Some(ours), Input::File(_)) = (self.content.file(), &self.input) else { return Ok(Vec::new()) };
        let mut content = match self.content.again().await {
            Some(content) => content,
            None => {
                let content = Content::open(&self.input, self.options.block_bytes).await?;
                let Some(theirs) = content.file() else { return Ok(Vec::new()) };
                let theirs = FileId::of(&theirs.metadata().await.map_err(fail)?);
                if theirs != FileId::of(&ours.metadata().await.map_err(fail)?) {
                    return Ok(Vec::new());
                }
                content
            }
        };
        let mut lengths = lengths.to_vec();
        lengths.sort_unstable();
        lengths.dedup();
        let (mut hasher, mut hashed, mut found, mut block) = (Xxh3::new(), 0u64, Vec::new(), Vec::new());
        for length in lengths {
            while hashed < length {
                if block.is_empty() && content.read(&mut block, false).await.map_err(fail)? == 0 {
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
