//! Configurations that nginx refuses: the text of the error, the file and the line.

use crate::harness::Site;
use crate::server::Conf;
use crate::subsystem::{Subsystem, test_on};

/// Checks that `nginx -t` fails for a `listen` directive with the arguments `words`, and that
/// the error contains `message` and the line of the directive.
fn refuses(on: Subsystem, words: &str, message: &str) {
    let site = Site::new();
    let text = site.check(&on.servers(&["127.0.0.1:8000", words])).fails();
    let place = site.place_of(&format!("listen {words};"));
    let line = text
        .lines()
        .find(|line| line.contains("[emerg]"))
        .unwrap_or_else(|| panic!("{words}: {text}"));
    assert!(
        line.contains(message),
        "listen {words}: \"{message}\" expected: {text}"
    );
    assert!(
        line.ends_with(&place),
        "listen {words}: \"{place}\" expected: {text}"
    );
}

#[test_on(stream)]
fn mptcp_with_udp_is_refused(on: Subsystem) {
    for word in [
        "mptcp",
        "multipath",
        "mptcp=on",
        "mptcp=auto",
        "protocol=mptcp",
        "protocol=sctp",
    ] {
        let message = format!("\"{word}\" parameter is incompatible with \"udp\"");
        refuses(on, &format!("127.0.0.1:8080 {word} udp"), &message);
        refuses(on, &format!("127.0.0.1:8080 udp {word}"), &message);
    }
}

/// An nginx without HTTP/3 reports the same error, because the module reads its parameters
/// before nginx reads `quic`.
#[test_on(http)]
fn mptcp_with_quic_is_refused(on: Subsystem) {
    for word in ["mptcp", "multipath", "mptcp=auto", "protocol=mptcp"] {
        let message = format!("\"{word}\" parameter is incompatible with \"quic\"");
        refuses(on, &format!("127.0.0.1:8080 {word} quic"), &message);
        refuses(on, &format!("127.0.0.1:8080 quic {word}"), &message);
    }
}

#[test_on(stream, http, mail)]
fn mptcp_on_a_unix_socket_is_refused(on: Subsystem) {
    for word in ["mptcp", "multipath", "mptcp=auto", "protocol=mptcp"] {
        let message =
            format!("\"{word}\" parameter is incompatible with \"unix:/nonexistent/socket\"");
        refuses(on, &format!("unix:/nonexistent/socket {word}"), &message);
    }
}

#[test_on(stream, http, mail)]
fn explicit_plain_tcp_is_allowed_with_udp_and_on_a_unix_socket(on: Subsystem) {
    let site = Site::new();
    let lines = [
        "127.0.0.1:8080 udp mptcp=off",
        "unix:socket mptcp=off",
        "unix:socket protocol=tcp",
    ];
    for words in lines.into_iter().filter(|words| on.knows(words)) {
        site.check(&on.listen(words)).succeeds();
    }
}

#[test_on(stream, http, mail)]
fn a_parameter_given_twice_is_refused(on: Subsystem) {
    refuses(
        on,
        "127.0.0.1:8080 mptcp mptcp",
        "duplicate \"mptcp\" parameter",
    );
    refuses(
        on,
        "127.0.0.1:8080 multipath multipath",
        "duplicate \"multipath\" parameter",
    );
    refuses(
        on,
        "127.0.0.1:8080 mptcp backlog=5 mptcp",
        "duplicate \"mptcp\" parameter",
    );
}

#[test_on(stream, http, mail)]
fn parameters_that_contradict_each_other_are_refused(on: Subsystem) {
    let incompatible = |one, other| format!("\"{one}\" parameter is incompatible with \"{other}\"");
    refuses(
        on,
        "127.0.0.1:8080 mptcp multipath",
        &incompatible("multipath", "mptcp"),
    );
    refuses(
        on,
        "127.0.0.1:8080 protocol=tcp mptcp",
        &incompatible("mptcp", "protocol=tcp"),
    );
    refuses(
        on,
        "127.0.0.1:8080 mptcp=off multipath",
        &incompatible("multipath", "mptcp=off"),
    );
    refuses(
        on,
        "127.0.0.1:8080 mptcp protocol=sctp",
        &incompatible("protocol=sctp", "mptcp"),
    );
}

#[test_on(stream, http, mail)]
fn unknown_values_are_refused(on: Subsystem) {
    refuses(
        on,
        "127.0.0.1:8080 mptcp=maybe",
        "invalid mptcp \"mptcp=maybe\"",
    );
    refuses(on, "127.0.0.1:8080 mptcp=", "invalid mptcp \"mptcp=\"");
    refuses(
        on,
        "127.0.0.1:8080 protocol=nonsense",
        "invalid protocol \"protocol=nonsense\"",
    );
    refuses(
        on,
        "127.0.0.1:8080 protocol=70000",
        "invalid protocol \"protocol=70000\"",
    );
    refuses(
        on,
        "127.0.0.1:8080 protocol=",
        "invalid protocol \"protocol=\"",
    );
}

/// The first error of `nginx -t`, without the time and the process.
fn first_error(conf: &Conf) -> String {
    let site = Site::new();
    let text = site.check(conf).fails();
    let error = text.lines().find_map(|line| line.split_once("[emerg] "));
    let error = error.unwrap_or_else(|| panic!("no error: {text}")).1;
    let is_process = |head: &str| head.split('#').all(|number| number.parse::<u32>().is_ok());
    let error = match error.split_once(": ") {
        Some((head, rest)) if is_process(head) => rest,
        _ => error,
    };
    error.replace(&site.folder.display().to_string(), "")
}

#[test_on(stream, http, mail)]
fn errors_of_nginx_keep_their_text(on: Subsystem) {
    let cases = [
        ("127.0.0.1:8080", "nonsense"),
        ("127.0.0.1:8080", "backlog=0"),
        ("127.0.0.1:8080", "backlog=x"),
        ("127.0.0.1:8080", "rcvbuf=x"),
        ("127.0.0.1:8080", "sndbuf=-1"),
        ("127.0.0.1:8080", "so_keepalive=maybe"),
        ("[::1]:8080", "ipv6only=maybe"),
        ("127.0.0.1:8080", "fastopen=x"),
        ("127.0.0.1:8080", "reuseport=1"),
        ("127.0.0.1:8080", "http3"),
        ("127.0.0.1:8080", "mptcpx"),
        // nginx has this parameter, but not on Linux.
        ("127.0.0.1:8080", "setfib=1"),
        ("127.0.0.1:8080", "protocols=tcp"),
        ("127.0.0.1:99999", ""),
        ("127.0.0.1:8081-8080", ""),
        ("[::1:8080", ""),
        ("no.such.host.invalid:8080", ""),
        ("unix:", ""),
    ];
    let others = [
        "udp",
        "reuseport",
        "fastopen=5",
        "deferred",
        "default_server",
        "proxy_protocol",
        "http2",
    ];
    let foreign = others.into_iter().filter(|words| !on.knows(words));
    let foreign = foreign.map(|words| ("127.0.0.1:8080", words));
    for (address, words) in cases.into_iter().chain(foreign) {
        let plain = first_error(&on.listen(&format!("{address} {words}")).without_module());
        let loaded = first_error(&on.listen(&format!("{address} {words}")));
        assert_eq!(loaded, plain, "listen {address} {words}");
        if address == "unix:" {
            continue;
        }
        for words in [format!("mptcp {words}"), format!("{words} mptcp")] {
            let ours = first_error(&on.listen(&format!("{address} {words}")));
            assert_eq!(ours, plain, "listen {address} {words}");
        }
    }
}

#[test_on(stream, http, mail)]
fn a_parameter_of_the_module_is_no_address(on: Subsystem) {
    let plain = first_error(&on.listen("mptcp").without_module());
    assert_eq!(first_error(&on.listen("mptcp")), plain);
    assert_eq!(first_error(&on.listen("mptcp mptcp")), plain);
}

#[test_on(stream, http, mail)]
fn a_directive_without_arguments_is_refused_as_by_nginx(on: Subsystem) {
    let site = Site::new();
    let text = site.check(&on.conf("server {\n    listen;\n}\n")).fails();
    assert!(
        text.contains("invalid number of arguments in \"listen\" directive"),
        "{text}"
    );
    assert!(text.contains(&site.place_of("listen;")), "{text}");
}

#[test_on(stream, http, mail)]
fn an_address_inside_a_tcp_wildcard_cannot_be_mptcp(on: Subsystem) {
    let site = Site::new();
    let pairs = [
        ("8080", "127.0.0.1:8080", "0.0.0.0:8080"),
        ("[::]:8080", "[::1]:8080", "[::]:8080"),
    ];
    for (wildcard, address, socket) in pairs {
        let message =
            format!("nginx uses one socket for {socket} and {address}: add \"mptcp\" to both");
        let words = [wildcard.to_owned(), format!("{address} mptcp")];
        for words in [[&*words[0], &*words[1]], [&*words[1], &*words[0]]] {
            let text = site.check(&on.servers(&words)).fails();
            assert!(
                text.contains("[emerg]") && text.contains(&message),
                "{words:?}: {text}"
            );
        }
    }
}

#[test_on(stream, http, mail)]
fn an_address_inside_a_wildcard_cannot_contradict_it(on: Subsystem) {
    let site = Site::new();
    for words in [
        ["8080 mptcp", "127.0.0.1:8080 mptcp=off"],
        ["8080 mptcp=off", "127.0.0.1:8080 mptcp"],
    ] {
        let text = site.check(&on.servers(&words)).fails();
        assert!(text.contains("[emerg] "), "{words:?}: {text}");
        assert!(
            text.contains("127.0.0.1:8080") && text.contains("0.0.0.0:8080"),
            "{words:?}: {text}"
        );
    }
}

#[test_on(stream, http, mail)]
fn an_error_in_an_included_file_names_that_file(on: Subsystem) {
    let site = Site::new();
    std::fs::write(
        site.path("servers.conf"),
        "\n\nserver { listen 127.0.0.1:8080 mptcp mptcp; }\n",
    )
    .expect("a file can be written");
    let text = site.check(&on.conf("include servers.conf;\n")).fails();
    let place = format!(" in {}:3", site.path("servers.conf").display());
    assert!(text.contains("duplicate \"mptcp\" parameter"), "{text}");
    assert!(text.contains(&place), "{text}");
}

#[test_on(stream, http, mail)]
fn a_refused_configuration_does_not_start(on: Subsystem) {
    let site = Site::new();
    let Err(outcome) = site.try_start(&on.listen("127.0.0.1:8080 mptcp=maybe")) else {
        panic!("nginx started");
    };
    let text = outcome.fails();
    assert!(text.contains("invalid mptcp \"mptcp=maybe\""), "{text}");
    assert!(site.processes().is_empty());
}
