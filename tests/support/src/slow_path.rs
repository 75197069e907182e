//! Two hosts with one or two paths between them that delay each packet.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::namespace::{Peer, ip};

/// This host, a second host, and paths between them. Threads of this program carry the
/// packets: they read each packet from the TUN device of one host, and write it to the TUN
/// device of the other host after a delay.
pub struct SlowPath {
    /// The second host.
    pub peer: Peer,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// This host's addresses on the first path.
pub const HERE: [&str; 2] = ["10.9.0.1", "fd09::1"];

/// This host's IPv4 address on the second path.
pub const SECOND_HERE: &str = "10.9.1.1";

impl SlowPath {
    /// One path. Each packet needs `delay` in either direction.
    pub fn new(delay: Duration) -> Self {
        Self::with_delays(&[delay])
    }

    /// A path for each of the delays: one or two.
    pub fn with_delays(delays: &[Duration]) -> Self {
        let mut hosts = Self {
            peer: Peer::new(),
            stop: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
        };
        for (path, delay) in delays.iter().enumerate() {
            hosts.join(path, *delay);
        }
        hosts
    }

    fn join(&mut self, path: usize, delay: Duration) {
        let here = device(path, 1);
        let there = self.peer.run(move || device(path, 2));
        let carry = |from: &File, to: &File| {
            let end = |file: &File| file.try_clone().expect("a descriptor can be duplicated");
            let (from, to, stop) = (end(from), end(to), Arc::clone(&self.stop));
            std::thread::spawn(move || carry(from, to, delay, &stop))
        };
        let threads = [carry(&here, &there), carry(&there, &here)];
        self.threads.extend(threads);
    }
}

impl Drop for SlowPath {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // The panic hook has reported a panic of the thread already.
            let _ = thread.join();
        }
    }
}

/// The TUN device of a path in the calling thread's namespace.
pub fn device_name(path: usize) -> String {
    format!("slow{path}")
}

/// Creates the TUN device of a path, with the addresses of the host of this number.
fn device(path: usize, host: u8) -> File {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun");
    let device = device.expect("no TUN device here: use a kernel with CONFIG_TUN");
    // SAFETY: all fields of `ifreq` may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = device_name(path);
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: `request` is what TUNSETIFF reads and writes, and lives through
    // the call.
    let failed = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &request) };
    assert_eq!(failed, 0, "TUNSETIFF: {}", io::Error::last_os_error());
    ip(&format!("address add 10.9.{path}.{host}/24 dev {name}"));
    // fd09::1, then fd09:0:0:1::1
    let prefix = if path == 0 { "fd09:" } else { "fd09:0:0:1:" };
    ip(&format!("address add {prefix}:{host}/64 dev {name} nodad"));
    ip(&format!("link set {name} up"));
    device
}

/// Gives the calling thread realtime priority, so that a busy machine does not increase the
/// delay of the path. Without the privilege for this, packets may take longer.
fn raise_priority() {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: 0 is the calling thread, and `priority` lives through the call.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &priority) };
}

/// Carries packets until `stop` is set.
fn carry(mut from: File, mut to: File, delay: Duration, stop: &AtomicBool) {
    raise_priority();
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
            // Writing fails if the device is not up yet or is removed. The packet is then
            // lost, as on a real path.
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

/// Waits for a packet, and returns whether one can be read.
fn comes(device: &File, wait: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd: device.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // ppoll(2), because poll(2) would round a short delay to whole milliseconds.
    let wait = libc::timespec {
        tv_sec: wait.as_secs() as libc::time_t,
        tv_nsec: wait.subsec_nanos().into(),
    };
    // SAFETY: `poll` is one element, and lives through the call, as does `wait`;
    // NULL leaves the signal mask as it is.
    unsafe { libc::ppoll(&mut poll, 1, &wait, std::ptr::null()) > 0 }
}
