//! Where bytes come from: a file, gzip or not, or a pipe. Gzip is recognised by its first bytes, not by the name.
//!
//! NULs at the beginning are no part of a content: a file that is truncated under a writer without `O_APPEND` begins with a hole as long
//! as what was there before. Offsets count from behind them.

use std::fmt;
use std::io;
use std::io::SeekFrom;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_compression::tokio::bufread::GzipDecoder;
use bytes::BufMut;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt, BufReader, ReadBuf};

use super::Input;
use crate::source::SourceError;

/// A pipe, or anything else that is only read forwards.
pub type Pipe = Box<dyn AsyncRead + Send + Sync + Unpin>;

/// The bytes as they are stored.
enum Raw {
    File(File),
    /// A pipe, with what was read of it to see what it is.
    Pipe(Vec<u8>, Pipe),
}

impl AsyncRead for Raw {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::File(file) => Pin::new(file).poll_read(cx, out),
            Self::Pipe(head, _) if !head.is_empty() => {
                let n = head.len().min(out.remaining());
                out.put_slice(&head[..n]);
                head.drain(..n);
                Poll::Ready(Ok(()))
            }
            Self::Pipe(_, pipe) => Pin::new(pipe).poll_read(cx, out),
        }
    }
}

enum Codec {
    /// Not known yet; the first bytes, as far as they were read.
    Unknown(Vec<u8>, Raw),
    Plain(Raw),
    Gzip(Box<GzipDecoder<BufReader<Raw>>>),
    /// Compressed data that could not be decompressed.
    Spoilt(io::ErrorKind),
}

/// The (decompressed) bytes of an input, read forwards; files can start over.
pub struct Stream {
    codec: Codec,
    block: usize,
    /// How many NULs the content begins behind.
    start: u64,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.codec {
            Codec::Unknown(..) => "Stream(unknown)",
            Codec::Plain(_) => "Stream(plain)",
            Codec::Gzip(_) => "Stream(gzip)",
            Codec::Spoilt(_) => "Stream(spoilt)",
        })
    }
}

const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 0x08];

impl Stream {
    /// Opens an input.
    pub async fn open(input: &Input, block: usize) -> Result<Self, SourceError> {
        let raw = match input {
            Input::Stdin => Raw::Pipe(Vec::new(), Box::new(tokio::io::stdin())),
            Input::File(path) => {
                let fail = |cause| SourceError::io(&input.name(), cause);
                if tokio::fs::metadata(path).await.map_err(fail)?.file_type().is_fifo() {
                    // Opening one as a file blocks a thread until somebody writes to it.
                    let pipe = tokio::net::unix::pipe::OpenOptions::new().open_receiver(path).map_err(fail)?;
                    return Ok(Self::pipe(Box::new(pipe), block));
                }
                let mut file = File::open(path).await.map_err(fail)?;
                let kind = file.metadata().await.map_err(fail)?.file_type();
                if kind.is_dir() {
                    return Err(fail(io::ErrorKind::IsADirectory.into()));
                }
                file.set_max_buf_size(block);
                // A named pipe, or a shell's `<(…)`, has a path but cannot go back.
                if kind.is_file() { Raw::File(file) } else { Raw::Pipe(Vec::new(), Box::new(file)) }
            }
        };
        Ok(Self { codec: Codec::Unknown(Vec::new(), raw), block, start: 0 })
    }

    /// The content of a pipe.
    pub fn pipe(pipe: Pipe, block: usize) -> Self {
        Self { codec: Codec::Unknown(Vec::new(), Raw::Pipe(Vec::new(), pipe)), block, start: 0 }
    }

    /// Appends what can be read to a buffer, at most a block; 0 at the end. With `more_to_come` the end may not be the last word.
    /// Cancel-safe.
    pub async fn read(&mut self, into: &mut Vec<u8>, more_to_come: bool) -> io::Result<usize> {
        while let Codec::Unknown(head, raw) = &mut self.codec {
            // Few bytes tell; those of a hole are many.
            let want = if self.start == 0 { GZIP_MAGIC.len() - head.len() } else { self.block.max(GZIP_MAGIC.len()) };
            let mut first = vec![0; want];
            let n = raw.read(&mut first).await?;
            let nuls = if head.is_empty() { first[..n].iter().take_while(|byte| **byte == 0).count() } else { 0 };
            self.start += nuls as u64;
            head.extend_from_slice(&first[nuls..n]);
            if head.len() >= GZIP_MAGIC.len() || (n == 0 && !more_to_come) {
                self.recognise().await?;
            } else if n == 0 {
                return Ok(0);
            }
        }
        into.reserve_exact(self.block);
        let mut into = into.limit(self.block);
        match &mut self.codec {
            Codec::Plain(raw) => raw.read_buf(&mut into).await,
            Codec::Gzip(decoder) => decoder.read_buf(&mut into).await,
            Codec::Unknown(..) => Ok(0),
            Codec::Spoilt(kind) => Err((*kind).into()),
        }
    }

    /// From now on reading fails.
    pub fn spoil(&mut self, kind: io::ErrorKind) {
        self.codec = Codec::Spoilt(kind);
    }

    /// Decides by the first bytes. They are given back: to the pipe's head, or by seeking.
    async fn recognise(&mut self) -> io::Result<()> {
        if let Codec::Unknown(_, Raw::File(file)) = &mut self.codec {
            file.seek(SeekFrom::Start(self.start)).await?;
        }
        let nothing = Codec::Plain(Raw::Pipe(Vec::new(), Box::new(tokio::io::empty())));
        let Codec::Unknown(head, mut raw) = std::mem::replace(&mut self.codec, nothing) else { return Ok(()) };
        let gzip = head.starts_with(&GZIP_MAGIC);
        if let Raw::Pipe(given_back, _) = &mut raw {
            *given_back = head;
        }
        self.codec = if gzip {
            let mut decoder = GzipDecoder::new(BufReader::with_capacity(self.block.min(256 << 10), raw));
            decoder.multiple_members(true);
            Codec::Gzip(Box::new(decoder))
        } else {
            Codec::Plain(raw)
        };
        Ok(())
    }

    /// Whether this is an uncompressed file: then offsets are the file's own, and it can be sought in and grow.
    pub fn plain_file(&self) -> Option<&File> {
        match &self.codec {
            Codec::Plain(Raw::File(file)) | Codec::Unknown(_, Raw::File(file)) => Some(file),
            _ => None,
        }
    }

    /// Where the content begins in its file.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// How much was read to see what the content is, and is not given yet.
    pub fn undecided(&self) -> u64 {
        match &self.codec {
            Codec::Unknown(head, _) => head.len() as u64,
            _ => 0,
        }
    }

    /// The same file from its beginning, also where its path leads to another one by now; `None` for a pipe, and where the system
    /// cannot open what is open already.
    pub async fn again(&self) -> Option<Self> {
        let path = format!("/proc/self/fd/{}", self.file()?.as_raw_fd());
        let mut file = File::open(path).await.ok()?;
        file.set_max_buf_size(self.block);
        Some(Self { codec: Codec::Unknown(Vec::new(), Raw::File(file)), block: self.block, start: 0 })
    }

    /// Whether it is compressed.
    pub fn is_gzip(&self) -> bool {
        matches!(self.codec, Codec::Gzip(_) | Codec::Spoilt(_))
    }

    /// The open file, compressed or not; `None` for a pipe, which cannot start over.
    pub fn file(&self) -> Option<&File> {
        let raw = match &self.codec {
            Codec::Unknown(_, raw) | Codec::Plain(raw) => raw,
            Codec::Gzip(decoder) => decoder.get_ref().get_ref(),
            Codec::Spoilt(_) => return None,
        };
        match raw {
            Raw::File(file) => Some(file),
            Raw::Pipe(..) => None,
        }
    }

    /// Goes to an offset of a plain file.
    pub async fn seek(&mut self, offset: u64) -> io::Result<()> {
        match &mut self.codec {
            Codec::Plain(Raw::File(file)) => file.seek(SeekFrom::Start(self.start + offset)).await.map(|_| ()),
            _ => Err(io::ErrorKind::NotSeekable.into()),
        }
    }

    /// Starts over; what the content is will be seen anew.
    pub async fn rewind(&mut self) -> io::Result<()> {
        let file = match &mut self.codec {
            Codec::Unknown(_, Raw::File(file)) | Codec::Plain(Raw::File(file)) => file,
            Codec::Gzip(decoder) => match decoder.get_mut().get_mut() {
                Raw::File(file) => file,
                Raw::Pipe(..) => return Err(io::ErrorKind::NotSeekable.into()),
            },
            _ => return Err(io::ErrorKind::NotSeekable.into()),
        };
        file.rewind().await?;
        self.start = 0;
        let nothing = Codec::Plain(Raw::Pipe(Vec::new(), Box::new(tokio::io::empty())));
        let raw = match std::mem::replace(&mut self.codec, nothing) {
            Codec::Unknown(_, raw) | Codec::Plain(raw) => raw,
            Codec::Gzip(decoder) => decoder.into_inner().into_inner(),
            Codec::Spoilt(kind) => return Err(kind.into()),
        };
        self.codec = Codec::Unknown(Vec::new(), raw);
        Ok(())
    }
}
