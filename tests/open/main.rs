//! Opening sockets on the running kernel. Each test runs in its own network namespace.

mod all_or_nothing;
mod fresh;
mod modes;
mod retry;
mod socket_options;
mod unsupported;
