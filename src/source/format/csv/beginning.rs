//! What a content's beginning says of which source it is.

use super::CsvReader;
use crate::model::FamilyId;
use crate::source::identity::{self, Beginning, KnownContent};
use crate::source::{Fill, PREFIX_BYTES, SourceError};

impl CsvReader {
    /// Looks at the beginning, without taking a row; only before the first row was taken. A pipe is waited for until there is a
    /// record.
    ///
    /// # Errors
    /// The content cannot be read or has no header.
    pub async fn beginning(&mut self, cluster: &str) -> Result<Beginning, SourceError> {
        let file = self.content.can_rewind();
        let mut going = true;
        while self.header.is_none() && going {
            going = !matches!(self.fill().await?, Fill::Idle | Fill::End);
        }
        let mut record_end = None;
        if self.header.is_some() {
            while going && !self.content.has_ended() && (self.content.real_len() as u64) < PREFIX_BYTES {
                if !file {
                    record_end = self.first_record_end();
                    if record_end.is_some() {
                        break;
                    }
                }
                going = self.read_block().await?;
            }
            if record_end.is_none() {
                record_end = self.first_record_end();
            }
        }
        let header_end = (self.row_end - self.content.base()) as usize;
        let bytes = &self.content.bytes()[..self.content.real_len()];
        Ok(Beginning::new(cluster, &bytes[..record_end.unwrap_or(header_end)], record_end.is_some(), bytes))
    }

    /// Where the first record ends in the window, if it is there as a whole.
    fn first_record_end(&mut self) -> Option<usize> {
        let longest = self.longest();
        self.records.peek_end(&mut self.content, longest)
    }

    /// Which of the registered contents this one is: the longest that matches. Only before the first row was taken. A pipe is
    /// read until there is as much as the candidates need, at most 64 KiB; longer candidates do not match a pipe.
    ///
    /// # Errors
    /// The content cannot be read.
    pub async fn recognise(&mut self, known: &[KnownContent]) -> Result<Option<KnownContent>, SourceError> {
        let needed = identity::bytes_needed(known);
        while (self.content.real_len() as u64) < needed && !self.content.has_ended() && self.read_block().await? {}
        self.content.recognise(known).await
    }

    /// An identity for a content that began like a known one, and is another at a checkpoint: its beginning up to there (or all
    /// of it, if it is shorter) tells the two apart.
    ///
    /// # Errors
    /// The content cannot be read, or is a pipe.
    pub async fn fork(&self, cluster: &str, first_record: FamilyId, checkpoint: u64) -> Result<KnownContent, SourceError> {
        self.content.fork(cluster, first_record, checkpoint).await
    }
}
