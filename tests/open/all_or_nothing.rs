//! A call that fails leaves no socket open.

use std::fs;
use std::io;

use ngx_rs_listen::parse::{self, Rules};
use ngx_rs_listen::{Address, Error, Listening, Outcome, Protocol, resolve};

use test_support::listening::*;
use test_support::namespace;
use test_support::seccomp;

const PORTS: std::ops::RangeInclusive<u16> = 1..=20;

fn at(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// Opens sockets of which one must fail, and checks that no descriptor and no bound address is
/// left.
fn fails(mut sockets: Vec<Listening>) -> Error {
    let before = namespace::descriptors();
    let error = open(&mut sockets).expect_err("one of them cannot be opened");
    assert_eq!(namespace::descriptors(), before);
    for socket in &sockets {
        assert!(socket.fd.is_none());
        assert_eq!(socket.outcome, Outcome::Untouched);
    }
    error
}

#[test]
fn fails_for_any_address_in_use() {
    namespace::run(|| {
        for taken in PORTS {
            let holder = listener(&at(taken), Protocol::Tcp, false);
            let error = fails(PORTS.map(|port| mptcp(&at(port))).collect());
            assert_eq!(error.to_string(), format!("bind() to {} failed", at(taken)));
            assert_eq!(error.os_errno(), libc::EADDRINUSE);
            drop(holder);
            assert!(PORTS.into_iter().all(|port| is_free(&at(port))));
        }
    });
}

#[test]
fn fails_for_an_address_of_another_host() {
    namespace::run(|| {
        for (text, request) in [
            ("192.0.2.1:80", Some(MPTCP)),
            ("192.0.2.1:80", None),
            ("[2001:db8::1]:80", Some(MPTCP)),
        ] {
            let error = fails(vec![mptcp(&at(80)), stream(text, request), mptcp(&at(81))]);
            assert_eq!(error.to_string(), format!("bind() to {text} failed"));
            assert_eq!(error.os_errno(), libc::EADDRNOTAVAIL);
        }
    });
}

#[test]
fn fails_for_the_same_address_twice() {
    namespace::run(|| {
        let error = fails(vec![mptcp(&at(80)), mptcp("0.0.0.0:80")]);
        assert_eq!(error.to_string(), "bind() to 0.0.0.0:80 failed");
    });
}

#[test]
fn a_port_below_1024_as_an_ordinary_user() {
    namespace::run(|| {
        const NOBODY: libc::uid_t = 65534;
        // The system call, because setresuid(3) changes every thread of the process.
        // SAFETY: the call takes no pointer.
        let failed = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
        assert_eq!(failed, 0, "{}", io::Error::last_os_error());
        let error = fails(vec![mptcp(&at(8080)), mptcp(&at(80))]);
        assert_eq!(error.to_string(), "bind() to 127.0.0.1:80 failed");
        assert_eq!(error.os_errno(), libc::EACCES);
    });
}

#[test]
fn fails_without_free_descriptors() {
    namespace::run(|| {
        seccomp::refuse(seccomp::SOCKET_DOMAIN, libc::AF_INET6, libc::EMFILE);
        let error = fails(vec![mptcp(&at(80)), tcp(&at(81)), mptcp("[::1]:80")]);
        assert_eq!(error.to_string(), "socket() [::1]:80 failed");
        assert_eq!(error.os_errno(), libc::EMFILE);
        assert!(is_free(&at(80)) && is_free(&at(81)));
    });
}

#[test]
fn removes_only_the_files_of_its_own_unix_sockets() {
    namespace::run(|| {
        let name = |what| format!("ngx-rs-{what}-{}", std::process::id());
        let [ours, theirs] = ["ours", "theirs"].map(|what| std::env::temp_dir().join(name(what)));
        let text = |path: &std::path::Path| format!("unix:{}", path.display());
        let holder = listener(&text(&theirs), Protocol::Tcp, false);
        let error = fails(vec![tcp(&text(&ours)), tcp(&text(&theirs))]);
        assert_eq!(
            error.to_string(),
            format!("bind() to {} failed", text(&theirs))
        );
        assert!(!ours.exists());
        assert!(theirs.exists());
        drop(holder);
        fs::remove_file(theirs).expect("it is there");
    });
}

#[test]
fn a_path_without_its_directory() {
    namespace::run(|| {
        let error = fails(vec![mptcp(&at(80)), tcp("unix:/no-such-directory/x")]);
        assert_eq!(
            error.to_string(),
            "bind() to unix:/no-such-directory/x failed"
        );
        assert_eq!(error.os_errno(), libc::ENOENT);
    });
}

/// The kernel would end the path at the 0, or use an abstract name.
#[test]
fn a_path_with_a_zero() {
    namespace::run(|| {
        for path in ["/tmp/a\0b", "\0abstract"] {
            let error = fails(vec![mptcp(&at(80)), tcp(&format!("unix:{path}"))]);
            assert_eq!(error.to_string(), format!("bind() to unix:{path} failed"));
            assert_eq!(error.os_errno(), libc::EINVAL);

            let rules = Rules::default();
            let mut listen = parse::listen(&[b"unix:/x"], &rules).expect("a path");
            listen.address = Address::Unix(path.into());
            let error = resolve::sockets(&listen).expect_err("no socket can have it");
            assert_eq!(error.to_string(), "invalid path of a unix domain socket");
        }
    });
}
