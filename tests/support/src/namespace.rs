//! Network namespaces, the links between them, and their processes. Each namespace belongs
//! to a thread. In a new namespace every port is free, and the kernel removes its devices
//! with it.

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
    /// The id of the process that started or adopted it.
    pub parent: i32,
    /// Its command line. nginx overwrites the command line of each process with the role
    /// of the process.
    pub title: String,
}

/// Runs a test in a thread with its own network namespace, which has only the loopback, and
/// its own table of descriptors, so that the test can count its descriptors.
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
/// Threads and processes that the thread starts afterwards are in that namespace too.
pub fn enter_new() {
    enter(libc::CLONE_NEWNET);
}

/// Does the same as [`enter_new`], but returns an error if the user may not do this.
pub fn try_enter_new() -> io::Result<()> {
    try_enter(libc::CLONE_NEWNET)
}

fn enter(flags: libc::c_int) {
    try_enter(flags).unwrap_or_else(|error| {
        panic!("cannot make a network namespace ({error}): run it as root, on a kernel with CONFIG_NET_NS")
    });
}

fn try_enter(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: unshare() takes no pointer. Namespaces and tables of descriptors belong to the
    // calling thread, so the call affects no other thread.
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

/// How many descriptors the calling thread has open.
pub fn descriptors() -> usize {
    let list = fs::read_dir("/proc/thread-self/fd").expect("/proc is mounted");
    list.count()
}

/// The network namespace of the calling thread.
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

/// Creates a link between the calling thread's namespace and that of another thread, with one
/// end in each. [`set_up_end`] makes each end usable.
pub fn join(here: &str, there: &str, thread_id: i32) {
    ip(&format!(
        "link add {here} type veth peer name {there} netns {thread_id}"
    ));
}

/// Gives an end of a link in the calling thread's namespace its addresses, each with the
/// length of its prefix, and brings the end up.
pub fn set_up_end(end: &str, addresses: &[&str]) {
    // With duplicate address detection an IPv6 address would be unusable for a second.
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

/// Switches MPTCP off in the calling thread's namespace, unless the kernel has no MPTCP.
/// Returns the reason that nginx then reports.
pub fn switch_mptcp_off() -> &'static str {
    if without_mptcp::is_expected() {
        return without_mptcp::REASON;
    }
    set_mptcp(false);
    "MPTCP is switched off, set sysctl net.mptcp.enabled=1"
}

/// The processes in a namespace, except the calling process and zombies.
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

/// Reads one process from `/proc`, or returns None if it has ended.
fn process(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "PID (name) STATE PARENT ...": the name may contain any characters, so the
    // fields are read from behind it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let title = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let title = String::from_utf8_lossy(&title).replace('\0', " ");
    Some(Process { pid, parent, title })
}

/// A function for the thread of a [`Peer`] to run.
type Job = Box<dyn FnOnce() + Send>;

/// A second host: a thread that stays in its own network namespace and runs functions there.
pub struct Peer {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// The thread's id, for [`join`].
    pub thread_id: i32,
}

impl Peer {
    /// Starts the thread in a new namespace.
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

    /// Runs `body` in the peer's namespace and returns its result. Threads that `body`
    /// starts stay in that namespace.
    pub fn run<T: Send + 'static>(&self, body: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = channel::<Result<T, Box<dyn Any + Send>>>();
        let job = move || {
            // Sending fails only if the test has panicked, and then nobody needs the
            // result.
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
            // `run` has reported a panic of the thread already.
            let _ = thread.join();
        }
    }
}
