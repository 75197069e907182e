//! Network namespaces held by threads, the links between them, and the
//! processes that live in them: every port is free, and nothing is left behind.

use std::any::Any;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use socket2::{Domain, Socket, Type};

use crate::without_mptcp;

/// One process as `/proc` shows it.
pub struct Process {
    /// Its process id.
    pub pid: i32,
    /// The process that started it, or adopted it.
    pub parent: i32,
    /// Its command line, which nginx rewrites to say what the process is.
    pub title: String,
}

/// Runs a test in a thread with a network of its own, of which only the
/// loopback is there, and with descriptors of its own, which can be counted.
pub fn run<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let inside = || {
        enter(libc::CLONE_NEWNET | libc::CLONE_FILES);
        test()
    };
    thread::scope(|scope| {
        let thread = scope.spawn(inside);
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Moves the calling thread into a new network namespace with `lo` up.
///
/// Threads and processes that it starts from here on live there too.
pub fn enter_new() {
    enter(libc::CLONE_NEWNET);
}

/// The same, if the user may.
pub fn try_enter_new() -> io::Result<()> {
    try_enter(libc::CLONE_NEWNET)
}

fn enter(flags: libc::c_int) {
    try_enter(flags).unwrap_or_else(|error| {
        panic!("cannot make a network namespace ({error}): run it as root, on a kernel with CONFIG_NET_NS")
    });
}

fn try_enter(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: unshare() reads its argument only; namespaces and tables of
    // descriptors are properties of the calling thread, and no other thread is
    // affected.
    if unsafe { libc::unshare(flags) } != 0 {
        return Err(io::Error::last_os_error());
    }
    set_loopback_up()
}

/// `ip link set lo up`
fn set_loopback_up() -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: all fields of `ifreq` may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: `request` is what SIOCSIFFLAGS reads, and lives through the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How many descriptors the calling thread has.
pub fn descriptors() -> usize {
    let list = fs::read_dir("/proc/thread-self/fd").expect("/proc is mounted");
    list.count()
}

/// Which namespace the calling thread is in.
pub fn current() -> PathBuf {
    fs::read_link("/proc/thread-self/ns/net").expect("/proc names the thread's namespace")
}

/// Runs `ip` with the given words; a failure ends the test.
pub fn ip(words: &str) {
    if words.starts_with("mptcp ") {
        without_mptcp::end_if_expected();
    }
    run_tool("ip", words, "install iproute2");
}

/// Runs `tc` with the given words; a failure ends the test.
pub fn tc(words: &str) {
    run_tool("tc", words, "install iproute2");
}

/// Runs `nft` with the given words; a failure ends the test.
pub fn nft(words: &str) {
    run_tool(
        "nft",
        words,
        "install nftables, 1.0.2 or later, on Linux 5.18 or later",
    );
}

/// Makes a link from the calling thread's namespace to that of another thread,
/// one end in each; [`set_up_end`] makes them usable.
pub fn join(here: &str, there: &str, thread_id: i32) {
    ip(&format!(
        "link add {here} type veth peer name {there} netns {thread_id}"
    ));
}

/// Gives an end of a link, in the calling thread's namespace, its addresses
/// with the lengths of their prefixes.
pub fn set_up_end(end: &str, addresses: &[&str]) {
    // Else an IPv6 address is not usable for a second.
    set_sysctl(&format!("ipv6/conf/{end}/accept_dad"), "0");
    for address in addresses {
        ip(&format!("address add {address} dev {end}"));
    }
    ip(&format!("link set {end} up"));
}

fn run_tool(program: &str, words: &str, advice: &str) {
    let output = Command::new(program)
        .args(words.split_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program} ({error}): {advice}"));
    assert!(
        output.status.success(),
        "{program} {words} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Sets a `/proc/sys/net` value of the calling thread's namespace.
pub fn set_sysctl(path: &str, value: &str) {
    if path.starts_with("mptcp/") {
        without_mptcp::end_if_expected();
    }
    fs::write(format!("/proc/sys/net/{path}"), value)
        .unwrap_or_else(|error| panic!("cannot set net/{path} to {value}: {error}"));
}

/// Sets `net.mptcp.enabled` of the calling thread's namespace.
pub fn set_mptcp(enabled: bool) {
    set_sysctl("mptcp/enabled", if enabled { "1" } else { "0" });
}

/// Lets the kernel refuse MPTCP in the calling thread's namespace, unless it has
/// none at all. Returns the reason that nginx gives.
pub fn switch_mptcp_off() -> &'static str {
    if without_mptcp::is_expected() {
        return without_mptcp::REASON;
    }
    set_mptcp(false);
    "MPTCP is switched off, set sysctl net.mptcp.enabled=1"
}

/// The processes that live in a namespace, this one left out; one that has
/// exited and only waits to be reaped does not live.
pub fn processes(namespace: &Path) -> Vec<Process> {
    let own = std::process::id();
    fs::read_dir("/proc")
        .expect("/proc can be read")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&pid: &i32| pid.unsigned_abs() != own)
        .filter(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|ns| ns == namespace))
        .filter_map(process)
        .collect()
}

/// Reads one process, which may be gone by now.
fn process(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "PID (name) STATE PARENT ...", where the name may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let title = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let title = String::from_utf8_lossy(&title).replace('\0', " ");
    Some(Process { pid, parent, title })
}

/// Work for the thread of a [`Peer`].
type Job = Box<dyn FnOnce() + Send>;

/// A second host: a thread that stays in a namespace of its own and runs what
/// it is given there.
pub struct Peer {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// The thread's id, for [`join`].
    pub thread_id: i32,
}

impl Peer {
    /// Starts the thread and its namespace.
    pub fn new() -> Self {
        let (jobs, queue) = channel::<Job>();
        let (tell, told) = channel();
        let thread = thread::spawn(move || {
            enter_new();
            // SAFETY: gettid() has no preconditions and no effect.
            let id = unsafe { libc::gettid() };
            tell.send(id).expect("the test waits for the thread's id");
            for job in queue {
                job();
            }
        });
        let thread_id = told.recv().expect("the second namespace could be made");
        let (jobs, thread) = (Some(jobs), Some(thread));
        Self {
            jobs,
            thread,
            thread_id,
        }
    }

    /// Runs `body` in the peer's namespace and returns its result. Threads
    /// that it starts stay there.
    pub fn run<T: Send + 'static>(&self, body: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = channel::<Result<T, Box<dyn Any + Send>>>();
        let job = move || {
            // The test may be gone when it has panicked: nobody to tell.
            let _ = tell.send(catch_unwind(AssertUnwindSafe(body)));
        };
        let jobs = self.jobs.as_ref().expect("the queue is open until drop");
        jobs.send(Box::new(job)).expect("the peer's thread runs");
        match told.recv().expect("the peer's thread answers") {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by `run`.
            let _ = thread.join();
        }
    }
}
