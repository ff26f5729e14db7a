//! The state as text, for `--once`.

use std::time::Instant;

use super::lists::{Tab, View};
use crate::roles::table;

/// Renders the summary, the connections and all lists.
pub(super) fn render(view: &View, now: Instant) -> String {
    let mut out = format!("{}\n", view.summary().0);
    for (line, _) in view.connections(now) {
        out.push_str(&line);
        out.push('\n');
    }
    for tab in [Tab::Partitions, Tab::Groups, Tab::Consumers, Tab::Sources] {
        let lines = view.list(tab, 0);
        out.push_str(&format!("\n{}\n", tab.title()));
        if lines.is_empty() {
            out.push_str("none\n");
            continue;
        }
        let mut rows: Vec<Vec<String>> = vec![tab.head().iter().map(ToString::to_string).collect()];
        rows.extend(lines.into_iter().map(|line| line.cells.into_iter().map(|cell| cell.text).collect()));
        out.push_str(&table::render(&rows));
    }
    out
}
