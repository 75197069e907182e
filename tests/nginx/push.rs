//! `tcp_nopush`, which Debian's nginx.conf sets: the end of a file must not
//! wait in a corked MPTCP connection that nginx closes.

use std::fs;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use libc::{c_int, socklen_t};
use socket2::{Domain, Protocol, Socket, Type};

use crate::client::{Connection, Transport};
use crate::harness::Site;
use crate::http::response;
use crate::namespace::{ip, set_sysctl};
use crate::server::Conf;
use crate::strace;
use crate::subsystem::{Subsystem, test_on};

/// A listener with Debian's settings, one with `tcp_nopush off`, and one without a parameter of
/// the module.
const CORKED: &str = "127.0.0.1:8080";
const NEVER_CORKED: &str = "127.0.0.1:8081";
const PLAIN: &str = "127.0.0.1:8082";

/// How often each request is sent to each listener.
const ROUNDS: usize = 9;

/// A file of each of these sizes has its size as its name.
const SIZES: [usize; 4] = [1, 1000, 100_000, 1_000_000];

/// A server of files with the settings of Debian's nginx.conf, except `tcp_nopush`.
fn server(words: &str, tcp_nopush: &str) -> String {
    format!(
        "server {{
    listen {words};
    root .;
    sendfile on;
    tcp_nopush {tcp_nopush};
    error_page 404 405 /1000;
    location /last/ {{ keepalive_requests 1; alias ./; }}
    location /linger/ {{ lingering_close always; alias ./; }}
    location /chunks/ {{ sendfile_max_chunk 64k; alias ./; }}
    location /page {{ ssi on; ssi_types *; }}
    location /text {{ return 200 text; }}
    location /drop {{ return 444; }}
}}\n"
    )
}

/// Writes the files, and returns a configuration with the three servers.
fn prepare(site: &Site) -> Conf {
    for size in SIZES {
        fs::write(site.path(&size.to_string()), vec![b'f'; size]).expect("a file can be made");
    }
    let page = "<!--#include virtual=\"/100000\" -->end";
    fs::write(site.path("page"), page).expect("a file can be made");
    // Before Linux 6.12, with segments as large as those of the loopback, a cork delays all
    // that fits into the first send buffer. Smaller segments make the sizes comparable.
    ip("link set lo mtu 1500");
    // With the default buffer large responses wait for another reason: Linux is late in
    // announcing to nginx that the client's window has opened again.
    set_sysctl("ipv4/tcp_rmem", "4096 8388608 8388608");
    let servers = [
        server(&format!("{CORKED} mptcp"), "on"),
        server(&format!("{NEVER_CORKED} mptcp"), "off"),
        server(PLAIN, "on"),
    ];
    Subsystem::Http.conf(&servers.concat())
}

/// The requests of the clients. nginx closes the connection after its answers.
fn requests() -> Vec<String> {
    let close = |request: &str| format!("{request}\r\nHost: localhost\r\nConnection: close\r\n");
    let keep = |request: &str| format!("{request}\r\nHost: localhost\r\n\r\n");
    let mut requests = Vec::new();
    for size in SIZES {
        requests.push(format!("GET /{size} HTTP/1.0\r\n\r\n"));
        requests.push(close(&format!("GET /{size} HTTP/1.1")) + "\r\n");
        requests.push(keep(&format!("GET /last/{size} HTTP/1.1")));
        requests.push(format!("GET /linger/{size} HTTP/1.0\r\n\r\n"));
    }
    let range = |range| close("GET /100000 HTTP/1.1") + "Range: bytes=" + range + "\r\n\r\n";
    requests.extend([
        "GET /none HTTP/1.0\r\n\r\n".into(),
        "POST /1 HTTP/1.0\r\nContent-Length: 4\r\n\r\nbody".into(),
        "HEAD /1000 HTTP/1.0\r\n\r\n".into(),
        "GET /chunks/1000000 HTTP/1.0\r\n\r\n".into(),
        "GET /page HTTP/1.0\r\n\r\n".into(),
        range("0-9"),
        range("100-99998"),
        range("0-9,50000-99999"),
        // Pipelined requests: nginx does not remove the cork between them.
        keep("GET /1000 HTTP/1.1") + &close("GET /1 HTTP/1.1") + "\r\n",
        keep("GET /1000 HTTP/1.1") + &close("HEAD /1 HTTP/1.1") + "\r\n",
        keep("GET /1000 HTTP/1.1") + &close("GET /text HTTP/1.1") + "\r\n",
        keep("GET /1000 HTTP/1.1") + &keep("GET /drop HTTP/1.1"),
        keep("GET /1000 HTTP/1.1") + "no request\r\n\r\n",
    ]);
    requests
}

/// How long a client waits for the end of the connection, and the response that it receives.
fn time_response(transport: Transport, address: &str, request: &str) -> (Duration, Vec<u8>) {
    let mut connection = Connection::open(transport, address).expect("http takes connections");
    let begin = Instant::now();
    connection
        .send(request.as_bytes())
        .expect("a request can be sent");
    let mut answer = Vec::new();
    let end = connection.read_to_end(&mut answer);
    end.unwrap_or_else(|error| panic!("{request:?}: {error}"));
    (begin.elapsed(), answer)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// How long the kernel delays the last bytes that a program sends on a corked connection before
/// it closes the connection.
fn cork() -> Duration {
    let new = || Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP));
    let listener = new().expect("an MPTCP socket can be made");
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    listener.bind(&address.into()).expect("a port is free");
    listener.listen(1).expect("it can listen");
    let address = listener.local_addr().expect("it has an address");
    let mut client = new().expect("an MPTCP socket can be made");
    client.connect(&address).expect("it listens");
    let (mut accepted, _) = listener.accept().expect("the client has connected");
    set_cork(&accepted);
    let begin = Instant::now();
    accepted.write_all(b"text").expect("the client is there");
    drop(accepted);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("the text comes");
    begin.elapsed()
}

fn set_cork(socket: &Socket) {
    let (fd, on, size) = (socket.as_raw_fd(), 1, size_of::<c_int>() as socklen_t);
    let value = (&raw const on).cast();
    // SAFETY: `value` points to a c_int, which lives through the call.
    let result = unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_CORK, value, size) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

#[test_on(http)]
fn the_end_of_a_response_does_not_wait_in_a_cork(_: Subsystem) {
    let site = Site::alone();
    let conf = prepare(&site);
    let _nginx = site.start(&conf);
    let cork = median((0..ROUNDS).map(|_| cork()).collect());
    for request in requests() {
        let (mut corked, mut never) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (time, answer) = time_response(Transport::Mptcp, CORKED, &request);
            corked.push(time);
            let (time, expected) = time_response(Transport::Mptcp, NEVER_CORKED, &request);
            never.push(time);
            assert_eq!(answer.len(), expected.len(), "{request:?}");
        }
        let (corked, never) = (median(corked), median(never));
        // If close() sends the corked bytes at once, as on some kernels, `cork` is near 0.
        let margin = (cork / 2).max(Duration::from_millis(20));
        assert!(
            corked < never + margin,
            "{request:?}: {corked:?}, with tcp_nopush off {never:?}, a cork {cork:?}"
        );
    }
}

/// The calls of nginx that set or query a socket option, grouped by connection in the order of
/// accept(2). Calls before the first accept(2) belong to no connection.
fn option_calls(trace: &str) -> Vec<Vec<&str>> {
    let mut connections = Vec::new();
    for line in trace.lines() {
        let call = line.trim_start_matches(|one: char| one.is_ascii_digit() || one == ' ');
        let accepts = call.starts_with("accept") && !call.contains(" = -1 ");
        if accepts {
            connections.push(Vec::new());
        } else if call.contains("sockopt(") {
            connections
                .last_mut()
                .into_iter()
                .for_each(|calls| calls.push(call));
        }
    }
    connections
}

#[test_on(http)]
fn removing_the_cork_is_one_system_call_and_done_only_if_needed(_: Subsystem) {
    let close = "\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let pipelined = "GET /1000 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let cases = [
        ("GET /1000 HTTP/1.0\r\n\r\n".to_owned(), 1),
        (format!("GET /100000 HTTP/1.1{close}"), 1),
        (
            "GET /last/1000 HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
            1,
        ),
        ("GET /linger/1000 HTTP/1.0\r\n\r\n".into(), 1),
        ("GET /none HTTP/1.0\r\n\r\n".into(), 1),
        (format!("{pipelined}GET /1 HTTP/1.1{close}"), 1),
        (format!("{pipelined}HEAD /1 HTTP/1.1{close}"), 1),
        (format!("{pipelined}GET /drop HTTP/1.1{close}"), 1),
        ("HEAD /1000 HTTP/1.0\r\n\r\n".into(), 0),
        (format!("GET /text HTTP/1.1{close}"), 0),
        (
            format!("HEAD /1 HTTP/1.1\r\nHost: localhost\r\n\r\nHEAD /1 HTTP/1.1{close}"),
            0,
        ),
    ];
    let site = Site::new();
    let calls = "trace=accept,accept4,setsockopt,getsockopt";
    let options = ["-qq", "-f", "-e", calls];
    let (nginx, mut strace) = strace::start(&site, &options, &prepare(&site), 1);
    for (request, _) in &cases {
        time_response(Transport::Mptcp, CORKED, request);
        time_response(Transport::Tcp, PLAIN, request);
    }
    // nginx itself removes the cork of a connection that it keeps.
    for (transport, address) in [(Transport::Mptcp, CORKED), (Transport::Tcp, PLAIN)] {
        let mut connection = Connection::open(transport, address).expect("http takes connections");
        for _ in 0..3 {
            connection
                .send(pipelined.as_bytes())
                .expect("a request can be sent");
            response(&mut connection).expect("http answers");
        }
    }
    nginx.quit();
    strace.wait().expect("strace ends with nginx");

    let trace = site.read("trace");
    let calls = option_calls(&trace);
    let kept = ("kept".to_owned(), 0);
    assert_eq!(calls.len(), 2 * (cases.len() + 1), "{trace}");
    for ((request, more), pair) in cases.iter().chain([&kept]).zip(calls.chunks(2)) {
        assert_eq!(
            pair[0].len(),
            pair[1].len() + more,
            "{request:?}: {pair:#?}"
        );
    }
}
