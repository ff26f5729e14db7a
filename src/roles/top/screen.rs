//! Takes the terminal, and restores it however the process ends.

use std::io::{self, Stdout};
use std::time::Duration;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::crossterm::{cursor, execute};
use ratatui::{Frame, Terminal};
use tokio::sync::mpsc;

use crate::runtime::{HeldLog, Lifecycle};

/// How long a key is awaited before the thread checks whether the receiver still exists.
const KEY_POLL: Duration = Duration::from_millis(100);

/// The terminal in full-screen mode. It is restored when this is dropped, also by a panic; then the held log lines are printed.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    // Dropped after the terminal, so that its lines are printed on the restored screen.
    held: HeldLog,
}

/// Restores the terminal when it is dropped.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        let _ = disable_raw_mode();
        let _ = execute!(io::stdout(), LeaveAlternateScreen, cursor::Show);
    }
}

impl Screen {
    /// Takes the terminal. Log lines are held back from now on.
    pub(super) fn take(lifecycle: &Lifecycle) -> io::Result<Self> {
        let held = lifecycle.hold_log();
        let restore = Restore;
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen)?;
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
        std::mem::forget(restore);
        Ok(Self { terminal, held })
    }

    /// Draws a frame.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(draw).map(|_| ())
    }

    /// The last log line.
    pub(super) fn last_line(&self) -> Option<String> {
        self.held.last_line()
    }

    /// The events of the terminal from now on: keys, and changes of its size.
    pub(super) fn keys(&self) -> mpsc::Receiver<Event> {
        let (tell, pressed) = mpsc::channel(16);
        tokio::task::spawn_blocking(move || {
            while !tell.is_closed() {
                match event::poll(KEY_POLL) {
                    Ok(false) => {}
                    Ok(true) => {
                        let Ok(event) = event::read() else { return };
                        if tell.blocking_send(event).is_err() {
                            return;
                        }
                    }
                    Err(_) => return,
                }
            }
        });
        pressed
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        drop(Restore);
    }
}
