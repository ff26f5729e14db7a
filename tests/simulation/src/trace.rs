//! What happened in a run, line by line: the same seed gives the same lines, to the byte.

use std::fmt::{self, Write as _};

use xxhash_rust::xxh3::Xxh3;

use crate::messages::Ms;

/// What happened in a run: a digest of every line, and the lines where they are asked for.
pub struct Trace {
    digest: Xxh3,
    line: String,
    /// The lines, if they are kept.
    pub lines: Option<Vec<String>>,
}

impl Trace {
    /// A trace; its lines are kept if asked for.
    #[must_use]
    pub fn new(keep: bool) -> Self {
        Self { digest: Xxh3::new(), line: String::new(), lines: keep.then(Vec::new) }
    }

    /// Notes what happened.
    pub fn line(&mut self, now: Ms, what: fmt::Arguments<'_>) {
        self.line.clear();
        let _infallible = writeln!(self.line, "{:>9.3} {what}", now as f64 / 1000.0);
        self.digest.update(self.line.as_bytes());
        if let Some(lines) = &mut self.lines {
            lines.push(self.line.trim_end().to_owned());
        }
    }

    /// The digest of all that was noted.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest.digest()
    }
}
