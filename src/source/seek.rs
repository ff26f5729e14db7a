//! Going to a position of a content, and making sure that it is the same content.

use super::lines::newlines;
use super::{CsvReader, Fill, Seek, SourceError, TAIL_BYTES};
use crate::model::Position;

impl CsvReader {
    /// Goes to a position, so that the next row is its row; `None` (or a position at row 0) is the start. Files are read again
    /// from 64 KiB before it, compressed ones from their beginning; a pipe only goes forward. Not to be cancelled half-way.
    ///
    /// # Errors
    /// The content cannot be read, has no header, or is a pipe that would have to go back.
    pub async fn seek(&mut self, to: Option<&Position>) -> Result<Seek, SourceError> {
        let Some(to) = to.filter(|position| position.row > 0) else {
            if self.row > 0 || self.base > 0 {
                self.start_over().await?;
            }
            return Ok(Seek::Ok);
        };
        while self.header.is_none() {
            if matches!(self.fill().await?, Fill::Idle | Fill::End) {
                return Ok(Seek::Shorter);
            }
        }
        // Everything up to where we are was read, or looked through before we went there.
        self.headers.read_to(self.base + self.at as u64);
        if !self.find_headers(to.offset).await? {
            return Ok(Seek::Shorter);
        }
        let found = if self.content.plain_file().is_some() { self.jump(to.offset).await? } else { self.walk(to.offset).await? };
        if !found {
            return Ok(Seek::Shorter);
        }
        self.header = self.headers.in_force(to.offset).or(self.header.take());
        self.table.forget_identities();
        (self.row, self.row_end, self.tail) = (to.row, to.offset, None);
        self.starved = false;
        self.mid_line = self.at > 0 && self.bytes()[self.at - 1] != b'\n';
        if self.tail_digest() != to.tail || (self.mid_line && self.line_goes_on().await?) {
            return Ok(Seek::Mismatch);
        }
        Ok(Seek::Ok)
    }

    /// Whether the line in the middle of which we are has more to it: what was taken for its end was not, and the record that was
    /// made of it is another one now.
    async fn line_goes_on(&mut self) -> Result<bool, SourceError> {
        while self.at == self.real_len() && !self.ended {
            if !self.read_block().await? {
                return Ok(false);
            }
        }
        Ok(self.bytes()[self.at..self.real_len()].first().is_some_and(|byte| !matches!(byte, b'\n' | b'\r')))
    }

    /// Back to before the header.
    async fn start_over(&mut self) -> Result<(), SourceError> {
        if self.content.file().is_none() {
            return Err(SourceError::CannotRewind { name: self.name.clone(), offset: 0 });
        }
        self.content.rewind().await.map_err(|cause| SourceError::io(&self.name, cause))?;
        self.clear(0, Some(1));
        self.header = None;
        self.headers.clear();
        (self.row, self.row_end, self.tail) = (0, 0, None);
        Ok(())
    }

    /// To an offset of a plain file, with the bytes before it in the window.
    async fn jump(&mut self, offset: u64) -> Result<bool, SourceError> {
        let first = offset.saturating_sub(TAIL_BYTES);
        self.content.seek(first).await.map_err(|cause| SourceError::io(&self.name, cause))?;
        self.clear(first, (first == 0).then_some(1));
        while self.read_offset() < offset {
            let read = self.content.read(&mut self.csv.get_mut().bytes, true).await;
            if read.map_err(|cause| SourceError::io(&self.name, cause))? == 0 {
                return Ok(false);
            }
        }
        self.go_to(offset);
        Ok(true)
    }

    /// To an offset by reading everything up to it.
    async fn walk(&mut self, offset: u64) -> Result<bool, SourceError> {
        if offset < self.base + self.at as u64 {
            if self.content.file().is_none() {
                return Err(SourceError::CannotRewind { name: self.name.clone(), offset });
            }
            self.content.rewind().await.map_err(|cause| SourceError::io(&self.name, cause))?;
            self.clear(0, Some(1));
        }
        (self.skip, self.mid_line) = (None, false);
        let mut looked_through = self.look_through_window(self.base + self.at as u64);
        while self.read_offset() < offset {
            self.go_to(self.read_offset());
            if self.ended || !self.read_block().await? {
                return Ok(false);
            }
            looked_through = self.look_through_window(looked_through);
        }
        self.go_to(offset);
        Ok(true)
    }

    /// Moves on to an offset that is in the window, counting lines.
    fn go_to(&mut self, offset: u64) {
        let index = (offset - self.base) as usize;
        let lines = newlines(&self.bytes()[self.at..index]);
        self.restart(index, self.newlines + lines);
        (self.row_end, self.tail) = (offset, None);
    }
}
