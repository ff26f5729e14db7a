//! The file where rejected rows go.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use super::SourceError;
use crate::model::Reason;

/// The first line of the file.
pub(super) const HEADER: &[u8] = b"source,line,row,reason,value,record\n";
/// What is kept in memory before it is written.
const BUFFER: usize = 64 << 10;
/// How long a rejected row waits at most, as long as rows come or [`Rejects::tick`] is called.
const FLUSH_AFTER: Duration = Duration::from_secs(1);

/// Writes rejected rows as CSV: source, line, row, reason, the value's cell, the whole record. Appends to what is there.
#[derive(Debug)]
pub struct Rejects {
    path: String,
    file: File,
    buffer: Vec<u8>,
    flushed: Option<Instant>,
}

impl Rejects {
    /// Opens the file, and writes the header if there is nothing in it.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn open(path: &Path) -> Result<Self, SourceError> {
        let name = path.display().to_string();
        let fail = |cause| SourceError::Rejects { path: name.clone(), cause };
        let file = File::options().create(true).append(true).open(path).await.map_err(fail)?;
        let empty = file.metadata().await.map_err(fail)?.len() == 0;
        let mut rejects = Self { path: name.clone(), file, buffer: Vec::with_capacity(BUFFER + 4096), flushed: None };
        if empty {
            rejects.buffer.extend_from_slice(HEADER);
            rejects.flush().await?;
        }
        Ok(rejects)
    }

    /// Notes one rejected row.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn write(
        &mut self,
        source: &str,
        row: u64,
        (line, reason): (u64, Reason),
        value: Option<&[u8]>,
        record: &[u8],
        now: Instant,
    ) -> Result<(), SourceError> {
        cell(&mut self.buffer, source.as_bytes());
        self.buffer.extend_from_slice(format!(",{line},{row},{reason},").as_bytes());
        cell(&mut self.buffer, value.unwrap_or_default());
        self.buffer.push(b',');
        cell(&mut self.buffer, record);
        self.buffer.push(b'\n');
        if self.buffer.len() >= BUFFER {
            self.flushed = Some(now);
            return self.flush().await;
        }
        self.tick(now).await
    }

    /// Writes what has waited long enough.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn tick(&mut self, now: Instant) -> Result<(), SourceError> {
        let since = *self.flushed.get_or_insert(now);
        if now.saturating_duration_since(since) >= FLUSH_AFTER {
            self.flushed = Some(now);
            self.flush().await?;
        }
        Ok(())
    }

    /// Writes everything.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn flush(&mut self) -> Result<(), SourceError> {
        let written = async {
            self.file.write_all(&self.buffer).await?;
            self.file.flush().await
        };
        written.await.map_err(|cause| SourceError::Rejects { path: self.path.clone(), cause })?;
        self.buffer.clear();
        Ok(())
    }
}

/// One cell, quoted if it must be. Bytes that are not UTF-8 stay as they are: the row is to be found again.
fn cell(out: &mut Vec<u8>, bytes: &[u8]) {
    if !bytes.iter().any(|b| matches!(b, b',' | b'"' | b'\n' | b'\r')) {
        return out.extend_from_slice(bytes);
    }
    out.push(b'"');
    for byte in bytes {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
}
