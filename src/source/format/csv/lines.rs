//! Physical line numbers after a seek: counted only when a rejected row needs one, from the nearest place where it is known.

use std::io;

use crate::source::content::Aside;

/// Known places are this far apart at least.
const APART: u64 = 16 << 20;

/// Offsets whose line is known, in order.
#[derive(Clone, Debug, Default)]
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

    /// The nearest known place at or before an offset, and its line.
    pub(super) fn before(&self, offset: u64) -> (u64, u64) {
        let after = self.0.partition_point(|mark| mark.0 <= offset);
        after.checked_sub(1).map_or((0, 1), |at| self.0[at])
    }
}

/// How many newlines there are.
pub(super) fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|b| **b == b'\n').count() as u64
}

/// Newlines in a stretch of a file.
pub(super) fn count(file: &Aside, from: u64, until: u64) -> io::Result<u64> {
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
