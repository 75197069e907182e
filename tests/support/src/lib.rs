//! Code that the tests, the benchmarks and the demo share: starting nginx, setting up
//! networks, querying sockets and building the library.
//!
//! | module | contents |
//! |---|---|
//! | [`program`], [`folder`] | nginx and its modules, an nginx in the foreground; folders |
//! | [`harness`], [`server`] | the environment of a test; nginx in it: its configuration, processes, signals |
//! | [`subsystem`] | stream, http, mail: a server of each, and its clients |
//! | [`client`], [`steady`], [`talk`], [`backend`] | clients of nginx, and servers behind it |
//! | [`namespace`], [`hosts`], [`middlebox`], [`slow_path`] | networks: one host; two hosts; a router; a path with a delay |
//! | [`sockets`] | the sockets of a running process |
//! | [`listening`], [`child`] | sockets for the tests of the library; forked processes |
//! | [`linux`], [`lacking`], [`without_mptcp`] | what the running kernel supports, and how tests end if it does not |
//! | [`forbidden`], [`seccomp`], [`strace`] | system calls that fail |
//! | [`library`] | the library that other programs link |
//! | [`mptcp_log`], [`table`], [`words`] | the log of all variables; tests/data; a parsed directive as words |

pub mod backend;
pub mod child;
pub mod client;
pub mod folder;
pub mod forbidden;
pub mod harness;
pub mod hosts;
pub mod lacking;
pub mod library;
pub mod linux;
pub mod listening;
pub mod middlebox;
pub mod mptcp_log;
pub mod namespace;
pub mod program;
pub mod seccomp;
pub mod server;
pub mod slow_path;
pub mod sockets;
pub mod steady;
pub mod strace;
pub mod subsystem;
pub mod table;
pub mod talk;
pub mod without_mptcp;
pub mod words;
