//! Sockets that the kernel refuses to open: because of the protocol, the address or the port.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::Command;

use socket2::{Domain, Protocol, Socket, Type};

use crate::client::Transport;
use crate::harness::{Host, Outcome, Site, wait_until};
use crate::namespace::{set_sysctl, switch_mptcp_off};
use crate::seccomp;
use crate::server::Conf;
use crate::strace::Fault;
use crate::subsystem::{Subsystem, test_on};

/// An ordinary user that exists on every system.
const NOBODY: u32 = 65534;

/// Checks that nginx fails to start, and returns its output.
fn fails_to_start(site: &Site, conf: &Conf) -> String {
    match site.try_start(conf) {
        Ok(_) => panic!("nginx started"),
        Err(outcome) => outcome.fails(),
    }
}

#[test_on(stream, http, mail)]
fn mptcp_that_is_switched_off_is_refused_with_the_sysctl_in_the_error(on: Subsystem) {
    let site = Site::new();
    let message = format!("socket() 127.0.0.1:8080 failed: {}", switch_mptcp_off());
    for words in ["mptcp", "multipath", "mptcp=on", "protocol=mptcp"] {
        let conf = on.listen(&format!("127.0.0.1:8080 {words}"));
        let text = site.check(&conf).fails();
        assert!(
            text.contains("[emerg]") && text.contains(&message),
            "{words}: {text}"
        );
        let text = fails_to_start(&site, &conf);
        assert!(
            text.contains("[emerg]") && text.contains(&message),
            "{words}: {text}"
        );
    }
}

#[test_on(stream, http, mail)]
fn mptcp_auto_falls_back_to_tcp_with_one_warning(on: Subsystem) {
    let site = Site::new();
    let reason = switch_mptcp_off();
    let conf = on.listen("127.0.0.1:8080 mptcp=auto");
    let warnings = |text: &str| {
        let fallback = |line: &&str| line.contains("falls back to TCP") && line.contains(reason);
        let warnings: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("[warn]"))
            .collect();
        assert_eq!(warnings.len(), 1, "one warning expected: {text}");
        assert!(warnings.iter().all(fallback), "{text}");
    };
    warnings(&site.check(&conf).succeeds());

    let nginx = site.start(&conf);
    warnings(&site.read("output"));
    assert!(!nginx.listener().is_mptcp());
    // With MPTCP switched off a client cannot open an MPTCP socket.
    assert_eq!(
        on.request_answer(Transport::Tcp, "127.0.0.1:8080")
            .expect("TCP is served")
            .0,
        on.answer()
    );

    set_sysctl("mptcp/enabled", "1");
    on.serves("127.0.0.1:8080", false);
    nginx.reload(&conf);
    // A reload checks again whether the kernel supports MPTCP.
    wait_until("the MPTCP socket alone", || {
        nginx.listeners().len() == 1 && nginx.listener().is_mptcp()
    });
    on.serves("127.0.0.1:8080", true);
}

#[test_on(stream, http, mail)]
fn mptcp_auto_warns_once_for_all_listeners(on: Subsystem) {
    let site = Site::new();
    switch_mptcp_off();
    let words = [
        "127.0.0.1:8080-8083 mptcp=auto",
        "127.0.0.2:8080 mptcp=auto",
    ];
    let text = site.check(&on.servers(&words)).succeeds();
    assert_eq!(text.matches("falls back to TCP").count(), 1, "{text}");
}

#[test_on(stream, http, mail)]
fn a_reload_to_mptcp_that_is_switched_off_changes_nothing(on: Subsystem) {
    let site = Site::new();
    let nginx = site.start(&on.listen("127.0.0.1:8080"));
    let (listener, descriptors) = (nginx.listener(), nginx.descriptors());
    let reason = switch_mptcp_off();
    let mptcp = on.listen("127.0.0.1:8080 mptcp");
    let log = nginx.try_reload(&mptcp).expect_err("the reload fails");
    assert!(log.contains(reason), "{log}");
    assert_eq!(
        (nginx.listener(), nginx.descriptors()),
        (listener, descriptors)
    );
    set_sysctl("mptcp/enabled", "1");
    on.serves("127.0.0.1:8080", false);
    nginx.reload(&mptcp);
    on.serves("127.0.0.1:8080", true);
}

#[test_on(stream, http, mail)]
fn mptcp_off_does_not_need_mptcp_in_the_kernel(on: Subsystem) {
    let site = Site::new();
    switch_mptcp_off();
    let conf = on.listen("127.0.0.1:8080 mptcp=off");
    let text = site.check(&conf).succeeds();
    assert!(!text.contains("[warn]"), "{text}");
    let nginx = site.start(&conf);
    assert!(!nginx.listener().is_mptcp());
    assert_eq!(
        on.request_answer(Transport::Tcp, "127.0.0.1:8080")
            .expect("TCP is served")
            .0,
        on.answer()
    );
}

#[test_on(stream, http, mail)]
fn errors_name_the_reason_why_a_kernel_lacks_mptcp(on: Subsystem) {
    for (errno, reason) in [("EINVAL", "5.6"), ("EPROTONOSUPPORT", "MPTCP")] {
        let site = Site::new();
        site.write(&on.listen("127.0.0.1:8080 mptcp"));
        let inject = format!("inject=socket:error={errno}");
        let strace = [
            "strace",
            "-f",
            "-o",
            "trace",
            "-e",
            "trace=socket",
            "-e",
            &inject,
        ];
        let text = site.run(&mut site.nginx_under(&strace, &["-t"])).fails();
        let line = text
            .lines()
            .find(|line| line.contains("[emerg]"))
            .unwrap_or_else(|| panic!("{errno}: {text}"));
        assert!(
            line.contains("socket() 127.0.0.1:8080 failed") && line.contains("MPTCP"),
            "{errno}: {text}"
        );
        assert!(line.contains(reason), "{errno}: {text}");
        assert!(!line.contains("net.mptcp.enabled"), "{errno}: {text}");
    }
}

const FORBIDDEN: &str = "failed: a security policy forbids MPTCP (SELinux, seccomp or BPF)";

/// The lines of a text that are warnings.
fn warnings(text: &str) -> Vec<&str> {
    let lines = text.lines();
    lines.filter(|line| line.contains("[warn]")).collect()
}

#[test_on(stream, http, mail)]
fn an_error_names_a_policy_that_forbids_mptcp_and_mptcp_auto_falls_back(on: Subsystem) {
    const SANDBOXED: &str = "failed: MPTCP is not supported by this kernel, container or sandbox";
    for (errno, reason) in [
        (libc::EPERM, FORBIDDEN),
        (libc::EACCES, FORBIDDEN),
        (libc::EAFNOSUPPORT, SANDBOXED),
        (libc::EOPNOTSUPP, SANDBOXED),
        (libc::ENOSYS, SANDBOXED),
    ] {
        let message = format!("socket() 127.0.0.1:8080 {reason} ({errno}: ");
        // A seccomp filter cannot be removed from a thread, so a new thread starts nginx.
        let refused = std::thread::spawn(move || {
            let site = Site::new();
            seccomp::refuse(seccomp::SOCKET_PROTOCOL, libc::IPPROTO_MPTCP, errno);
            let text = fails_to_start(&site, &on.listen("127.0.0.1:8080 mptcp"));
            assert!(
                text.contains("[emerg]") && text.contains(&message),
                "{text}"
            );

            let words = ["127.0.0.1:8080 mptcp=auto", "127.0.0.1:8081 mptcp=auto"];
            let auto = on.servers(&words);
            let text = site.check(&auto).succeeds();
            let nginx = site.start(&auto);
            for text in [&text, &site.read("output")] {
                let warnings = warnings(text);
                assert_eq!(warnings.len(), 1, "{text}");
                let fallback = format!("\"mptcp=auto\" falls back to TCP: {message}");
                assert!(warnings[0].contains(&fallback), "{text}");
            }
            for address in ["127.0.0.1:8080", "127.0.0.1:8081"] {
                on.request_answer(Transport::Tcp, address)
                    .expect("TCP is served");
            }
            nginx.reload(&auto);
            on.request_answer(Transport::Tcp, "127.0.0.1:8080")
                .expect("TCP is served");
        });
        refused.join().unwrap_or_else(|panic| resume_unwind(panic));
    }
}

#[test_on(stream, http, mail)]
fn an_error_names_a_policy_that_forbids_bind_and_mptcp_auto_falls_back(on: Subsystem) {
    let message = format!("bind() to 127.0.0.1:8080 {FORBIDDEN} (13: Permission denied)");
    // The first bind(2) of each process binds an MPTCP socket.
    let fault = Fault {
        call: "bind",
        errno: libc::EACCES,
    };
    let mut strace = fault.strace("1");
    strace.push("-f".into());
    let strace: Vec<&str> = strace.iter().map(String::as_str).collect();

    let site = Site::new();
    site.write(&on.listen("127.0.0.1:8080 mptcp"));
    let text = site.run(&mut site.nginx_under(&strace, &[])).fails();
    assert!(
        text.contains("[emerg]") && text.contains(&message),
        "{text}"
    );
    assert_eq!(site.injected().len(), 1);

    let auto = on.listen("127.0.0.1:8080 mptcp=auto");
    site.write(&auto);
    let said = File::create(site.path("said")).expect("a file can be made");
    let mut tracer = site
        .nginx_under(&strace, &[])
        .current_dir(&site.folder)
        .stderr(said)
        .spawn()
        .expect("strace is missing: install it");
    let nginx = site.running();
    nginx.wait_for_workers(1);
    let fallback = format!("\"mptcp=auto\" falls back to TCP: {message}");
    let said = site.read("said");
    assert_eq!(said.matches(&fallback).count(), 1, "{said}");
    assert!(!nginx.listener().is_mptcp());

    // A reload keeps the TCP socket, because the policy still forbids MPTCP.
    let before = nginx.listener();
    let log = nginx.begin_reload(&auto);
    assert_eq!(log.matches(&fallback).count(), 1, "{log}");
    assert_eq!(nginx.listener(), before);
    on.serves("127.0.0.1:8080", false);
    nginx.quit();
    tracer.wait().expect("strace ends with nginx");
    assert_eq!(site.injected().len(), 2);
}

#[test_on(stream, http, mail)]
fn a_protocol_that_the_kernel_lacks_is_refused(on: Subsystem) {
    let site = Site::new();
    let conf = on.listen("127.0.0.1:8080 protocol=sctp");
    if Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::SCTP)).is_ok() {
        let nginx = site.start(&conf);
        assert!(nginx.runs());
        return;
    }
    let text = site.check(&conf).fails();
    assert!(
        text.contains("socket() 127.0.0.1:8080 failed: sctp is not supported by this kernel"),
        "{text}"
    );
}

/// Runs `nginx -t` as an ordinary user. It uses copies of the files, because the user may be
/// unable to read the folder of the originals.
fn check_as_nobody(on: Subsystem, site: &Site, words: &str) -> Outcome {
    let host = Host::get();
    // install(1) writes the copies, and not this process. If this process wrote a program, a child
    // that another test forks at that time would inherit the descriptor, and execve() of
    // the program would fail with ETXTBSY.
    let copy = |from: &Path, name: &str| {
        let mut install = Command::new("install");
        install.args(["-m", "755"]).arg(from).arg(site.path(name));
        site.run(&mut install).succeeds();
    };
    copy(&host.nginx, "nginx");
    let mut conf = on.listen(words).without_module();
    if let Some(module) = &host.modules(on).ours {
        copy(module, "module.so");
        conf = conf.main("load_module module.so;");
    }
    site.write(&conf);
    let folder = Some(NOBODY);
    chown(&site.folder, folder, folder).expect("root can give a folder away");
    let mut nginx = Command::new(site.path("nginx"));
    nginx.args(["-t", "-p", "./", "-c", "nginx.conf"]);
    site.run(nginx.uid(NOBODY).gid(NOBODY))
}

#[test_on(stream, http, mail)]
fn a_low_port_as_an_ordinary_user_is_refused_with_the_error_of_nginx(on: Subsystem) {
    let site = Site::new();
    let message = "bind() to 127.0.0.1:80 failed (13: Permission denied)";
    for words in ["127.0.0.1:80", "127.0.0.1:80 mptcp"] {
        let text = check_as_nobody(on, &site, words).fails();
        assert!(
            text.contains("[emerg]") && text.contains(message),
            "{words}: {text}"
        );
    }
    check_as_nobody(on, &site, "127.0.0.1:8080 mptcp").succeeds();
}

#[test_on(stream, http, mail)]
fn an_address_of_another_host_is_refused_with_the_error_of_nginx(on: Subsystem) {
    let site = Site::new();
    let message = "bind() to 192.0.2.1:8080 failed (99: Cannot assign requested address)";
    let text = site.check(&on.listen("192.0.2.1:8080 mptcp")).fails();
    assert!(text.contains("[emerg]") && text.contains(message), "{text}");
    let text = fails_to_start(&site, &on.listen("192.0.2.1:8080 mptcp"));
    assert_eq!(text.matches(message).count(), 1, "{text}");
}

#[test_on(stream, http, mail)]
fn a_port_in_use_is_tried_five_times_as_nginx_does(on: Subsystem) {
    let site = Site::new();
    let _holder = TcpListener::bind("127.0.0.1:8080").expect("the port is free in a new namespace");
    let message = "bind() to 127.0.0.1:8080 failed (98: Address already in use)";
    for words in ["127.0.0.1:8080", "127.0.0.1:8080 mptcp"] {
        let text = fails_to_start(&site, &on.listen(words));
        assert_eq!(text.matches(message).count(), 5, "{words}: {text}");
        assert_eq!(
            text.matches("still could not bind()").count(),
            1,
            "{words}: {text}"
        );
    }
}

#[test_on(stream, http, mail)]
fn a_port_that_becomes_free_while_nginx_retries_is_opened(on: Subsystem) {
    let site = Site::new();
    let holder = TcpListener::bind("127.0.0.1:8080").expect("the port is free in a new namespace");
    let freed = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(700));
        drop(holder);
    });
    let nginx = site.start(&on.listen("127.0.0.1:8080 mptcp"));
    freed.join().expect("the holder's thread ends");
    assert!(nginx.listener().is_mptcp());
    on.serves("127.0.0.1:8080", true);
}

#[test_on(stream, http, mail)]
fn one_port_in_use_prevents_opening_the_others(on: Subsystem) {
    let site = Site::new();
    let _holder = TcpListener::bind("127.0.0.1:8081").expect("the port is free in a new namespace");
    let text = fails_to_start(
        &site,
        &on.servers(&["127.0.0.1:8080 mptcp", "127.0.0.1:8081 mptcp"]),
    );
    assert!(
        text.contains("bind() to 127.0.0.1:8081 failed (98: Address already in use)"),
        "{text}"
    );
    assert!(!text.contains("127.0.0.1:8080"), "{text}");
    assert!(site.processes().is_empty());
    TcpListener::bind("127.0.0.1:8080").expect("nobody listens there");
}
