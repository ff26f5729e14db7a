//! Values as exports write them: a number, or the reason why a cell is none. Nothing is ever guessed.

use super::{Metric, Reason};

/// Why a value is none.
pub type BadValue = Reason;

/// Units that may follow a number. For a metric that the catalogue knows the unit must be the metric's own.
const UNITS: [&str; 28] = [
    "%", "W", "mW", "C", "°C", "B", "bytes", "KiB", "MiB", "GiB", "KB", "MB", "GB", "Hz", "MHz", "GHz", "J", "mJ", "V", "mV",
    "A", "s", "ms", "us", "B/s", "KB/s", "MB/s", "RPM",
];

/// DCGM's 32-bit integer blank; the three after it say why (not found, not supported, no permission).
const INT32_BLANK: f64 = 2_147_483_632.0;
/// DCGM's float blank, likewise with three after it. Exporters that turn ratios into percent have it a hundredfold.
const FP64_BLANK: f64 = 140_737_488_355_328.0;
/// All four 64-bit integer blanks, as a float64 shows them.
const INT64_BLANK: f64 = 9_223_372_036_854_775_808.0;

/// A cell as a number, or the reason why it is none.
///
/// `-0` becomes `0`: the sign of a zero says nothing about a GPU, and samples are compared bit by bit further on.
///
/// # Errors
/// [`Reason::EmptyValue`], [`Reason::BlankValue`], [`Reason::NotFinite`] (also a number too large for a float64),
/// [`Reason::NotANumber`] (also a unit that is not the metric's), [`Reason::OutOfRange`].
pub fn parse_value(cell: &[u8], metric: Option<&Metric>) -> Result<f64, BadValue> {
    let cell = cell.trim_ascii();
    if cell.is_empty() {
        return Err(Reason::EmptyValue);
    }
    let (number, unit) = split(cell);
    let Some(value) = number else {
        return Err(classify_non_number(cell));
    };
    if !unit.is_empty() && !unit_fits(unit, metric) {
        return Err(classify_non_number(cell));
    }
    if !value.is_finite() {
        return Err(Reason::NotFinite);
    }
    if is_blank(value) {
        return Err(Reason::BlankValue);
    }
    if metric.is_some_and(|m| value < m.range.0 || value > m.range.1) {
        return Err(Reason::OutOfRange);
    }
    Ok(value + 0.0)
}

/// The decimal number a cell begins with, and what follows it (spaces between them gone).
fn split(cell: &[u8]) -> (Option<f64>, &[u8]) {
    let digits = |from: usize| cell[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut end = usize::from(matches!(cell[0], b'+' | b'-'));
    let mut any = digits(end);
    end += any;
    if cell.get(end) == Some(&b'.') {
        let fraction = digits(end + 1);
        any += fraction;
        end += 1 + fraction;
    }
    if any == 0 {
        return (None, &[]);
    }
    if let Some(b'e' | b'E') = cell.get(end) {
        let sign = usize::from(matches!(cell.get(end + 1), Some(b'+' | b'-')));
        if cell.len() > end + 1 + sign && digits(end + 1 + sign) > 0 {
            end += 1 + sign + digits(end + 1 + sign);
        }
    }
    let number = std::str::from_utf8(&cell[..end]).ok().and_then(|text| text.parse().ok());
    (number, cell[end..].trim_ascii_start())
}

fn unit_fits(unit: &[u8], metric: Option<&Metric>) -> bool {
    let same = |known: &str| known.as_bytes() == unit || (known == "C" && unit == "°C".as_bytes());
    metric.map_or_else(|| UNITS.iter().any(|known| same(known)), |metric| same(metric.unit))
}

fn is_blank(value: f64) -> bool {
    // The usual value is small: one comparison, and it is done.
    if value < INT32_BLANK {
        return false;
    }
    let four = |base: f64, step: f64| (0..4).any(|i| value == base + f64::from(i) * step);
    four(INT32_BLANK, 1.0) || four(FP64_BLANK, 1.0) || four(FP64_BLANK * 100.0, 100.0) || value == INT64_BLANK
}

/// Why a cell that does not read as a number is none: a blank in words, an infinity or NaN in any spelling, or just no number.
fn classify_non_number(cell: &[u8]) -> Reason {
    let lower = cell.to_ascii_lowercase();
    let lower = &lower[..];
    const BLANKS: [&[u8]; 16] = [
        b"n/a",
        b"na",
        b"-",
        b"--",
        b"null",
        b"none",
        b"nil",
        b"not supported",
        b"unknown error",
        b"unknown",
        b"err!",
        b"error",
        b"not found",
        b"no permission",
        b"insufficient permissions",
        b"not available",
    ];
    let inside = |open: &[u8], close: &[u8]| lower.len() > open.len() && lower.starts_with(open) && lower.ends_with(close);
    if BLANKS.contains(&lower) || inside(b"[", b"]") || inside(b"<<<", b">>>") || lower.starts_with(b"requested functionality") {
        return Reason::BlankValue;
    }
    let unsigned = match lower {
        [b'+' | b'-', rest @ ..] => rest,
        all => all,
    };
    // Up to a unit or, for NaN, a payload (`nan(ind)`); Windows writes 1.#INF and 1.#QNAN.
    let word = unsigned.split(|b| matches!(b, b' ' | b'(' | b'%')).next().unwrap_or_default();
    match word {
        b"nan" | b"inf" | b"infinity" | b"qnan" | b"snan" => Reason::NotFinite,
        _ if word == "∞".as_bytes() || unsigned.starts_with(b"1.#") => Reason::NotFinite,
        // A blank with its unit, as in `N/A W`.
        b"n/a" => Reason::BlankValue,
        _ => Reason::NotANumber,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::metric;

    fn of(cell: &str, name: &str) -> Result<f64, Reason> {
        parse_value(cell.as_bytes(), metric(name))
    }

    #[test]
    fn blanks_are_blank_for_every_metric() {
        let mut cells: Vec<String> = [
            "N/A",
            "n/a",
            "[N/A]",
            "[Not Supported]",
            "Not Supported",
            "[Unknown Error]",
            "ERR!",
            "-",
            "<<<NULL>>>",
            "<<<NOT_FOUND>>>",
            "<<<NOT_SUPPORTED>>>",
            "<<<NOT_PERM>>>",
            "[Requested functionality has been deprecated]",
            "[Insufficient Permissions]",
            "N/A W",
            "9.223372036854776e+18",
            "9223372036854775808",
            "9.2233720368547758e18",
            "140737488355328.0",
        ]
        .map(str::to_owned)
        .to_vec();
        for i in 0..4u64 {
            cells.push((2_147_483_632 + i).to_string());
            cells.push((9_223_372_036_854_775_792 + i).to_string());
            cells.push((140_737_488_355_328 + i).to_string());
            cells.push(((140_737_488_355_328 + i) * 100).to_string());
            cells.push(format!("{}.0 ", 2_147_483_632 + i));
        }
        for cell in &cells {
            for name in ["DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "DCGM_FI_PROF_SM_ACTIVE", "my_own_metric"] {
                assert_eq!(of(cell, name), Err(Reason::BlankValue), "{cell} of {name}");
            }
        }
        assert_eq!(of("2147483631", "my_own_metric"), Ok(2_147_483_631.0));
        assert_eq!(of("2147483636", "my_own_metric"), Ok(2_147_483_636.0));
    }

    #[test]
    fn what_is_no_number_says_so() {
        for cell in [
            "NaN",
            "nan",
            "-nan",
            "+NaN",
            "NAN",
            "nan(ind)",
            "Inf",
            "+Inf",
            "-inf",
            "INFINITY",
            "-Infinity",
            "∞",
            "-∞",
            "1.#INF",
            "-1.#IND",
            "1e400",
            "-1e999",
            "inf W",
        ] {
            assert_eq!(of(cell, "DCGM_FI_DEV_GPU_TEMP"), Err(Reason::NotFinite), "{cell}");
        }
        for cell in [
            "0x40",
            "1,5",
            "1_000",
            "abc",
            ".",
            "+",
            "1e",
            "1.2.3",
            "--1",
            "1 2",
            "85 % %",
            "12 parsecs",
            "0b1",
            "\u{fffd}",
            "1e5e5",
            "infinite",
        ] {
            assert_eq!(of(cell, "my_own_metric"), Err(Reason::NotANumber), "{cell}");
        }
        for cell in ["", " ", "\t\r"] {
            assert_eq!(of(cell, "DCGM_FI_DEV_GPU_TEMP"), Err(Reason::EmptyValue));
        }
    }

    #[test]
    fn a_number_may_carry_its_unit_but_no_other() {
        assert_eq!(of("85 %", "DCGM_FI_DEV_GPU_UTIL"), Ok(85.0));
        assert_eq!(of("85%", "DCGM_FI_DEV_GPU_UTIL"), Ok(85.0));
        assert_eq!(of("592.74 W", "DCGM_FI_DEV_POWER_USAGE"), Ok(592.74));
        assert_eq!(of("80559 MiB", "DCGM_FI_DEV_FB_FREE"), Ok(80559.0));
        assert_eq!(of("61 °C", "DCGM_FI_DEV_GPU_TEMP"), Ok(61.0));
        assert_eq!(of("0.5 GiB", "DCGM_FI_DEV_FB_FREE"), Err(Reason::NotANumber));
        assert_eq!(of("3 RPM", "my_own_metric"), Ok(3.0));
    }

    #[test]
    fn impossible_values_are_out_of_range_where_the_metric_is_known() {
        for (cell, name) in [
            ("4294967295", "DCGM_FI_DEV_GPU_UTIL"),
            ("187342", "DCGM_FI_DEV_GPU_UTIL"),
            ("100.5", "DCGM_FI_DEV_MEM_COPY_UTIL"),
            ("-1", "DCGM_FI_DEV_GPU_TEMP"),
            ("151", "DCGM_FI_DEV_MEMORY_TEMP"),
            ("5001 W", "DCGM_FI_DEV_POWER_USAGE"),
            ("1.01", "DCGM_FI_PROF_SM_ACTIVE"),
            ("-1", "DCGM_FI_DEV_FB_USED"),
            ("-3", "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"),
            ("-1", "dcgm_gpu_temp"),
        ] {
            assert_eq!(of(cell, name), Err(Reason::OutOfRange), "{cell} of {name}");
        }
        assert_eq!(of("-40.5", "my_own_metric"), Ok(-40.5));
        assert_eq!(of("-0", "DCGM_FI_DEV_GPU_TEMP").map(f64::to_bits), Ok(0));
    }

    proptest! {
        #[test]
        fn agrees_with_std(value in any::<f64>(), text in "[+-]?([0-9]{1,20}\\.?[0-9]{0,20}|\\.[0-9]{1,9})([eE][+-]?[0-9]{1,3})?") {
            for text in [text, format!("{value}"), format!("{value:e}")] {
                let theirs: f64 = text.parse().unwrap();
                match parse_value(text.as_bytes(), None) {
                    Ok(ours) => prop_assert_eq!(ours, theirs, "{}", text),
                    Err(Reason::NotFinite) => prop_assert!(!theirs.is_finite(), "{}", text),
                    Err(Reason::BlankValue) => prop_assert!(is_blank(theirs), "{}", text),
                    Err(other) => prop_assert!(false, "{} is {}", text, other),
                }
            }
        }

        #[test]
        fn never_panics_and_is_always_finite(bytes in prop::collection::vec(any::<u8>(), 0..24), text in "[-+0-9.eEnaif%W ]{0,12}") {
            for cell in [&bytes[..], text.as_bytes()] {
                for metric in [None, metric("DCGM_FI_DEV_GPU_UTIL")] {
                    if let Ok(value) = parse_value(cell, metric) {
                        prop_assert!(value.is_finite());
                    }
                }
            }
        }
    }
}
