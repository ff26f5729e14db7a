//! Arrays of chunks as PostgreSQL sends them, read in bulk: a history is millions of elements.
//!
//! The binary form (`array_send`): dimensions, a flag for nulls, the element type's oid, then length and lower bound of each dimension, then
//! each element after its length in bytes; all big-endian.

use std::error::Error;

use tokio_postgres::types::{FromSql, Type, accepts};

type Wrong = Box<dyn Error + Sync + Send>;

/// `int4[]`
pub(super) struct Ints(pub(super) Vec<i32>);

/// `float8[]`
pub(super) struct Doubles(pub(super) Vec<f64>);

/// The elements of an array of one dimension without nulls, each with its length in front.
fn elements(raw: &[u8], size: usize) -> Result<&[u8], Wrong> {
    let word = |at: usize| raw.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes);
    match (word(0), word(4)) {
        (Some(0), _) => return Ok(&[]),
        (Some(1), Some(0)) => {}
        _ => return Err("is no plain array of one dimension".into()),
    }
    let n = word(12).and_then(|n| usize::try_from(n).ok()).ok_or("is cut off")?;
    let body = raw.get(20..).ok_or("is cut off")?;
    if Some(body.len()) != n.checked_mul(size + 4) { Err("has elements of another size".into()) } else { Ok(body) }
}

impl<'a> FromSql<'a> for Ints {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Wrong> {
        let (all, _) = elements(raw, 4)?.as_chunks::<8>();
        Ok(Self(all.iter().map(|e| i32::from_be_bytes([e[4], e[5], e[6], e[7]])).collect()))
    }
    accepts!(INT4_ARRAY);
}

impl<'a> FromSql<'a> for Doubles {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Wrong> {
        let (all, _) = elements(raw, 8)?.as_chunks::<12>();
        Ok(Self(all.iter().map(|e| f64::from_be_bytes([e[4], e[5], e[6], e[7], e[8], e[9], e[10], e[11]])).collect()))
    }
    accepts!(FLOAT8_ARRAY);
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tokio_postgres::types::ToSql;

    use super::*;

    #[test]
    fn arrays_come_back() {
        let mut raw = BytesMut::new();
        vec![1.5, -0.0, f64::MAX].to_sql(&Type::FLOAT8_ARRAY, &mut raw).unwrap();
        assert_eq!(Doubles::from_sql(&Type::FLOAT8_ARRAY, &raw).unwrap().0, [1.5, -0.0, f64::MAX]);
        assert!(Doubles::from_sql(&Type::FLOAT8_ARRAY, &raw[..raw.len() - 1]).is_err());
        assert!(Ints::from_sql(&Type::INT4_ARRAY, &raw).is_err());
        let mut raw = BytesMut::new();
        vec![i32::MIN, 7].to_sql(&Type::INT4_ARRAY, &mut raw).unwrap();
        assert_eq!(Ints::from_sql(&Type::INT4_ARRAY, &raw).unwrap().0, [i32::MIN, 7]);
        let mut raw = BytesMut::new();
        Vec::<i32>::new().to_sql(&Type::INT4_ARRAY, &mut raw).unwrap();
        assert!(Ints::from_sql(&Type::INT4_ARRAY, &raw).unwrap().0.is_empty());
        assert!(Ints::from_sql(&Type::INT4_ARRAY, &[]).is_err());
    }
}
