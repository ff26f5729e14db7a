//! From paths, directories and patterns to inputs, once or again and again.
//!
//! A directory stands for its `*.csv` and `*.csv.gz` (not those of directories in it), a pattern for the files it matches, `-`
//! for the standard input; a path that is a file is taken whatever its name. Directories and patterns pass over names that begin with a
//! dot (what is still being copied, and what macOS leaves beside files), and over the file that takes the rejected rows. Listing a directory blocks for a moment.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use super::follow::{FileId, FileState};
use super::{Input, SourceError};

/// The inputs that some patterns stand for, sorted within each pattern, each once. `rejects` is the file that takes the rejected rows.
///
/// # Errors
/// A path that does not exist, a directory that cannot be read, a directory or pattern with nothing in it, a bad pattern.
pub fn discover(patterns: &[String], rejects: Option<&Path>) -> Result<Vec<Input>, SourceError> {
    let mut inputs = Vec::new();
    for pattern in patterns {
        let found = one(pattern, rejects)?;
        if found.is_empty() {
            return Err(SourceError::NothingThere { pattern: pattern.clone() });
        }
        inputs.extend(found);
    }
    Ok(each_once(inputs))
}

fn each_once(mut inputs: Vec<Input>) -> Vec<Input> {
    let mut seen = BTreeSet::new();
    inputs.retain(|input| seen.insert(input.clone()));
    inputs
}

/// Why a pattern stands for nothing, in words that follow it.
fn nothing_at(pattern: &str) -> String {
    const SHOWN: usize = 3;
    let Ok(entries) = std::fs::read_dir(pattern) else {
        let is_pattern = pattern.contains(['*', '?', '[']);
        return if is_pattern { "matches no file" } else { "does not exist" }.to_owned();
    };
    let mut names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    match names.len() {
        0 => "is an empty directory".to_owned(),
        n => {
            let more = if n > SHOWN { format!(" and {} more", n - SHOWN) } else { String::new() };
            names.truncate(SHOWN);
            format!("has no *.csv and no *.csv.gz (it has {}{more})", names.join(", "))
        }
    }
}

fn one(pattern: &str, rejects: Option<&Path>) -> Result<Vec<Input>, SourceError> {
    if pattern == "-" {
        return Ok(vec![Input::Stdin]);
    }
    let path = Path::new(pattern);
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return directory(path, rejects),
        Ok(_) => return Ok(vec![Input::File(path.to_owned())]),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound && pattern.contains(['*', '?', '[']) => {}
        Err(cause) => return Err(SourceError::io(pattern, cause)),
    }
    let bad = |reason: String| SourceError::Pattern { pattern: pattern.to_owned(), reason };
    let mut found = Vec::new();
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
    for entry in glob::glob_with(pattern, options).map_err(|e| bad(e.to_string()))? {
        let path = entry.map_err(|e| SourceError::io(&e.path().display().to_string(), e.into()))?;
        if path.is_file() && !is_same(&path, rejects) {
            found.push(Input::File(path));
        }
    }
    found.sort();
    Ok(found)
}

fn directory(path: &Path, rejects: Option<&Path>) -> Result<Vec<Input>, SourceError> {
    let fail = |cause| SourceError::io(&path.display().to_string(), cause);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(fail)? {
        let file = entry.map_err(fail)?.path();
        if is_csv(&file) && file.is_file() && !is_same(&file, rejects) {
            found.push(Input::File(file));
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a path leads to the file that takes the rejected rows.
fn is_same(path: &Path, rejects: Option<&Path>) -> bool {
    let id = |path: &Path| std::fs::metadata(path).ok().map(|metadata| FileId::of(&metadata));
    rejects.is_some_and(|rejects| rejects.file_name() == path.file_name() && id(rejects) == id(path))
}

fn is_csv(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    !name.starts_with('.') && (name.ends_with(".csv") || name.ends_with(".csv.gz"))
}

/// What is known of a file.
#[derive(Clone, Copy, Debug)]
enum Seen {
    /// It is being read.
    Open,
    /// It was read to its end, when it was like this.
    Done(FileState),
}

/// Finds new files, again and again. A file is known by device and inode: one that was renamed while it is read is not given
/// twice.
#[derive(Debug)]
pub struct Watch {
    patterns: Vec<String>,
    rejects: Option<PathBuf>,
    files: HashMap<FileId, Seen>,
    /// Which file stood at the path of an input when it was given.
    given: HashMap<Input, FileId>,
    stdin: bool,
    nothing: Vec<String>,
}

impl Watch {
    /// A watch over patterns. They may stand for nothing yet.
    #[must_use]
    pub fn new(patterns: Vec<String>, rejects: Option<PathBuf>) -> Self {
        Self { patterns, rejects, files: HashMap::new(), given: HashMap::new(), stdin: false, nothing: Vec::new() }
    }

    /// The inputs to open: those never given before, and those that were done and have changed since. They count as open until
    /// [`Watch::close`], [`Watch::done`] or [`Watch::forget`].
    ///
    /// # Errors
    /// A directory that cannot be read, a bad pattern.
    pub fn scan(&mut self) -> Result<Vec<Input>, SourceError> {
        let mut new = Vec::new();
        let mut there = BTreeSet::new();
        for input in self.list()? {
            let Some(path) = input.path() else {
                if !std::mem::replace(&mut self.stdin, true) {
                    new.push(input);
                }
                continue;
            };
            // Gone again since it was listed: not our business.
            let Ok(metadata) = std::fs::metadata(path) else { continue };
            let state = FileState::of(&metadata);
            there.insert(state.id);
            let known = match self.files.get(&state.id) {
                Some(Seen::Open) => true,
                Some(Seen::Done(then)) => *then == state,
                None => false,
            };
            if !known {
                self.files.insert(state.id, Seen::Open);
                self.given.insert(input.clone(), state.id);
                new.push(input);
            }
        }
        // What is done and gone can be forgotten: its inode may come again as another file.
        self.files.retain(|id, seen| matches!(seen, Seen::Open) || there.contains(id));
        Ok(new)
    }

    fn list(&mut self) -> Result<Vec<Input>, SourceError> {
        let mut inputs = Vec::new();
        self.nothing.clear();
        for pattern in &self.patterns {
            let found = match one(pattern, self.rejects.as_deref()) {
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

    /// The patterns that stood for nothing at the last scan, and what is there instead.
    #[must_use]
    pub fn nothing(&self) -> Vec<String> {
        self.nothing.iter().map(|pattern| format!("{pattern} {}", nothing_at(pattern))).collect()
    }

    /// An input that was given is not read any more; `last` is the file that was read, as it was then. Where that is another one than was
    /// given (its path was given to another one before it was opened), or there is none (it was gone by then), nobody reads the one that
    /// was given, and whatever has its inode next is a file like any other.
    pub fn close(&mut self, input: &Input, last: Option<FileState>) {
        if let Some(given) = self.given.remove(input)
            && matches!(self.files.get(&given), Some(Seen::Open))
        {
            self.files.remove(&given);
        }
        if let Some(state) = last {
            self.done(state);
        }
    }

    /// A file was read to its end, when it was like this; it is given again if it changes.
    pub fn done(&mut self, state: FileState) {
        self.files.insert(state.id, Seen::Done(state));
    }

    /// A file is to be given again at the next scan.
    pub fn forget(&mut self, id: FileId) {
        self.files.remove(&id);
    }
}
