//! The state that keys change: which list is shown, how it is sorted, how far it is scrolled.

use ratatui::crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers};

use super::lists::Tab;

/// What to do after an event of the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// End the command.
    Quit,
    /// Draw the screen again.
    Draw,
}

/// What the user has selected.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    pub(super) tab: Tab,
    sorts: [usize; Tab::ALL.len()],
    scrolls: [usize; Tab::ALL.len()],
    paused: bool,
    pub(super) help: bool,
    /// Lines of the list that fit on the screen, and lines of the whole list, when it was last drawn.
    fits: usize,
    lines: usize,
}

/// The keys and what they do, for the help.
pub(super) const HELP: [(&str, &str); 7] = [
    ("q, Esc, Ctrl-C", "quit"),
    ("Tab, ← →, 1–4", "another list"),
    ("↑ ↓, j k", "scroll by a line"),
    ("PgUp PgDn, Home End", "scroll by a screen, to the first or last line"),
    ("s", "sort by the next column"),
    ("p, Space", "pause or resume the updates"),
    ("?", "show or hide this help"),
];

impl Keys {
    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// The selected one of [`Tab::sorts`].
    pub(super) fn sort(&self) -> usize {
        self.sorts[self.at()]
    }

    /// The first line to show, where `fits` of `lines` lines fit on the screen.
    pub(super) fn scroll(&mut self, fits: usize, lines: usize) -> usize {
        (self.fits, self.lines) = (fits, lines);
        self.move_to(self.scrolls[self.at()]);
        self.scrolls[self.at()]
    }

    fn at(&self) -> usize {
        Tab::ALL.iter().position(|tab| *tab == self.tab).unwrap_or(0)
    }

    fn move_to(&mut self, line: usize) {
        let at = self.at();
        self.scrolls[at] = line.min(self.lines.saturating_sub(self.fits));
    }

    fn turn(&mut self, by: usize) {
        self.tab = Tab::ALL[(self.at() + by) % Tab::ALL.len()];
    }

    /// Handles an event.
    pub(super) fn press(&mut self, event: &Event) -> Action {
        let Event::Key(key) = event else { return Action::Draw };
        if key.kind == KeyEventKind::Release {
            return Action::Draw;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Action::Quit } else { Action::Draw };
        }
        let (line, page) = (self.scrolls[self.at()], self.fits.max(1));
        match key.code {
            KeyCode::Esc if self.help => self.help = false,
            KeyCode::Char('q') | KeyCode::Esc => return Action::Quit,
            KeyCode::Char('?') => self.help = !self.help,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('s') => {
                let at = self.at();
                self.sorts[at] = (self.sorts[at] + 1) % self.tab.sorts().len();
            }
            KeyCode::Tab | KeyCode::Right => self.turn(1),
            KeyCode::BackTab | KeyCode::Left => self.turn(Tab::ALL.len() - 1),
            KeyCode::Char(digit @ '1'..='4') => self.tab = Tab::ALL[digit as usize - '1' as usize],
            KeyCode::Down | KeyCode::Char('j') => self.move_to(line + 1),
            KeyCode::Up | KeyCode::Char('k') => self.move_to(line.saturating_sub(1)),
            KeyCode::PageDown => self.move_to(line + page),
            KeyCode::PageUp => self.move_to(line.saturating_sub(page)),
            KeyCode::Home => self.move_to(0),
            KeyCode::End => self.move_to(usize::MAX),
            _ => {}
        }
        Action::Draw
    }
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::KeyEvent;

    use super::*;

    fn press(keys: &mut Keys, code: KeyCode) -> Action {
        keys.press(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
    }

    #[test]
    fn keys_choose_and_scroll_within_what_there_is() {
        let mut keys = Keys::default();
        assert_eq!(keys.scroll(10, 25), 0);
        for (code, line) in [
            (KeyCode::Up, 0),
            (KeyCode::Char('j'), 1),
            (KeyCode::PageDown, 11),
            (KeyCode::PageDown, 15),
            (KeyCode::Char('k'), 14),
            (KeyCode::End, 15),
            (KeyCode::Home, 0),
        ] {
            assert_eq!(press(&mut keys, code), Action::Draw);
            assert_eq!(keys.scroll(10, 25), line, "{code:?}");
        }
        press(&mut keys, KeyCode::End);
        assert_eq!(keys.scroll(10, 12), 2, "a list that got shorter");
        press(&mut keys, KeyCode::Tab);
        assert_eq!((keys.tab, keys.scroll(10, 25), keys.sort()), (Tab::Partitions, 0, 0), "each list has its own place");
        press(&mut keys, KeyCode::Char('s'));
        press(&mut keys, KeyCode::Left);
        assert_eq!((keys.tab, keys.sort()), (Tab::Sources, 0));
        for _ in 0..Tab::Sources.sorts().len() {
            press(&mut keys, KeyCode::Char('s'));
        }
        assert_eq!(keys.sort(), 0, "round");
    }

    #[test]
    fn it_pauses_helps_and_quits() {
        let mut keys = Keys::default();
        press(&mut keys, KeyCode::Char('p'));
        assert!(keys.is_paused());
        press(&mut keys, KeyCode::Char('?'));
        assert!(keys.help);
        assert_eq!(press(&mut keys, KeyCode::Esc), Action::Draw, "Esc closes the help first");
        assert!(!keys.help);
        assert_eq!(press(&mut keys, KeyCode::Esc), Action::Quit);
        assert_eq!(press(&mut keys, KeyCode::Char('q')), Action::Quit);
        let interrupt = Event::Key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert_eq!(keys.press(&interrupt), Action::Quit);
        assert_eq!(keys.press(&Event::Resize(1, 1)), Action::Draw);
    }
}
