//! Kernels without MPTCP, or without another protocol.

use ngx_rs_listen::open::Report;
use ngx_rs_listen::{Error, Listening, Open, Protocol, Request, open};

use test_support::listening::*;
use test_support::{linux, namespace, seccomp};

const SWITCHED_OFF: &str = "MPTCP is switched off, set sysctl net.mptcp.enabled=1";
const TOO_OLD: &str = "this kernel is too old for MPTCP, Linux 5.6 is needed";
const FORBIDDEN: &str = "a security policy forbids MPTCP (SELinux, seccomp or BPF)";
const SANDBOXED: &str = "MPTCP is not supported by this kernel, container or sandbox";
const NOT_BUILT_IN: &str = "this kernel was built without MPTCP, CONFIG_MPTCP is needed";

/// Opens sockets, and returns the reports.
fn reports(sockets: &mut [Listening]) -> Result<Vec<String>, Error> {
    let mut said = Vec::new();
    let mut report = |report: Report<'_>| {
        said.push(match report {
            Report::Fallback(error) => error.to_string(),
            other => format!("{other:?}"),
        });
    };
    let mut how = Open {
        report: Some(&mut report),
        ..Open::default()
    };
    open::listening(sockets, &mut [], &mut how).map(|()| said)
}

/// Checks the errors and reports in a thread for which `prepare` has made the kernel refuse
/// MPTCP.
fn without_mptcp(prepare: impl FnOnce() + Send, errno: i32, why: &str) {
    namespace::run(|| {
        prepare();
        let before = namespace::descriptors();
        let mut sockets = [tcp("127.0.0.1:80"), mptcp("[::1]:80")];
        let error = open(&mut sockets).expect_err("MPTCP is not there");
        assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
        assert_eq!(
            error.to_string(),
            format!("socket() [::1]:80 failed: {why}")
        );
        assert_eq!(error.os_errno(), errno);
        assert!(!error.is_address_in_use());
        assert_eq!(namespace::descriptors(), before);

        let error = open::check(Protocol::Mptcp).expect_err("MPTCP is not there");
        assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
        assert!(error.to_string().ends_with(why), "{error}");

        // `auto` reports the reason once for all sockets and address families.
        let auto = Some(Request::AUTO);
        let texts = ["127.0.0.1:80", "[::1]:80", "127.0.0.1:81", "[::1]:81"];
        let mut sockets = texts.map(|text| stream(text, auto));
        let said = reports(&mut sockets).expect("TCP will do");
        assert_eq!(said, [format!("socket() 127.0.0.1:80 failed: {why}")]);
        for socket in &sockets {
            assert_eq!(protocol(fd(socket)), 6);
            assert_eq!(socket.protocol, Protocol::Tcp);
            assert!(listens(fd(socket)));
        }

        drop(sockets);
        let mut sockets = texts.map(|text| stream(text, Some(OFF)));
        assert_eq!(reports(&mut sockets).expect("TCP is there").len(), 0);
    });
}

#[test]
fn mptcp_is_switched_off() {
    without_mptcp(
        || namespace::set_mptcp(false),
        libc::ENOPROTOOPT,
        SWITCHED_OFF,
    );
}

#[test]
fn the_kernel_is_too_old() {
    let prepare = || seccomp::refuse(seccomp::SOCKET_PROTOCOL, 262, libc::EINVAL);
    without_mptcp(prepare, libc::EINVAL, TOO_OLD);
}

#[test]
fn mptcp_is_not_built_in() {
    let prepare = || {
        if linux::has_mptcp() {
            seccomp::refuse(seccomp::SOCKET_PROTOCOL, 262, libc::EPROTONOSUPPORT);
        }
    };
    without_mptcp(prepare, libc::EPROTONOSUPPORT, NOT_BUILT_IN);
}

#[test]
fn mptcp_can_be_switched_on_again() {
    namespace::run(|| {
        namespace::set_mptcp(false);
        assert!(open(&mut [mptcp("127.0.0.1:80")]).is_err());
        namespace::set_mptcp(true);
        open(&mut [mptcp("127.0.0.1:80")]).expect("it is asked anew at every call");
        open::check(Protocol::Mptcp).expect("it is there");
    });
}

#[test]
fn a_policy_forbids_mptcp() {
    for errno in [libc::EPERM, libc::EACCES] {
        let prepare = || seccomp::refuse(seccomp::SOCKET_PROTOCOL, 262, errno);
        without_mptcp(prepare, errno, FORBIDDEN);
    }
}

#[test]
fn a_sandbox_lacks_mptcp() {
    for errno in [libc::EAFNOSUPPORT, libc::EOPNOTSUPP, libc::ENOSYS] {
        let prepare = || seccomp::refuse(seccomp::SOCKET_PROTOCOL, 262, errno);
        without_mptcp(prepare, errno, SANDBOXED);
    }
}

#[test]
fn the_error_does_not_blame_mptcp_if_tcp_is_refused_too() {
    namespace::run(|| {
        seccomp::refuse(seccomp::SOCKET_DOMAIN, libc::AF_INET6, libc::EAFNOSUPPORT);
        for request in [MPTCP, Request::AUTO] {
            let mut sockets = [stream("[::1]:80", Some(request))];
            let error = reports(&mut sockets).expect_err("there is no IPv6");
            assert!(matches!(error, Error::Syscall { .. }), "{error:?}");
            assert_eq!(error.to_string(), "socket() [::1]:80 failed");
            assert_eq!(error.os_errno(), libc::EAFNOSUPPORT);
        }
    });
}

#[test]
fn auto_does_not_fall_back_on_an_unrelated_error() {
    namespace::run(|| {
        seccomp::refuse(seccomp::SOCKET_PROTOCOL, 262, libc::EMFILE);
        for request in [MPTCP, Request::AUTO] {
            let mut sockets = [stream("127.0.0.1:80", Some(request))];
            let error = reports(&mut sockets).expect_err("no descriptors");
            assert!(matches!(error, Error::Syscall { .. }), "{error:?}");
            assert_eq!(error.to_string(), "socket() 127.0.0.1:80 failed");
            assert_eq!(error.os_errno(), libc::EMFILE);
        }
        let error = open::check(Protocol::Mptcp).expect_err("no descriptors");
        assert_eq!(error.to_string(), "socket() failed");
        assert_eq!(error.os_errno(), libc::EMFILE);
    });
}

#[test]
fn other_protocols_may_be_missing_too() {
    namespace::run(|| {
        for (other, why) in [
            (
                Protocol::Sctp,
                "sctp is not supported by this kernel, module sctp is needed",
            ),
            (
                Protocol::Smc,
                "smc is not supported by this kernel, Linux 6.11 and module smc are needed",
            ),
            (
                Protocol::Other(99),
                "protocol 99 is not supported by this kernel",
            ),
        ] {
            let number = other.number();
            seccomp::refuse(seccomp::SOCKET_PROTOCOL, number, libc::EPROTONOSUPPORT);
            let request = Some(Request::only(other));
            let error = open(&mut [stream("127.0.0.1:80", request)]).expect_err("not there");
            assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
            let message = format!("socket() 127.0.0.1:80 failed: {why}");
            assert_eq!(error.to_string(), message);
            assert!(open::check(other).is_err());
        }
    });
}

#[test]
fn a_protocol_that_is_no_stream_protocol_is_not_supported() {
    namespace::run(|| {
        let udp = Protocol::from_number(libc::IPPROTO_UDP).expect("a number");
        let error = open::check(udp).expect_err("it has no stream sockets");
        let message = "socket() failed: protocol 17 is not supported by this kernel";
        assert_eq!(error.to_string(), message);
    });
}

#[test]
fn the_kernel_of_the_tests_has_mptcp() {
    namespace::run(|| {
        let before = namespace::descriptors();
        open::check(Protocol::Mptcp).expect("the tests need a kernel with MPTCP");
        open::check(Protocol::Tcp).expect("TCP");
        assert_eq!(namespace::descriptors(), before);
    });
}
