//! Texts and row sets as stores keep them.

use std::borrow::Cow;

use crate::model::{RowRange, RowSet};

/// A text that every store can keep: PostgreSQL has no place for U+0000 in one, so its picture (U+2400) stands for it.
pub(in crate::store) fn clean(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{2400}").into() } else { text.into() }
}

/// Row sets are kept as text; ours is PostgreSQL's notation.
pub(in crate::store) fn row_set(text: Option<&str>) -> Result<RowSet, String> {
    text.map_or_else(|| Ok(RowSet::new()), str::parse)
}

/// A range of rows as text. One from the outside may go past what databases count to; nothing is there.
pub(in crate::store) fn range_text(range: RowRange) -> String {
    let most = i64::MAX.cast_unsigned();
    format!("[{},{})", range.first.min(most), range.end.max(range.first).min(most))
}

/// The reverse of [`range_text`], and of PostgreSQL's canonical notation (`empty`, or `[first,end)`).
pub(in crate::store) fn parse_range(text: &str) -> Result<RowRange, String> {
    if text == "empty" {
        return Ok(RowRange { first: 0, end: 0 });
    }
    let borders = text.strip_prefix('[').and_then(|text| text.strip_suffix(')')).and_then(|text| text.split_once(','));
    let range = borders.and_then(|(first, end)| Some(RowRange { first: first.parse().ok()?, end: end.parse().ok()? }));
    range.ok_or_else(|| format!("`{text}` is not a range of rows"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_survive_text() {
        for (first, end) in [(0, 1), (5, 900), (7, 7), (0, u64::MAX)] {
            let range = RowRange { first, end: end.min(i64::MAX.cast_unsigned()) };
            assert_eq!(parse_range(&range_text(RowRange { first, end })), Ok(range));
        }
        assert_eq!(parse_range("empty"), Ok(RowRange { first: 0, end: 0 }));
        for wrong in ["(,)", "", "[1,2]", "[-1,2)", "[1)"] {
            assert!(parse_range(wrong).is_err(), "{wrong}");
        }
    }
}
