//! Why a row was rejected: a closed list, so that counts can be compared between clusters and versions.

use std::fmt;

/// Why a row did not become a sample. The number goes over the wire and into the store: never reuse one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// The value's cell is empty.
    EmptyValue = 1,
    /// A blank of DCGM or nvidia-smi: N/A, `[Not Supported]`, `<<<NULL>>>`, INT32/INT64/FP64 blanks.
    BlankValue = 2,
    /// NaN or an infinity.
    NotFinite = 3,
    /// Not a number at all, or one in a notation that is not decimal.
    NotANumber = 4,
    /// Outside what is possible for the metric.
    OutOfRange = 5,
    /// The time's cell is empty or no time.
    BadTime = 6,
    /// A time without a zone: guessing one would shift the data.
    NoTimeZone = 7,
    /// Before 1990 or after 2100.
    TimeOutOfRange = 8,
    /// Fewer cells than the header's.
    ShortRow = 9,
    /// More cells than the header's.
    LongRow = 10,
    /// No metric name.
    NoMetric = 11,
    /// No GPU uuid.
    NoUuid = 12,
    /// A cell that is kept as text is not UTF-8.
    BadUtf8 = 13,
    /// A record longer than `stream.max_record_bytes`.
    RecordTooLong = 14,
    /// The row had been read while it was still being written; this is the rest of it.
    TornRecord = 15,
    /// A text cell longer than `stream.max_cell_bytes`.
    CellTooLong = 16,
    /// Further in the future than `collect.max_future` allows, when it came to the collector.
    TimeInFuture = 17,
    /// Further in the past than `collect.max_past` allows, when it came to the collector.
    TimeTooOld = 18,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 18] = [
        Self::EmptyValue,
        Self::BlankValue,
        Self::NotFinite,
        Self::NotANumber,
        Self::OutOfRange,
        Self::BadTime,
        Self::NoTimeZone,
        Self::TimeOutOfRange,
        Self::ShortRow,
        Self::LongRow,
        Self::NoMetric,
        Self::NoUuid,
        Self::BadUtf8,
        Self::RecordTooLong,
        Self::TornRecord,
        Self::CellTooLong,
        Self::TimeInFuture,
        Self::TimeTooOld,
    ];

    /// The name in metrics, reports and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EmptyValue => "empty_value",
            Self::BlankValue => "blank_value",
            Self::NotFinite => "not_finite",
            Self::NotANumber => "not_a_number",
            Self::OutOfRange => "out_of_range",
            Self::BadTime => "bad_time",
            Self::NoTimeZone => "no_time_zone",
            Self::TimeOutOfRange => "time_out_of_range",
            Self::ShortRow => "short_row",
            Self::LongRow => "long_row",
            Self::NoMetric => "no_metric",
            Self::NoUuid => "no_uuid",
            Self::BadUtf8 => "bad_utf8",
            Self::RecordTooLong => "record_too_long",
            Self::TornRecord => "torn_record",
            Self::CellTooLong => "cell_too_long",
            Self::TimeInFuture => "time_in_future",
            Self::TimeTooOld => "time_too_old",
        }
    }

    /// The number on the wire and in the store.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The reverse of [`Reason::code`].
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.code() == code)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
