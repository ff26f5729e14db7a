//! Values as exports write them. Stub: being written.

use super::{Metric, Reason};

/// Why a value is none.
pub type BadValue = Reason;

/// A cell as a number, or the reason why it is none.
pub fn parse_value(_cell: &[u8], _metric: Option<&Metric>) -> Result<f64, BadValue> {
    Err(Reason::EmptyValue)
}
