//! Strings and lists.

use std::sync::Arc;

use super::reply::{Bytes, Reply};
use super::{Answer, Redis, Value, integer, wrong_arity, wrong_type};

const SYNTAX: &str = "syntax error";

impl Redis {
    pub(super) fn get(&self, args: &[Bytes]) -> Answer {
        let [key] = args else { return Err(wrong_arity("get")) };
        match self.slot(key).map(|slot| &slot.value) {
            None => Ok(Reply::Nil),
            Some(Value::Text(text)) => Ok(Reply::Bulk(text.clone())),
            Some(_) => Err(wrong_type()),
        }
    }

    pub(super) fn set(&mut self, args: &[Bytes]) -> Answer {
        let [key, value, options @ ..] = args else { return Err(wrong_arity("set")) };
        let (mut only_new, mut until) = (false, None);
        let mut options = options.iter();
        while let Some(option) = options.next() {
            match &**option {
                b"NX" => only_new = true,
                b"PX" => {
                    let ttl = integer(options.next().ok_or_else(|| Reply::err(SYNTAX))?)?;
                    until = Some(self.deadline(ttl).filter(|_| ttl > 0).ok_or_else(|| invalid_expire("set"))?);
                }
                _ => return Err(Reply::err(SYNTAX)),
            }
        }
        if only_new && self.slot(key).is_some() {
            return Ok(Reply::Nil);
        }
        self.put(key, Value::Text(value.clone()), until);
        Ok(Reply::ok())
    }

    pub(super) fn setnx(&mut self, args: &[Bytes]) -> Answer {
        let [key, value] = args else { return Err(wrong_arity("setnx")) };
        if self.slot(key).is_some() {
            return Ok(Reply::Int(0));
        }
        self.put(key, Value::Text(value.clone()), None);
        Ok(Reply::Int(1))
    }

    pub(super) fn pexpire(&mut self, args: &[Bytes]) -> Answer {
        let [key, ttl, options @ ..] = args else { return Err(wrong_arity("pexpire")) };
        let only_new = match options {
            [] => false,
            [option] if &**option == b"NX" => true,
            _ => return Err(Reply::err("Unsupported option")),
        };
        let ttl = integer(ttl)?;
        let until = self.deadline(ttl).ok_or_else(|| invalid_expire("pexpire"))?;
        let now = self.now;
        let Some(slot) = self.slot_mut(key) else { return Ok(Reply::Int(0)) };
        if only_new && slot.until.is_some() {
            return Ok(Reply::Int(0));
        }
        slot.until = Some(until);
        if until <= now {
            self.remove(key);
        }
        Ok(Reply::Int(1))
    }

    /// When a time to live from now ends; `None` where no clock has that.
    fn deadline(&self, ttl: i64) -> Option<u64> {
        let until = i64::try_from(self.now).ok()?.checked_add(ttl)?;
        Some(u64::try_from(until).unwrap_or(0))
    }

    pub(super) fn lrange(&self, args: &[Bytes]) -> Answer {
        let [key, from, to] = args else { return Err(wrong_arity("lrange")) };
        let (from, to) = (integer(from)?, integer(to)?);
        let list = match self.slot(key).map(|slot| &slot.value) {
            None => return Ok(Reply::Array(Vec::new())),
            Some(Value::List(list)) => list,
            Some(_) => return Err(wrong_type()),
        };
        let length = list.len() as i64;
        let at = |index: i64| if index < 0 { (length + index).max(0) } else { index.min(length) };
        let (from, to) = (at(from), if to < 0 { length + to + 1 } else { to.saturating_add(1).min(length) });
        let (from, to) = (usize::try_from(from).unwrap_or(0), usize::try_from(to).unwrap_or(0));
        Ok(Reply::Array(list.get(from..to).unwrap_or_default().iter().cloned().map(Reply::Bulk).collect()))
    }

    pub(super) fn rpush(&mut self, args: &[Bytes]) -> Answer {
        let [key, first, rest @ ..] = args else { return Err(wrong_arity("rpush")) };
        if self.slot(key).is_none() {
            self.put(key, Value::List(Arc::default()), None);
        }
        match self.slot_mut(key).map(|slot| &mut slot.value) {
            Some(Value::List(list)) => {
                let list = Arc::make_mut(list);
                list.push(first.clone());
                list.extend(rest.iter().cloned());
                Ok(Reply::count(list.len()))
            }
            _ => Err(wrong_type()),
        }
    }
}

fn invalid_expire(command: &str) -> Reply {
    Reply::err(&format!("invalid expire time in '{command}' command"))
}
