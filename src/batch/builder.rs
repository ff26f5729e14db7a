//! The builder.

/// When a batch closes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {}
/// Collected rows.
#[derive(Debug)]
pub struct Columns {}
/// Collects rows.
#[derive(Debug)]
pub struct Builder {}
