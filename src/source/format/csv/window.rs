//! The stretch of content that is in memory, as the CSV parser reads it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use csv_async::{AsyncReader, AsyncReaderBuilder, Terminator};
use tokio::io::{AsyncRead, ReadBuf};

/// What the CSV parser's own buffer holds: small enough to stay in the processor's cache.
const PARSER_BUFFER: usize = 64 << 10;
/// What it is given at first, and twice as much each time: where it is started anew line after line, the rest of the window would be
/// copied for each.
const FIRST: usize = 512;

/// Bytes in memory, given to the parser from `next` on. Reading never waits and never fails.
#[derive(Default, Debug)]
pub(super) struct Window {
    /// The bytes.
    pub(super) bytes: Vec<u8>,
    next: usize,
    lead: bool,
    grant: usize,
    /// How much was given in all.
    #[cfg(test)]
    pub(super) given: usize,
}

impl AsyncRead for Window {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.lead && out.remaining() > 0 {
            out.put_slice(b"\n");
            self.lead = false;
        }
        let n = out.remaining().min(self.bytes.len() - self.next).min(self.grant);
        self.grant = (self.grant * 2).min(PARSER_BUFFER);
        #[cfg(test)]
        {
            self.given += n;
        }
        out.put_slice(&self.bytes[self.next..self.next + n]);
        self.next += n;
        Poll::Ready(Ok(()))
    }
}

/// A parser over the window from an index on.
///
/// A newline is put before its bytes: a blank line, which means nothing, but without which the parser would take three bytes
/// that look like a byte order mark away from whatever record happens to stand at the front. Its positions are one too large
/// because of that. Only `\n` ends a record; the `\r` before it is left to us.
pub(super) fn parser(mut window: Window, from: usize) -> AsyncReader<Window> {
    window.next = from;
    (window.lead, window.grant) = (true, FIRST);
    AsyncReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .terminator(Terminator::Any(b'\n'))
        .buffer_capacity(PARSER_BUFFER)
        .create_reader(window)
}
