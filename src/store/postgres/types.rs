//! Rust values as PostgreSQL has them, for the types the client has no own mapping for.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

use crate::model::{BlockId, DictionaryId, Digest, FamilyId, GpuId, SeriesId, SourceId, TimeMs};
pub(super) use crate::store::text::{clean, parse_range, range_text, row_set};

/// 2000-01-01T00:00:00Z in ms since 1970: where PostgreSQL's timestamps begin.
const EPOCH_MS: i64 = 946_684_800_000;

/// A time in PostgreSQL's microseconds since 2000. The times we take (1990 to 2100) are far from overflowing.
pub(super) fn to_micros(time: TimeMs) -> i64 {
    time.as_millis().saturating_sub(EPOCH_MS).saturating_mul(1000)
}

/// A time is a `timestamptz`.
impl ToSql for TimeMs {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i64(to_micros(*self));
        Ok(IsNull::No)
    }
    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for TimeMs {
    /// What is finer than a millisecond is cut off.
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let micros = i64::from_be_bytes(raw.try_into()?);
        Ok(Self::from_millis(micros.div_euclid(1000).saturating_add(EPOCH_MS)))
    }
    accepts!(TIMESTAMPTZ);
}

/// A digest, or an id that is one, as a `uuid`.
macro_rules! as_uuid {
    ($type:ty, $from:expr) => {
        impl ToSql for $type {
            fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
                out.put_slice(&self.to_bytes());
                Ok(IsNull::No)
            }
            accepts!(UUID);
            to_sql_checked!();
        }

        impl<'a> FromSql<'a> for $type {
            fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
                Digest::from_slice(raw).map($from).ok_or_else(|| "a uuid has 16 bytes".into())
            }
            accepts!(UUID);
        }
    };
}

as_uuid!(Digest, std::convert::identity);
as_uuid!(SourceId, SourceId::from_digest);
as_uuid!(FamilyId, FamilyId::from_digest);
as_uuid!(DictionaryId, DictionaryId::from_digest);

/// A store's id as the `bigint` that it is.
macro_rules! as_bigint {
    ($type:ty) => {
        impl ToSql for $type {
            fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
                out.put_i64(self.to_store());
                Ok(IsNull::No)
            }
            accepts!(INT8);
            to_sql_checked!();
        }

        impl<'a> FromSql<'a> for $type {
            fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
                Ok(Self::from_store(i64::from_be_bytes(raw.try_into()?)))
            }
            accepts!(INT8);
        }
    };
}

as_bigint!(SeriesId);
as_bigint!(GpuId);
as_bigint!(BlockId);
