//! Runs the commands with which docs/library.md shows how to use the library from other
//! languages: `make install`, and the commands that build and run each example. The examples
//! then serve a TCP client and an MPTCP client with two paths.

mod activation;
mod documented;
mod install;
mod languages;
