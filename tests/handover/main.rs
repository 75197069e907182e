//! Sockets that are there already: kept, or superseded by those of another protocol. Each
//! test has a network of its own.

mod drained;
mod kept;
mod superseded;
mod undone;
