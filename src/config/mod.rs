//! The configuration: defaults → files → environment → flags.

mod postgres;
mod redis;

pub use postgres::Postgres;
pub use redis::Redis;
