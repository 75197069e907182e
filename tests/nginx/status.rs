//! `mptcp_status`: the values and the time of its counters, and the system calls for them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;

use crate::client::{Connection, Transport, counter};
use crate::harness::{Site, send_signal, wait_until};
use crate::hosts::{Hosts, NEAR};
use crate::middlebox::{Middlebox, SERVER, Strips};
use crate::server::{Conf, Nginx};
use crate::strace::Strace;
use crate::subsystem::{Subsystem, test_on};
use crate::talk::Talk;

const ADDRESS: &str = "127.0.0.1:8080";
const STATUS: &str = "127.0.0.1:8089";

/// An http server with `mptcp_status`.
const STATUS_SERVER: &str = "server {
    listen 127.0.0.1:8089;
    location = /status {
        mptcp_status;
        allow 127.0.0.1;
        deny all;
    }
    location = /metrics {
        mptcp_status prometheus;
    }
}
";

fn counted(on: Subsystem, words: &[&str]) -> Conf {
    counting(on, on.servers(words))
}

fn counting(on: Subsystem, conf: Conf) -> Conf {
    match on {
        Subsystem::Http => conf.with_text(STATUS_SERVER),
        _ => conf.with_blocks_of(Subsystem::Http.conf(STATUS_SERVER)),
    }
}

/// The response to a request, with its head.
fn request(method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(STATUS).expect("http listens");
    let request = format!("{method} {path} HTTP/1.0\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .expect("it can be sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("http answers");
    text
}

/// The counters of a listener: one line of the response.
fn row(on: Subsystem, listener: &str) -> Option<String> {
    let text = request("GET", "/status");
    assert!(
        text.contains("\r\nContent-Type: application/json\r\n"),
        "{text}"
    );
    let name = format!(
        "{{\"listener\":\"{listener}\",\"subsystem\":\"{}\"",
        on.name()
    );
    let line = text.lines().find(|line| line.starts_with(&name));
    line.map(str::to_owned)
}

/// The numbers of the members of an object in a row, in their order.
fn numbers(row: &str, object: &str) -> Vec<u64> {
    let begin = format!("\"{object}\":{{");
    let (_, rest) = row.split_once(&begin).expect("the object is there");
    let (members, _) = rest.split_once('}').expect("it ends");
    let number = |member: &str| {
        let (_, number) = member.rsplit_once(':').expect("a member");
        number.parse().expect("a number")
    };
    members.split(',').map(number).collect()
}

/// Waits until the row of a listener has these numbers of open connections (TCP, MPTCP, other)
/// and closed ones (TCP, MPTCP, other, fallback). Returns the row.
fn wait_for_counts(on: Subsystem, listener: &str, open: [u64; 3], closed: [u64; 4]) -> String {
    let mut last = String::new();
    wait_until(&format!("open {open:?}, closed {closed:?}"), || {
        last = row(on, listener).unwrap_or_else(|| panic!("no row of {listener}"));
        numbers(&last, "open") == open && numbers(&last, "closed") == closed
    });
    let accepted = open.iter().chain(&closed).sum::<u64>();
    assert!(
        last.contains(&format!("\"accepted\":{accepted},")),
        "{last}"
    );
    last
}

fn serve_client(on: Subsystem, transport: Transport, address: &str) {
    on.request_answer(transport, address).expect("it answers");
}

/// Servers whose connections stay open until the client closes them.
struct Keeping {
    on: Subsystem,
    talk: Talk,
}

impl Keeping {
    fn new(on: Subsystem) -> Self {
        let talk = Talk::new(on);
        Self { on, talk }
    }

    fn conf(&self, words: &str) -> Conf {
        counting(self.on, self.on.conf(&self.talk.server(words)))
    }

    fn open(&self, transport: Transport, address: &str) -> Connection {
        let connection = self.talk.begin(transport, address);
        let mut connection = connection.expect("it takes connections");
        for _ in 0..4 {
            self.talk
                .exchange(&mut connection)
                .expect("bytes go both ways");
        }
        connection
    }
}

#[test_on(stream, http)]
fn connections_are_counted_by_listener_and_kind(on: Subsystem) {
    let site = Site::new();
    let words = [
        "127.0.0.1:8080 mptcp",
        "[::1]:8081 mptcp=auto",
        "127.0.0.1:8082",
    ];
    let _nginx = site.start(&counted(on, &words));
    for (address, listener, mptcp) in [
        (ADDRESS, ADDRESS, true),
        ("[::1]:8081", "[::1]:8081", true),
        ("127.0.0.1:8082", "127.0.0.1:8082", false),
    ] {
        wait_for_counts(on, listener, [0; 3], [0; 4]);
        serve_client(on, Transport::Tcp, address);
        serve_client(on, Transport::Mptcp, address);
        serve_client(on, Transport::Mptcp, address);
        let closed = if mptcp { [1, 2, 0, 0] } else { [3, 0, 0, 0] };
        let row = wait_for_counts(on, listener, [0; 3], closed);
        assert_eq!(numbers(&row, "paths"), [closed[1], 0, 0]);
        let sent = numbers(&row, "bytes_sent")[0];
        assert_eq!(sent > 0, mptcp && crate::linux::counts_mptcp(), "{row}");
    }
    // The listener of the counters is counted too: it has one open connection, which is
    // this request.
    let own = row(Subsystem::Http, STATUS).expect("it listens");
    assert_eq!(numbers(&own, "open"), [1, 0, 0]);
}

#[test_on(stream, http)]
fn counters_survive_reloads_and_changes_of_protocol(on: Subsystem) {
    let site = Site::new();
    let keeping = Keeping::new(on);
    let nginx = site.start(&keeping.conf(ADDRESS));
    let held = keeping.open(Transport::Tcp, ADDRESS);
    wait_for_counts(on, ADDRESS, [1, 0, 0], [0; 4]);
    let mptcp = keeping.conf("127.0.0.1:8080 mptcp");
    nginx.begin_reload(&mptcp);
    let held_by_new = keeping.open(Transport::Mptcp, ADDRESS);
    wait_for_counts(on, ADDRESS, [1, 1, 0], [0; 4]);
    drop(held);
    wait_for_counts(on, ADDRESS, [0, 1, 0], [1, 0, 0, 0]);
    // A removed listener keeps its row.
    nginx.begin_reload(&keeping.conf("127.0.0.1:8081 mptcp"));
    wait_for_counts(on, ADDRESS, [0, 1, 0], [1, 0, 0, 0]);
    drop(held_by_new);
    wait_for_counts(on, ADDRESS, [0; 3], [1, 1, 0, 0]);
    wait_for_counts(on, "127.0.0.1:8081", [0; 3], [0; 4]);
    // A reload that fails changes nothing.
    let broken = counted(on, &["127.0.0.1:8080 mptcp", "192.0.2.1:8080 mptcp"]);
    assert!(nginx.try_reload(&broken).is_err());
    wait_for_counts(on, ADDRESS, [0; 3], [1, 1, 0, 0]);
    nginx.reload(&mptcp);
    drop(keeping.open(Transport::Mptcp, ADDRESS));
    wait_for_counts(on, ADDRESS, [0; 3], [1, 2, 0, 0]);
}

#[test_on(stream, http)]
fn a_killed_worker_removes_only_its_open_connections(on: Subsystem) {
    let site = Site::new();
    let keeping = Keeping::new(on);
    let nginx = site.start(&keeping.conf("127.0.0.1:8080 mptcp"));
    drop(keeping.open(Transport::Mptcp, ADDRESS));
    wait_for_counts(on, ADDRESS, [0; 3], [0, 1, 0, 0]);
    let _held =
        [Transport::Mptcp, Transport::Tcp].map(|transport| keeping.open(transport, ADDRESS));
    wait_for_counts(on, ADDRESS, [1, 1, 0], [0, 1, 0, 0]);
    let killed = nginx.workers()[0];
    send_signal(killed, libc::SIGKILL);
    wait_until(
        "another worker",
        || matches!(nginx.workers()[..], [pid] if pid != killed),
    );
    let row = row(on, ADDRESS).expect("the listener has a row");
    assert_eq!(numbers(&row, "open"), [0; 3], "{row}");
    assert_eq!(numbers(&row, "closed"), [0, 1, 0, 0], "{row}");
    assert!(row.contains("\"accepted\":3,"), "{row}");
}

/// Clients that a draining socket accepts after a change of protocol are counted too.
#[test_on(stream, http)]
fn counters_are_exact_under_load(on: Subsystem) {
    const CLIENTS: u64 = 4;
    const EACH: u64 = 200;
    let site = Site::new();
    let conf = |words: &str| counted(on, &[words]).workers(2);
    let nginx = site.start(&conf("127.0.0.1:8080 mptcp"));
    let client = |transport| {
        move || {
            for _ in 0..EACH {
                serve_client(on, transport, ADDRESS);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..CLIENTS / 2 {
            scope.spawn(client(Transport::Tcp));
            scope.spawn(client(Transport::Mptcp));
        }
        nginx.begin_reload(&conf("127.0.0.1:8080"));
        nginx.begin_reload(&conf("127.0.0.1:8080 mptcp"));
    });
    let all = CLIENTS * EACH;
    let mut last = Vec::new();
    wait_until(&format!("{all} connections"), || {
        let row = row(on, ADDRESS).expect("the listener has a row");
        let accepted = row.contains(&format!("\"accepted\":{all},"));
        assert_eq!(numbers(&row, "closed")[2], 0, "{row}");
        last = numbers(&row, "closed");
        accepted && last.iter().sum::<u64>() == all
    });
    // Half of the clients use TCP, so at least half of the connections are TCP.
    assert!(last[0] >= all / 2, "{last:?}");
}

#[test_on(stream, http)]
fn a_connection_that_falls_back_is_counted_as_such(on: Subsystem) {
    let site = Site::new();
    let network = Middlebox::new(Strips::AfterHandshake);
    let address = format!("{}:8080", SERVER[0]);
    let keeping = Keeping::new(on);
    let _nginx = site.start(&keeping.conf(&format!("{address} mptcp")));
    let client = address.clone();
    let talk = move || drop(keeping.open(Transport::Mptcp, &client));
    network.client.run(talk);
    let row = wait_for_counts(on, &address, [0; 3], [0, 0, 0, 1]);
    assert!(numbers(&row, "bytes_sent")[1] > 0, "{row}");
    assert_eq!(numbers(&row, "paths"), [0; 3], "{row}");
}

#[test_on(stream, http)]
fn the_paths_of_a_connection_are_counted(on: Subsystem) {
    let site = Site::new();
    let network = Hosts::new();
    let keeping = Keeping::new(on);
    let _nginx = site.start(&keeping.conf("8080 mptcp"));
    let address = format!("{}:8080", NEAR[0]);
    let connection = network.client.run(move || {
        let connection = keeping.open(Transport::Mptcp, &address);
        wait_until("a second subflow", || counter("MPJoinSynAckRx") == 1);
        connection
    });
    wait_for_counts(on, "0.0.0.0:8080", [0, 1, 0], [0; 4]);
    drop(connection);
    let row = wait_for_counts(on, "0.0.0.0:8080", [0; 3], [0, 1, 0, 0]);
    assert_eq!(numbers(&row, "paths"), [0, 1, 0], "{row}");
}

#[test_on(http)]
fn prometheus_accepts_the_text(on: Subsystem) {
    let site = Site::new();
    let _nginx = site.start(&counted(on, &["127.0.0.1:8080 mptcp", "[::1]:8080"]));
    serve_client(on, Transport::Mptcp, ADDRESS);
    wait_for_counts(on, ADDRESS, [0; 3], [0, 1, 0, 0]);
    let response = request("GET", "/metrics");
    let (head, text) = response.split_once("\r\n\r\n").expect("a head");
    assert!(
        head.contains("\r\nContent-Type: text/plain; version=0.0.4"),
        "{head}"
    );
    let line = format!(
        "nginx_mptcp_closed_connections_total{{listener=\"{ADDRESS}\",subsystem=\"http\",kind=\"mptcp\"}} 1"
    );
    assert!(text.lines().any(|found| found == line), "{text}");
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = promtool.expect("promtool is missing: install prometheus");
    let mut input = promtool.stdin.take().expect("it is piped");
    input.write_all(text.as_bytes()).expect("promtool reads");
    drop(input);
    let said = promtool.wait_with_output().expect("promtool ends");
    let complaints = [said.stdout, said.stderr].concat();
    assert!(
        said.status.success() && complaints.is_empty(),
        "{}",
        String::from_utf8_lossy(&complaints)
    );
}

/// `mptcp_status` exports the metrics in the manual's PromQL query, with the label of the query.
#[test_on(http)]
fn the_promql_query_of_the_manual_uses_an_exported_metric(on: Subsystem) {
    let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/nginx.md");
    let manual = std::fs::read_to_string(manual).expect("the manual is there");
    let (_, block) = manual.split_once("```promql\n").expect("a line of PromQL");
    let (line, _) = block.split_once("\n```").expect("it ends");
    assert_eq!(line.lines().count(), 1, "{line}");
    let site = Site::new();
    let _nginx = site.start(&counted(on, &["127.0.0.1:8080 mptcp"]));
    let text = request("GET", "/metrics");
    let mut asked = 0;
    let separators = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    for name in line
        .split(separators)
        .filter(|word| word.starts_with("nginx_mptcp_"))
    {
        assert!(text.contains(&format!("\n{name}{{")), "{name}");
        asked += 1;
    }
    assert!(asked > 0 && line.contains("kind=\"mptcp\""), "{line}");
}

#[test_on(http)]
fn wrong_requests_and_directives_are_refused(on: Subsystem) {
    let site = Site::new();
    let _nginx = site.start(&counted(on, &["127.0.0.1:8080 mptcp"]));
    assert!(request("POST", "/status").starts_with("HTTP/1.1 405 "));
    let head = request("HEAD", "/status");
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"),
        "{head}"
    );

    let check = |directives: &str| {
        let server = format!("server {{\n    location / {{\n        {directives}\n    }}\n}}\n");
        site.check(&on.conf(&server)).fails()
    };
    for (directives, message) in [
        ("mptcp_status xml;", "invalid parameter \"xml\""),
        (
            "mptcp_status; mptcp_status;",
            "\"mptcp_status\" directive is duplicate",
        ),
        (
            "mptcp_status json x;",
            "invalid number of arguments in \"mptcp_status\" directive",
        ),
    ] {
        let text = check(directives);
        assert!(text.contains(message), "{text}");
    }
}

/// How often a worker queried the kernel while it served a client.
fn queries(site: &Site, nginx: &Nginx, transport: Transport) -> usize {
    let strace = Strace::record(site, nginx.workers()[0], "trace=getsockopt");
    serve_client(Subsystem::Http, transport, ADDRESS);
    // When the worker answers this client, it has closed the connection of the first.
    serve_client(Subsystem::Http, Transport::Tcp, "127.0.0.1:8081");
    strace.end_recording().lines().count()
}

#[test_on(http)]
fn without_mptcp_status_the_kernel_is_not_queried_and_with_it_rarely(on: Subsystem) {
    let site = Site::new();
    let words = ["127.0.0.1:8080 mptcp", "127.0.0.1:8081"];
    let nginx = site.start(&on.servers(&words));
    for transport in [Transport::Tcp, Transport::Mptcp] {
        assert_eq!(queries(&site, &nginx, transport), 0, "{transport:?}");
    }
    nginx.reload(&counted(on, &words));
    // The first query may need more calls to find out which options the kernel has.
    serve_client(on, Transport::Mptcp, ADDRESS);
    assert_eq!(queries(&site, &nginx, Transport::Tcp), 1);
    assert_eq!(queries(&site, &nginx, Transport::Mptcp), 2);
}
