//! A network and a table of descriptors for each test: every port is free,
//! descriptors can be counted, and nothing is left behind.

use std::fs;
use std::io;
use std::thread;

/// Runs a test in a thread with a network of its own, of which only the
/// loopback is there, and with descriptors of its own.
pub fn run<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let inside = || {
        enter();
        test()
    };
    thread::scope(|scope| {
        let thread = scope.spawn(inside);
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Gives the calling thread a network and descriptors of its own, and its
/// children with it.
fn enter() {
    // SAFETY: unshare(2) takes no pointer.
    let failed = unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_FILES) };
    let error = io::Error::last_os_error();
    assert!(
        failed == 0,
        "the tests need network namespaces, run them as root: unshare: {error}"
    );
    loopback_up();
}

/// `ip link set lo up`
fn loopback_up() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)
        .expect("a socket in the new namespace");
    // SAFETY: all fields of `ifreq` may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: `request` is what SIOCSIFFLAGS reads, and lives through the call.
    let failed = unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS, &request) };
    assert_eq!(failed, 0, "lo: {}", io::Error::last_os_error());
}

/// Writes `net.mptcp.enabled` of the thread's namespace: of all that read and
/// write below /proc/sys/net, each thread sees its own.
pub fn set_mptcp(enabled: bool) {
    let value = if enabled { "1" } else { "0" };
    fs::write("/proc/sys/net/mptcp/enabled", value)
        .expect("net.mptcp.enabled: the tests need a kernel with MPTCP, and root");
}

/// How many descriptors the calling thread has.
pub fn descriptors() -> usize {
    let list = fs::read_dir("/proc/thread-self/fd").expect("/proc is mounted");
    list.count()
}
