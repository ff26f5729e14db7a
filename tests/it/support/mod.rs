//! What tests share: servers, the program itself, a TCP proxy.

pub mod app;
pub mod http;
pub mod postgres;
pub mod proxy;
pub mod redis;
