//! Checks the requirements of the nginx tests, and gives each test its own folder and
//! network namespace.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::folder;
use crate::namespace::{self, Process};
use crate::program::Program;
use crate::without_mptcp;

/// The longest time that a test waits for an event. A test continues as soon as the
/// event has happened, so a long limit does not slow it down.
const PATIENCE: Duration = Duration::from_secs(20);

/// The machine that the tests run on.
pub struct Host;

impl Host {
    /// The nginx to test. If something is missing, the test fails and names it.
    pub fn get() -> &'static Program {
        static PROGRAM: OnceLock<Program> = OnceLock::new();
        PROGRAM.get_or_init(|| {
            check();
            Program::find().unwrap_or_else(|missing| panic!("{missing}"))
        })
    }
}

/// Fails if this is not root or if the kernel has no MPTCP.
fn check() {
    // SAFETY: geteuid() has no preconditions and no effect.
    let user = unsafe { libc::geteuid() };
    assert_eq!(
        user, 0,
        "run the nginx tests as root: they need network namespaces"
    );
    let mptcp = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP));
    match mptcp {
        Err(error) if !without_mptcp::is_expected() => panic!(
            "no MPTCP here ({error}): use Linux 5.6 or later and set sysctl net.mptcp.enabled=1"
        ),
        _ => (),
    }
}

/// Tests run in parallel, except those that measure time.
static MACHINE: RwLock<()> = RwLock::new(());

/// The lock of [`MACHINE`] that a test keeps until it ends.
enum Turn {
    Shared {
        _guard: RwLockReadGuard<'static, ()>,
    },
    Alone {
        _guard: RwLockWriteGuard<'static, ()>,
    },
}

/// The environment of one test: a network namespace and a folder. Dropping it ends the
/// processes in the namespace, removes the folder and checks nginx's error log.
pub struct Site {
    /// The folder, which is nginx's prefix.
    pub folder: PathBuf,
    namespace: PathBuf,
    provoked: Mutex<Vec<String>>,
    _turn: Turn,
}

impl Site {
    /// An environment for a test that runs in parallel with other tests.
    pub fn new() -> Self {
        let _guard = MACHINE
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        Self::with(Turn::Shared { _guard })
    }

    /// An environment for a test that runs while no other test runs.
    pub fn alone() -> Self {
        let _guard = MACHINE
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        Self::with(Turn::Alone { _guard })
    }

    fn with(turn: Turn) -> Self {
        Host::get();
        adopt_orphans();
        namespace::enter_new();
        let folder = folder::temporary("test");
        let folder = folder.expect("a folder can be made in the temporary folder");
        // nginx opens the error log in its default folder before it reads the configuration.
        fs::create_dir(folder.join("logs")).expect("a folder can be made in the test's folder");
        Self {
            folder,
            namespace: namespace::current(),
            provoked: Mutex::new(vec!["exited on signal 9".into()]),
            _turn: turn,
        }
    }

    /// Accepts alerts in nginx's log with this errno, because the test makes a system
    /// call fail with it.
    pub fn provoke(&self, errno: i32) {
        self.provoke_text(&format!("({errno}: "));
    }

    /// Accepts alerts in nginx's log that contain this text.
    pub fn provoke_text(&self, text: &str) {
        let provoked = self.provoked.lock();
        let mut provoked = provoked.unwrap_or_else(|poisoned| poisoned.into_inner());
        provoked.push(text.into());
    }

    /// A file of the test's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The text of a file in the folder, or an empty text if there is no such file.
    pub fn read(&self, name: &str) -> String {
        fs::read(self.path(name)).map_or_else(
            |_| String::new(),
            |text| String::from_utf8_lossy(&text).into_owned(),
        )
    }

    /// The processes of the test that still run.
    pub fn processes(&self) -> Vec<Process> {
        namespace::processes(&self.namespace)
    }

    /// Runs a command and waits until it ends. The output goes to a file and not to a
    /// pipe, so a daemon that keeps the output open does not make this wait.
    pub fn run(&self, command: &mut Command) -> Outcome {
        self.run_with(command, "")
    }

    /// Runs a command like [`Site::run`], with this text as its standard input.
    pub fn run_with(&self, command: &mut Command, input: &str) -> Outcome {
        fs::write(self.path("input"), input).expect("a file can be made in the test's folder");
        let input = File::open(self.path("input")).expect("a new file can be read");
        let program = command.get_program().to_string_lossy().into_owned();
        let output =
            File::create(self.path("output")).expect("a file can be made in the test's folder");
        let errors = output.try_clone().expect("a descriptor can be duplicated");
        let status = command
            .current_dir(&self.folder)
            .stdin(input)
            .stdout(output)
            .stderr(errors)
            .status()
            .unwrap_or_else(|error| panic!("cannot run {program} ({error}): install it"));
        Outcome {
            status,
            text: self.read("output"),
        }
    }

    /// Ends all processes of the test, with SIGTERM and then with SIGKILL. Returns the
    /// titles of the processes that SIGTERM did not end.
    fn end_processes(&self) -> Vec<String> {
        self.end_with(libc::SIGTERM);
        let stubborn = self
            .processes()
            .into_iter()
            .map(|process| process.title)
            .collect();
        self.end_with(libc::SIGKILL);
        stubborn
    }

    /// Sends each process a signal, and waits until all have ended or the time is up.
    fn end_with(&self, signal: i32) {
        let deadline = Instant::now() + PATIENCE;
        let mut told = Vec::new();
        while Instant::now() < deadline {
            let running = self.processes();
            if running.is_empty() {
                break;
            }
            for process in running
                .iter()
                .filter(|process| !told.contains(&process.pid))
            {
                send_signal(process.pid, signal);
            }
            told.extend(running.iter().map(|process| process.pid));
            std::thread::sleep(Duration::from_millis(4));
        }
        told.into_iter().for_each(|pid| {
            reap(pid);
        });
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let stubborn = self.end_processes();
        let (conf, log) = (self.read("nginx.conf"), self.read("error.log"));
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("cannot remove {}: {error}", self.folder.display());
        }
        if std::thread::panicking() {
            eprintln!("--- nginx.conf\n{conf}--- error.log\n{log}---");
            return;
        }
        assert!(stubborn.is_empty(), "SIGTERM did not end {stubborn:?}");
        // nginx logs an alert if a worker crashed or a connection leaked, so an alert
        // fails the test. Tests that kill workers or make system calls fail list the
        // alerts that they cause.
        let provoked = self.provoked.lock();
        let provoked = provoked.unwrap_or_else(|poisoned| poisoned.into_inner());
        let provoked = |line: &str| provoked.iter().any(|text| line.contains(text));
        // On a busy machine an old worker may still accept from a socket that a new
        // worker has ended. docs/nginx.md lists this under limits.
        let late = |line: &str| line.contains("accept4() failed (22: Invalid argument)");
        let alert = |line: &&str| line.contains("[alert]") && !provoked(line) && !late(line);
        let alerts: Vec<&str> = log.lines().filter(alert).collect();
        assert!(alerts.is_empty(), "alerts of nginx: {alerts:#?}\n{log}");
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output and standard error.
    pub text: String,
}

impl Outcome {
    /// Fails the test unless the command succeeded.
    pub fn succeeds(self) -> String {
        assert!(self.status.success(), "{}: {}", self.status, self.text);
        self.text
    }

    /// Fails the test unless the command exited with an error status. A command that a
    /// signal killed fails the test as well.
    pub fn fails(self) -> String {
        let code = self.status.code();
        assert!(
            code.is_some_and(|code| code != 0),
            "{}: {}",
            self.status,
            self.text
        );
        self.text
    }
}

/// Makes this process the parent of the daemons that its children start, so that it can
/// end and reap them.
fn adopt_orphans() {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes a number and no pointer.
    let result = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    assert_eq!(
        result,
        0,
        "cannot adopt daemons: {}",
        io::Error::last_os_error()
    );
}

/// Sends a signal to a process of the test. The process may have ended already.
pub fn send_signal(pid: i32, signal: i32) {
    assert!(pid > 1, "{pid} is no process of a test");
    // SAFETY: kill() takes two numbers; `pid` names a process of this test.
    unsafe { libc::kill(pid, signal) };
}

/// Reaps a process. Returns false while the process still runs.
pub fn reap(pid: i32) -> bool {
    // SAFETY: a null status pointer is allowed; WNOHANG keeps it from waiting.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) != 0 }
}

/// Calls `look` until it returns `Ok`, and returns that value. After [`PATIENCE`] the
/// test fails with the error of `look`.
pub fn wait_for_ok<T>(mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(wrong) => assert!(Instant::now() < deadline, "after {PATIENCE:?}: {wrong}"),
        }
        std::thread::sleep(Duration::from_millis(4));
    }
}

/// Calls `look` until it returns a value, and returns that value. After [`PATIENCE`]
/// the test fails with `what`.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    wait_for_ok(|| look().ok_or_else(|| format!("still waiting for {what}")))
}

/// Waits until `condition` is true. After [`PATIENCE`] the test fails with `what`.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}
