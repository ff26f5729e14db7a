//! The program's processes: who runs, who was killed, who ended and how.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::data::Grower;
use crate::support::app::{App, Role, text};

/// What a process is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Follows a directory.
    Follower,
    /// Streams finished files, and ends.
    Job,
    /// Queue to store.
    Collector,
}

struct Slot {
    kind: Kind,
    arguments: Vec<String>,
    role: Option<Role>,
    /// Not started again before.
    down_until: Instant,
}

/// All of them.
pub struct Roles {
    pub edge: App,
    pub central: App,
    dir: PathBuf,
    seed: u64,
    slots: Vec<Slot>,
    jobs: u64,
    /// Whether a job that is done is followed by another.
    more_jobs: bool,
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

impl Roles {
    /// Three collectors; two streamers that follow one directory, one that follows another; a third edge that streams finished files
    /// again and again.
    pub fn start(edge: App, central: App, dir: &Path, seed: u64) -> Self {
        let follow = |name: &str| words(&["stream", "--csv", text(&dir.join(name)), "--cluster", name, "--follow"]);
        let mut slots: Vec<Slot> = Vec::new();
        let mut add = |kind, arguments| slots.push(Slot { kind, arguments, role: None, down_until: Instant::now() });
        for _ in 0..3 {
            add(Kind::Collector, words(&["collect"]));
        }
        for name in ["edge-a", "edge-a", "edge-b"] {
            add(Kind::Follower, follow(name));
        }
        add(Kind::Job, Vec::new());
        Self { edge, central, dir: dir.to_owned(), seed, slots, jobs: 0, more_jobs: true }
    }

    /// Starts what is to run, and says what ended for a reason of its own.
    pub fn tend(&mut self, grower: &Grower) -> Vec<String> {
        let mut problems = Vec::new();
        for i in 0..self.slots.len() {
            let slot = &mut self.slots[i];
            if let Some(role) = &mut slot.role {
                let Some(status) = role.ended() else { continue };
                let done = slot.kind == Kind::Job && status.code() == Some(0);
                if done {
                    slot.arguments.clear();
                } else {
                    let end = role.log().lines().rev().take(5).collect::<Vec<_>>().join("\n    ");
                    problems.push(format!("{:?} ended with {status}, {}:\n    {end}", slot.kind, role.log_path().display()));
                }
                slot.role = None;
            }
            if slot.down_until > Instant::now() {
                continue;
            }
            if slot.arguments.is_empty() {
                if !self.more_jobs {
                    continue;
                }
                self.slots[i].arguments = self.next_job(grower);
            }
            let slot = &mut self.slots[i];
            let app = if slot.kind == Kind::Collector { &self.central } else { &self.edge };
            slot.role = Some(app.start(&slot.arguments.iter().map(String::as_str).collect::<Vec<_>>()));
        }
        problems
    }

    /// Two new files, to be streamed at some pace until they are queued, or stored.
    fn next_job(&mut self, grower: &Grower) -> Vec<String> {
        self.jobs += 1;
        let mut files = grower.files();
        let mut arguments = words(&["stream", "--cluster", "edge-c", "--rate", "2000"]);
        arguments.extend(words(&["--until", if self.jobs.is_multiple_of(2) { "stored" } else { "queued" }]));
        for rows in [6_000, 9_000] {
            let path = files.finished(&self.dir.join("edge-c"), self.seed, rows);
            arguments.extend(words(&["--csv", text(&path)]));
        }
        arguments
    }

    /// SIGKILL to the n-th of a kind; it is started again after this time.
    pub fn kill(&mut self, streamers: bool, n: u64, down: Duration) {
        let mut slots: Vec<_> = self.slots.iter_mut().filter(|slot| (slot.kind != Kind::Collector) == streamers).collect();
        let n = (n % slots.len() as u64) as usize;
        slots[n].down_until = Instant::now() + down;
        // Dropped is killed.
        slots[n].role = None;
    }

    /// A signal to all of a kind that run.
    pub fn signal(&mut self, kind: Kind, name: &str) {
        for slot in &mut self.slots {
            if slot.kind == kind
                && let Some(role) = &mut slot.role
                && role.ended().is_none()
            {
                role.signal(name);
            }
        }
    }

    /// The processes that run.
    pub fn pids(&self) -> Vec<u32> {
        self.slots.iter().filter_map(|slot| Some(slot.role.as_ref()?.pid())).collect()
    }

    /// No other job begins.
    pub fn no_more_jobs(&mut self) {
        self.more_jobs = false;
    }

    /// Whether the last job is done.
    pub fn jobs_are_done(&self) -> bool {
        self.slots.iter().filter(|slot| slot.kind == Kind::Job).all(|slot| slot.arguments.is_empty())
    }

    /// Ends all of a kind in good order; says who did not end with 0.
    pub fn stop(&mut self, kind: Kind) -> Vec<String> {
        self.signal(kind, "TERM");
        let mut problems = Vec::new();
        for slot in self.slots.iter_mut().filter(|slot| slot.kind == kind) {
            if let Some(mut role) = slot.role.take() {
                let code = role.wait();
                if code != 0 {
                    problems.push(format!("{kind:?}, told to end, ended with {code}: {}", role.log_path().display()));
                }
            }
            slot.down_until = Instant::now() + Duration::from_secs(1 << 30);
        }
        problems
    }
}
