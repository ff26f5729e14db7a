//! Processes that end with ours, however it ends: they are in the group of a watchdog, which kills the group when its pipe closes.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// Waits for the end of the test process (its standard input closes), and kills its own group from a session apart.
const WATCH: &str = "cat >/dev/null; exec setsid sh -c 'kill -KILL -- -$0' $$";

/// A command whose process ends with ours.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    static WATCHDOG: OnceLock<Child> = OnceLock::new();
    let watchdog = WATCHDOG.get_or_init(|| {
        Command::new("sh")
            .args(["-c", WATCH])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("the watchdog starts")
    });
    let mut command = Command::new(program);
    command.process_group(i32::try_from(watchdog.id()).expect("a process id is a positive i32"));
    command
}

/// Sends a process a signal, by its name.
pub fn signal(pid: u32, name: &str) {
    let kill = format!("kill -{name} {pid}");
    assert!(Command::new("sh").args(["-c", &kill]).status().expect("sh runs").success(), "{kill}");
}
