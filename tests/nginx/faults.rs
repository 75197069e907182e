//! System calls that fail when it is too late for a reload to fail.

use std::process::{Child, Command, Stdio};

use crate::harness::{Site, send_signal, wait_until};
use crate::server::Nginx;
use crate::steady::Steady;
use crate::subsystem::{Subsystem, subsystem_tests};

subsystem_tests! {
    (stream, http, mail):
        a_listen_that_fails_at_the_end_keeps_the_old_socket;
    (stream, http):
        a_listen_that_fails_at_the_end_keeps_every_old_socket;
}

const ADDRESS: &str = "127.0.0.1:8080";

/// strace, which makes every listen(2) of a process fail.
struct NoListen(Child);

impl NoListen {
    fn attach(nginx: &Nginx) -> Self {
        let pid = nginx.pid.to_string();
        let fault = ["-e", "trace=listen", "-e", "inject=listen:error=ENOBUFS"];
        let strace = Command::new("strace")
            .args(["-qq", "-p", &pid])
            .args(fault)
            .stderr(Stdio::null())
            .spawn();
        let strace = Self(strace.expect("strace is missing: install it"));
        let status = format!("/proc/{pid}/status");
        wait_until("strace", || {
            let status = std::fs::read_to_string(&status).unwrap_or_default();
            status.contains(&format!("TracerPid:\t{}\n", strace.0.id()))
        });
        strace
    }
}

impl Drop for NoListen {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).expect("a process id");
        send_signal(pid, libc::SIGTERM);
        // Its status does not matter, and it must not stay behind.
        let _ = self.0.wait();
    }
}

/// Changes the protocol to and fro, first without success.
fn changes_with_a_fault(on: Subsystem, more: &str, sockets: usize) {
    let site = Site::new();
    let conf = |word: &str| on.listen(&format!("{ADDRESS} {more} {word}")).workers(2);
    let nginx = site.start(&conf(""));
    let descriptors = nginx.descriptors().len();
    let nothing_leaks = || {
        wait_until("descriptors as before", || {
            nginx.descriptors().len() == descriptors
        });
    };
    for (old, new) in [("", "mptcp"), ("mptcp", "")] {
        // The master forgets the sockets that were replaced.
        nginx.reload(&conf(old));
        nothing_leaks();
        let listeners = nginx.listeners();
        let clients = Steady::start(on, ADDRESS);
        let fault = NoListen::attach(&nginx);
        nginx.reload(&conf(new));
        drop(fault);
        clients.wait_for_more(50);
        clients.all_were_served();
        assert!(
            nginx
                .log()
                .contains("listen() to 127.0.0.1:8080, backlog 511 failed")
        );
        assert!(
            nginx
                .log()
                .contains("the old socket of 127.0.0.1:8080 goes on")
        );
        assert_eq!(nginx.listeners(), listeners, "the old sockets go on");
        nothing_leaks();
        on.serves(ADDRESS, !old.is_empty());
        nginx.reload(&conf(old));
        assert_eq!(nginx.listeners(), listeners, "they are what they were");

        nginx.reload(&conf(new));
        wait_until("the new sockets alone", || {
            nginx.listeners().len() == sockets
        });
        let mptcp = |listener: &crate::sockets::Listener| listener.is_mptcp() != new.is_empty();
        assert!(nginx.listeners().iter().all(mptcp), "the next reload works");
        on.serves(ADDRESS, !new.is_empty());
    }
}

fn a_listen_that_fails_at_the_end_keeps_the_old_socket(on: Subsystem) {
    changes_with_a_fault(on, "", 1);
}

fn a_listen_that_fails_at_the_end_keeps_every_old_socket(on: Subsystem) {
    changes_with_a_fault(on, "reuseport", 2);
}
