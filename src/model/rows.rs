//! Positions in a source, and arithmetic over ranges of its rows.

use std::fmt;
use std::str::FromStr;

use super::Digest;

/// How far a source was read: the ordinal of the next record, where it begins in the (decompressed) bytes, and a digest of
/// the (up to) 64 KiB before that place, so that another content at the same offset is noticed.
///
/// As text: `row:offset:digest`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub struct Position {
    /// Ordinal of the next CSV record, the header not counted.
    pub row: u64,
    /// Byte offset of the next record. At row 0 it may be 0 (before the header).
    pub offset: u64,
    /// Digest of the up to 64 KiB before `offset`.
    pub tail: Digest,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.row, self.offset, self.tail)
    }
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || format!("`{text}` is not a position (row:offset:digest)");
        let mut parts = text.splitn(3, ':');
        let mut next = || parts.next().ok_or_else(bad);
        let (row, offset, tail) = (next()?, next()?, next()?);
        Ok(Self {
            row: row.parse().map_err(|_| bad())?,
            offset: offset.parse().map_err(|_| bad())?,
            tail: tail.parse().map_err(|_| bad())?,
        })
    }
}

/// Rows `[first, end)` of one source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord, Default)]
pub struct RowRange {
    /// The first row.
    pub first: u64,
    /// One past the last row.
    pub end: u64,
}

impl RowRange {
    /// How many rows there are.
    #[must_use]
    pub fn len(self) -> u64 {
        self.end.saturating_sub(self.first)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.end <= self.first
    }
}

impl fmt::Display for RowRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{},{})", self.first, self.end)
    }
}

/// A set of rows as sorted, disjoint, non-adjacent, non-empty ranges. As text it is PostgreSQL's `int8multirange`: `{[0,5),[9,12)}`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RowSet(Vec<RowRange>);

impl RowSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The ranges, in order.
    #[must_use]
    pub fn ranges(&self) -> &[RowRange] {
        &self.0
    }

    /// How many rows are in the set.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().map(|r| r.len()).sum()
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One past the largest row, 0 for the empty set.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.0.last().map_or(0, |r| r.end)
    }

    /// Whether a row is in the set.
    #[must_use]
    pub fn contains(&self, row: u64) -> bool {
        let after = self.0.partition_point(|r| r.first <= row);
        after > 0 && row < self.0[after - 1].end
    }

    /// Whether any row of the range is in the set.
    #[must_use]
    pub fn overlaps(&self, range: RowRange) -> bool {
        if range.is_empty() {
            return false;
        }
        let at = self.0.partition_point(|r| r.end <= range.first);
        self.0.get(at).is_some_and(|r| r.first < range.end)
    }

    /// Adds a range.
    pub fn insert(&mut self, range: RowRange) {
        if range.is_empty() {
            return;
        }
        // Everything from `from` to `to` touches the new range and melts into it.
        let from = self.0.partition_point(|r| r.end < range.first);
        let to = self.0.partition_point(|r| r.first <= range.end);
        let mut melted = range;
        if let Some(touched) = self.0.get(from..to)
            && let (Some(a), Some(b)) = (touched.first(), touched.last())
        {
            melted = RowRange { first: a.first.min(range.first), end: b.end.max(range.end) };
        }
        self.0.splice(from..to, [melted]);
    }

    /// Adds every range of another set.
    pub fn extend(&mut self, other: &RowSet) {
        for range in &other.0 {
            self.insert(*range);
        }
    }

    /// The rows that are in both.
    #[must_use]
    pub fn intersection(&self, other: &RowSet) -> RowSet {
        let (mut i, mut j, mut out) = (0, 0, Vec::new());
        while let (Some(a), Some(b)) = (self.0.get(i), other.0.get(j)) {
            let both = RowRange { first: a.first.max(b.first), end: a.end.min(b.end) };
            if !both.is_empty() {
                out.push(both);
            }
            if a.end < b.end { i += 1 } else { j += 1 }
        }
        RowSet(out)
    }

    /// The rows of this set that are not in the other.
    #[must_use]
    pub fn minus(&self, other: &RowSet) -> RowSet {
        let mut out = Vec::new();
        for range in &self.0 {
            let mut first = range.first;
            let from = other.0.partition_point(|r| r.end <= range.first);
            for hole in other.0[from..].iter().take_while(|h| h.first < range.end) {
                if hole.first > first {
                    out.push(RowRange { first, end: hole.first });
                }
                first = first.max(hole.end);
            }
            if first < range.end {
                out.push(RowRange { first, end: range.end });
            }
        }
        RowSet(out)
    }
}

impl From<RowRange> for RowSet {
    fn from(range: RowRange) -> Self {
        let mut set = Self::new();
        set.insert(range);
        set
    }
}

impl FromIterator<RowRange> for RowSet {
    fn from_iter<T: IntoIterator<Item = RowRange>>(ranges: T) -> Self {
        let mut set = Self::new();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

impl fmt::Display for RowSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, range) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{range}")?;
        }
        f.write_str("}")
    }
}

impl FromStr for RowSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || format!("`{text}` is not a set of rows");
        let inner = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).ok_or_else(bad)?;
        let mut set = Self::new();
        let mut rest = inner;
        while !rest.is_empty() {
            let (range, after) = rest.strip_prefix('[').and_then(|t| t.split_once(')')).ok_or_else(bad)?;
            let (first, end) = range.split_once(',').ok_or_else(bad)?;
            set.insert(RowRange { first: first.parse().map_err(|_| bad())?, end: end.parse().map_err(|_| bad())? });
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
        prop::collection::vec((0u64..60, 0u64..12), 0..12)
    }

    fn build(ranges: &[(u64, u64)]) -> (RowSet, BTreeSet<u64>) {
        let set = ranges.iter().map(|&(first, n)| RowRange { first, end: first + n }).collect();
        (set, ranges.iter().flat_map(|&(first, n)| first..first + n).collect())
    }

    fn rows(set: &RowSet) -> BTreeSet<u64> {
        set.ranges().iter().flat_map(|r| r.first..r.end).collect()
    }

    proptest! {
        #[test]
        fn arithmetic_agrees_with_plain_sets(a in ranges(), b in ranges(), probe in (0u64..70, 0u64..9)) {
            let ((sa, ra), (sb, rb)) = (build(&a), build(&b));
            prop_assert_eq!(&rows(&sa), &ra);
            prop_assert!(sa.ranges().windows(2).all(|w| w[0].end < w[1].first), "ranges melt: {}", sa);
            prop_assert_eq!(sa.len(), ra.len() as u64);
            prop_assert_eq!(rows(&sa.minus(&sb)), ra.difference(&rb).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(rows(&sa.intersection(&sb)), ra.intersection(&rb).copied().collect::<BTreeSet<_>>());
            let range = RowRange { first: probe.0, end: probe.0 + probe.1 };
            prop_assert_eq!(sa.overlaps(range), (range.first..range.end).any(|r| ra.contains(&r)));
            prop_assert_eq!(sa.contains(probe.0), ra.contains(&probe.0));
            prop_assert_eq!(sa.to_string().parse::<RowSet>().expect("own text parses"), sa);
        }
    }

    #[test]
    fn positions_survive_text() {
        let position = Position { row: 7, offset: 1 << 40, tail: Digest::of(b"x") };
        assert_eq!(position.to_string().parse::<Position>(), Ok(position));
        assert!("1:2".parse::<Position>().is_err());
        assert!("1:2:zz".parse::<Position>().is_err());
    }
}
