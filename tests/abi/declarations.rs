//! Compares include/ngx_rs_listen.h with src/capi: each has all declarations of the other.

use std::mem::{align_of, offset_of, size_of};
use std::{env, fs};

use ngx_rs_listen::capi::*;
use ngx_rs_listen::{Protocol, flag};

use super::clang::{self, Facts, Seen};
use super::exports::EXPORTS;
use test_support::library;

fn header() -> Seen {
    read("include/ngx_rs_listen.h")
}

fn read(path: &str) -> Seen {
    let path = library::root().join(path);
    let builder = bindgen::Builder::default().header(path.display().to_string());
    clang::read(builder, "(ngx_rs|NGX_RS)_.*")
}

macro_rules! layout {
    ($facts:ident: $($name:ident { $($field:ident as $text:literal),+ })+) => {$(
        let name = stringify!($name);
        $facts.insert(format!("Size of {name}"), size_of::<$name>() as i64);
        $facts.insert(format!("Alignment of {name}"), align_of::<$name>() as i64);
        $($facts.insert(
            format!("Offset of field: {name}::{}", $text),
            offset_of!($name, $field) as i64,
        );)+
    )+};
}

macro_rules! constants {
    ($facts:ident: $($name:ident),+ $(,)?) => {
        $($facts.insert(stringify!($name).into(), i64::from($name));)+
    };
}

macro_rules! statuses {
    ($facts:ident: $($name:ident),+ $(,)?) => {
        $($facts.insert(stringify!($name).into(), ngx_rs_status_t::$name as i64);)+
    };
}

/// The values in Rust of everything that the header declares.
fn rust() -> Facts {
    let mut facts = Facts::new();
    layout! { facts:
        ngx_rs_str_t { len as "len", data as "data" }
        ngx_rs_rules_t { size as "size", subsystem as "subsystem", flags as "flags" }
        ngx_rs_error_t {
            size as "size", status as "status", os_errno as "os_errno",
            arg_index as "arg_index", message as "message"
        }
        ngx_rs_listening_t {
            size as "size", flags as "flags", sockaddr as "sockaddr",
            socklen as "socklen", r#type as "type_", protocol as "protocol",
            backlog as "backlog", rcvbuf as "rcvbuf", sndbuf as "sndbuf",
            fastopen as "fastopen", keepidle as "keepidle",
            keepintvl as "keepintvl", keepcnt as "keepcnt", fd as "fd",
            outcome as "outcome", inherited as "inherited",
            opened_protocol as "opened_protocol"
        }
        ngx_rs_inherited_t {
            size as "size", fd as "fd", sockaddr as "sockaddr",
            socklen as "socklen", r#type as "type_", protocol as "protocol",
            disposition as "disposition", shared as "shared", flags as "flags"
        }
        ngx_rs_open_t {
            size as "size", flags as "flags", tries as "tries",
            delay_ms as "delay_ms", inherited as "inherited",
            inherited_count as "inherited_count", report as "report",
            data as "data", drain as "drain"
        }
        ngx_rs_draining_t {
            size as "size", fd as "fd", successor as "successor",
            ended as "ended", protocol as "protocol"
        }
        ngx_rs_connection_info_t {
            size as "size", flags as "flags", kind as "kind",
            reserved as "reserved", token as "token", subflows as "subflows",
            subflows_total as "subflows_total", bytes_sent as "bytes_sent",
            bytes_received as "bytes_received",
            bytes_retransmitted as "bytes_retransmitted",
            retransmits as "retransmits",
            last_data_sent_ms as "last_data_sent_ms",
            last_data_received_ms as "last_data_received_ms",
            last_ack_received_ms as "last_ack_received_ms"
        }
        ngx_rs_subflow_t {
            size as "size", reserved as "reserved", id as "id",
            local as "local", remote as "remote", bytes_sent as "bytes_sent",
            bytes_received as "bytes_received", retransmits as "retransmits",
            rtt_us as "rtt_us", congestion_window as "congestion_window",
            tcp_state as "tcp_state"
        }
    }
    constants! { facts:
        NGX_RS_SUBSYSTEM_STREAM, NGX_RS_SUBSYSTEM_HTTP, NGX_RS_SUBSYSTEM_MAIL,
        NGX_RS_RULES_OURS_ONLY,
        NGX_RS_WORD_UNKNOWN, NGX_RS_WORD_NGINX, NGX_RS_WORD_OURS,
        NGX_RS_IPPROTO_MPTCP, NGX_RS_IPPROTO_SMC,
        NGX_RS_OPTION_DEFERRED, NGX_RS_OPTION_FASTOPEN,
        NGX_RS_OPTION_KEEPALIVE_TIMES,
        NGX_RS_LISTENING_SSL, NGX_RS_LISTENING_HTTP2, NGX_RS_LISTENING_QUIC,
        NGX_RS_LISTENING_UDP, NGX_RS_LISTENING_DEFAULT_SERVER,
        NGX_RS_LISTENING_PROXY_PROTOCOL, NGX_RS_LISTENING_BIND,
        NGX_RS_LISTENING_REUSEPORT, NGX_RS_LISTENING_DEFERRED,
        NGX_RS_LISTENING_IPV6ONLY_OFF, NGX_RS_LISTENING_KEEPALIVE_ON,
        NGX_RS_LISTENING_KEEPALIVE_OFF, NGX_RS_LISTENING_FALLBACK,
        NGX_RS_LISTENING_RCVBUF_0, NGX_RS_LISTENING_SNDBUF_0,
        NGX_RS_LISTENING_FASTOPEN_0,
        NGX_RS_UNTOUCHED, NGX_RS_OPENED, NGX_RS_INHERITED, NGX_RS_SUCCESSOR,
        NGX_RS_LEFT, NGX_RS_JOINED, NGX_RS_FAILED,
        NGX_RS_UNUSED, NGX_RS_KEPT, NGX_RS_SUPERSEDED, NGX_RS_DRAINING,
        NGX_RS_OPEN_LEAVE_TCP, NGX_RS_OPEN_PREPARE, NGX_RS_OPEN_CHECK,
        NGX_RS_INHERITED_ALONE, NGX_RS_INHERITED_PASSED, NGX_RS_INHERITED_IN_USE,
        NGX_RS_REPORT_IN_USE, NGX_RS_REPORT_WAITING, NGX_RS_REPORT_FALLBACK,
        NGX_RS_REPORT_KEPT, NGX_RS_REPORT_NOT_TCP, NGX_RS_REPORT_DRAIN_ENDED,
        NGX_RS_DRAIN_MS,
        NGX_RS_CONNECTION_UNQUERIED, NGX_RS_CONNECTION_OTHER,
        NGX_RS_CONNECTION_TCP, NGX_RS_CONNECTION_MPTCP,
        NGX_RS_CONNECTION_FALLBACK, NGX_RS_CONNECTION_MPTCP_ONLY,
        NGX_RS_UNKNOWN, NGX_RS_NO_ROW, NGX_RS_CONNECT_FALLBACK,
        NGX_RS_FORMAT_JSON, NGX_RS_FORMAT_PROMETHEUS,
        NGX_RS_VALUE_KIND, NGX_RS_VALUE_SUBFLOWS, NGX_RS_VALUE_SUBFLOWS_TOTAL,
        NGX_RS_VALUE_SUBFLOW_ADDRS, NGX_RS_VALUE_TOKEN,
        NGX_RS_VALUE_BYTES_SENT, NGX_RS_VALUE_BYTES_RECEIVED,
        NGX_RS_VALUE_RETRANS, NGX_RS_VALUE_SUBFLOW_BYTES_SENT,
        NGX_RS_VALUE_SUBFLOW_BYTES_RECEIVED, NGX_RS_VALUE_SUBFLOW_RTT,
        NGX_RS_VALUE_SUBFLOW_RETRANS,
    }
    statuses! { facts:
        NGX_RS_OK, NGX_RS_ERR_ARGUMENT, NGX_RS_ERR_SYNTAX,
        NGX_RS_ERR_HOST_NOT_FOUND, NGX_RS_ERR_CONFLICT, NGX_RS_ERR_UNSUPPORTED,
        NGX_RS_ERR_SYSCALL, NGX_RS_ERR_PANIC,
    }
    let abi = i64::from(ngx_rs_abi_version());
    facts.insert("NGX_RS_ABI_VERSION".into(), abi);
    facts
}

#[test]
fn sizes_offsets_and_numbers_agree() {
    let (c, rust) = (header().facts, rust());
    for (name, value) in &c {
        match rust.get(name) {
            Some(found) => assert_eq!(found, value, "{name} in Rust and in the header"),
            None => panic!("\"{name}\" is new in the header: compare it here"),
        }
    }
    for name in rust.keys() {
        let there = c.contains_key(name);
        assert!(there, "\"{name}\" is not in the header any more");
    }
}

#[test]
fn the_header_declares_what_is_exported() {
    let mut functions = header().functions;
    functions.sort();
    assert_eq!(functions, EXPORTS);
}

#[test]
fn the_header_has_the_version_of_the_package() {
    let strings = header().strings;
    let found: Vec<_> = strings.values().map(String::as_str).collect();
    assert_eq!(found, [env!("CARGO_PKG_VERSION")]);
}

/// The layout of `ngx_str_t`: `size_t len; u_char *data;`.
#[test]
fn words_have_the_layout_of_nginx_strings() {
    assert_eq!(size_of::<ngx_rs_str_t>(), 2 * size_of::<usize>());
    assert_eq!(offset_of!(ngx_rs_str_t, len), 0);
    assert_eq!(offset_of!(ngx_rs_str_t, data), size_of::<usize>());
}

/// The macros that initialize the structs of a program. They are read from the text of the
/// header, because clang does not report macros that are no constants.
fn initializers() -> Vec<String> {
    let header = fs::read_to_string(library::root().join("include/ngx_rs_listen.h"));
    let header = header.expect("it is there").replace("\\\n", " ");
    let lines = header.lines().filter(|line| line.contains('{'));
    let defined = lines.filter(|line| line.starts_with("#define "));
    defined
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// A program that was compiled with an older header depends on every line of the list. So no
/// line may change or disappear while the soname stays the same.
#[cfg(target_pointer_width = "64")]
#[test]
fn declarations_match_the_recorded_list() {
    let Seen {
        facts,
        prototypes,
        types,
        ..
    } = header();
    let facts = facts
        .into_iter()
        .map(|(name, value)| format!("{name} = {value}"));
    let mut lines: Vec<_> = facts
        .chain(prototypes)
        .chain(types)
        .chain(initializers())
        .collect();
    lines.sort();
    let now: String = lines.iter().map(|line| format!("{line}\n")).collect();

    let path = library::root().join("tests/abi/list.txt");
    if env::var_os("NGX_RS_WRITE_ABI").is_some() {
        fs::write(&path, &now).expect("tests/ can be written");
    }
    let then = fs::read_to_string(&path).expect("the list is there");
    let gone = then.lines().filter(|line| !now.lines().any(|n| n == *line));
    let new = now.lines().filter(|line| !then.lines().any(|n| n == *line));
    let (gone, new): (Vec<_>, Vec<_>) = (gone.collect(), new.collect());
    assert!(
        gone.is_empty() && new.is_empty(),
        "the ABI is not that of tests/abi/list.txt\ngone: {gone:#?}\nnew: {new:#?}\n\
         if that is meant: NGX_RS_WRITE_ABI=1 cargo test --test abi, and say it in CHANGELOG.md"
    );
}

/// Compares the header with that of version 0.1: each declaration remains, and only the sizes
/// of structs may grow. Until 0.1.0 is released, tests/data/ngx_rs_listen-0.1.h is a copy of
/// include/ngx_rs_listen.h. After the release the copy never changes.
#[test]
fn every_declaration_of_version_0_1_remains() {
    let (then, now) = (read("tests/data/ngx_rs_listen-0.1.h"), header());
    for (name, value) in &then.facts {
        let found = now.facts.get(name);
        match name.starts_with("Size of ") {
            true => assert!(found >= Some(value), "{name}"),
            false => assert_eq!(found, Some(value), "{name}"),
        }
    }
    for line in then.prototypes.iter().chain(&then.types) {
        let there = now.prototypes.contains(line) || now.types.contains(line);
        assert!(there, "\"{line}\" is not in the header any more");
    }
}

#[test]
fn flags_of_c_equal_those_of_rust() {
    for (c, rust) in [
        (NGX_RS_LISTENING_SSL, flag::SSL),
        (NGX_RS_LISTENING_HTTP2, flag::HTTP2),
        (NGX_RS_LISTENING_QUIC, flag::QUIC),
        (NGX_RS_LISTENING_UDP, flag::UDP),
        (NGX_RS_LISTENING_DEFAULT_SERVER, flag::DEFAULT_SERVER),
        (NGX_RS_LISTENING_PROXY_PROTOCOL, flag::PROXY_PROTOCOL),
        (NGX_RS_LISTENING_BIND, flag::BIND),
        (NGX_RS_LISTENING_REUSEPORT, flag::REUSEPORT),
        (NGX_RS_LISTENING_DEFERRED, flag::DEFERRED),
        (NGX_RS_LISTENING_IPV6ONLY_OFF, flag::IPV6ONLY_OFF),
        (NGX_RS_LISTENING_KEEPALIVE_ON, flag::KEEPALIVE_ON),
        (NGX_RS_LISTENING_KEEPALIVE_OFF, flag::KEEPALIVE_OFF),
    ] {
        assert_eq!(c, rust);
    }
    assert_eq!(NGX_RS_IPPROTO_MPTCP, Protocol::Mptcp.number());
    assert_eq!(NGX_RS_IPPROTO_SMC, Protocol::Smc.number());
}
