//! Reloads that fail after the module has opened its sockets. The old configuration must
//! continue to serve all clients.

use std::net::TcpListener;

use crate::harness::{Site, wait_until};
use crate::server::Conf;
use crate::steady::Steady;
use crate::subsystem::{Subsystem, test_on};

const ADDRESS: &str = "127.0.0.1:8080";

/// A configuration that nginx cannot apply, and the error that nginx logs.
struct Fault {
    conf: fn(Subsystem, Conf) -> Conf,
    message: &'static str,
}

/// The port of another listener is in use. nginx opens that listener.
const PORT_IN_USE: Fault = Fault {
    conf: |on, conf| conf.with_text(&on.server("127.0.0.1:9999")),
    message: "bind() to 127.0.0.1:9999 failed (98: Address already in use)",
};

/// The port of another listener is in use. The module opens that listener.
const MPTCP_PORT_IN_USE: Fault = Fault {
    conf: |on, conf| conf.with_text(&on.server("127.0.0.1:9999 mptcp")),
    message: "bind() to 127.0.0.1:9999 failed (98: Address already in use)",
};

/// The address of another listener does not belong to this host.
const FOREIGN_ADDRESS: Fault = Fault {
    conf: |on, conf| conf.with_text(&on.server("192.0.2.1:9999")),
    message: "bind() to 192.0.2.1:9999 failed (99: Cannot assign requested address)",
};

/// A certificate is missing. nginx notices this while it reads the configuration.
const NO_CERTIFICATE: Fault = Fault {
    conf: |on, conf| {
        let more = "ssl_certificate no.pem;\n    ssl_certificate_key no.pem;";
        conf.with_text(&on.server_with("127.0.0.1:9998 ssl", more, "x"))
    },
    message: "cannot load certificate",
};

/// An included file is missing.
const NO_INCLUDE: Fault = Fault {
    conf: |_, conf| conf.with_text("include missing.conf;"),
    message: "missing.conf\" failed (2: No such file or directory)",
};

/// The folder of an access log is missing. nginx notices this after the module has opened its
/// sockets.
const NO_LOG_FOLDER: Fault = Fault {
    conf: |on, conf| conf.with_text(&on.log_to("missing/access.log")),
    message: "missing/access.log\" failed (2: No such file or directory)",
};

/// The folder of the error log is missing.
const NO_ERROR_LOG_FOLDER: Fault = Fault {
    conf: |_, conf| conf.main("error_log missing/error.log;"),
    message: "missing/error.log\" failed (2: No such file or directory)",
};

/// Reloads from `old` to `new` with a fault, once or twice, and then without the fault. The
/// reloads with the fault must change nothing, and the clients are served throughout.
fn fault_changes_nothing(on: Subsystem, old: &str, new: &str, fault: &Fault) {
    let site = Site::new();
    let _holder = TcpListener::bind("127.0.0.1:9999").expect("the port is free in a new namespace");
    let conf = |word: &str| on.listen(&format!("127.0.0.1:8080 {word}"));
    let nginx = site.start(&conf(old));
    let (listeners, descriptors, workers) =
        (nginx.listeners(), nginx.descriptors(), nginx.workers());

    let clients = Steady::start(on, ADDRESS);
    // The second reload fails if the first one has left something open. One
    // subsystem is enough for this, because a port in use takes seconds.
    let times = if on == Subsystem::Stream { 2 } else { 1 };
    for _ in 0..times {
        let log = nginx.try_reload(&(fault.conf)(on, conf(new)));
        let log = log.expect_err("the reload fails");
        assert!(
            log.contains(fault.message),
            "\"{}\" expected: {log}",
            fault.message
        );
        clients.wait_for_more(100);
        assert_eq!(
            nginx.descriptors(),
            descriptors,
            "nothing leaks, nothing is closed"
        );
        assert_eq!(nginx.listeners(), listeners, "the sockets are as they were");
        assert_eq!(nginx.workers(), workers);
    }
    clients.all_were_served();
    on.serves(ADDRESS, !old.is_empty());

    nginx.reload(&conf(new));
    wait_until("the new socket alone", || nginx.listeners().len() == 1);
    assert_eq!(nginx.listener().is_mptcp(), !new.is_empty());
    on.serves(ADDRESS, !new.is_empty());
}

/// Does the same with `reuseport` and with more workers in the new configuration.
fn fault_changes_nothing_with_reuseport(on: Subsystem, old: &str, new: &str, fault: &Fault) {
    let site = Site::new();
    let _holder = TcpListener::bind("127.0.0.1:9999").expect("the port is free in a new namespace");
    let conf = |word: &str, workers| {
        on.listen(&format!("127.0.0.1:8080 reuseport {word}"))
            .workers(workers)
    };
    let nginx = site.start(&conf(old, 2));
    let (listeners, descriptors) = (nginx.listeners(), nginx.descriptors());

    let clients = Steady::start(on, ADDRESS);
    let log = nginx.try_reload(&(fault.conf)(on, conf(new, 4)));
    let log = log.expect_err("the reload fails");
    assert!(
        log.contains(fault.message),
        "\"{}\" expected: {log}",
        fault.message
    );
    clients.wait_for_more(100);
    clients.all_were_served();
    assert_eq!(nginx.descriptors(), descriptors);
    assert_eq!(nginx.listeners(), listeners);

    nginx.reload(&conf(new, 4));
    wait_until("four sockets", || nginx.listeners().len() == 4);
    assert!(
        nginx
            .listeners()
            .iter()
            .all(|one| one.is_mptcp() != new.is_empty())
    );
    (0..20).for_each(|_| on.serves(ADDRESS, !new.is_empty()));
}

#[test_on(stream, http)]
fn a_fault_changes_nothing_with_reuseport(on: Subsystem) {
    for fault in [PORT_IN_USE, NO_LOG_FOLDER] {
        for (old, new) in changes(on) {
            fault_changes_nothing_with_reuseport(on, old, new, &fault);
        }
    }
}

/// The changes that the reload with a fault attempts: from TCP to MPTCP, from MPTCP to TCP, and
/// none. The subsystems share the code for all of them, so two subsystems test only one change.
fn changes(on: Subsystem) -> Vec<(&'static str, &'static str)> {
    let changes = [("", "mptcp"), ("mptcp", ""), ("mptcp", "mptcp")];
    match on {
        Subsystem::Stream => changes.to_vec(),
        Subsystem::Http => vec![changes[0]],
        Subsystem::Mail => vec![changes[1]],
    }
}

/// Generates the tests for each fault.
macro_rules! faults {
    ($($name:ident: $fault:expr;)*) => {$(
        #[test_on(stream, http, mail)]
        fn $name(on: Subsystem) {
            for (old, new) in changes(on) {
                fault_changes_nothing(on, old, new, &$fault);
            }
        }
    )*};
}

faults! {
    a_port_in_use_changes_nothing: PORT_IN_USE;
    a_port_in_use_for_mptcp_changes_nothing: MPTCP_PORT_IN_USE;
    an_address_of_another_host_changes_nothing: FOREIGN_ADDRESS;
    a_missing_certificate_changes_nothing: NO_CERTIFICATE;
    a_missing_include_changes_nothing: NO_INCLUDE;
    a_missing_log_folder_changes_nothing: NO_LOG_FOLDER;
    a_missing_error_log_folder_changes_nothing: NO_ERROR_LOG_FOLDER;
}
