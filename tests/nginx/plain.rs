//! A configuration without the module's parameters: nginx behaves as without the module.

use std::fs;

use crate::harness::{Host, Site, wait_until};
use crate::server::Conf;
use crate::strace;
use crate::subsystem::{Subsystem, test_on};

/// A configuration with many kinds of listeners, none of which has a parameter of the module.
fn conf(on: Subsystem) -> Conf {
    let lines = [
        "127.0.0.1:8080",
        "127.0.0.1:8081 backlog=77 rcvbuf=32k so_keepalive=10:20:3",
        "8082",
        "127.0.0.1:8082",
        "[::1]:8083",
        "[::]:8084 ipv6only=off",
        "127.0.0.1:8085-8087",
        "127.0.0.1:8088 reuseport fastopen=5",
        "127.0.0.1:8089 udp",
        "127.0.0.1:8090 udp reuseport",
        "unix:socket",
    ];
    let known: Vec<&str> = lines.into_iter().filter(|words| on.knows(words)).collect();
    on.servers(&known).workers(2)
}

/// The calls in a trace on sockets, except Unix domain sockets and nginx's channels to its
/// workers.
fn socket_calls(trace: &str) -> Vec<String> {
    const CALLS: [&str; 5] = ["socket(", "bind(", "listen(", "setsockopt(", "getsockopt("];
    trace
        .lines()
        .filter(|line| CALLS.iter().any(|call| line.starts_with(call)))
        .filter(|line| !line.contains("AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC"))
        .map(String::from)
        .collect()
}

/// Starts nginx under strace, reloads it, and returns the socket calls of the
/// start and those of the reload.
fn trace(on: Subsystem, conf: &Conf) -> (Vec<String>, Vec<String>) {
    let site = Site::new();
    let options = ["-ff", "-e", "trace=network"];
    let (nginx, mut tracer) = strace::start(&site, &options, conf, 2);
    on.serves("127.0.0.1:8080", false);
    let started = traces(&site);
    let mark = nginx.log().len();
    nginx.signal(libc::SIGHUP);
    nginx
        .reloaded(mark)
        .unwrap_or_else(|log| panic!("the reload failed: {log}"));
    nginx.wait_for_workers(2);
    let reloaded = socket_calls(&site.read(&format!("trace.{}", nginx.pid)));
    nginx.quit();
    tracer.wait().expect("strace ends with nginx");
    (started, reloaded)
}

/// The socket calls of the process that opened the sockets. This is the started process, whose
/// child became the daemon.
fn traces(site: &Site) -> Vec<String> {
    let names = fs::read_dir(&site.folder).expect("the test's folder can be listed");
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut opened: Vec<Vec<String>> = names
        .filter(|name| name.starts_with("trace."))
        .map(|name| socket_calls(&site.read(&name)))
        .filter(|calls| calls.iter().any(|call| call.starts_with("bind(")))
        .collect();
    assert_eq!(opened.len(), 1, "one process opens the sockets");
    opened.remove(0)
}

#[test_on(stream, http, mail)]
fn without_module_parameters_nginx_makes_the_same_socket_calls(on: Subsystem) {
    let (started_with, reloaded_with) = trace(on, &conf(on));
    let (started_without, reloaded_without) = trace(on, &conf(on).without_module());
    assert!(started_without.len() > 20, "{started_without:#?}");
    assert_eq!(started_with, started_without);
    // On a reload the module may query the protocol of an inherited socket.
    let asks = |call: &String| call.starts_with("getsockopt(") && call.contains("SO_PROTOCOL");
    let others = |calls: Vec<String>| {
        calls
            .into_iter()
            .filter(|call| !asks(call))
            .collect::<Vec<_>>()
    };
    assert_eq!(others(reloaded_with), others(reloaded_without));
}

#[test_on(stream, http, mail)]
fn without_module_parameters_listeners_are_the_same(on: Subsystem) {
    let look = |conf: &Conf| {
        let site = Site::new();
        let nginx = site.start(conf);
        // The inode differs between the two runs.
        let listeners = nginx
            .listeners()
            .into_iter()
            .map(|one| (one.address, one.protocol, one.backlog, one.options));
        (listeners.collect::<Vec<_>>(), nginx.descriptors().len())
    };
    assert_eq!(look(&conf(on)), look(&conf(on).without_module()));
}

#[test_on(stream, http, mail)]
fn listeners_of_other_subsystems_are_left_alone(on: Subsystem) {
    let site = Site::new();
    let beside = |words: &str| {
        let other = on.other().listen(words).without_module();
        on.listen("127.0.0.1:8080 mptcp").with_blocks_of(other)
    };
    if Host::get().modules(on).ours.is_some() {
        let text = site.check(&beside("127.0.0.1:8000 mptcp")).fails();
        let place = site.place_of("8000 mptcp");
        assert!(
            text.contains("\"mptcp\"") && text.contains(&place),
            "{text}"
        );
        assert!(text.contains("invalid"), "{text}");
    }

    let conf = beside("127.0.0.1:8000");
    let nginx = site.start(&conf);
    for _ in 0..2 {
        on.serves("127.0.0.1:8080", true);
        on.other().serves("127.0.0.1:8000", false);
        assert_eq!(nginx.listeners().len(), 2);
        nginx.reload(&conf);
    }
}

#[test_on(stream, http, mail)]
fn a_configuration_without_its_block_runs(on: Subsystem) {
    let site = Site::new();
    let conf = on
        .conf("")
        .with_blocks_of(on.other().listen("127.0.0.1:8000"));
    let nginx = site.start(&conf);
    assert_eq!(nginx.listener().address.port(), 8000);
    nginx.reload(&conf);
    on.other().serves("127.0.0.1:8000", false);
    nginx.signal(libc::SIGTERM);
    wait_until("nginx to end", || !nginx.runs());
}
