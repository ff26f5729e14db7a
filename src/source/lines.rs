//! Physical line numbers after a seek: counted only when a rejected row needs one, from the nearest place where it is known.

use std::io;
use std::os::unix::fs::FileExt;

use super::{CsvReader, SourceError};

/// Known places are this far apart at least.
const APART: u64 = 16 << 20;

/// Offsets whose line is known, in order.
#[derive(Debug, Default)]
pub(super) struct LineMarks(Vec<(u64, u64)>);

impl LineMarks {
    /// Remembers a place, if it is far enough from the one before it.
    pub(super) fn note(&mut self, offset: u64, line: Option<u64>) {
        let last = self.0.last().map_or(0, |mark| mark.0);
        if let Some(line) = line
            && offset >= last + APART
        {
            self.0.push((offset, line));
        }
    }

    /// The nearest known place at or before an offset.
    fn before(&self, offset: u64) -> (u64, u64) {
        let after = self.0.partition_point(|mark| mark.0 <= offset);
        after.checked_sub(1).map_or((0, 1), |at| self.0[at])
    }
}

/// How many newlines there are.
pub(super) fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|b| **b == b'\n').count() as u64
}

impl CsvReader {
    /// Counts the line on which the parser was started. Only plain files seek without counting.
    pub(super) async fn count_lines(&mut self) -> Result<(), SourceError> {
        let until = self.base + self.from as u64;
        let (from, line) = self.marks.before(until);
        let fail = |cause| SourceError::io(&self.name, cause);
        let Some(file) = self.content.plain_file() else { return Ok(()) };
        let file = file.try_clone().await.map_err(fail)?.into_std().await;
        let start = self.content.start();
        let count =
            tokio::task::spawn_blocking(move || count(&file, start + from, start + until)).await.map_err(io::Error::other);
        let counted = count.and_then(|counted| counted).map_err(fail)?;
        self.from_line = Some(line + counted);
        Ok(())
    }
}

/// Newlines in a stretch of a file.
fn count(file: &std::fs::File, from: u64, until: u64) -> io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let (mut at, mut lines) = (from, 0);
    while at < until {
        let want = buffer.len().min(usize::try_from(until - at).unwrap_or(usize::MAX));
        match file.read_at(&mut buffer[..want], at)? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read")),
            n => {
                lines += newlines(&buffer[..n]);
                at += n as u64;
            }
        }
    }
    Ok(lines)
}
