//! Tests of the modules in a packaged nginx. Each file tests one behaviour.
//!
//! A behaviour that stream, http and mail share is one function, which runs as a test for each
//! of them, for example `reload::listeners_come_and_go_by_reload::http`.
//!
//! Every test runs in its own network namespace and folder. So port numbers are fixed, the
//! kernel's counters count only the connections of the test, and tests run in parallel. A test
//! queries a listening socket by a duplicate of nginx's descriptor, and does not rely on what
//! nginx reports.
//!
//! The tests need root, nginx with its stream and mail modules, iproute2, nftables, strace,
//! openssl, valgrind, a kernel with MPTCP, and a run of `make module`. If something is missing, a
//! test fails with a message that names the remedy. `NGX_RS_NGINX` selects another nginx, and
//! `NGX_RS_MODULES` the folder with the modules for it.

use test_support::{
    backend, client, forbidden, harness, hosts, lacking, linux, middlebox, mptcp_log, namespace,
    seccomp, server, slow_path, sockets, steady, strace, subsystem, talk, without_mptcp,
};

mod beside;
mod bonding;
mod changes;
mod closers;
mod drain;
mod errors;
mod failed_reload;
mod fallback;
mod faults;
mod http;
mod kernel;
mod limits;
mod logged_paths;
mod mail;
mod memory;
mod native;
mod options;
mod parameters;
mod passed;
mod paths;
mod per_path;
mod plain;
mod preload;
mod process;
mod push;
mod quic;
mod quit;
mod reload;
mod reuseport;
mod sctp;
mod smc;
mod soak;
mod status;
mod sweep;
mod tls;
mod together;
mod transfer;
mod unprivileged;
mod upgrade;
mod upstream;
mod upstream_faults;
mod upstream_log;
mod upstream_proxying;
mod upstream_resolve;
mod upstream_sweep;
mod upstream_warnings;
mod variables;
mod vrf;
