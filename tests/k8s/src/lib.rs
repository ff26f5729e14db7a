//! A kubelet for tests: runs the pods that a real API server schedules as processes of this machine, each pod in a network namespace of its own
//! and each container in a root directory of its own, with the distribution's programs instead of images. Also the parts of a cluster that
//! clouds bring: Services' addresses, load balancers, volumes, names.
//!
//! What it does not do: limits of memory and CPU, seccomp, images, ports of nodes, IPv6.

pub mod dns;
pub mod env;
pub mod names;
pub mod policies;
pub mod probe;
pub mod rules;
pub mod state;
pub mod volumes;
