//! The terminal: taken for a while, and given back however the process ends.

use std::io::{self, Stdout};
use std::time::Duration;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::crossterm::{cursor, execute};
use ratatui::{Frame, Terminal};
use tokio::sync::mpsc;

use crate::runtime::{HeldLog, Lifecycle};

/// How long a key is waited for before it is looked whether anybody still wants one.
const KEY: Duration = Duration::from_millis(100);

/// The terminal while it is ours. Given back when dropped, also by a panic; what was logged meanwhile is printed then.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    // After the terminal: its lines are printed when the screen is as it was.
    held: HeldLog,
}

/// Gives the terminal back.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        let _ = disable_raw_mode();
        let _ = execute!(io::stdout(), LeaveAlternateScreen, cursor::Show);
    }
}

impl Screen {
    /// Takes it. Log lines are held back from now on.
    pub(super) fn take(lifecycle: &Lifecycle) -> io::Result<Self> {
        let held = lifecycle.hold_log();
        let restore = Restore;
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen)?;
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
        std::mem::forget(restore);
        Ok(Self { terminal, held })
    }

    /// Draws.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(draw).map(|_| ())
    }

    /// The last line that was logged.
    pub(super) fn last_line(&self) -> Option<String> {
        self.held.last_line()
    }

    /// What is pressed from now on, and changes of size.
    pub(super) fn keys(&self) -> mpsc::Receiver<Event> {
        let (tell, pressed) = mpsc::channel(16);
        tokio::task::spawn_blocking(move || {
            while !tell.is_closed() {
                match event::poll(KEY) {
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
