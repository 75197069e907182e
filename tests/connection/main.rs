//! What the library reports of real connections on the running kernel.

mod connected;
mod peer;
mod states;
mod subflows;
