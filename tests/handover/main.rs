//! Sockets that are there already: kept, or replaced by another protocol. Each
//! test has a network of its own.

#[path = "../common/mod.rs"]
mod common;

mod drained;
mod kept;
mod replaced;
mod undone;
