//! Quotes where CSV does not know them: behind blanks (`, "GPU-1"`), and single ones.
//!
//! The CSV parser takes quotes for quotes only where a cell begins with them, and leaves all others in the cell. They would become a
//! part of identities.

use std::borrow::Cow;

/// A cell without the blanks and the pair of quotes around it; doubled quotes inside become one. `None`: a double quote begins the
/// cell and nothing, or something else than a pair, ends it.
pub(super) fn unquote(cell: &str) -> Option<Cow<'_, str>> {
    let cell = cell.trim_ascii();
    let Some(quote) = cell.chars().next().filter(|c| matches!(c, '"' | '\'')) else { return Some(cell.into()) };
    let doubled = [quote; 2].iter().collect::<String>();
    let inner = cell[1..].strip_suffix(quote).filter(|inner| inner.split(&doubled).all(|part| !part.contains(quote)));
    match inner {
        Some(inner) if inner.contains(quote) => Some(inner.replace(&doubled, &quote.to_string()).into()),
        Some(inner) => Some(inner.into()),
        // An apostrophe is a character like others.
        None if quote == '\'' => Some(cell.into()),
        None => None,
    }
}

/// The same for a cell that is no text: what stands between a pair of quotes, if there is one.
pub(super) fn between_quotes(cell: &[u8]) -> Option<&[u8]> {
    let cell = cell.trim_ascii();
    let quote = *cell.first().filter(|c| matches!(c, b'"' | b'\''))?;
    cell[1..].strip_suffix(&[quote])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_around_a_cell_are_no_part_of_it() {
        for (cell, text) in [
            ("plain", Some("plain")),
            ("  blanks  ", Some("blanks")),
            (" \"GPU-1\"", Some("GPU-1")),
            ("\"GPU-1\" ", Some("GPU-1")),
            ("'GPU-1'", Some("GPU-1")),
            ("\"job=\"\"dcgm\"\"\"", Some("job=\"dcgm\"")),
            ("\"\"", Some("")),
            ("'it''s'", Some("it's")),
            ("'tis", Some("'tis")),
            ("'", Some("'")),
            ("\"", None),
            ("\"GPU-1", None),
            ("\"a\" and \"b\"", None),
            ("a \"b\"", Some("a \"b\"")),
            ("", Some("")),
        ] {
            assert_eq!(unquote(cell).as_deref(), text, "{cell}");
        }
        assert_eq!(between_quotes(b" \"41\" "), Some(&b"41"[..]));
        assert_eq!(between_quotes(b"'41'"), Some(&b"41"[..]));
        assert_eq!(between_quotes(b"\""), None);
        assert_eq!(between_quotes(b"41"), None);
    }
}
