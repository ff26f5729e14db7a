//! Files whose content takes effect without a restart: looked at now and then, read again when they changed.

#[cfg(unix)]
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, fs};

use arc_swap::ArcSwap;
use secrecy::{ExposeSecret, SecretString};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

type Stamp = Vec<Option<(SystemTime, u64, u64)>>;
type Read<T> = Box<dyn Fn(&[PathBuf]) -> Result<T, String> + Send + Sync>;

/// What files say. Looked at when it is asked for: what nobody asks for need not be read.
pub struct Watched<T> {
    what: &'static str,
    files: Vec<PathBuf>,
    read: Read<T>,
    current: ArcSwap<T>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    looked: Instant,
    stamp: Stamp,
    complained: bool,
}

impl<T> Watched<T> {
    /// Reads the files; `what` is what logs call them.
    ///
    /// # Errors
    ///
    /// What `read` says.
    pub fn new(
        what: &'static str,
        files: Vec<PathBuf>,
        read: impl Fn(&[PathBuf]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        // Before reading: a change in between is seen at the next look.
        let stamp = stamp(&files);
        let current = ArcSwap::from_pointee(read(&files)?);
        let state = Mutex::new(State { looked: Instant::now(), stamp, complained: false });
        Ok(Self { what, files, read: Box::new(read), current, state })
    }

    /// The newest content that could be read.
    pub fn get(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOK {
            state.looked = Instant::now();
            self.look(&mut state);
        }
        self.current.load_full()
    }

    /// The same, looked at now: for who was just refused with what it had.
    pub fn get_now(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.looked = Instant::now();
        self.look(&mut state);
        drop(state);
        self.current.load_full()
    }

    /// A changed file takes effect; one that cannot be read changes nothing, and is complained about once.
    fn look(&self, state: &mut State) {
        let stamp = stamp(&self.files);
        if stamp == state.stamp && !state.complained {
            return;
        }
        match (self.read)(&self.files) {
            Ok(read) => {
                tracing::info!("{} were read again", self.what);
                self.current.store(read.into());
                (state.stamp, state.complained) = (stamp, false);
            }
            Err(error) => {
                if !state.complained {
                    tracing::error!(error, "{} stay as they were", self.what);
                }
                state.complained = true;
            }
        }
    }
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("what", &self.what).field("files", &self.files).finish_non_exhaustive()
    }
}

/// Modified when, how long, and which: a file that was put in another's place may be as old and as long. Of a file that is not
/// there, nothing.
fn stamp(files: &[PathBuf]) -> Stamp {
    let one = |file: &PathBuf| {
        let metadata = fs::metadata(file).ok()?;
        #[cfg(unix)]
        let which = metadata.ino();
        #[cfg(not(unix))]
        let which = 0;
        Some((metadata.modified().ok()?, metadata.len(), which))
    };
    files.iter().map(one).collect()
}

/// A secret as it was given: as text, or in a file that is read again when it changes. Clones share the file.
#[derive(Clone, Debug)]
pub enum Secret {
    /// It stays what it is.
    Text(SecretString),
    /// It is what the file says.
    File(Arc<Watched<SecretString>>),
}

impl Secret {
    /// What a file holds, without its line end; `what` is what logs call it ("contents of redis.password_file").
    ///
    /// # Errors
    ///
    /// The file, and why it cannot be used.
    pub fn file(what: &'static str, path: PathBuf) -> Result<Self, String> {
        Watched::new(what, vec![path], |files| {
            let path = files[0].display();
            let text = fs::read_to_string(&files[0]).map_err(|error| format!("{path} cannot be read: {error}"))?;
            match text.trim_end_matches(['\r', '\n']) {
                "" => Err(format!("{path} is empty")),
                secret => Ok(SecretString::from(secret)),
            }
        })
        .map(|file| Self::File(Arc::new(file)))
    }

    /// What it is now.
    #[must_use]
    pub fn get(&self) -> SecretString {
        match self {
            Self::Text(secret) => secret.clone(),
            Self::File(file) => (*file.get()).clone(),
        }
    }

    /// For who was refused with `used`: another one, if the file has one by now.
    #[must_use]
    pub fn other_than(&self, used: &SecretString) -> Option<SecretString> {
        let Self::File(file) = self else { return None };
        let now = file.get_now();
        (now.expose_secret() != used.expose_secret()).then(|| (*now).clone())
    }

    /// Whether it can become another one without a restart.
    #[must_use]
    pub fn can_change(&self) -> bool {
        matches!(self, Self::File(_))
    }
}

impl<T: Into<SecretString>> From<T> for Secret {
    fn from(text: T) -> Self {
        Self::Text(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(files: &[PathBuf]) -> Result<u64, String> {
        fs::read_to_string(&files[0]).map_err(|e| e.to_string())?.parse().map_err(|_| "is no number".to_owned())
    }

    #[test]
    fn a_change_takes_effect_and_a_fault_does_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: &str| fs::write(file.path(), text).unwrap();
        write("1");
        let watched = Watched::new("numbers", vec![file.path().to_owned()], number).unwrap();
        assert_eq!(*watched.get_now(), 1);
        write("22");
        assert_eq!(*watched.get_now(), 22);
        write("a fault");
        assert_eq!(*watched.get_now(), 22);
        fs::remove_file(file.path()).unwrap();
        assert_eq!(*watched.get_now(), 22);
        write("333");
        assert_eq!(*watched.get_now(), 333);
        assert!(Watched::new("numbers", vec!["/does/not/exist".into()], number).is_err());
    }

    #[test]
    fn a_secret_follows_its_file_and_is_never_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "hunter2\r\n").unwrap();
        let secret = Secret::file("contents of a file", file.path().to_owned()).unwrap();
        let used = secret.get();
        assert_eq!(used.expose_secret(), "hunter2");
        assert!(secret.other_than(&used).is_none());
        // As Kubernetes does it: another file in the same place.
        let next = tempfile::NamedTempFile::new().unwrap();
        fs::write(next.path(), "hunter3\r\n").unwrap();
        fs::rename(next.path(), file.path()).unwrap();
        assert_eq!(secret.other_than(&used).unwrap().expose_secret(), "hunter3");
        assert_eq!(secret.get().expose_secret(), "hunter3");
        assert!(!format!("{secret:?} {:?}", Secret::from("hunter4")).contains("hunter"));
        fs::write(file.path(), "\n").unwrap();
        assert!(secret.other_than(&used).is_some_and(|still| still.expose_secret() == "hunter3"), "an empty one is a fault");
        let said = Secret::file("x", file.path().to_owned()).unwrap_err();
        assert!(said.contains("is empty"), "{said}");
    }
}
