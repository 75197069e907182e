//! What the running kernel says of real connections.

#[path = "../common/mod.rs"]
mod common;
mod paths;
mod peer;
mod states;
mod talk;
