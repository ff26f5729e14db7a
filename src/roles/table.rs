//! Tables as plain text.

use crate::printable;

/// Renders a table. Columns are two spaces apart and left-aligned; columns of numbers are right-aligned. The first row is the header.
#[must_use]
pub fn render<R: AsRef<[String]>>(rows: &[R]) -> String {
    let columns = rows.first().map_or(0, |head| head.as_ref().len());
    let cell =
        |row: &R, column: usize| row.as_ref().get(column).map(|text| printable::line(text).into_owned()).unwrap_or_default();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right() {
        let rows = [["name", "rows"], ["a", "5"], ["bcdef", "12345"]].map(|row| row.map(String::from));
        assert_eq!(render(&rows), "name    rows\na          5\nbcdef  12345\n");
    }

    #[test]
    fn a_name_cannot_forge_a_line() {
        let rows = [["name", "rows"], ["a\nb  99999\u{1b}[1A", "5"]].map(|row| row.map(String::from));
        let shown = render(&rows);
        assert_eq!(shown.lines().nth(1), Some("a\\nb  99999\\u001b[1A     5"), "{shown}");
        assert_eq!(shown.lines().count(), 2, "{shown}");
    }
}
