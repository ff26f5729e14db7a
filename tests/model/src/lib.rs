//! The protocol between streamers and collectors as a model that is checked to the end. Each of its steps that is a script is the very
//! script that ships, run by Lua on a small Redis; the small Redis is held to real ones.

pub mod lua;
pub mod real;
pub mod redis;
pub mod suite;
pub mod system;

// What the product decides by: the very files.
#[path = "../../../src/model/mod.rs"]
pub mod model;
#[path = "../../../src/protocol/mod.rs"]
pub mod protocol;
