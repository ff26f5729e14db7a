//! Hashes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::reply::{Bytes, Reply};
use super::{Answer, Redis, Value, wrong_arity, wrong_type};

impl Redis {
    fn hash(&self, key: &[u8]) -> Result<Option<&BTreeMap<Bytes, Bytes>>, Reply> {
        match self.slot(key).map(|slot| &slot.value) {
            None => Ok(None),
            Some(Value::Hash(hash)) => Ok(Some(hash)),
            Some(_) => Err(wrong_type()),
        }
    }

    fn hash_mut(&mut self, key: &[u8]) -> Result<Option<&mut BTreeMap<Bytes, Bytes>>, Reply> {
        match self.slot_mut(key).map(|slot| &mut slot.value) {
            None => Ok(None),
            Some(Value::Hash(hash)) => Ok(Some(Arc::make_mut(hash))),
            Some(_) => Err(wrong_type()),
        }
    }

    pub(super) fn hget(&self, args: &[Bytes]) -> Answer {
        let [key, field] = args else { return Err(wrong_arity("hget")) };
        let value = self.hash(key)?.and_then(|hash| hash.get(field));
        Ok(value.map_or(Reply::Nil, |value| Reply::Bulk(value.clone())))
    }

    pub(super) fn hset(&mut self, args: &[Bytes]) -> Answer {
        let [key, pairs @ ..] = args else { return Err(wrong_arity("hset")) };
        if pairs.is_empty() || !pairs.len().is_multiple_of(2) {
            return Err(wrong_arity("hset"));
        }
        self.hash(key)?;
        if self.slot(key).is_none() {
            self.put(key, Value::Hash(Arc::default()), None);
        }
        let mut new = 0;
        if let Some(hash) = self.hash_mut(key)? {
            for pair in pairs.chunks_exact(2) {
                new += usize::from(hash.insert(pair[0].clone(), pair[1].clone()).is_none());
            }
        }
        Ok(Reply::count(new))
    }

    pub(super) fn hdel(&mut self, args: &[Bytes]) -> Answer {
        let [key, fields @ ..] = args else { return Err(wrong_arity("hdel")) };
        let Some(hash) = self.hash_mut(key)? else { return Ok(Reply::Int(0)) };
        let gone = fields.iter().filter(|field| hash.remove(*field).is_some()).count();
        if hash.is_empty() {
            self.remove(key);
        }
        Ok(Reply::count(gone))
    }

    pub(super) fn hlen(&self, args: &[Bytes]) -> Answer {
        let [key] = args else { return Err(wrong_arity("hlen")) };
        Ok(Reply::count(self.hash(key)?.map_or(0, BTreeMap::len)))
    }

    pub(super) fn hkeys(&self, args: &[Bytes]) -> Answer {
        let [key] = args else { return Err(wrong_arity("hkeys")) };
        let fields = self.hash(key)?.into_iter().flat_map(BTreeMap::keys);
        Ok(Reply::Array(fields.cloned().map(Reply::Bulk).collect()))
    }

    pub(super) fn hexists(&self, args: &[Bytes]) -> Answer {
        let [key, field] = args else { return Err(wrong_arity("hexists")) };
        Ok(Reply::Int(i64::from(self.hash(key)?.is_some_and(|hash| hash.contains_key(field)))))
    }
}
