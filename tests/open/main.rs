//! Opening sockets, on real ones. Each test has a network of its own.

#[path = "../common/mod.rs"]
mod common;

mod all_or_nothing;
mod fresh;
mod kernel;
mod modes;
mod options;
mod retry;
