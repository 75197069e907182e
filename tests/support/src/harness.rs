//! What the tests need of the machine, and the place each of them runs in.

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

/// How long a test waits for what must happen; it never waits longer than
/// the event takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// The machine that the tests run on.
pub struct Host;

impl Host {
    /// Its nginx; what is missing ends the test.
    pub fn get() -> &'static Program {
        static PROGRAM: OnceLock<Program> = OnceLock::new();
        PROGRAM.get_or_init(|| {
            check();
            Program::find().unwrap_or_else(|missing| panic!("{missing}"))
        })
    }
}

/// What every test of nginx needs.
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

/// Tests share the machine, except one that measures.
static MACHINE: RwLock<()> = RwLock::new(());

/// This test's turn on the machine, held and never looked at.
enum Turn {
    Shared {
        _guard: RwLockReadGuard<'static, ()>,
    },
    Alone {
        _guard: RwLockWriteGuard<'static, ()>,
    },
}

/// The place of one test: a network namespace and a folder. When it goes, the
/// processes of the namespace and the folder go with it.
pub struct Site {
    /// The folder: nginx's prefix.
    pub folder: PathBuf,
    namespace: PathBuf,
    provoked: Mutex<Vec<String>>,
    _turn: Turn,
}

impl Site {
    /// A place for the calling test, beside other tests.
    pub fn new() -> Self {
        let _guard = MACHINE
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        Self::with(Turn::Shared { _guard })
    }

    /// A place for a test that must have the machine to itself.
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
        // nginx's own default folder for logs, opened before it reads a file.
        fs::create_dir(folder.join("logs")).expect("a folder can be made in the test's folder");
        Self {
            folder,
            namespace: namespace::current(),
            provoked: Mutex::new(vec!["exited on signal 9".into()]),
            _turn: turn,
        }
    }

    /// Expects alerts of nginx with this errno: the test makes a system call
    /// fail with it.
    pub fn provoke(&self, errno: i32) {
        self.provoke_text(&format!("({errno}: "));
    }

    /// Expects alerts of nginx with this text.
    pub fn provoke_text(&self, text: &str) {
        let provoked = self.provoked.lock();
        let mut provoked = provoked.unwrap_or_else(|poisoned| poisoned.into_inner());
        provoked.push(text.into());
    }

    /// A file of the test's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The text of a file of the folder, empty while it is not there.
    pub fn read(&self, name: &str) -> String {
        fs::read(self.path(name)).map_or_else(
            |_| String::new(),
            |text| String::from_utf8_lossy(&text).into_owned(),
        )
    }

    /// The processes that the test has started and that still run.
    pub fn processes(&self) -> Vec<Process> {
        namespace::processes(&self.namespace)
    }

    /// Runs a command to its end. Its output goes to a file, so one that
    /// leaves a daemon behind ends here too.
    pub fn run(&self, command: &mut Command) -> Outcome {
        self.run_with(command, "")
    }

    /// The same, with this text on its standard input.
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

    /// Ends what still runs, by force where that is needed. Returns the
    /// processes that needed it.
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

    /// Sends each process a signal, and gives them time to end.
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
        // nginx's word for what must not happen: a worker that crashed, a
        // connection that leaked. Some tests kill workers, and some make
        // system calls fail.
        let provoked = self.provoked.lock();
        let provoked = provoked.unwrap_or_else(|poisoned| poisoned.into_inner());
        let provoked = |line: &str| provoked.iter().any(|text| line.contains(text));
        // On a busy machine an old worker may still accept from a socket that the
        // new ones have ended: docs/nginx.md, limits.
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
    /// What it wrote, to standard output and standard error.
    pub text: String,
}

impl Outcome {
    /// Ends the test unless the command succeeded.
    pub fn succeeds(self) -> String {
        assert!(self.status.success(), "{}: {}", self.status, self.text);
        self.text
    }

    /// Ends the test unless the command failed, and not by a signal.
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

/// Makes this process the parent of daemons that its children leave, so that
/// none can escape and none stays a zombie.
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

/// Sends a signal to a process of the test; it may have gone already.
pub fn send_signal(pid: i32, signal: i32) {
    assert!(pid > 1, "{pid} is no process of a test");
    // SAFETY: kill() takes two numbers; `pid` names a process of this test.
    unsafe { libc::kill(pid, signal) };
}

/// Takes the exit status of an adopted process; false while there is none.
pub fn reap(pid: i32) -> bool {
    // SAFETY: a null status pointer is allowed; WNOHANG keeps it from waiting.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) != 0 }
}

/// Waits until `look` finds something, and returns it; ends the test after
/// long enough, with what `look` says is wrong.
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

/// Waits until `look` finds something, and returns it; ends the test after
/// long enough, saying what never came.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    wait_for_ok(|| look().ok_or_else(|| format!("still waiting for {what}")))
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}
