//! Files whose content takes effect without a restart: looked at now and then, read again when they changed.
//!
//! [`look_at_all`] looks at every one that is in use, also where nobody asks for it just now: a fault in one is to be seen when it is
//! made, and not when a connection needs it. For that this module knows them all, as logs and metrics do.

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

/// The watched files that are in use, to be checked now when somebody asks for it.
static ALL: Mutex<Vec<Weak<dyn Look + Send + Sync>>> = Mutex::new(Vec::new());

type Stamp = Vec<Option<(SystemTime, u64, u64)>>;
type Read<T> = Box<dyn Fn(&[PathBuf]) -> Result<T, String> + Send + Sync>;

/// Looks at all files that are in use: for what logs call them, whether what is in use is not what they say.
#[must_use]
pub fn look_at_all() -> BTreeMap<&'static str, bool> {
    let all: Vec<_> = {
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|files| files.strong_count() > 0);
        all.iter().filter_map(Weak::upgrade).collect()
    };
    let mut failed = BTreeMap::new();
    for files in all {
        let (what, fails) = files.look_now();
        *failed.entry(what).or_default() |= fails;
    }
    failed
}

/// Files of whatever content.
trait Look {
    /// What logs call them, and whether they cannot be used as they are now.
    fn look_now(&self) -> (&'static str, bool);
}

/// What files say. Looked at when it is asked for, and by [`look_at_all`].
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
    looked: Instant,
    stamp: Stamp,
    fault: Option<ReadFailure>,
}

/// Why files could not be read, and when that was reported last.
#[derive(Debug)]
struct ReadFailure {
    stamp: Stamp,
    error: String,
    said: Instant,
}

impl<T: Send + Sync + 'static> Watched<T> {
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
        let state = Mutex::new(State { looked: Instant::now(), stamp, fault: None });
        let files = Arc::new(Files { what, files, read: Box::new(read), current, state });
        let known: Arc<dyn Look + Send + Sync> = files.clone();
        ALL.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&known));
        Ok(Self(files))
    }

    /// The newest content that could be read.
    pub fn get(&self) -> Arc<T> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= POLL_INTERVAL {
            self.0.look(&mut state);
        }
        self.0.current.load_full()
    }

    /// The same, looked at now: for who was just refused with what it had.
    pub fn get_now(&self) -> Arc<T> {
        self.0.look_now();
        self.0.current.load_full()
    }
}

impl<T> Files<T> {
    /// A changed file takes effect; one that cannot be read changes nothing. That is said, again when the file or the reason
    /// changes, and again while it lasts: who repairs the file must see whether that was enough.
    fn look(&self, state: &mut State) {
        state.looked = Instant::now();
        let stamp = stamp(&self.files);
        if stamp == state.stamp && state.fault.is_none() {
            return;
        }
        match (self.read)(&self.files) {
            Ok(read) => {
                tracing::info!("{} were read again", self.what);
                self.current.store(read.into());
                (state.stamp, state.fault) = (stamp, None);
            }
            Err(error) => {
                let same =
                    |fault: &ReadFailure| fault.stamp == stamp && fault.error == error && fault.said.elapsed() < REPORT_INTERVAL;
                if !state.fault.as_ref().is_some_and(same) {
                    tracing::error!(error, "{} stay as they were; it is tried again until they can be read", self.what);
                    state.fault = Some(ReadFailure { stamp, error, said: state.looked });
                }
            }
        }
    }
}

impl<T: Send + Sync> Look for Files<T> {
    fn look_now(&self) -> (&'static str, bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.look(&mut state);
        (self.what, state.fault.is_some())
    }
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("what", &self.0.what).field("files", &self.0.files).finish_non_exhaustive()
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
        // Whether it is seen as one.
        let fails = |what| look_at_all().get(what).copied();
        assert_eq!(fails("numbers"), Some(false));
        write("a fault");
        assert_eq!(*watched.get_now(), 22);
        fs::remove_file(file.path()).unwrap();
        assert_eq!((*watched.get_now(), fails("numbers")), (22, Some(true)));
        write("333");
        assert_eq!(fails("numbers"), Some(false));
        assert_eq!(*watched.get_now(), 333);
        drop(watched);
        assert_eq!(fails("numbers"), None, "nobody uses it any more");
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
