//! The modules in a real, packaged nginx: each file is one behaviour.
//!
//! What holds for stream, http and mail alike is one function, and a test for
//! each of them: `reload::listeners_come_and_go_by_reload::http`.
//!
//! Every test runs in a network namespace and a folder of its own, so port
//! numbers are fixed, the kernel's counters count only what the test did, and
//! tests run side by side. What a listener is gets read back from the socket
//! itself, a duplicate of nginx's own descriptor, not from what nginx says.
//!
//! It needs root, nginx with its stream and mail modules, iproute2, nftables,
//! strace, openssl, valgrind and a kernel with MPTCP, and `make module` first. What is
//! missing fails the test with a sentence that says what to do. `NGX_RS_NGINX`
//! names another nginx, `NGX_RS_MODULES` the folder of the modules built for it.

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
