//! What became of a file that is watched: nothing, more of it, another content, another file.
//!
//! The caller sleeps for the poll interval after [`Fill::Idle`](crate::source::Fill::Idle) and then asks [`CsvReader::look`]:
//!
//! - [`Change::None`], [`Change::Grown`]: fill again.
//! - [`Change::Restarted`]: it was truncated or rewritten in place. What was read stays read; open it anew, it is another content.
//! - [`Change::Replaced`], [`Change::Removed`]: [`CsvReader::finish`], read the open file to its end, and tell the watch; the file
//!   that is now at the path is found by the next scan.
//!
//! [`CsvReader::look`]: crate::source::CsvReader::look
//! [`CsvReader::finish`]: crate::source::CsvReader::finish

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;

use super::Content;
use super::stream::Stream;
use crate::source::SourceError;

/// How much of what was read last is compared when a file has grown.
const COMPARED: usize = 4096;

/// A file, by whatever name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct FileId {
    dev: u64,
    ino: u64,
}

impl FileId {
    /// The file that was asked about.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        Self { dev: metadata.dev(), ino: metadata.ino() }
    }

    /// Its number on its device.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.ino
    }
}

/// A file as it is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileState {
    /// Which file.
    pub id: FileId,
    /// Its length in bytes, as it is stored.
    pub length: u64,
    /// When it was last written, ns since 1970.
    pub modified_ns: i128,
}

impl FileState {
    /// From what the system says.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        let modified_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Self { id: FileId::of(metadata), length: metadata.len(), modified_ns }
    }
}

/// What became of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Nothing.
    None,
    /// There is more to read.
    Grown,
    /// It is shorter than what was read, or what was read is not what it says any more.
    Restarted,
    /// Its path leads to another file.
    Replaced,
    /// Its path leads nowhere.
    Removed,
}

impl Content {
    /// What became of the file since it was read. A pipe never changes.
    ///
    /// # Errors
    /// The system does not say.
    pub(in crate::source) async fn look(&mut self) -> Result<Change, SourceError> {
        let fail = |cause| SourceError::io(&self.name, cause);
        let (Some(file), Some(path)) = (self.stream.file(), self.input.path()) else { return Ok(Change::None) };
        let ours = file.metadata().await.map_err(fail)?;
        let read = self.bytes_read();
        if self.stream.plain_file().is_some() {
            if ours.len() < read {
                return Ok(Change::Restarted);
            }
            let now = FileState::of(&ours).modified_ns;
            let touched = self.written_ns.replace(now) != Some(now);
            if (touched || ours.len() > read) && !self.still_the_same(self.real_len()).await? {
                return Ok(Change::Restarted);
            }
            if ours.len() > read {
                return Ok(Change::Grown);
            }
        }
        match tokio::fs::metadata(path).await {
            Ok(now) if FileId::of(&now) == FileId::of(&ours) => Ok(Change::None),
            Ok(_) => Ok(Change::Replaced),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Change::Removed),
            Err(cause) => Err(fail(cause)),
        }
    }

    /// How many bytes of a plain file were read.
    fn bytes_read(&self) -> u64 {
        self.stream.start() + self.stream.undecided() + self.read_offset()
    }

    /// The open file as it is now; `None` for a pipe.
    ///
    /// # Errors
    /// The system does not say.
    pub(in crate::source) async fn state(&self) -> Result<Option<FileState>, SourceError> {
        let Some(file) = self.stream.file() else { return Ok(None) };
        let metadata = file.metadata().await.map_err(|cause| SourceError::io(&self.name, cause))?;
        Ok(Some(FileState::of(&metadata)))
    }

    /// The open file as far as it was read: with the length up to which it was, and the time of the last write that was looked at. Whoever
    /// compares it with the file finds everything that came later. `None` for what cannot be read on from an offset: pipes, gzip.
    ///
    /// # Errors
    /// The system does not say.
    pub(in crate::source) async fn state_as_read(&self) -> Result<Option<FileState>, SourceError> {
        if self.stream.plain_file().is_none() {
            return Ok(None);
        }
        let read = self.bytes_read();
        let written_ns = self.written_ns;
        Ok(self.state().await?.map(|state| FileState {
            length: read,
            modified_ns: written_ns.unwrap_or(state.modified_ns),
            ..state
        }))
    }

    /// Whether the path leads to another file by now that begins with all that is in this one: a history that is written anew and moved
    /// over the former one. Whoever reads that one reads everything of this one.
    ///
    /// # Errors
    /// One of the two cannot be read.
    pub(in crate::source) async fn is_superseded(&self) -> Result<bool, SourceError> {
        let fail = |cause| SourceError::io(&self.name, cause);
        let (Some(ours), Some(path)) = (self.stream.file(), self.input.path()) else { return Ok(false) };
        let ours = FileId::of(&ours.metadata().await.map_err(fail)?);
        match tokio::fs::metadata(path).await {
            Ok(theirs) if FileId::of(&theirs) != ours => {}
            _ => return Ok(false),
        }
        let Some(mut former) = self.stream.again().await else { return Ok(false) };
        let mut present = Stream::open(&self.input, self.block).await?;
        let (mut left, mut right) = (Vec::new(), Vec::new());
        loop {
            if left.is_empty() && former.read(&mut left, false).await.map_err(fail)? == 0 {
                return Ok(true);
            }
            if right.is_empty() && present.read(&mut right, false).await.map_err(fail)? == 0 {
                return Ok(false);
            }
            let n = left.len().min(right.len());
            if left[..n] != right[..n] {
                return Ok(false);
            }
            left.drain(..n);
            right.drain(..n);
        }
    }

    /// Whether the last bytes before an index of the window are still where they were.
    pub(super) async fn still_the_same(&self, before: usize) -> Result<bool, SourceError> {
        if self.stream.plain_file().is_none() {
            return Ok(true);
        }
        let known = self.window[before.saturating_sub(COMPARED)..before].to_vec();
        let at = self.base + (before - known.len()) as u64;
        let same = self.aside(move |file| {
            let mut now = vec![0; known.len()];
            match file.read_exact_at(&mut now, at) {
                Ok(()) => Ok(now == known),
                Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
                Err(cause) => Err(cause),
            }
        });
        Ok(same.await?.unwrap_or(true))
    }
}
