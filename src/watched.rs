//! Files whose content takes effect without a restart: checked at an interval, and read again when they have changed.
//!
//! [`check_all`] checks every file in use, also while nothing needs its content, so that an error in a file shows when the file is
//! changed and not when a connection needs it. For that, this module keeps a list of them, global as logs and metrics are.

use std::collections::BTreeMap;
#[cfg(unix)]
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, fs};

use arc_swap::ArcSwap;
use secrecy::{ExposeSecret, SecretString};

/// How often the files are checked for changes.
pub const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// How often a lasting failure is reported again.
const REPORT_INTERVAL: Duration = Duration::from_secs(300);

/// All watched files that are in use, for [`check_all`].
static ALL: Mutex<Vec<Weak<dyn CheckNow + Send + Sync>>> = Mutex::new(Vec::new());

type Stamp = Vec<Option<(SystemTime, u64, u64)>>;
type Read<T> = Box<dyn Fn(&[PathBuf]) -> Result<T, String> + Send + Sync>;

/// Checks all files that are in use. Returns, by the name that logs use, whether reading them fails, so that older content is in use.
#[must_use]
pub fn check_all() -> BTreeMap<&'static str, bool> {
    let all: Vec<_> = {
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|files| files.strong_count() > 0);
        all.iter().filter_map(Weak::upgrade).collect()
    };
    let mut failed = BTreeMap::new();
    for files in all {
        let (what, fails) = files.check_now();
        *failed.entry(what).or_default() |= fails;
    }
    failed
}

/// Watched files with any type of content.
trait CheckNow {
    /// Checks the files now. Returns the name that logs use, and whether reading them fails.
    fn check_now(&self) -> (&'static str, bool);
}

/// The content of files. The files are checked when the content is used, and by [`check_all`].
pub struct Watched<T>(Arc<Files<T>>);

struct Files<T> {
    what: &'static str,
    files: Vec<PathBuf>,
    read: Read<T>,
    current: ArcSwap<T>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    checked: Instant,
    stamp: Stamp,
    failure: Option<ReadFailure>,
}

/// Why files could not be read, and when that was reported last.
#[derive(Debug)]
struct ReadFailure {
    stamp: Stamp,
    error: String,
    reported: Instant,
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// Reads the files; `what` is the name that logs use for them.
    ///
    /// # Errors
    ///
    /// The error of `read`.
    pub fn new(
        what: &'static str,
        files: Vec<PathBuf>,
        read: impl Fn(&[PathBuf]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        // The stamp is taken before reading, so that the next check sees a change in between.
        let stamp = stamp(&files);
        let current = ArcSwap::from_pointee(read(&files)?);
        let state = Mutex::new(State { checked: Instant::now(), stamp, failure: None });
        let files = Arc::new(Files { what, files, read: Box::new(read), current, state });
        let known: Arc<dyn CheckNow + Send + Sync> = files.clone();
        ALL.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&known));
        Ok(Self(files))
    }

    /// The newest content that could be read; at most [`POLL_INTERVAL`] old.
    pub fn get(&self) -> Arc<T> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.checked.elapsed() >= POLL_INTERVAL {
            self.0.check(&mut state);
        }
        self.0.current.load_full()
    }

    /// The newest content, checked now: for a caller whose content has just been refused.
    pub fn get_now(&self) -> Arc<T> {
        self.0.check_now();
        self.0.current.load_full()
    }
}

impl<T> Files<T> {
    /// A changed file takes effect; while a file cannot be read, its previous content stays in use. A failure is logged when it
    /// begins, when the file or the reason changes, and again at [`REPORT_INTERVAL`]: a person who repairs the file must see whether
    /// that was enough.
    fn check(&self, state: &mut State) {
        state.checked = Instant::now();
        let stamp = stamp(&self.files);
        if stamp == state.stamp && state.failure.is_none() {
            return;
        }
        match (self.read)(&self.files) {
            Ok(read) => {
                tracing::info!("{} were read again", self.what);
                self.current.store(read.into());
                (state.stamp, state.failure) = (stamp, None);
            }
            Err(error) => {
                let is_reported = |failure: &ReadFailure| {
                    failure.stamp == stamp && failure.error == error && failure.reported.elapsed() < REPORT_INTERVAL
                };
                if !state.failure.as_ref().is_some_and(is_reported) {
                    tracing::error!(error, "{} cannot be read again: the previous ones stay in use; retrying", self.what);
                    state.failure = Some(ReadFailure { stamp, error, reported: state.checked });
                }
            }
        }
    }
}

impl<T: Send + Sync> CheckNow for Files<T> {
    fn check_now(&self) -> (&'static str, bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.check(&mut state);
        (self.what, state.failure.is_some())
    }
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("what", &self.0.what).field("files", &self.0.files).finish_non_exhaustive()
    }
}

/// Time of modification, length and inode of each file: a file that replaces another may have the same age and length. `None` for a
/// file that does not exist.
fn stamp(files: &[PathBuf]) -> Stamp {
    let one = |file: &PathBuf| {
        let metadata = fs::metadata(file).ok()?;
        #[cfg(unix)]
        let inode = metadata.ino();
        #[cfg(not(unix))]
        let inode = 0;
        Some((metadata.modified().ok()?, metadata.len(), inode))
    };
    files.iter().map(one).collect()
}

/// A secret from the configuration: text, or the content of a file that is read again when it changes. Clones share the file.
#[derive(Clone, Debug)]
pub enum Secret {
    /// A fixed text.
    Text(SecretString),
    /// The content of a file.
    File(Arc<Watched<SecretString>>),
}

impl Secret {
    /// A secret in a file, without the line end; `what` is the name that logs use for it ("contents of redis.password_file").
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

    /// The current secret.
    #[must_use]
    pub fn get(&self) -> SecretString {
        match self {
            Self::Text(secret) => secret.clone(),
            Self::File(file) => (*file.get()).clone(),
        }
    }

    /// After `used` was refused: the new secret, if the file has another one now.
    #[must_use]
    pub fn other_than(&self, used: &SecretString) -> Option<SecretString> {
        let Self::File(file) = self else { return None };
        let now = file.get_now();
        (now.expose_secret() != used.expose_secret()).then(|| (*now).clone())
    }

    /// Whether the secret can change without a restart.
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
        fs::read_to_string(&files[0]).map_err(|e| e.to_string())?.parse().map_err(|_| "is not a number".to_owned())
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
        let fails = |what| check_all().get(what).copied();
        assert_eq!(fails("numbers"), Some(false));
        write("a fault");
        assert_eq!(*watched.get_now(), 22);
        fs::remove_file(file.path()).unwrap();
        assert_eq!((*watched.get_now(), fails("numbers")), (22, Some(true)));
        write("333");
        assert_eq!(fails("numbers"), Some(false));
        assert_eq!(*watched.get_now(), 333);
        drop(watched);
        assert_eq!(fails("numbers"), None, "it is no longer used");
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
        // As Kubernetes does it: another file at the same path.
        let next = tempfile::NamedTempFile::new().unwrap();
        fs::write(next.path(), "hunter3\r\n").unwrap();
        fs::rename(next.path(), file.path()).unwrap();
        assert_eq!(secret.other_than(&used).unwrap().expose_secret(), "hunter3");
        assert_eq!(secret.get().expose_secret(), "hunter3");
        assert!(!format!("{secret:?} {:?}", Secret::from("hunter4")).contains("hunter"));
        fs::write(file.path(), "\n").unwrap();
        assert!(secret.other_than(&used).is_some_and(|still| still.expose_secret() == "hunter3"), "an empty file is an error");
        let said = Secret::file("x", file.path().to_owned()).unwrap_err();
        assert!(said.contains("is empty"), "{said}");
    }
}
