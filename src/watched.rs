//! Files whose content takes effect without a restart: looked at now and then, read again when they changed.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, fs};

use arc_swap::ArcSwap;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

type Stamp = Vec<Option<(SystemTime, u64)>>;
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

    #[cfg(test)]
    fn look_now(&self) -> Arc<T> {
        self.look(&mut self.state.lock().unwrap());
        self.current.load_full()
    }
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("what", &self.what).field("files", &self.files).finish_non_exhaustive()
    }
}

/// Modified when, how long: of a file that is not there, nothing.
fn stamp(files: &[PathBuf]) -> Stamp {
    let one = |file: &PathBuf| {
        let metadata = fs::metadata(file).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files.iter().map(one).collect()
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
        assert_eq!(*watched.look_now(), 1);
        write("22");
        assert_eq!(*watched.look_now(), 22);
        write("a fault");
        assert_eq!(*watched.look_now(), 22);
        fs::remove_file(file.path()).unwrap();
        assert_eq!(*watched.look_now(), 22);
        write("333");
        assert_eq!(*watched.look_now(), 333);
        assert!(Watched::new("numbers", vec!["/does/not/exist".into()], number).is_err());
    }
}
