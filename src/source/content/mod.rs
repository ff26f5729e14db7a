//! The content of an input: bytes with their offsets, whatever they say.
//!
//! [`Content`] holds a *window* on them: `[up to 64 KiB of the past][what is not parsed yet]`. [`Content::read_block`] appends to it. Here
//! is also what can be said of bytes alone: which source they are ([`identity`]), what became of their file ([`follow`]), going back
//! in them, and whether what comes after a rest continues what was read before it. What the bytes mean is the format's.

pub mod follow;
pub mod identity;
mod input;
mod stream;

use std::io;
use std::os::unix::fs::FileExt;

use tokio::io::AsyncRead;

use super::{Options, SourceError};
use crate::model::Digest;
use stream::Stream;

pub use input::Input;

/// What [`Content::read_block`] brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Block {
    /// More bytes, or the knowledge that the content has ended.
    More,
    /// The end of a followed file: nothing more now.
    Idle,
    /// The same, and what had come since was dropped: the file was rewritten meanwhile.
    Rewritten,
}

/// The bytes of one input.
pub(super) struct Content {
    input: Input,
    name: String,
    /// How much is read at once, in bytes.
    block: usize,
    /// Whether the end of the file is not the last word.
    follow: bool,
    stream: Stream,
    window: Vec<u8>,
    /// The offset of the window's first byte in the content.
    base: u64,
    /// Whether the end of a followed file was met since the last block: it may have been rewritten meanwhile.
    idled: bool,
    /// From which offset on what was read after a rest is still to be verified.
    unverified: Option<u64>,
    /// When the file was last written, as far as was looked.
    written_ns: Option<i128>,
    ended: bool,
    /// Whether a newline was put behind the content's end.
    padded: bool,
}

impl Content {
    /// Opens an input. With `follow` its end is not the last word.
    pub(super) async fn open(input: &Input, follow: bool, options: Options) -> Result<Self, SourceError> {
        let stream = Stream::open(input, options.block_bytes).await?;
        // Nothing comes after the end of a pipe.
        Ok(Self::new(input.clone(), stream, follow && *input != Input::Stdin, options))
    }

    /// The content of anything that gives bytes, read forwards only.
    pub(super) fn of_reader(reader: impl AsyncRead + Send + Sync + Unpin + 'static, options: Options) -> Self {
        Self::new(Input::Stdin, Stream::pipe(Box::new(reader), options.block_bytes), false, options)
    }

    fn new(input: Input, stream: Stream, follow: bool, options: Options) -> Self {
        Self {
            name: input.name(),
            input,
            block: options.block_bytes,
            follow,
            stream,
            window: Vec::new(),
            base: 0,
            idled: false,
            unverified: None,
            written_ns: None,
            ended: false,
            padded: false,
        }
    }

    pub(super) fn input(&self) -> &Input {
        &self.input
    }

    /// The input's name for people.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Takes the next end of a followed file as its last.
    pub(super) fn finish(&mut self) {
        self.follow = false;
    }

    // ---- the window ----

    /// The window's bytes, and behind them a newline if the content ended without one.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.window
    }

    /// The same, to be lent out and put back.
    pub(super) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.window
    }

    /// The offset of the window's first byte.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// The end of the content's own bytes in the window.
    pub(super) fn real_len(&self) -> usize {
        self.window.len() - usize::from(self.padded)
    }

    /// How much of the content was read so far.
    pub(super) fn read_offset(&self) -> u64 {
        self.base + self.real_len() as u64
    }

    /// Whether the content has ended: nothing comes after what is in the window.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Puts a newline behind a content that has ended without one, so that its last line is like any other.
    pub(super) fn end_last_line(&mut self) {
        if self.window.last().is_some_and(|byte| *byte != b'\n') {
            self.window.push(b'\n');
            self.padded = true;
        }
    }

    /// The digest of at most `length` bytes before an offset, as far as the window has them.
    pub(super) fn digest_before(&self, offset: u64, length: u64) -> Digest {
        let first = offset.saturating_sub(length).max(self.base);
        Digest::of(&self.window[(first - self.base) as usize..(offset - self.base) as usize])
    }

    /// Drops what is before an index of the window.
    pub(super) fn drop_before(&mut self, index: usize) {
        self.window.drain(..index);
        self.base += index as u64;
    }

    /// Empties the window, to go on at an offset.
    fn clear(&mut self, base: u64) {
        self.window.clear();
        self.base = base;
        (self.ended, self.padded, self.idled, self.unverified) = (false, false, false, None);
    }

    // ---- reading ----

    /// Appends a block to the window, or notes the end. Cancel-safe.
    pub(super) async fn read_block(&mut self) -> Result<Block, SourceError> {
        if self.unverified.is_none() {
            let before = self.read_offset();
            match self.stream.read(&mut self.window, self.follow).await {
                // A compressed file is written once: its end is its end.
                Ok(0) if self.follow && !self.stream.is_gzip() => {
                    self.idled = true;
                    return Ok(Block::Idle);
                }
                Ok(0) => {
                    self.check_length().await?;
                    self.ended = true;
                }
                Ok(_) if std::mem::take(&mut self.idled) => self.unverified = Some(before),
                Ok(_) => {}
                Err(cause) if self.stream.is_gzip() => {
                    let error = SourceError::gzip(&self.name, &cause, self.read_offset());
                    // The decoder would take this for its end when asked again.
                    self.stream.spoil(cause.kind());
                    return Err(error);
                }
                Err(cause) => return Err(SourceError::io(&self.name, cause)),
            }
        }
        self.verify().await
    }

    /// Keeps what was read after a rest, if it continues what was read before. If not, the file was rewritten while we rested: it is
    /// dropped, and [`Content::look`] will say so. What is not verified when this is cancelled is verified by the next block.
    async fn verify(&mut self) -> Result<Block, SourceError> {
        let Some(from) = self.unverified else { return Ok(Block::More) };
        let before = (from - self.base) as usize;
        let same = self.still_the_same(before).await?;
        self.unverified = None;
        if same {
            return Ok(Block::More);
        }
        self.window.truncate(before);
        self.idled = true;
        Ok(Block::Rewritten)
    }

    /// Something is wrong if a file ends before what was read of it.
    async fn check_length(&self) -> Result<(), SourceError> {
        if let Some(file) = self.stream.plain_file() {
            let now = file.metadata().await.map_err(|cause| SourceError::io(&self.name, cause))?.len();
            let read = self.stream.start() + self.read_offset();
            if now < read {
                return Err(SourceError::Shrunk { name: self.name.clone(), now, read });
            }
        }
        Ok(())
    }

    // ---- elsewhere in it ----

    /// Whether it can be read again from its beginning: no pipe can.
    pub(super) fn can_rewind(&self) -> bool {
        self.stream.file().is_some()
    }

    /// Whether any offset can be gone to at once: in an uncompressed file.
    pub(super) fn can_jump(&self) -> bool {
        self.stream.plain_file().is_some()
    }

    /// Back to the first byte, for somebody who wants to be at an offset.
    pub(super) async fn rewind(&mut self, offset: u64) -> Result<(), SourceError> {
        if !self.can_rewind() {
            return Err(SourceError::CannotRewind { name: self.name.clone(), offset });
        }
        self.stream.rewind().await.map_err(|cause| SourceError::io(&self.name, cause))?;
        self.clear(0);
        Ok(())
    }

    /// To an offset that can be jumped to, with as many as `past` bytes before it in the window. `false`: the file ends before it.
    pub(super) async fn jump(&mut self, offset: u64, past: u64) -> Result<bool, SourceError> {
        let first = offset.saturating_sub(past);
        let fail = |cause| SourceError::io(&self.name, cause);
        self.stream.seek(first).await.map_err(fail)?;
        self.clear(first);
        while self.read_offset() < offset {
            let read = self.stream.read(&mut self.window, true).await;
            if read.map_err(|cause| SourceError::io(&self.name, cause))? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads elsewhere in a file that can be jumped in, without going there, as a blocking task; `None` in any other content.
    pub(super) async fn aside<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Aside) -> io::Result<T> + Send + 'static,
    ) -> Result<Option<T>, SourceError> {
        let fail = |cause| SourceError::io(&self.name, cause);
        let Some(file) = self.stream.plain_file() else { return Ok(None) };
        let file = file.try_clone().await.map_err(fail)?.into_std().await;
        let aside = Aside { file, start: self.stream.start() };
        let done = tokio::task::spawn_blocking(move || job(&aside)).await.map_err(io::Error::other);
        done.and_then(|done| done).map(Some).map_err(fail)
    }
}

/// A file that is read at offsets of its content.
pub(super) struct Aside {
    file: std::fs::File,
    /// Where the content begins in the file.
    start: u64,
}

impl Aside {
    /// Reads some bytes; 0 at the end.
    pub(super) fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(into, self.start + offset)
    }

    /// Fills a buffer.
    pub(super) fn read_exact_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(into, self.start + offset)
    }
}
