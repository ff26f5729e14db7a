//! Addresses of services, as users write them: checked and taken apart. The configuration refuses what cannot be one, and the rooms
//! that connect begin with what is found here; neither has to know the other.

pub mod postgres;
pub mod redis;
