//! Packed rows: the samples of several series of one GPU at times that they share, in two strings of bits that plain SQL reads. Pure.
//!
//! A row of n times and k series has `heads`, which say how everything lies, and `bits`, which have it. All numbers are unsigned and
//! begin with their highest bit; those with a sign are stored less the least one of their width (a width of 0 means 0).
//!
//! | heads | bits |
//! |---|---|
//! | widths of the fields series, base, slope, exact, delay | 6, 6, 6, 4, 5 |
//! | shift: the bit length of n - 1 | 4 |
//! | width of a time's code | 6 |
//! | base of the times: ms after `t_min`, with sign | 28 |
//! | slope of the times: ms from one to the next, with `shift` fractional bits | 40 |
//! | k heads: width 7, scale 5, then the fields series (after `series_first`), base (with sign), slope (with sign), exact, delay | 12 + fields |
//!
//! `bits` has n codes of times, then for each series n codes of its width and `exact` patterns of 64 bits.
//!
//! - Time i (from 0) is `t_min` + base + (slope × i >> shift) + code, and for a series its delay more.
//! - Value i of a series with the width 64 is the number whose bit pattern the code is.
//! - Else the codes from 2^width - exact on stand for the exact patterns, in their order; and any other for
//!   (base + (slope × i >> shift) + code) / 10^scale.
//!
//! So one form has constants, frames of reference, lines, dictionaries and outliers. A value is decimal if the nearest double to its
//! integer divided by its power of ten is the value itself, bit for bit: both are exact doubles, so every IEEE division gives it,
//! PostgreSQL's too. Any other finite double (-0.0 among them) keeps its pattern.

mod bits;
mod column;
mod pack;
mod plan;
mod rectangle;

pub use bits::Bits;
pub use column::Column;
pub use pack::{Samples, pack};
pub use rectangle::{Last, Rectangle, Row};

/// Times of a row at most.
pub const MAX_TIMES: usize = 8192;

/// Samples of a row at most: its times times its series.
pub const MAX_SAMPLES: usize = 131_072;

/// How many fractional bits the slopes of a row with so many times have: enough that a line goes astray by less than one.
const fn shift_of(times: usize) -> u32 {
    usize::BITS - times.saturating_sub(1).leading_zeros()
}
