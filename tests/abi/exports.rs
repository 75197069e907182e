//! The exported functions and the soname of the shared library.

use std::process::Command;

use test_support::library;

/// Every export, sorted.
pub const EXPORTS: [&str; 28] = [
    "ngx_rs_abi_version",
    "ngx_rs_connect_socket",
    "ngx_rs_connection_free",
    "ngx_rs_connection_info",
    "ngx_rs_connection_query",
    "ngx_rs_connection_subflows",
    "ngx_rs_connection_text",
    "ngx_rs_counters_begin",
    "ngx_rs_counters_end",
    "ngx_rs_counters_enter",
    "ngx_rs_counters_leave",
    "ngx_rs_counters_rows",
    "ngx_rs_counters_size",
    "ngx_rs_counters_text",
    "ngx_rs_drain_begin",
    "ngx_rs_drain_free",
    "ngx_rs_drain_poll",
    "ngx_rs_listen_addresses",
    "ngx_rs_listen_classify",
    "ngx_rs_listen_free",
    "ngx_rs_listen_parse",
    "ngx_rs_listen_sockets",
    "ngx_rs_listening_assign",
    "ngx_rs_listening_commit",
    "ngx_rs_listening_rollback",
    "ngx_rs_open_listening",
    "ngx_rs_option_check",
    "ngx_rs_protocol_check",
];

fn shared() -> std::path::PathBuf {
    library::folder().join("libngx_rs_listen.so")
}

#[test]
fn nothing_else_is_exported() {
    let mut nm = Command::new("nm");
    let listed = library::run(nm.args(["-D", "--defined-only"]).arg(shared()));
    let symbols = listed
        .lines()
        .filter_map(|line| line.split(' ').next_back());
    let mut symbols: Vec<_> = symbols.collect();
    symbols.sort();
    assert_eq!(symbols, EXPORTS);
}

#[test]
fn the_soname_has_the_version_numbers_that_a_change_of_the_abi_increases() {
    let mut readelf = Command::new("readelf");
    let dynamic = library::run(readelf.args(["-d", "-W"]).arg(shared()));
    let abi = match env!("CARGO_PKG_VERSION_MAJOR") {
        "0" => concat!("0.", env!("CARGO_PKG_VERSION_MINOR")),
        major => major,
    };
    let wanted = format!("Library soname: [libngx_rs_listen.so.{abi}]");
    assert!(dynamic.contains(&wanted), "{wanted}:\n{dynamic}");
}
