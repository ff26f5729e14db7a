//! What can go wrong with a source. Every message names the file, says why, and what to do.

use std::io;

/// An error of one source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No such file, not readable, a directory that cannot be listed, a read that failed.
    #[error("cannot read {name}: {cause}{advice}")]
    Io {
        /// The file.
        name: String,
        /// What the system says.
        cause: io::Error,
        /// What to do; begins with `; `, or is empty.
        advice: &'static str,
    },
    /// A pattern that cannot be understood.
    #[error("`{pattern}` is not a valid file pattern: {reason}; put special characters in brackets, such as [*]")]
    Pattern {
        /// As given.
        pattern: String,
        /// Why.
        reason: String,
    },
    /// A directory or pattern without any CSV file.
    #[error("{pattern} {found}; check the path, or use --follow to wait for files")]
    NothingThere {
        /// As given.
        pattern: String,
        /// What is there instead, in words that follow the pattern.
        found: String,
    },
    /// Not one byte, or nothing but blank lines.
    #[error("{name} is empty, it has no header line; check what writes it, or leave it out")]
    Empty {
        /// The file.
        name: String,
    },
    /// Columns that are needed are not in the header.
    #[error("{name}: the header has no column {missing} (it has: {found}){hint}")]
    MissingColumns {
        /// The file.
        name: String,
        /// All that are missing.
        missing: String,
        /// The header, shortened.
        found: String,
        /// What the file looks like, and what to do; begins with `; `.
        hint: String,
    },
    /// Text in another encoding.
    #[error("{name} is UTF-16 text, and UTF-8 is needed; convert it (iconv -f UTF-16 -t UTF-8)")]
    Utf16 {
        /// The file.
        name: String,
    },
    /// Two columns that say the same.
    #[error("{name}: the columns `{first}` and `{second}` of the header mean the same; rename or remove one")]
    DuplicateColumn {
        /// The file.
        name: String,
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// The beginning is not CSV text.
    #[error("{name} is not CSV text: {reason}; check that it is the right file")]
    NotText {
        /// The file.
        name: String,
        /// What was seen.
        reason: String,
    },
    /// Compressed data that is damaged or cut off. All rows before that place were given.
    #[error(
        "{name}: the gzip data is {reason} after {offset} decompressed bytes; copy the file again, or wait until it is complete"
    )]
    Gzip {
        /// The file.
        name: String,
        /// Damaged, or cut off.
        reason: String,
        /// How far it was readable, in decompressed bytes.
        offset: u64,
    },
    /// The file became shorter while it was read.
    #[error(
        "{name} became shorter while it was read ({now} bytes, {read} were read); another program rewrites it: use --follow, or copy it first"
    )]
    Shrunk {
        /// The file.
        name: String,
        /// Its length now.
        now: u64,
        /// How much was read.
        read: u64,
    },
    /// A pipe would have to be read again.
    #[error("{name} cannot go back to byte {offset}; run the same command with the same input again: what is stored is skipped")]
    CannotRewind {
        /// The pipe.
        name: String,
        /// Where it would have to be.
        offset: u64,
    },
    /// The rejects file cannot be written.
    #[error("cannot write {path}: {cause}; make room or give --rejects another path")]
    Rejects {
        /// The file.
        path: String,
        /// What the system says.
        cause: io::Error,
    },
}

impl SourceError {
    /// An input error with the advice that fits.
    pub(super) fn io(name: &str, cause: io::Error) -> Self {
        let advice = match cause.kind() {
            io::ErrorKind::NotFound => "; check the path",
            io::ErrorKind::PermissionDenied => "; give this user the right to read it",
            io::ErrorKind::IsADirectory => "; give the directory itself, or a pattern for its files",
            _ => "",
        };
        Self::Io { name: name.to_owned(), cause, advice }
    }

    /// An error while decompressing.
    pub(super) fn gzip(name: &str, cause: &io::Error, offset: u64) -> Self {
        let reason = match cause.kind() {
            io::ErrorKind::UnexpectedEof => "cut off".to_owned(),
            _ => format!("damaged ({cause})"),
        };
        Self::Gzip { name: name.to_owned(), reason, offset }
    }
}
