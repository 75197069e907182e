//! Sockets that another process than an old nginx passes in the environment variable NGINX, for
//! example a service manager.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::client::Transport;
use crate::harness::{Site, send_signal, wait_until};
use crate::server::{Conf, Nginx};
use crate::sockets::listening_on;
use crate::steady::Steady;
use crate::strace::wait_for_sleep;
use crate::subsystem::{Subsystem, test_on};
use crate::without_mptcp;

const ADDRESSES: [&str; 2] = ["127.0.0.1:8080", "[::1]:8080"];

fn listener(address: &str, protocol: Protocol) -> Socket {
    let address: std::net::SocketAddr = address.parse().expect("an address");
    let domain = Domain::for_address(address);
    if protocol == Protocol::MPTCP {
        without_mptcp::end_if_expected();
    }
    let socket = Socket::new(domain, Type::STREAM, Some(protocol)).expect("a socket");
    socket.set_reuse_address(true).expect("a new socket");
    socket.bind(&SockAddr::from(address)).expect("it is free");
    socket.listen(511).expect("it can listen");
    socket.set_nonblocking(true).expect("a socket");
    socket
}

/// The number of the passed descriptor.
const PASSED: RawFd = 33;

/// Passes a socket to a command as a service manager does.
fn pass<'a>(site: &Site, command: &'a mut Command, socket: &Socket) -> &'a mut Command {
    let fd = socket.as_raw_fd();
    command.env("NGINX", format!("{PASSED};"));
    command.stderr(File::create(site.path("stderr")).expect("a file can be made"));
    let duplicate = move || {
        // SAFETY: dup2() takes two numbers; the new one has no close-on-exec.
        match unsafe { libc::dup2(fd, PASSED) } {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: it only calls dup2(), which is async-signal-safe.
    unsafe { command.pre_exec(duplicate) }
}

/// Starts nginx in the foreground, so that its parent is this process.
fn start<'site>(site: &'site Site, conf: &Conf, socket: &Socket) -> (Nginx<'site>, Child) {
    site.write(&conf.clone().foreground());
    let mut command = site.nginx(&[]);
    let child = pass(site, &mut command, socket).current_dir(&site.folder);
    let child = child.spawn().expect("nginx can be run");
    let nginx = site.running();
    nginx.wait_for_workers(1);
    (nginx, child)
}

/// The number of warnings in the log and on standard error, where nginx writes those of its
/// start.
fn warnings(site: &Site) -> usize {
    let log = site.read("stderr") + &site.read("error.log");
    let warns = |line: &&str| line.contains("[warn]") && line.contains("SocketProtocol=");
    log.lines().filter(warns).count()
}

/// Starts and reloads. Checks that nginx keeps the socket and logs `warned` warnings.
fn is_kept(on: Subsystem, address: &str, protocol: Protocol, word: &str, warned: usize) {
    let site = Site::new();
    let socket = listener(address, protocol);
    let conf = on.listen(&format!("{address} {word}")).foreground();
    let (nginx, mut child) = start(&site, &conf, &socket);
    let kept = nginx.listener();
    let mptcp = protocol == Protocol::MPTCP;
    assert_eq!(kept.is_mptcp(), mptcp, "{word:?}");
    for loads in 1..3 {
        assert_eq!(warnings(&site), loads * warned, "{}", nginx.log());
        (0..10).for_each(|_| on.serves(address, mptcp));
        nginx.reload(&conf);
        assert_eq!(nginx.listener(), kept);
    }
    send_signal(nginx.pid, libc::SIGQUIT);
    child.wait().expect("it is a child");
    assert_eq!(listening_on(8080), 1, "its giver still has it");
}

#[test_on(stream, http, mail)]
fn a_passed_tcp_socket_keeps_its_protocol_with_one_warning(on: Subsystem) {
    for address in ADDRESSES {
        is_kept(on, address, Protocol::TCP, "mptcp", 1);
        is_kept(on, address, Protocol::TCP, "mptcp=auto", 0);
    }
}

#[test_on(stream, http, mail)]
fn a_passed_mptcp_socket_is_kept_if_no_protocol_is_requested(on: Subsystem) {
    for address in ADDRESSES {
        is_kept(on, address, Protocol::MPTCP, "", 0);
        is_kept(on, address, Protocol::MPTCP, "mptcp", 0);
    }
}

#[test_on(stream, http, mail)]
fn a_passed_mptcp_socket_is_kept_if_tcp_is_requested(on: Subsystem) {
    is_kept(on, ADDRESSES[0], Protocol::MPTCP, "mptcp=off", 1);
}

/// Process 1 has a parent outside of its PID namespace, so getppid() returns 0.
#[test_on(stream, http)]
fn process_1_of_a_container_keeps_passed_sockets(on: Subsystem) {
    let site = Site::new();
    let socket = listener(ADDRESSES[0], Protocol::TCP);
    site.write(&on.listen(&format!("{} mptcp", ADDRESSES[0])).foreground());
    let mut command = site.nginx_under(&["unshare", "--pid", "--fork", "--kill-child"], &[]);
    let child = pass(&site, &mut command, &socket).current_dir(&site.folder);
    let mut child = child.spawn().expect("unshare can be run");
    wait_until("nginx", || site.read("nginx.pid").trim() == "1");
    for _ in 0..100 {
        let (answer, mptcp) = on
            .request_answer(Transport::Mptcp, ADDRESSES[0])
            .expect("it is served");
        assert_eq!((answer.as_str(), mptcp), (on.answer(), false));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(listening_on(8080), 1);
    assert_eq!(warnings(&site), 1);
    child.kill().expect("it runs");
    child.wait().expect("it is a child");
}

#[test_on(stream, http)]
fn a_passed_socket_changes_after_the_passing_process_has_exited(on: Subsystem) {
    let site = Site::new();
    let socket = listener(ADDRESSES[0], Protocol::TCP);
    let conf = on.listen(&format!("{} mptcp", ADDRESSES[0])).foreground();
    site.write(&conf);
    // A shell that passes the socket to nginx, and exits at the end of its input.
    let shell = ["sh", "-c", "\"$0\" \"$@\" < /dev/null & read -r line"];
    let mut command = site.nginx_under(&shell, &[]);
    command.stdin(std::process::Stdio::piped());
    let giver = pass(&site, &mut command, &socket).current_dir(&site.folder);
    let mut giver = giver.spawn().expect("sh can be run");
    let nginx = site.running();
    nginx.wait_for_workers(1);
    drop(socket);
    let clients = Steady::start(on, ADDRESSES[0]);
    nginx.reload(&conf);
    assert!(!nginx.listener().is_mptcp());
    assert_eq!(warnings(&site), 2);

    drop(giver.stdin.take());
    giver.wait().expect("it is a child");
    nginx.reload(&conf);
    wait_until("the MPTCP socket alone", || listening_on(8080) == 1);
    assert!(nginx.listener().is_mptcp());
    clients.all_were_served();
    on.serves(ADDRESSES[0], true);
    assert_eq!(warnings(&site), 2);
}

#[test_on(stream)]
fn workers_of_a_passed_socket_sleep(on: Subsystem) {
    let site = Site::new();
    let socket = listener(ADDRESSES[0], Protocol::TCP);
    let conf = on.listen(&format!("{} mptcp", ADDRESSES[0])).foreground();
    let (nginx, mut child) = start(&site, &conf, &socket);
    let worker = nginx.workers()[0].to_string();
    wait_for_sleep(&site, &worker);
    send_signal(nginx.pid, libc::SIGQUIT);
    child.wait().expect("it is a child");
}
