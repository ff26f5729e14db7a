//! Plain text tables for terminals.

/// Left-aligned columns, two spaces apart; columns of numbers are right-aligned. The first row is the head.
#[must_use]
pub fn render<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let is_number = |text: &String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let numeric: Vec<bool> = (0..N).map(|c| rows.len() > 1 && rows.iter().skip(1).all(|row| is_number(&row[c]))).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, text) in row.iter().enumerate() {
            let pad = " ".repeat(width(column) - text.chars().count());
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
}
