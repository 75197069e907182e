//! The C example inherits sockets from a service manager.

use std::fs;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ngx_rs_listen::Protocol;
use socket2::Socket;

use crate::documented::{PATIENCE, Program, beside_examples, commands, serves, talk, two_paths};
use test_support::{listening, namespace};

/// The number of the first descriptor that a service manager passes.
const FIRST: RawFd = 3;

/// Starts the C example with sockets from a service manager. Only the process that LISTEN_PID
/// names may use them.
fn activated(folder: &Path, sockets: &[&Socket], pid: &str) -> Program {
    let build = commands("-std=c99 -o echo examples/echo.c");
    let build = build.lines().next().expect("it is built, then run");
    let mut moves = String::new();
    for (index, socket) in sockets.iter().enumerate() {
        // A number above those that the descriptors get later. The copy is not closed on exec.
        // SAFETY: F_DUPFD takes no pointer.
        let fd = unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_DUPFD, 100) };
        assert!(fd >= 100, "{}", std::io::Error::last_os_error());
        moves += &format!(" {}<&{fd}-", FIRST + index as RawFd);
    }
    let count = sockets.len();
    let words = "127.0.0.1:7000-7003 mptcp";
    let run = format!("env LISTEN_PID={pid} LISTEN_FDS={count} ./echo {words} 2>&1 {moves}");
    Program::start(&format!("{build}\n{run}"), folder)
}

/// The inode of a socket, which identifies it in every process.
fn inode(fd: &Path) -> String {
    let link = fs::read_link(fd).unwrap_or_default();
    link.to_string_lossy().into_owned()
}

fn has(program: &Program, socket: &Socket) -> bool {
    let own = format!("/proc/thread-self/fd/{}", socket.as_raw_fd());
    let own = inode(Path::new(&own));
    assert!(own.starts_with("socket:["), "{own}");
    let fds = fs::read_dir(format!("/proc/{}/fd", program.child.id()));
    let mut fds = fds.expect("it runs").map_while(Result::ok);
    fds.any(|fd| inode(&fd.path()) == own)
}

#[test]
fn takes_sockets_from_a_service_manager() {
    let folder = beside_examples("activated");
    namespace::run(|| {
        two_paths();
        let kept = listening::listener("127.0.0.1:7000", Protocol::Mptcp, false);
        let replaced = listening::listener("127.0.0.1:7003", Protocol::Tcp, false);
        let unused = listening::listener("127.0.0.1:7004", Protocol::Mptcp, false);
        let program = activated(&folder, &[&unused, &kept, &replaced], "$$");
        for line in [
            "127.0.0.1:7000: MPTCP, inherited",
            "127.0.0.1:7001: MPTCP, opened",
            "127.0.0.1:7002: MPTCP, opened",
            "127.0.0.1:7003: MPTCP, replaced",
            "listening on 4 sockets",
        ] {
            assert_eq!(program.line(), line);
        }
        assert!(has(&program, &kept));
        assert!(!has(&program, &replaced) && !has(&program, &unused));
        // The service manager still has all of them.
        assert!(listening::listens(&kept) && listening::listens(&unused));
        assert!(!listening::listens(&replaced));
        serves(&program);
        assert_eq!(program.stop().code(), Some(0));
        assert!(listening::listens(&kept), "for the next process");
    });
}

#[test]
fn leaves_sockets_that_are_for_another_process() {
    let folder = beside_examples("another");
    namespace::run(|| {
        let socket = listening::listener("127.0.0.1:7000", Protocol::Mptcp, false);
        let mut program = activated(&folder, &[&socket], "1");
        let said = program.line();
        let wanted = "bind() to 127.0.0.1:7000 failed: Address already in use";
        assert!(said.ends_with(wanted), "{said}");
        let ended = program.child.wait().expect("it is our child");
        assert_eq!(ended.code(), Some(1));
        assert!(listening::listens(&socket));
    });
}

/// Runs the commands of docs/library.md with systemd's tool, which listens itself and passes
/// the socket when the first connection waits.
#[test]
fn takes_a_socket_from_systemd() {
    let folder = beside_examples("systemd");
    let build = commands("-std=c99 -o echo examples/echo.c");
    let build = build.lines().next().expect("it is built, then run");
    // The tool passes no environment variables unless its command line names them.
    let run = commands("systemd-socket-activate");
    let run = run.replace("-activate", "-activate -E LD_LIBRARY_PATH");
    namespace::run(|| {
        let program = Program::start(&format!("{build}\n{run}"), &folder);
        let end = Instant::now() + PATIENCE;
        while listening::is_free("127.0.0.1:7000") {
            assert!(Instant::now() < end, "systemd does not listen");
            thread::sleep(Duration::from_millis(2));
        }
        let printed = talk("127.0.0.1:7000", Protocol::Tcp);
        assert_eq!(program.line(), "127.0.0.1:7000: TCP, inherited");
        assert_eq!(program.line(), "127.0.0.1:7001: TCP, opened");
        while program.line() != "listening on 4 sockets" {}
        printed.check_output_of(&program);
        assert_eq!(program.stop().code(), Some(0));
    });
}
