//! Workers that close the `reuseport` sockets of the other workers. A fork of nginx such as
//! OpenResty does this, and a module may do it.

use std::process::Command;

use socket2::SockRef;

use crate::harness::{Site, wait_until};
use crate::sockets::listening_on;
use crate::steady::Steady;
use crate::subsystem::{Subsystem, test_on};

/// A library for LD_PRELOAD. Before a worker waits for its first event, the library closes the
/// listening sockets that the worker does not watch. It opens other sockets, without
/// SO_REUSEPORT, with the same descriptor numbers.
const CLOSER: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static char watched[256], listening, closed;

int epoll_ctl(int epoll, int op, int fd, struct epoll_event *event)
{
    int listens = 0;
    socklen_t size = sizeof(int);
    int (*real)(int, int, int, struct epoll_event *);

    real = dlsym(RTLD_NEXT, "epoll_ctl");
    if (op == EPOLL_CTL_ADD && fd < 256) {
        watched[fd] = 1;
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size);
        listening |= listens;
    }
    return real(epoll, op, fd, event);
}

int epoll_wait(int epoll, struct epoll_event *events, int count, int timeout)
{
    int fd, listens;
    socklen_t size;
    int (*real)(int, struct epoll_event *, int, int);

    for (fd = 3; listening && !closed && fd < 256; fd++) {
        size = sizeof(int);
        if (watched[fd]
            || getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == -1
            || !listens)
        {
            continue;
        }
        close(fd);
        dup2(socket(AF_INET, SOCK_STREAM, 0), fd);
    }
    closed |= listening;
    real = dlsym(RTLD_NEXT, "epoll_wait");
    return real(epoll, events, count, timeout);
}
"#;

#[test_on(stream, http)]
fn a_worker_acts_only_on_descriptors_that_it_still_has(on: Subsystem) {
    for address in ["127.0.0.1:8080", "[::1]:8080"] {
        let site = Site::new();
        std::fs::write(site.path("closer.c"), CLOSER).expect("a file can be made");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o", "closer.so", "closer.c"]);
        site.run(&mut cc).succeeds();
        let preload = format!("LD_PRELOAD={}", site.path("closer.so").display());

        let conf = |word: &str| on.listen(&format!("{address} reuseport {word}")).workers(3);
        let nginx = site.start_under(&["env", &preload], &conf(""));
        let clients = Steady::start(on, address);
        nginx.reload(&conf("mptcp"));
        wait_until("the new sockets alone", || listening_on(8080) == 3);
        wait_until("connections for all workers", || {
            let shares = |one: &crate::sockets::Listener| one.option("SO_REUSEPORT") == 1;
            nginx.listeners().iter().all(shares)
        });
        for pid in nginx.workers() {
            for (socket, _) in crate::sockets::sockets(pid) {
                let number = |name| crate::sockets::number(&socket, libc::SOL_SOCKET, name);
                let address = SockRef::from(&socket).local_addr();
                let address = address.ok().and_then(|address| address.as_socket());
                // The sockets of the library have port 0. A superseded socket that does not
                // listen any more still has its port.
                let is_new = address.is_some_and(|address| address.port() == 0);
                if is_new && number(libc::SO_ACCEPTCONN).is_ok_and(|listens| listens == 0) {
                    let shares = number(libc::SO_REUSEPORT);
                    assert!(
                        shares.is_ok_and(|shares| shares == 0),
                        "it is another socket"
                    );
                }
            }
        }
        let tally = clients.stop();
        assert!(tally.lost.is_empty(), "{:?}", tally.lost);
        on.serves(address, true);
    }
}
