//! What docs/library.md says on using the library from other languages: `make
//! install`, and the commands that build and run each of the examples, which
//! then serve a TCP client and an MPTCP client of two paths.

mod activation;
mod documented;
mod install;
mod languages;
