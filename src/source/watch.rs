//! Which files are to be opened, found again and again.
//!
//! A file is known by device and inode, so that one that is renamed while it is read is not read twice. Listing directories and asking
//! for the state of files blocks for a moment.
//!
//! A followed file that has nothing new may be closed, so that others can be opened ([`Watch::close_quiet`]). What becomes of it then:
//!
//! - it grows, is truncated or rewritten: its length or its time of writing differs, and it is given again;
//! - it is renamed within its directory, whether or not a pattern matches its new name (`x.csv` → `x.csv.1`): it is looked for by its
//!   inode where it was, and given under its new name once it differs from what was read. So rows that its writer appends after a rotation
//!   are not lost;
//! - it is moved to another directory that no pattern covers, or removed: it cannot be found any more, as after a restart. What was written
//!   to it between the last look and then is not read; only a file that is open can be read after its removal. That is why a file is
//!   closed only where it has been read to its end, its path leads to it, and others need the room;
//! - it is rewritten within the granularity of the file system's clock (a few milliseconds) after the last look, and has the same length:
//!   that cannot be told from nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use super::discover::{each_once, inputs_of, nothing_at};
use super::follow::{FileId, FileState};
use super::{Input, SourceError};

/// An input that is to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The input.
    pub input: Input,
    /// Which file stands at its path; `None` for the standard input.
    pub file: Option<FileId>,
    /// Tells this finding from others of the same file.
    ticket: u64,
}

/// How a known file is.
#[derive(Debug)]
enum FileStatus {
    /// It was given, and is being read.
    Open { ticket: u64 },
    /// It was read to its end, when it was like this.
    Done(FileState),
    /// It was read so far, when it was like this, and was closed for want of room.
    Closed(ClosedFile),
}

/// Where a closed file is looked for.
#[derive(Debug)]
struct ClosedFile {
    state: FileState,
    /// Its directory, links followed.
    directory: Option<PathBuf>,
    /// Where it was found last under a name that no pattern matches.
    renamed_to: Option<PathBuf>,
    /// Whether it is to be given again even if it is as it was.
    wanted: bool,
}

impl ClosedFile {
    fn is_to_be_given(&self, now: FileState) -> bool {
        self.wanted || self.state != now
    }
}

/// Finds files to open, again and again.
#[derive(Debug)]
pub struct Watch {
    patterns: Vec<String>,
    rejects: Option<PathBuf>,
    files: HashMap<FileId, FileStatus>,
    tickets: u64,
    stdin: bool,
    nothing: Vec<String>,
}

impl Watch {
    /// A watch over patterns. They may stand for nothing yet.
    #[must_use]
    pub fn new(patterns: Vec<String>, rejects: Option<PathBuf>) -> Self {
        Self { patterns, rejects, files: HashMap::new(), tickets: 0, stdin: false, nothing: Vec::new() }
    }

    /// The inputs to open: those never given before, and those that were done or closed and have changed since. They count as open until
    /// [`Watch::close`] or [`Watch::close_quiet`].
    ///
    /// # Errors
    /// A directory that cannot be read, a bad pattern.
    pub fn scan(&mut self) -> Result<Vec<Found>, SourceError> {
        let mut found = Vec::new();
        let mut there = HashSet::new();
        for input in self.list()? {
            let Some(path) = input.path() else {
                if !std::mem::replace(&mut self.stdin, true) {
                    found.push(Found { input, file: None, ticket: 0 });
                }
                continue;
            };
            // Gone again since it was listed: not our business.
            let Ok(metadata) = std::fs::metadata(path) else { continue };
            let state = FileState::of(&metadata);
            there.insert(state.id);
            let is_known = match self.files.get(&state.id) {
                Some(FileStatus::Open { .. }) => true,
                Some(FileStatus::Done(then)) => *then == state,
                Some(FileStatus::Closed(closed)) => !closed.is_to_be_given(state),
                None => false,
            };
            if !is_known {
                found.push(self.give(input, state.id));
            }
        }
        for (path, state) in self.find_renamed(&there) {
            there.insert(state.id);
            match self.files.get_mut(&state.id) {
                Some(FileStatus::Closed(closed)) if !closed.is_to_be_given(state) => closed.renamed_to = Some(path),
                _ => found.push(self.give(Input::File(path), state.id)),
            }
        }
        // What is not read and is gone can be forgotten: its inode may come again as another file.
        self.files.retain(|id, status| matches!(status, FileStatus::Open { .. }) || there.contains(id));
        Ok(found)
    }

    fn list(&mut self) -> Result<Vec<Input>, SourceError> {
        let mut inputs = Vec::new();
        self.nothing.clear();
        for pattern in &self.patterns {
            let found = match inputs_of(pattern, self.rejects.as_deref()) {
                Err(SourceError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Vec::new(),
                found => found?,
            };
            if found.is_empty() {
                self.nothing.push(pattern.clone());
            }
            inputs.extend(found);
        }
        Ok(each_once(inputs))
    }

    fn give(&mut self, input: Input, file: FileId) -> Found {
        self.tickets += 1;
        self.files.insert(file, FileStatus::Open { ticket: self.tickets });
        Found { input, file: Some(file), ticket: self.tickets }
    }

    /// The closed files that no pattern shows any more, and that are in their directories under other names.
    fn find_renamed(&self, there: &HashSet<FileId>) -> Vec<(PathBuf, FileState)> {
        let mut found = Vec::new();
        let mut missing: BTreeMap<&Path, HashSet<FileId>> = BTreeMap::new();
        for (id, status) in &self.files {
            let FileStatus::Closed(closed) = status else { continue };
            if there.contains(id) {
                continue;
            }
            match closed.renamed_to.as_deref().and_then(|path| Some((path, state_at(path)?))) {
                Some((path, state)) if state.id == *id => found.push((path.to_owned(), state)),
                _ => {
                    if let Some(directory) = &closed.directory {
                        missing.entry(directory).or_default().insert(*id);
                    }
                }
            }
        }
        for (directory, mut ids) in missing {
            let Ok(entries) = std::fs::read_dir(directory) else { continue };
            let inodes: HashSet<u64> = ids.iter().map(FileId::inode).collect();
            for entry in entries.flatten().filter(|entry| inodes.contains(&entry.ino())) {
                let path = entry.path();
                if let Some(state) = state_at(&path)
                    && ids.remove(&state.id)
                {
                    found.push((path, state));
                }
            }
        }
        found
    }

    /// The patterns that stood for nothing at the last scan, and what is there instead.
    #[must_use]
    pub fn nothing(&self) -> Vec<String> {
        self.nothing.iter().map(|pattern| format!("{pattern} {}", nothing_at(pattern))).collect()
    }

    /// An input that was given is not read any more; `last` is the file that was read, as it was then, and it is given again if it
    /// changes. Where that is another file than was found (its path led to another one when it was opened), or there is none (it was
    /// gone by then), nobody reads the one that was found, and whatever has its inode next is a file like any other.
    pub fn close(&mut self, found: &Found, last: Option<FileState>) {
        self.settle(found, last.map(|state| (state.id, FileStatus::Done(state))));
    }

    /// An input that was given was closed although it is still followed: it was read so far, when it was like this, and its path led to
    /// it. It is given again when it differs, wherever its directory shows it.
    pub fn close_quiet(&mut self, found: &Found, last: FileState) {
        let path = found.input.path().and_then(|path| path.canonicalize().ok());
        let directory = path.and_then(|path| path.parent().map(Path::to_owned));
        let closed = ClosedFile { state: last, directory, renamed_to: None, wanted: false };
        self.settle(found, Some((last.id, FileStatus::Closed(closed))));
    }

    fn settle(&mut self, found: &Found, status: Option<(FileId, FileStatus)>) {
        let is_ours = |known: Option<&FileStatus>| matches!(known, Some(FileStatus::Open { ticket }) if *ticket == found.ticket);
        if let Some(given) = found.file
            && is_ours(self.files.get(&given))
        {
            self.files.remove(&given);
        }
        if let Some((id, status)) = status
            // Else it was given to somebody else meanwhile, who reads it.
            && !matches!(self.files.get(&id), Some(FileStatus::Open { .. }))
        {
            self.files.insert(id, status);
        }
    }

    /// A file that is not open is to be given again by the next scan that finds it.
    pub fn give_again(&mut self, id: FileId) {
        match self.files.get_mut(&id) {
            Some(FileStatus::Closed(closed)) => closed.wanted = true,
            Some(FileStatus::Done(_)) => {
                self.files.remove(&id);
            }
            Some(FileStatus::Open { .. }) | None => {}
        }
    }

    /// Whether a file was closed although it is followed.
    #[must_use]
    pub fn is_closed(&self, id: FileId) -> bool {
        matches!(self.files.get(&id), Some(FileStatus::Closed(_)))
    }
}

fn state_at(path: &Path) -> Option<FileState> {
    std::fs::metadata(path).ok().map(|metadata| FileState::of(&metadata))
}
