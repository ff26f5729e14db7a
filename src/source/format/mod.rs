//! What bytes mean: formats that give rows.

pub mod csv;
mod labels;
