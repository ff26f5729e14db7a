//! What tests share: servers, the program itself, a TCP proxy.

pub mod app;
pub mod certificates;
pub mod cluster;
pub mod guard;
pub mod http;
pub mod node;
pub mod place;
pub mod postgres;
pub mod proxy;
pub mod redis;
pub mod secure;
pub mod sentinel;
