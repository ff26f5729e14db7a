//! How commands print ages, ranges, lists and numbers.

use std::fmt::Display;
use std::time::Duration;

use crate::model::RowRange;

/// An age in its two largest units: 3 s, 1 min 15 s, 2 h 5 min, 4 d 3 h.
#[must_use]
pub fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let (d, h, min, s) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    match (d, h, min) {
        (0, 0, 0) if seconds == 0 => format!("{} ms", age.as_millis()),
        (0, 0, 0) => format!("{s} s"),
        (0, 0, _) => format!("{min} min {s} s"),
        (0, ..) => format!("{h} h {min} min"),
        _ => format!("{d} d {h} h"),
    }
}

/// A range of rows, including the last one: 5–8.
#[must_use]
pub fn rows(rows: RowRange) -> String {
    match rows.len() {
        0 => "none".to_owned(),
        1 => rows.first.to_string(),
        _ => format!("{}–{}", rows.first, rows.end - 1),
    }
}

/// Items, separated by commas: 1, 2, 5.
#[must_use]
pub fn list<T: Display>(of: &[T]) -> String {
    of.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A number of bytes: 812 MiB.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}

/// A number with its digits in groups: 1,234,567.
#[must_use]
pub fn count(n: u64) -> String {
    indicatif::HumanCount(n).to_string()
}

/// A number of things, with the word for one of them or for several: 1 batch, 1,204 batches.
#[must_use]
pub fn counted(n: u64, one: &str, several: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { several })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units_at_most() {
        let said = |ms| age(Duration::from_millis(ms));
        assert_eq!(
            [0, 999, 59_999, 75_000, 3_600_000, 90_061_000].map(said),
            ["0 ms", "999 ms", "59 s", "1 min 15 s", "1 h 0 min", "1 d 1 h"]
        );
    }

    #[test]
    fn numbers_are_grouped_and_ranges_include_their_end() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(rows(RowRange { first: 5, end: 6 }), "5");
        assert_eq!(rows(RowRange { first: 5, end: 9 }), "5–8");
        assert_eq!(list(&[1, 2]), "1, 2");
        assert_eq!([0, 1, 1_204].map(|n| counted(n, "batch", "batches")), ["0 batches", "1 batch", "1,204 batches"]);
    }
}
