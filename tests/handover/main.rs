//! Inherited sockets, which are kept or superseded by sockets of another protocol. Each test
//! runs in its own network namespace.

mod drained;
mod kept;
mod superseded;
mod undone;
