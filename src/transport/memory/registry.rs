//! Which content is which source. A line a content, appended and synced before anybody counts on it: after a restart a file that
//! has grown is found under the same source, and what the store covers of it is not stored twice.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crate::model::FamilyId;
use crate::transport::{Identity, Result, TransportError};

/// The contents that are known, by their first record.
pub(super) struct Registry {
    known: HashMap<FamilyId, Vec<Identity>>,
    file: Option<(PathBuf, File)>,
}

impl Registry {
    /// Reads the file, and makes it where it is not there.
    pub(super) fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self { known: HashMap::new(), file: None }) };
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            TransportError::Local(format!("{}: {what}: {error}; it says which files are known, and is needed", path.display()))
        };
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(|error| failed("cannot be opened for writing", &error))?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|error| failed("cannot be read", &error))?;
        // A line that was cut off was never counted on.
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        if whole < text.len() {
            file.set_len(whole as u64).map_err(|error| failed("cannot be mended", &error))?;
        }
        file.seek(SeekFrom::End(0)).map_err(|error| failed("cannot be read", &error))?;
        let mut known: HashMap<FamilyId, Vec<Identity>> = HashMap::new();
        for (at, line) in text[..whole].lines().enumerate() {
            let (first_record, identity) =
                parse(line).ok_or_else(|| failed(&format!("line {}", at + 1), &"is not what this program writes"))?;
            known.entry(first_record).or_default().push(identity);
        }
        Ok(Self { known, file: Some((path.to_owned(), file)) })
    }

    pub(super) fn of(&self, first_record: FamilyId) -> Vec<Identity> {
        self.known.get(&first_record).cloned().unwrap_or_default()
    }

    /// See [`crate::transport::Publisher::register`].
    pub(super) fn register(
        &mut self,
        first_record: FamilyId,
        seen: &[Identity],
        new: Identity,
    ) -> Result<std::result::Result<(), Vec<Identity>>> {
        let now = self.of(first_record);
        if now.len() != seen.len() || !now.iter().all(|identity| seen.contains(identity)) {
            return Ok(Err(now));
        }
        if let Some((path, file)) = &mut self.file {
            let line = format!("{first_record} {} {} {}\n", new.length, new.prefix, new.source);
            let length = file.metadata().map(|metadata| metadata.len());
            let written = file.write_all(line.as_bytes()).and_then(|()| file.sync_data());
            if let Err(error) = written {
                // What was written in part must not stand before the next line.
                if let Ok(length) = length {
                    let _ = file.set_len(length);
                }
                return Err(TransportError::Local(format!("{}: cannot be written: {error}", path.display())));
            }
        }
        self.known.entry(first_record).or_default().push(new);
        Ok(Ok(()))
    }
}

fn parse(line: &str) -> Option<(FamilyId, Identity)> {
    let mut words = line.split(' ');
    let mut word = || words.next();
    let first_record = word()?.parse().ok()?;
    let (length, prefix, source) = (word()?.parse().ok()?, word()?.parse().ok()?, word()?.parse().ok()?);
    word().is_none().then_some((first_record, Identity { length, prefix, source }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Digest, SourceId};

    fn family(n: u128) -> FamilyId {
        FamilyId::from_digest(Digest::from_u128(n))
    }

    fn identity(n: u64) -> Identity {
        let digest = Digest::from_u128;
        let source = SourceId::from_digest(digest(u128::MAX - u128::from(n)));
        Identity { length: n, prefix: digest(n.into()), source }
    }

    #[test]
    fn a_restart_finds_what_was_registered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sources");
        let mut registry = Registry::open(Some(&path)).unwrap();
        assert_eq!(registry.register(family(1), &[], identity(1)).unwrap(), Ok(()));
        assert_eq!(registry.register(family(1), &[], identity(2)).unwrap(), Err(vec![identity(1)]));
        assert_eq!(registry.register(family(1), &[identity(1)], identity(2)).unwrap(), Ok(()));
        // Killed while it wrote.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"0123 45").unwrap();
        let mut registry = Registry::open(Some(&path)).unwrap();
        assert_eq!(registry.of(family(1)), [identity(1), identity(2)]);
        assert_eq!(registry.register(family(2), &[], identity(3)).unwrap(), Ok(()));
        assert_eq!(Registry::open(Some(&path)).unwrap().of(family(2)), [identity(3)]);
    }

    #[test]
    fn a_file_of_others_is_refused_and_left_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "shopping list\n").unwrap();
        assert!(Registry::open(Some(file.path())).err().unwrap().to_string().contains("line 1"));
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "shopping list\n");
    }
}
