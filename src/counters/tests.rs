use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;

use super::*;

fn counters() -> Box<Counters> {
    let mut memory = Box::<Counters>::new_uninit();
    // SAFETY: it has room for one.
    unsafe { memory.as_mut_ptr().write_bytes(0, 1) };
    // SAFETY: all of it are atomics, which may be 0.
    unsafe { memory.assume_init() }
}

fn at(text: &str) -> Option<SocketAddr> {
    Some(text.parse().expect("an address"))
}

fn rows(counters: &Counters, subsystem: Subsystem, addresses: &[&str]) -> Vec<usize> {
    let addresses = addresses.iter().map(|text| at(text));
    let rows = counters.rows(subsystem, addresses);
    rows.map(|row| row.expect("there is room")).collect()
}

/// A TCP connection, and what `end` and `begin` say of it.
fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let mut client = TcpStream::connect(address).expect("it listens");
    client.write_all(b"x").expect("it is connected");
    (client, listener.accept().expect("a client waits").0)
}

#[test]
fn a_listener_keeps_its_row() {
    use Subsystem::{Http, Stream};
    let counters = counters();
    let first = rows(
        &counters,
        Http,
        &["127.0.0.1:80", "[::]:80", "127.0.0.1:80"],
    );
    assert_eq!(first, [0, 1, 0]);
    assert_eq!(rows(&counters, Stream, &["127.0.0.1:80"]), [2]);
    assert_eq!(rows(&counters, Http, &["[::]:80", "127.0.0.1:81"]), [1, 3]);
    let text = counters.text(Format::Json);
    for (listener, subsystem) in [
        ("127.0.0.1:80", "http"),
        ("[::]:80", "http"),
        ("127.0.0.1:80", "stream"),
        ("127.0.0.1:81", "http"),
    ] {
        let row = format!("{{\"listener\":\"{listener}\",\"subsystem\":\"{subsystem}\"");
        assert_eq!(text.matches(&row).count(), 1, "{text}");
    }
}

#[test]
fn there_is_room_for_so_many_listeners() {
    let counters = counters();
    let address = |index: usize| {
        let ip = Ipv4Addr::from(0x7f00_0000 + index as u32);
        Some(SocketAddr::from((ip, 80)))
    };
    let addresses = (0..ROWS + 2).map(address);
    let found: Vec<_> = counters.rows(Subsystem::Http, addresses).collect();
    assert_eq!(found[ROWS - 1], Some(ROWS - 1));
    assert_eq!(found[ROWS..], [None, None]);
    // Those that have a row keep it.
    let again = counters.rows(Subsystem::Http, (ROWS - 1..=ROWS).map(address));
    assert_eq!(again.collect::<Vec<_>>(), [Some(ROWS - 1), None]);
    assert_eq!(
        counters.rows(Subsystem::Http, [None].into_iter()).next(),
        Some(None)
    );
}

#[test]
fn another_version_is_refused() {
    let counters = counters();
    assert!(counters.check().is_ok());
    assert!(counters.check().is_ok());
    counters.version.store(VERSION + 1, Relaxed);
    let error = counters.check().expect_err("another version");
    let wanted = "the counters are those of another version of the library";
    assert_eq!(error.to_string(), wanted);
}

#[test]
fn connections_are_counted_when_they_begin_and_when_they_end() {
    let counters = counters();
    rows(&counters, Subsystem::Http, &["127.0.0.1:80"]);
    let seat = counters.enter(std::process::id());
    let (_client, server) = connection();
    let begin = |protocol| {
        let counted = counters.begin(seat, 0, protocol, server.as_fd());
        counted.expect("it is a socket")
    };
    // The second listener is MPTCP, its client is not.
    let counted = [begin(Protocol::Tcp), begin(Protocol::Mptcp)];
    assert!(counted.iter().all(|counted| counted.kind == Kind::Tcp));
    let text = counters.text(Format::Json);
    assert!(text.contains("\"accepted\":2,\"open\":{\"tcp\":2,\"mptcp\":0,\"other\":0}"));
    counters.end(counted[0], Some(server.as_fd()));
    let text = counters.text(Format::Json);
    assert!(text.contains("\"accepted\":2,\"open\":{\"tcp\":1,\"mptcp\":0,\"other\":0}"));
    assert!(text.contains("\"closed\":{\"tcp\":1,\"mptcp\":0,\"other\":0,\"fallback\":0}"));
    counters.end(counted[1], Some(server.as_fd()));
    // Never below 0.
    counters.end(counted[1], None);
    let text = counters.text(Format::Json);
    assert!(
        text.contains("\"open\":{\"tcp\":0,\"mptcp\":0,\"other\":0}"),
        "{text}"
    );
}

#[test]
fn a_process_that_was_killed_takes_its_open_connections_along() {
    let counters = counters();
    rows(&counters, Subsystem::Http, &["127.0.0.1:80"]);
    let mut process = Command::new("sleep")
        .arg("60")
        .spawn()
        .expect("sleep is there");
    let seat = counters.enter(process.id());
    assert_eq!(counters.enter(process.id()), seat);
    let (_client, server) = connection();
    let begun = counters.begin(seat, 0, Protocol::Tcp, server.as_fd());
    begun.expect("it is a socket");
    let open = || counters.text(Format::Json).contains("\"open\":{\"tcp\":1");
    assert!(open());
    process.kill().expect("it is ours");
    process.wait().expect("it was killed");
    assert!(!open());
    // The next process has its seat, without its connections.
    assert_eq!(counters.enter(std::process::id()), seat);
    assert!(!open());
    counters
        .begin(seat, 0, Protocol::Tcp, server.as_fd())
        .expect("it is a socket");
    assert!(open());
    counters.leave(seat, 0);
    assert!(open());
    counters.leave(seat, std::process::id());
    assert!(!open());
    let text = counters.text(Format::Json);
    assert!(text.contains("\"accepted\":2"), "{text}");
}

#[test]
fn prometheus_gets_a_help_a_type_and_one_line_for_each_label() {
    let counters = counters();
    rows(&counters, Subsystem::Stream, &["[fd00::1]:443"]);
    counters.rows[0].paths[2].store(7, Relaxed);
    let text = counters.text(Format::Prometheus);
    for line in [
        "# TYPE nginx_mptcp_open_connections gauge",
        "nginx_mptcp_accepted_connections_total{listener=\"[fd00::1]:443\",subsystem=\"stream\"} 0",
        "nginx_mptcp_closed_connections_by_paths_total{listener=\"[fd00::1]:443\",subsystem=\"stream\",paths=\"3+\"} 7",
        "nginx_mptcp_sent_bytes_total{listener=\"[fd00::1]:443\",subsystem=\"stream\",kind=\"fallback\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
    }
    assert_eq!(text.lines().count(), 2 * 6 + 1 + 3 + 4 + 3 + 2 + 2);
}
