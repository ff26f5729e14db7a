//! The table that is printed in the end.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::queue::Lost;
use crate::verdict::Verdict;

/// What was seen of each kind of fault.
#[derive(Default)]
pub struct Table {
    rows: BTreeMap<&'static str, Row>,
    pub verdict: Option<Verdict>,
}

#[derive(Default)]
struct Row {
    recoveries: Vec<Duration>,
    /// Entries and rows.
    lost: Option<(i64, i64)>,
}

impl Table {
    /// A fault and how long it took until everything was stored again.
    pub fn add(&mut self, kind: &'static str, took: Duration, lost: Option<&Lost>) {
        let row = self.rows.entry(kind).or_default();
        row.recoveries.push(took);
        if let Some(lost) = lost {
            let sum = row.lost.get_or_insert_default();
            *sum = (sum.0 + lost.entries, sum.1 + lost.rows());
        }
    }

    /// As text.
    pub fn text(&self) -> String {
        let mut out =
            format!("{:<18} {:>5} {:>12} {:>12} {:>13} {:>10}\n", "fault", "times", "median", "max", "entries lost", "rows lost");
        for (kind, row) in &self.rows {
            let mut sorted = row.recoveries.clone();
            sorted.sort();
            let [median, max] =
                [sorted[sorted.len() / 2], sorted[sorted.len() - 1]].map(|time| format!("{:.1} s", time.as_secs_f64()));
            let lost = row.lost.map_or([String::new(), String::new()], |(entries, rows)| [entries.to_string(), rows.to_string()]);
            out.push_str(&format!(
                "{kind:<18} {:>5} {median:>12} {max:>12} {:>13} {:>10}\n",
                row.recoveries.len(),
                lost[0],
                lost[1]
            ));
        }
        if let Some(Verdict { rows, stored, blank, files, lost, again }) = &self.verdict {
            out.push_str(&format!(
                "\n{rows} rows in {files} files: {stored} stored, {blank} rejected for want of a value\n\
                 {lost} rows had been acknowledged by Redis and were lost by it; {again} of them have been sent again\n"
            ));
        }
        out
    }
}
