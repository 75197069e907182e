//! What the running kernel says of real connections.

mod connected;
mod peer;
mod states;
mod subflows;
