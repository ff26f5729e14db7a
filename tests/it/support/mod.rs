//! What tests share: servers, the program itself, a TCP proxy.

pub mod proxy;
pub mod redis;
