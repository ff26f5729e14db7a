//! Tables as plain text.

use crate::printable;

/// Characters of a cell at most: one long name would pad every row to its length. The last column is not padded, and never cut.
const MAX_CELL: usize = 64;

/// Renders a table. Columns are two spaces apart and left-aligned; columns of numbers are right-aligned. The first row is the header. Long
/// texts are cut in the middle: names that begin alike often differ at their ends.
#[must_use]
pub fn render<R: AsRef<[String]>>(rows: &[R]) -> String {
    render_within(rows, MAX_CELL)
}

/// The same with every text whole.
#[must_use]
pub fn render_whole<R: AsRef<[String]>>(rows: &[R]) -> String {
    render_within(rows, usize::MAX)
}

fn render_within<R: AsRef<[String]>>(rows: &[R], max: usize) -> String {
    let columns = rows.first().map_or(0, |head| head.as_ref().len());
    let cell = |row: &R, column: usize| {
        let max = if column + 1 == columns { usize::MAX } else { max };
        row.as_ref().get(column).map(|text| cut(&printable::line(text), max)).unwrap_or_default()
    };
    let width = |column: usize| rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0);
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let numeric: Vec<bool> =
        (0..columns).map(|c| rows.len() > 1 && rows.iter().skip(1).all(|row| is_number(&cell(row, c)))).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for column in 0..columns {
            let text = cell(row, column);
            let pad = " ".repeat(widths[column] - text.chars().count());
            let gap = if column == 0 { "" } else { "  " };
            line.push_str(&if numeric[column] { format!("{gap}{pad}{text}") } else { format!("{gap}{text}{pad}") });
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A text in so many characters.
fn cut(text: &str, max: usize) -> String {
    let length = text.chars().count();
    if length <= max {
        return text.to_owned();
    }
    let tail = max / 2;
    let head: String = text.chars().take(max - tail - 1).collect();
    head + "…" + &text.chars().skip(length - tail).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right() {
        let rows = [["name", "rows"], ["a", "5"], ["bcdef", "12345"]].map(|row| row.map(String::from));
        assert_eq!(render(&rows), "name    rows\na          5\nbcdef  12345\n");
    }

    #[test]
    fn a_long_name_pads_no_other_row() {
        let (long, reason) = (format!("begin{}end", "ä".repeat(4088)), "r".repeat(300));
        let rows = [["name", "rows", "reason"], [&long, "5", &reason], ["b", "12345", ""]].map(|row| row.map(String::from));
        let shown = render(&rows);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[1].starts_with("beginä") && lines[1].contains("ä…ä") && lines[1].contains("äend  "), "{shown}");
        assert!(lines[1].ends_with(&reason), "what stands last pads nothing, and is whole");
        assert_eq!(lines[2].chars().count(), MAX_CELL + "  12345".len(), "{shown}");
    }

    #[test]
    fn a_name_cannot_forge_a_line() {
        let rows = [["name", "rows"], ["a\nb  99999\u{1b}[1A", "5"]].map(|row| row.map(String::from));
        let shown = render(&rows);
        assert_eq!(shown.lines().nth(1), Some("a\\nb  99999\\u001b[1A     5"), "{shown}");
        assert_eq!(shown.lines().count(), 2, "{shown}");
    }
}
