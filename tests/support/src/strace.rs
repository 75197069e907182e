//! Makes system calls of a process fail by strace.

use std::process::{Child, Command, Stdio};

use crate::harness::{Site, send_signal, wait_for_ok, wait_until};

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

/// A running strace that is attached to a process.
pub struct Strace<'site> {
    site: &'site Site,
    child: Child,
}

impl<'site> Strace<'site> {
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
        let child = Command::new(&words[0])
            .args(&words[1..])
            .args(["-p", &pid.to_string()])
            .current_dir(&site.folder)
            .stderr(Stdio::null())
            .spawn();
        let child = child.expect("strace is missing: install it");
        let strace = Self { site, child };
        let status = format!("/proc/{pid}/status");
        wait_until("strace", || {
            let status = std::fs::read_to_string(&status).unwrap_or_default();
            status.contains(&format!("TracerPid:\t{}\n", strace.child.id()))
        });
        strace
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
