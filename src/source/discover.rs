//! From paths, directories and patterns to inputs.
//!
//! A directory stands for its `*.csv` and `*.csv.gz` (not those of directories in it), a pattern for the files it matches, `-`
//! for the standard input; a path that is a file is taken whatever its name. Directories and patterns pass over names that begin with a
//! dot (what is still being copied, and what macOS leaves beside files), and over the file that takes the rejected rows. Listing a directory blocks for a moment.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::follow::FileId;
use super::rejects;
use super::{Input, SourceError};

/// The inputs that some patterns stand for, sorted within each pattern, each once. `rejects` is the file that takes the rejected rows.
///
/// # Errors
/// A path that does not exist, a directory that cannot be read, a directory or pattern with nothing in it, a bad pattern.
pub fn discover(patterns: &[String], rejects: Option<&Path>) -> Result<Vec<Input>, SourceError> {
    let mut inputs = Vec::new();
    for pattern in patterns {
        let found = inputs_of(pattern, rejects)?;
        if found.is_empty() {
            return Err(SourceError::NothingThere { pattern: pattern.clone(), found: nothing_at(pattern) });
        }
        inputs.extend(found);
    }
    Ok(each_once(inputs))
}

pub(super) fn each_once(mut inputs: Vec<Input>) -> Vec<Input> {
    let mut seen = BTreeSet::new();
    inputs.retain(|input| seen.insert(input.clone()));
    inputs
}

/// Why a pattern stands for nothing, in words that follow it.
pub(super) fn nothing_at(pattern: &str) -> String {
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

pub(super) fn inputs_of(pattern: &str, rejects: Option<&Path>) -> Result<Vec<Input>, SourceError> {
    if pattern == "-" {
        return Ok(vec![Input::Stdin]);
    }
    let path = Path::new(pattern);
    let rejects = rejects.and_then(file_at);
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return directory(path, rejects),
        // Another name of it, made since the start: [`fed_by_rejects`] refuses those that there are then.
        Ok(_) if is_same(path, rejects) => return Ok(Vec::new()),
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

fn directory(path: &Path, rejects: Option<FileId>) -> Result<Vec<Input>, SourceError> {
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

/// The input that the rejected rows would be added to, in words: one that is the rejects file itself, under whatever name, or a directory or
/// pattern that has it as data. `None` where the two have nothing in common; a file of rejected rows beside the inputs is passed over.
///
/// # Errors
/// A directory that cannot be read, a bad pattern.
pub fn fed_by_rejects(patterns: &[String], rejects: &Path) -> Result<Option<String>, SourceError> {
    let taken = std::fs::metadata(rejects).ok().filter(std::fs::Metadata::is_file).map(|metadata| FileId::of(&metadata));
    for pattern in patterns {
        let path = Path::new(if pattern == "-" { "/dev/stdin" } else { pattern });
        let is_file = !path.is_dir() && (path.exists() || !pattern.contains(['*', '?', '[']));
        if is_file {
            let is_same = match taken {
                Some(_) => file_at(path) == taken,
                // Neither is there yet.
                None => !path.exists() && !rejects.exists() && place(path).is_some_and(|at| place(rejects) == Some(at)),
            };
            if is_same {
                return Ok(Some(format!("is the input `{pattern}` itself")));
            }
        } else if taken.is_some() && !holds_rejects(rejects) {
            let found = match inputs_of(pattern, None) {
                Err(SourceError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Vec::new(),
                found => found?,
            };
            if found.iter().filter_map(Input::path).any(|path| is_same(path, taken)) {
                return Ok(Some(format!("is an input (it is in `{pattern}`, and holds something else than rejected rows)")));
            }
        }
    }
    Ok(None)
}

/// Where a file is to be made, links of its directory followed.
fn place(path: &Path) -> Option<PathBuf> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some(directory.canonicalize().ok()?.join(path.file_name()?))
}

/// Whether a file is one of rejected rows, or is to become one because nothing is in it.
fn holds_rejects(path: &Path) -> bool {
    let mut begins = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(rejects::HEADER.len() as u64).read_to_end(&mut begins));
    read.is_ok() && (begins.is_empty() || begins == rejects::HEADER)
}

fn file_at(path: &Path) -> Option<FileId> {
    std::fs::metadata(path).ok().map(|metadata| FileId::of(&metadata))
}

/// Whether a path leads to the file that takes the rejected rows.
fn is_same(path: &Path, rejects: Option<FileId>) -> bool {
    rejects.is_some() && file_at(path) == rejects
}

fn is_csv(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    !name.starts_with('.') && (name.ends_with(".csv") || name.ends_with(".csv.gz"))
}
