//! Makes text of unknown origin safe to print. Names come from files and from other clusters, and a terminal executes the control
//! sequences in what it prints.
//!
//! Control characters (C0, DEL, C1), line and paragraph separators, and marks that change the direction of text are escaped. The
//! escapes are those of JSON, so that a JSON document stays valid.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The text on one line: line breaks and tabs are escaped, too. For a name, a cell, a message.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    escape(text, is_unprintable)
}

/// The text with its line breaks and tabs. For output of several lines whose parts have gone through [`line`].
#[must_use]
pub fn text(text: &str) -> Cow<'_, str> {
    escape(text, |c| is_unprintable(c) && c != '\n' && c != '\t')
}

fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn escape(text: &str, unprintable: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&unprintable) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if !unprintable(c) => escaped.push(c),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            // Writing to a String cannot fail. All characters that are escaped are below U+10000.
            c => write!(escaped, "\\u{:04x}", u32::from(c)).unwrap_or_default(),
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped_and_the_rest_is_left() {
        for (raw, shown) in [
            ("gpu-7 Zürich 東京 🙂", "gpu-7 Zürich 東京 🙂"),
            ("a\nForged line", "a\\nForged line"),
            ("a\r\tb\u{7f}", "a\\r\\tb\\u007f"),
            ("\u{1b}[2J\u{1b}]0;title\u{7}", "\\u001b[2J\\u001b]0;title\\u0007"),
            ("\u{9b}31m", "\\u009b31m"),
            ("\u{202e}txt.exe\u{2066}\u{200f}", "\\u202etxt.exe\\u2066\\u200f"),
            ("\u{2028}next\u{85}", "\\u2028next\\u0085"),
        ] {
            assert_eq!(line(raw), shown);
        }
        assert_eq!(text("a\tb\n\u{1b}[m"), "a\tb\n\\u001b[m");
    }
}
