//! Two hosts that are far from each other: packets take their time.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::namespace::{Peer, ip};

/// This host, another one, and a path between them. A program is the path:
/// each host's packets come out of a TUN device and go into that of the other.
pub struct SlowPath {
    /// The other host.
    pub peer: Peer,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// This host's addresses.
pub const HERE: [&str; 2] = ["10.9.0.1", "fd09::1"];

impl SlowPath {
    /// A path that each packet needs `delay` for, to and fro.
    pub fn new(delay: Duration) -> Self {
        let peer = Peer::new();
        let here = device(HERE);
        let there = peer.run(|| device(["10.9.0.2", "fd09::2"]));
        let stop = Arc::new(AtomicBool::new(false));
        let carry = |from: &File, to: &File| {
            let end = |file: &File| file.try_clone().expect("a descriptor can be duplicated");
            let (from, to, stop) = (end(from), end(to), Arc::clone(&stop));
            std::thread::spawn(move || carry(from, to, delay, &stop))
        };
        let threads = vec![carry(&here, &there), carry(&there, &here)];
        Self {
            peer,
            stop,
            threads,
        }
    }
}

impl Drop for SlowPath {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of the thread has been reported.
            let _ = thread.join();
        }
    }
}

/// A new TUN device in the calling thread's namespace.
fn device(addresses: [&str; 2]) -> File {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun");
    let device = device.expect("no TUN device here: use a kernel with CONFIG_TUN");
    // SAFETY: all fields of `ifreq` may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"slow") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: `request` is what TUNSETIFF reads and writes, and lives through
    // the call.
    let failed = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &request) };
    assert_eq!(failed, 0, "TUNSETIFF: {}", io::Error::last_os_error());
    let [ipv4, ipv6] = addresses;
    ip(&format!("address add {ipv4}/24 dev slow"));
    ip(&format!("address add {ipv6}/64 dev slow nodad"));
    ip("link set slow up");
    device
}

/// Carries packets until told to stop.
fn carry(mut from: File, mut to: File, delay: Duration, stop: &AtomicBool) {
    let mut packet = [0; 65536];
    let mut under_way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    while !stop.load(Ordering::Relaxed) {
        while under_way
            .front()
            .is_some_and(|(due, _)| *due <= Instant::now())
        {
            let Some((_, packet)) = under_way.pop_front() else {
                break;
            };
            // Where a device is not up yet, or gone, packets are lost.
            let _ = to.write(&packet);
        }
        let idle = Duration::from_millis(50);
        let next = under_way.front();
        let wait = next.map_or(idle, |(due, _)| {
            due.saturating_duration_since(Instant::now())
        });
        if comes(&from, wait.min(idle)) {
            let size = from.read(&mut packet).expect("a packet can be read");
            under_way.push_back((Instant::now() + delay, packet[..size].to_vec()));
        }
    }
}

/// Waits for a packet.
fn comes(device: &File, wait: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd: device.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let wait = wait.as_micros().div_ceil(1000) as libc::c_int;
    // SAFETY: `poll` is one element, and lives through the call.
    unsafe { libc::poll(&mut poll, 1, wait) > 0 }
}
