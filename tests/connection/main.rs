//! What the running kernel says of real connections.

mod paths;
mod peer;
mod states;
mod talk;
