//! From paths, directories and patterns to inputs.
//!
//! A directory stands for its `*.csv` and `*.csv.gz` (not those of directories in it), a pattern for the files it matches, `-`
//! for the standard input; a path that is a file is taken whatever its name. Directories and patterns pass over names that begin with a
//! dot (what is still being copied, and what macOS leaves beside files), and over the file that takes the rejected rows. Listing a directory blocks for a moment.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::follow::FileId;
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
            return Err(SourceError::NothingThere { pattern: pattern.clone() });
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
