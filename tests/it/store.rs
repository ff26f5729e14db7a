//! What every store promises (`conformance`, `histories`), and what PostgreSQL adds (`postgres`).

mod conformance;
mod histories;
mod postgres;
mod rows;
