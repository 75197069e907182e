//! Opening sockets, on real ones. Each test has a network of its own.

mod all_or_nothing;
mod fresh;
mod modes;
mod retry;
mod socket_options;
mod unsupported;
