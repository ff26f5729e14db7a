//! How many files are open at once (`stream.max_open_files`).
//!
//! A file that is to be read takes an [`OpenSlot`] first. When none is free, the followed files that have had nothing new for the longest time
//! are asked to close; their tasks end with what is needed to go on later ([`closed_files`](super::closed_files)). A file that is being
//! read, or that was removed or replaced and still has a tail, does not close: it declines, and the next one is asked.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::{ConfigError, Stream};

/// Descriptors that are left for connections, timers, directories and certificates.
const RESERVED: usize = 40;
/// Descriptors that an open file can take: another one for a moment, to compare what it says with what was read.
const PER_FILE: usize = 2;
/// The limit where so few descriptors are allowed that the calculation leaves none.
const FEWEST: usize = 4;
/// The limit where the system does not say how many descriptors are allowed.
const UNKNOWN: usize = 400;

/// How many files may be open at once.
pub(super) fn limit(stream: &Stream) -> Result<usize, ConfigError> {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    limit_within(stream.max_open_files, allowed_descriptors(&limits))
}

fn limit_within(wanted: Option<usize>, allowed: Option<usize>) -> Result<usize, ConfigError> {
    match (wanted, allowed) {
        (None, None) => Ok(UNKNOWN),
        (None, Some(allowed)) => Ok(derived_limit(allowed)),
        (Some(wanted), Some(allowed)) if wanted >= allowed => Err(ConfigError::usage(format!(
            "stream.max_open_files is {wanted}, but this process may only open {allowed} files: lower it (not set: {}), or raise the \
             limit of the process (ulimit -n, LimitNOFILE)",
            derived_limit(allowed)
        ))),
        (Some(wanted), _) => Ok(wanted),
    }
}

fn derived_limit(allowed: usize) -> usize {
    (allowed.saturating_sub(RESERVED) / PER_FILE).max(FEWEST)
}

/// The soft limit in the text of /proc/self/limits; `None` where there is none.
fn allowed_descriptors(limits: &str) -> Option<usize> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok())
}

/// The files that are open, and those that wait until they can be.
#[derive(Debug)]
pub(super) struct OpenFiles {
    limit: usize,
    slots: Arc<Mutex<Slots>>,
}

#[derive(Debug, Default)]
struct Slots {
    taken: usize,
    /// How many files wait for a slot.
    waiting: usize,
    /// Files that have nothing new now, by when they last had something.
    quiet: BTreeMap<(Instant, u64), Arc<Notify>>,
    /// Slots whose files were asked to close.
    asked: HashSet<u64>,
    last_id: u64,
}

impl Slots {
    /// Asks as many quiet files to close as others wait.
    fn make_room(&mut self) {
        while self.asked.len() < self.waiting
            && let Some(((_, id), wake)) = self.quiet.pop_first()
        {
            self.asked.insert(id);
            wake.notify_one();
        }
    }
}

fn lock(slots: &Mutex<Slots>) -> MutexGuard<'_, Slots> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OpenFiles {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, slots: Arc::default() }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Room for a file; `None` while there is none.
    pub(super) fn take_slot(&self) -> Option<OpenSlot> {
        let mut slots = lock(&self.slots);
        if slots.taken >= self.limit {
            return None;
        }
        slots.taken += 1;
        slots.last_id += 1;
        Some(OpenSlot { id: slots.last_id, active: Instant::now(), wake: Arc::default(), slots: self.slots.clone() })
    }

    /// So many files wait for a slot: as many quiet ones are asked to close, now or when they have become quiet.
    pub(super) fn set_waiting(&self, files: usize) {
        let mut slots = lock(&self.slots);
        slots.waiting = files;
        slots.make_room();
    }
}

/// A file's right to be open.
#[derive(Debug)]
pub(super) struct OpenSlot {
    id: u64,
    /// When the file last had something new.
    active: Instant,
    wake: Arc<Notify>,
    slots: Arc<Mutex<Slots>>,
}

impl OpenSlot {
    /// The file has something new.
    pub(super) fn note_activity(&mut self) {
        self.active = Instant::now();
    }

    /// Waits, while the file is quiet, until it is asked to close. Cancel-safe.
    pub(super) async fn close_requested(&self) {
        let quiet = Quiet::begin(self);
        while !self.is_close_requested() {
            self.wake.notified().await;
        }
        drop(quiet);
    }

    /// Whether the file is asked to close.
    pub(super) fn is_close_requested(&self) -> bool {
        lock(&self.slots).asked.contains(&self.id)
    }

    /// The file cannot be closed now; another one is asked.
    pub(super) fn decline(&self) {
        let mut slots = lock(&self.slots);
        if slots.asked.remove(&self.id) {
            slots.make_room();
        }
    }
}

impl Drop for OpenSlot {
    fn drop(&mut self) {
        let mut slots = lock(&self.slots);
        slots.asked.remove(&self.id);
        slots.taken = slots.taken.saturating_sub(1);
    }
}

/// Waits until a quiet file is asked to close; for ever where it holds no slot.
pub(super) async fn close_requested(slot: Option<&OpenSlot>) {
    match slot {
        Some(slot) => slot.close_requested().await,
        None => std::future::pending().await,
    }
}

/// Whether a file is asked to close.
pub(super) fn is_close_requested(slot: Option<&OpenSlot>) -> bool {
    slot.is_some_and(OpenSlot::is_close_requested)
}

/// A file cannot be closed now.
pub(super) fn decline(slot: Option<&OpenSlot>) {
    if let Some(slot) = slot {
        slot.decline();
    }
}

/// While this lives, its file can be asked to close.
struct Quiet<'a>(&'a OpenSlot);

impl<'a> Quiet<'a> {
    fn begin(slot: &'a OpenSlot) -> Self {
        let mut slots = lock(&slot.slots);
        if !slots.asked.contains(&slot.id) {
            slots.quiet.insert((slot.active, slot.id), slot.wake.clone());
            slots.make_room();
        }
        drop(slots);
        Self(slot)
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        lock(&self.0.slots).quiet.remove(&(self.0.active, self.0.id));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_limit_follows_from_what_the_process_may_open() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(allowed_descriptors(limits), Some(1024));
        assert_eq!(allowed_descriptors(&limits.replace("1024  ", "unlimited")), None);
        assert_eq!((derived_limit(1024), derived_limit(64), derived_limit(20)), (492, 12, FEWEST));
        assert!(limit_within(Some(700), Some(1024)).is_ok_and(|limit| limit == 700));
        let refused = limit_within(Some(1024), Some(1024)).map_err(|error| error.to_string());
        assert!(refused.is_err_and(|message| message.contains("stream.max_open_files") && message.contains("ulimit")));
    }

    #[test]
    fn the_file_that_has_been_quiet_for_longest_is_asked_first_and_another_where_it_declines() {
        let files = OpenFiles::new(3);
        let mut slots: Vec<_> = (0..3).map(|_| files.take_slot().expect("room")).collect();
        assert!(files.take_slot().is_none(), "no more than the limit");
        for (slot, seconds) in slots.iter_mut().zip([3, 1, 2]) {
            slot.active += std::time::Duration::from_secs(seconds);
        }
        let mut requests: Vec<_> = slots.iter().map(|slot| Box::pin(slot.close_requested())).collect();
        for request in &mut requests {
            assert!(request.now_or_never().is_none(), "nobody waits for room");
        }
        files.set_waiting(1);
        let asked = |slots: &[OpenSlot]| slots.iter().map(OpenSlot::is_close_requested).collect::<Vec<_>>();
        assert_eq!(asked(&slots), [false, true, false], "the one that was quiet for longest");
        slots[1].decline();
        assert_eq!(asked(&slots), [false, false, true]);
        drop(requests);
        drop(slots.pop());
        assert!(files.take_slot().is_some(), "its place is free");
    }

    #[test]
    fn a_file_that_becomes_quiet_later_is_asked_then() {
        let files = OpenFiles::new(1);
        let slot = files.take_slot().expect("room");
        files.set_waiting(1);
        assert!(!slot.is_close_requested(), "it is being read");
        slot.close_requested().now_or_never().expect("asked at once");
    }
}
