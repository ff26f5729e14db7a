//! Ids and times as SQLite has them: integers.

use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlResult, ToSqlOutput, ValueRef};

use crate::model::{GpuId, SeriesId, TimeMs};

macro_rules! as_integer {
    ($type:ident, $from:ident, $to:ident) => {
        impl ToSql for $type {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(self.$to().into())
            }
        }

        impl FromSql for $type {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                i64::column_result(value).map(Self::$from)
            }
        }
    };
}

as_integer!(SeriesId, from_store, to_store);
as_integer!(GpuId, from_store, to_store);
as_integer!(TimeMs, from_millis, as_millis);
