//! What the tests, the benchmarks and the demo share: they start nginx, make
//! networks, query sockets and build the library in one way.
//!
//! | module | contents |
//! |---|---|
//! | [`program`], [`folder`] | nginx and its modules, an nginx in the foreground; folders |
//! | [`harness`], [`server`] | the place of a test; nginx in it: its configuration, processes, signals |
//! | [`subsystem`] | stream, http, mail: a server of each, and its clients |
//! | [`client`], [`steady`], [`talk`], [`backend`] | clients of nginx, and servers behind it |
//! | [`namespace`], [`hosts`], [`middlebox`], [`slow_path`] | networks: one host, two hosts, and what is between them |
//! | [`sockets`] | the sockets that a process has |
//! | [`listening`], [`child`] | sockets for the tests of the library; forked processes |
//! | [`linux`], [`lacking`], [`without_mptcp`] | what the running kernel provides, and what a test does without it |
//! | [`forbidden`], [`seccomp`], [`strace`] | system calls that fail |
//! | [`library`] | the library as others link it |
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
