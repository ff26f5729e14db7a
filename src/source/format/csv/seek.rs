//! Going to a position of a content, and making sure that it is the same content.

use super::lines::newlines;
use super::{CsvReader, headers};
use crate::model::Position;
use crate::source::{Fill, Seek, SourceError, TAIL_BYTES};

impl CsvReader {
    /// Goes to a position, so that the next row is its row; `None` (or a position at row 0) is the start. Files are read again
    /// from 64 KiB before it, compressed ones from their beginning; a pipe only goes forward. Not to be cancelled half-way.
    ///
    /// # Errors
    /// The content cannot be read, has no header, or is a pipe that would have to go back.
    pub async fn seek(&mut self, to: Option<&Position>) -> Result<Seek, SourceError> {
        let Some(to) = to.filter(|position| position.row > 0) else {
            if self.row > 0 || self.content.base() > 0 {
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
        self.headers.read_to(self.content.base() + self.records.at() as u64);
        if !self.find_headers(to.offset).await? {
            return Ok(Seek::Shorter);
        }
        let found = if self.content.can_jump() { self.jump(to.offset).await? } else { self.walk(to.offset).await? };
        if !found {
            return Ok(Seek::Shorter);
        }
        self.header = self.headers.in_force(to.offset).or(self.header.take());
        (self.row, self.row_end, self.tail) = (to.row, to.offset, None);
        self.records.starved = false;
        let at = self.records.at();
        self.records.mid_line = at > 0 && self.content.bytes()[at - 1] != b'\n';
        if self.tail_digest() != to.tail || (self.records.mid_line && self.line_goes_on().await?) {
            return Ok(Seek::Mismatch);
        }
        Ok(Seek::Ok)
    }

    /// Whether the line in the middle of which we are has more to it: what was taken for its end was not, and the record that was
    /// made of it is another one now.
    async fn line_goes_on(&mut self) -> Result<bool, SourceError> {
        while self.records.at() == self.content.real_len() && !self.content.has_ended() {
            if !self.read_block().await? {
                return Ok(false);
            }
        }
        let rest = &self.content.bytes()[self.records.at()..self.content.real_len()];
        Ok(rest.first().is_some_and(|byte| !matches!(byte, b'\n' | b'\r')))
    }

    /// Finds the headers before an offset that can be jumped to. `false`: the file ends before it.
    async fn find_headers(&mut self, offset: u64) -> Result<bool, SourceError> {
        if self.headers.reach(offset) {
            return Ok(true);
        }
        let mut found = self.headers.clone();
        let looked = self.content.aside(move |file| headers::look(file, &mut found, offset).map(|reached| (found, reached)));
        let Some((headers, reached)) = looked.await? else { return Ok(true) };
        self.headers = headers;
        Ok(reached)
    }

    /// Back to before the header.
    async fn start_over(&mut self) -> Result<(), SourceError> {
        self.content.rewind(0).await?;
        self.clear(Some(1));
        self.header = None;
        self.headers.clear();
        (self.row, self.row_end, self.tail) = (0, 0, None);
        Ok(())
    }

    /// To an offset of a plain file, with the bytes before it in the window.
    async fn jump(&mut self, offset: u64) -> Result<bool, SourceError> {
        let found = self.content.jump(offset, TAIL_BYTES).await?;
        self.clear((self.content.base() == 0).then_some(1));
        if !found {
            return Ok(false);
        }
        self.go_to(offset);
        Ok(true)
    }

    /// To an offset by reading everything up to it.
    async fn walk(&mut self, offset: u64) -> Result<bool, SourceError> {
        let mut at = self.content.base() + self.records.at() as u64;
        if offset < at {
            self.content.rewind(offset).await?;
            self.clear(Some(1));
            at = 0;
        }
        (self.records.skip, self.records.mid_line) = (None, false);
        let mut looked_through = self.headers.look_through_window(&self.content, at);
        while self.content.read_offset() < offset {
            self.go_to(self.content.read_offset());
            if self.content.has_ended() || !self.read_block().await? {
                return Ok(false);
            }
            looked_through = self.headers.look_through_window(&self.content, looked_through);
        }
        self.go_to(offset);
        Ok(true)
    }

    /// Moves on to an offset that is in the window, counting lines.
    fn go_to(&mut self, offset: u64) {
        let index = (offset - self.content.base()) as usize;
        let lines = newlines(&self.content.bytes()[self.records.at()..index]);
        self.records.restart(index, self.records.newlines() + lines);
        (self.row_end, self.tail) = (offset, None);
    }
}
