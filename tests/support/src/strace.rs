//! Makes system calls of a process fail by strace.

use std::process::{Child, Command, Stdio};

use crate::harness::{Site, send_signal, wait_for_ok, wait_until};
use crate::server::{Conf, Nginx};

/// A system call and the errno with which it fails.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Its name.
    pub call: &'static str,
    /// The errno.
    pub errno: i32,
}

/// The file to which strace writes the calls.
const OUTPUT: &str = "strace.out";

impl Fault {
    /// The command strace with its options, except those that name the process. `when`
    /// selects the calls of each process that fail: `2` is the second call, and `2+` is
    /// the second call and all later ones.
    pub fn strace(self, when: &str) -> Vec<String> {
        let Self { call, errno } = self;
        let trace = format!("trace={call}");
        let inject = format!("inject={call}:error={errno}:when={when}");
        let words = ["strace", "-qq", "-o", OUTPUT, "-e", &trace, "-e", &inject];
        words.map(Into::into).to_vec()
    }
}

impl Site {
    /// The calls that failed because of the last strace.
    pub fn injected(&self) -> Vec<String> {
        let output = self.read(OUTPUT);
        let injected = output.lines().filter(|line| line.contains("(INJECTED)"));
        injected.map(Into::into).collect()
    }
}

/// Starts nginx under strace, which writes calls of nginx's processes to the file `trace`. strace
/// ends with nginx, and the caller waits for it.
pub fn start<'site>(
    site: &'site Site,
    options: &[&str],
    conf: &Conf,
    workers: usize,
) -> (Nginx<'site>, Child) {
    site.write(conf);
    let strace = [&["strace", "-o", "trace"], options].concat();
    let child = site
        .nginx_under(&strace, &[])
        .current_dir(&site.folder)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run strace ({error}): install it"));
    let nginx = site.running();
    nginx.wait_for_workers(workers);
    (nginx, child)
}

/// strace, attached to a running process. Dropping it detaches it.
pub struct Strace<'site> {
    site: &'site Site,
    child: Child,
}

impl<'site> Strace<'site> {
    /// Records calls of a running process. `expression` is that of `strace -e`.
    pub fn record(site: &'site Site, pid: i32, expression: &str) -> Self {
        let words = ["strace", "-qq", "-o", OUTPUT, "-e", expression];
        Self::run(site, pid, &words.map(Into::into))
    }

    /// Makes calls of a running process fail.
    pub fn attach(site: &'site Site, pid: i32, fault: Fault, when: &str) -> Self {
        Self::run(site, pid, &fault.strace(when))
    }

    /// Makes calls of a running process, and of every process that it starts, fail.
    pub fn follow(site: &'site Site, pid: i32, fault: Fault, when: &str) -> Self {
        let mut words = fault.strace(when);
        words.push("-f".into());
        Self::run(site, pid, &words)
    }

    fn run(site: &'site Site, pid: i32, words: &[String]) -> Self {
        let before = Status::of(pid);
        let child = Command::new(&words[0])
            .args(&words[1..])
            .args(["-p", &pid.to_string()])
            .current_dir(&site.folder)
            .stderr(Stdio::null())
            .spawn();
        let child = child.expect("strace is missing: install it");
        let strace = Self { site, child };
        // strace becomes the tracer first, and then interrupts a process that runs to trace its
        // calls. The process waits in that stop, and for its next event: two switches.
        wait_until("strace", || {
            let now = Status::of(pid);
            let interrupted = || now.state == 'S' && now.switches >= before.switches + 2;
            now.tracer == i64::from(strace.child.id()) && (before.state == 'T' || interrupted())
        });
        strace
    }

    /// The calls so far, one on each line.
    pub fn calls(&self) -> String {
        self.site.read(OUTPUT)
    }

    /// Ends strace, and returns the calls that it has recorded.
    pub fn end_recording(self) -> String {
        let site = self.site;
        drop(self);
        site.read(OUTPUT)
    }

    /// Ends strace, and returns the calls that failed because of it.
    pub fn end(self) -> Vec<String> {
        let site = self.site;
        drop(self);
        site.injected()
    }
}

impl Drop for Strace<'_> {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        send_signal(pid, libc::SIGTERM);
        // Waiting reaps strace. Its status is not needed.
        let _ = self.child.wait();
    }
}

/// Stops a process until it gets SIGCONT.
pub fn stop(pid: i32) {
    send_signal(pid, libc::SIGSTOP);
    wait_until("the process to stop", || Status::of(pid).state == 'T');
}

/// The state of a process, from /proc.
struct Status {
    tracer: i64,
    /// `S`: sleeping; `T`: stopped by a signal.
    state: char,
    /// How often the process gave up the processor to wait.
    switches: i64,
}

impl Status {
    fn of(pid: i32) -> Self {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.strip_prefix(":\t"))
        };
        let number = |name| field(name).and_then(|value| value.parse().ok());
        Self {
            tracer: number("TracerPid").unwrap_or(0),
            state: field("State")
                .and_then(|state| state.chars().next())
                .unwrap_or(' '),
            switches: number("voluntary_ctxt_switches").unwrap_or(0),
        }
    }
}

/// Waits until a worker makes no system call for two seconds. On older kernels strace
/// interrupts the call in which the worker sleeps when it attaches.
pub fn wait_for_sleep(site: &Site, worker: &str) {
    wait_for_ok(|| {
        let mut strace = Command::new("timeout");
        strace.args(["2", "strace", "-f", "-o", "trace", "-p", worker]);
        site.run(&mut strace);
        let calls = site.read("trace");
        let wakes = |line: &&str| line.contains("epoll_wait(") && line.contains(" = ");
        let calls: Vec<_> = calls.lines().filter(wakes).collect();
        match calls.is_empty() {
            true => Ok(()),
            false => Err(format!("{calls:#?}")),
        }
    });
}
