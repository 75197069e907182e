//! The logged values of each path, compared with the bytes and the delays of the links between
//! two hosts.

use std::io::Read;
use std::process::Command;
use std::time::Duration;

use crate::backend::{content_length, read_head};
use crate::client::{Connection, Transport, counter};
use crate::harness::{Site, wait_for_ok, wait_until};
use crate::hosts::{Hosts, NEAR};
use crate::http::response;
use crate::mptcp_log::{LOG, Line, log_format, logged};
use crate::namespace::{Peer, ip};
use crate::server::Nginx;
use crate::slow_path::{HERE, SECOND_HERE, SlowPath, device_name};
use crate::subsystem::{Subsystem, test_on};

/// The size of each file and each upload, which take seconds over links of 8 and 2 Mbit/s.
const SIZE: usize = 3 << 20;

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// Starts nginx with two files, a location for uploads, and a location with an empty response.
fn start(site: &Site) -> Nginx<'_> {
    start_with(site, &log_format(), LOG)
}

fn start_with<'site>(site: &'site Site, format: &str, log: &str) -> Nginx<'site> {
    for (name, size) in [("large", SIZE), ("small", SIZE / 16)] {
        std::fs::write(site.path(name), vec![b'x'; size]).expect("there is room for a file");
    }
    let server = format!(
        "client_max_body_size 0;\nserver {{\n    listen 8080 mptcp;\n    {log}\n    \
         location = / {{\n        return 200 '';\n    }}\n    \
         root .;\n    \
         location = /upload {{\n        proxy_pass http://127.0.0.1:8081;\n    }}\n}}\n\
         server {{\n    listen 127.0.0.1:8081;\n    return 200 '';\n}}\n"
    );
    site.start(&Subsystem::Http.conf(&(format.to_owned() + &server)))
}

/// A client's connection with two paths.
fn connect(peer: &Peer, address: &'static str) -> Connection {
    peer.run(move || {
        let connection = Connection::open(Transport::Mptcp, &format!("{address}:8080"));
        let mut connection = connection.expect("http takes connections");
        response_length(&mut connection, &get("/"));
        wait_until("a second subflow", || counter("MPJoinSynAckRx") == 1);
        connection
    })
}

/// Sends a request, and returns the length of the response.
fn response_length(connection: &mut Connection, request: &str) -> usize {
    let sent = connection.send(request.as_bytes());
    sent.expect("a request can be sent");
    let (head, body) = response(connection).expect("http answers");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    head.len() + body.len()
}

/// The values of a variable for both paths.
fn both(line: &Line, name: &str) -> [f64; 2] {
    let values = line[name].split(',').map(|value| value.parse().ok());
    let values: Option<Vec<f64>> = values.collect();
    let values = values.and_then(|values| values.try_into().ok());
    values.unwrap_or_else(|| panic!("{name} of two paths: {line:?}"))
}

/// Fails the test if a value differs from another by more than this share.
fn agrees(what: &str, value: f64, other: f64, share: f64) {
    println!(
        "{what}: {value} and {other}, {:+.1} %",
        (value / other - 1.0) * 100.0
    );
    let agrees = (value - other).abs() <= share * other;
    assert!(agrees, "{what}: {value} instead of {other}");
}

/// A download and an upload over links of 8 and 2 Mbit/s. The queues are longer than what TCP
/// sends at once, so no packet is lost and retransmitted.
#[test_on(http)]
fn bytes_agree_with_the_counters_of_two_unequal_links(_: Subsystem) {
    let site = Site::new();
    let links = [
        "rate 8mbit burst 16kb latency 4s",
        "rate 2mbit burst 16kb latency 4s",
    ];
    let hosts = Hosts::with_queues(links);
    let _nginx = start(&site);
    let mut connection = connect(&hosts.client, NEAR[0]);
    let head =
        format!("POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: {SIZE}\r\n\r\n");
    let upload = head + &"x".repeat(SIZE);
    // nginx logs a request before the client's host has acknowledged the response. The last
    // request therefore logs the acknowledged bytes of the download.
    let requests = [get("/large"), upload, get("/")];
    let received: usize = requests.iter().map(String::len).sum();
    let (mut connection, sent) = hosts.client.run(move || {
        let lengths = requests
            .iter()
            .map(|request| response_length(&mut connection, request));
        let sent: usize = lengths.sum();
        (connection, sent)
    });
    let line = logged(&site, 4);
    let links = hosts.payload();
    for (name, links, payload) in [
        ("mptcp_subflow_bytes_received", links[0], received),
        ("mptcp_subflow_bytes_sent", links[1], sent),
    ] {
        let bytes = both(&line, name);
        for (path, bytes) in bytes.iter().enumerate() {
            agrees(
                &format!("{name} of path {path}"),
                *bytes,
                links[path] as f64,
                0.05,
            );
            assert!(*bytes > payload as f64 / 20.0, "both carry much: {line:?}");
        }
        agrees(name, bytes.iter().sum(), payload as f64, 0.05);
    }

    // A path that has ended keeps its last values.
    ip("mptcp endpoint flush");
    let mut count = 4;
    let last = wait_for_ok(|| {
        response_length(&mut connection, &get("/"));
        count += 1;
        let line = logged(&site, count);
        match &*line["mptcp_subflows"] {
            "1" => Ok(line),
            _ => Err(format!("two subflows: {line:?}")),
        }
    });
    for name in ["mptcp_subflow_bytes_received", "mptcp_subflow_bytes_sent"] {
        assert_eq!(
            both(&last, name)[1],
            both(&line, name)[1],
            "{name}: {last:?}"
        );
    }
}

/// Paths with round trips of 20 and 200 ms. No measured round trip can be shorter. On a busy
/// machine some are longer, so the client sends requests until the values agree.
#[test_on(http)]
fn round_trips_agree_with_the_delay_of_each_path(_: Subsystem) {
    const TIMES: [f64; 2] = [20.0, 200.0];
    let site = Site::new();
    let delays = TIMES.map(|time| Duration::from_secs_f64(time / 2000.0));
    let hosts = SlowPath::with_delays(&delays);
    let limits = "mptcp limits set subflow 2 add_addr_accepted 2";
    ip(limits);
    hosts.peer.run(move || ip(limits));
    ip(&format!(
        "mptcp endpoint add {SECOND_HERE} dev {} signal",
        device_name(1)
    ));
    let _nginx = start(&site);
    let mut connection = connect(&hosts.peer, HERE[0]);
    let mut count = 1;
    let times = wait_for_ok(|| {
        // Files are measured, because the client's kernel acknowledges most of a file at
        // once, even if the client itself waits for a processor.
        for _ in 0..4 {
            response_length(&mut connection, &get("/small"));
        }
        count += 4;
        let line = logged(&site, count);
        let times = both(&line, "mptcp_subflow_rtt");
        let mut pairs = times.iter().zip(TIMES);
        assert!(pairs.all(|(time, least)| *time >= least * 0.99), "{line:?}");
        let mut pairs = times.iter().zip(TIMES);
        match pairs.all(|(time, imposed)| *time <= imposed * 1.2) {
            true => Ok(times),
            false => Err(format!("{times:?} ms: {line:?}")),
        }
    });
    println!("{times:?} ms after {count} requests");
}

/// The client's host loses the first link after a third of a download. The path of this link
/// retransmits some segments without success, and the other path carries most of the bytes.
#[test_on(http)]
fn the_last_values_show_a_link_that_was_cut(_: Subsystem) {
    let site = Site::new();
    let hosts = Hosts::with_speed("rate 8mbit burst 16kb");
    let _nginx = start(&site);
    let mut connection = connect(&hosts.client, NEAR[0]);
    hosts.client.run(move || {
        let sent = connection.send(get("/large").as_bytes());
        sent.expect("a request can be sent");
        let head = read_head(&mut connection).expect("http answers");
        assert_eq!(content_length(&head).expect("a length"), SIZE);
        let mut bytes = vec![0; SIZE];
        let (first, rest) = bytes.split_at_mut(SIZE / 3);
        connection.read_exact(first).expect("it begins");
        Hosts::cut_link(0);
        connection.read_exact(rest).expect("it goes on");
        response_length(&mut connection, &get("/"));
    });
    let line = logged(&site, 3);
    let bytes = both(&line, "mptcp_subflow_bytes_sent");
    let retransmits = both(&line, "mptcp_subflow_retrans");
    let links = hosts.payload()[1];
    println!("{bytes:?} bytes, {retransmits:?} segments, {links:?} by link");
    assert!(bytes[0] > 0.0 && bytes[0] < bytes[1], "{line:?}");
    assert!(bytes.iter().sum::<f64>() >= SIZE as f64, "{line:?}");
    assert!(retransmits[0] > 0.0, "{line:?}");
    // The kernel also counts segments that the queue of this host's link has dropped.
    assert!(
        bytes[1] <= links[1] as f64 * 1.05,
        "{} by link: {line:?}",
        links[1]
    );
}

/// The fenced block of the manual that begins with this text.
fn manual_block(begin: &str) -> String {
    let manual = include_str!("../../docs/nginx.md");
    let mut blocks = manual.split("```").skip(1).step_by(2);
    let block = blocks.find_map(|block| {
        let (_, text) = block.split_once('\n')?;
        text.starts_with(begin).then(|| text.to_owned())
    });
    block.unwrap_or_else(|| panic!("the manual has a block that begins with {begin}"))
}

/// There are three MPTCP clients: one has a second path that carries data, one has a backup path,
/// and one has a single path.
#[test_on(http)]
fn the_command_of_the_manual_shows_whether_the_second_path_carried_data(_: Subsystem) {
    const FILE: &str = "/var/log/nginx/paths.log";
    let site = Site::new();
    let hosts = Hosts::with_queues(["rate 8mbit burst 16kb latency 4s"; 2]);
    let text = manual_block("log_format paths").replace(FILE, "paths.log");
    let (format, log) = text.split_once("access_log").expect("both directives");
    let _nginx = start_with(&site, format, &format!("access_log{log}"));
    let mut both = connect(&hosts.client, NEAR[0]);
    hosts.client.run(move || {
        for path in ["/large", "/", "/"] {
            response_length(&mut both, &get(path));
        }
    });

    ip("mptcp endpoint flush");
    let connect = |transport| {
        let connection = Connection::open(transport, "127.0.0.1:8080");
        let mut connection = connection.expect("http takes connections");
        response_length(&mut connection, &get("/small"));
        connection
    };
    let _tcp = connect(Transport::Tcp);
    let _one = connect(Transport::Mptcp);
    ip("mptcp endpoint add 127.0.0.9 dev lo subflow backup");
    let joined = counter("MPJoinAckRx");
    let mut backup = connect(Transport::Mptcp);
    wait_until("a backup path", || counter("MPJoinAckRx") == joined + 1);
    for path in ["/small", "/"] {
        response_length(&mut backup, &get(path));
    }
    wait_until("the log", || site.read("paths.log").lines().count() == 9);

    let command = manual_block("awk '$3").replace(FILE, "paths.log");
    let printed = site.run(Command::new("sh").args(["-c", &command]));
    let printed = printed.succeeds();
    let log = site.read("paths.log");
    let share = printed.strip_prefix("1 of 3 MPTCP connections used the second path, for ");
    let share = share.and_then(|rest| rest.strip_suffix(" % of their bytes\n"));
    let share: Option<u32> = share.and_then(|share| share.parse().ok());
    let share = share.unwrap_or_else(|| panic!("{printed}{log}"));
    assert!((5..95).contains(&share), "{printed}{log}");
    // The sample line of the manual has as many fields as a logged line.
    let fields = |line: &str| line.split(' ').count();
    let sample = manual_block("17 ");
    assert!(
        log.lines()
            .all(|line| fields(line) == fields(sample.trim_end()))
    );
}
