//! A bonding proxy: a TCP client, nginx, two links, nginx.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use crate::backend::{BLOCK, Backend, block, content_length, read_head};
use crate::client::{Connection, Over, counter};
use crate::harness::{Host, Site, wait_until};
use crate::hosts::{FAR, Hosts};
use crate::http::response;
use crate::namespace::ip;
use crate::server::Conf;
use crate::subsystem::{Subsystem, subsystem_tests};

subsystem_tests! {
    (stream, http):
        a_tcp_client_uses_both_links,
        a_link_that_is_cut_loses_nothing;
    (stream):
        the_proxy_of_the_manual_uses_both_links;
}

const FRONT: &str = "127.0.0.1:8080";

/// Some seconds at the speed of one link.
const BLOCKS: usize = 160;

/// Starts an nginx on the far host, with our module and nginx's own of a
/// subsystem.
fn start_far(site: &Site, hosts: &Hosts, on: Subsystem, blocks: &str) {
    let modules = Host::get().modules(on);
    let load = |file: &PathBuf| format!("load_module {};\n", file.display());
    let load: String = modules.own.iter().chain(&modules.ours).map(load).collect();
    let text = format!("{load}pid far.pid;\nerror_log far.log;\nevents {{ }}\n{blocks}");
    let file = site.path("far.conf");
    std::fs::write(&file, text).expect("it can be written");
    let mut nginx = Command::new(&Host::get().nginx);
    nginx.arg("-p").arg(format!("{}/", site.folder.display()));
    nginx.arg("-c").arg(file);
    let started = hosts.client.run(move || nginx.status());
    assert!(started.expect("nginx can be run").success());
}

/// The far host announces its second address, and an nginx there sends a file and
/// takes uploads.
fn far_nginx(site: &Site, hosts: &Hosts) -> Backend {
    hosts.client.run(|| {
        ip(&format!("mptcp endpoint add {} dev far1 signal", FAR[1]));
    });
    let uploads = hosts.client.run(Backend::uploads);
    let bytes: Vec<u8> = (0..BLOCKS).flat_map(block).collect();
    std::fs::write(site.path("large"), bytes).expect("there is room for it");
    let preamble = Subsystem::Http.preamble();
    let blocks = format!(
        "http {{\n{preamble}client_max_body_size 0;\nsendfile on;\nserver {{\n    listen 8080 mptcp;\n    \
         location / {{\n        root {};\n    }}\n    location /upload {{\n        \
         proxy_request_buffering off;\n        proxy_pass http://{};\n    }}\n}}\n}}\n",
        site.folder.display(),
        uploads.address
    );
    start_far(site, hosts, Subsystem::Http, &blocks);
    uploads
}

/// The near nginx.
fn conf(on: Subsystem, word: &str) -> Conf {
    let upstream = format!(
        "upstream b {{\n    server {}:8080;\n    {word}\n}}\n",
        FAR[0]
    );
    let server = match on {
        Subsystem::Stream => format!("server {{\n    listen {FRONT};\n    proxy_pass b;\n}}\n"),
        _ => format!(
            "client_max_body_size 0;\nserver {{\n    listen {FRONT};\n    location / {{\n        \
             proxy_request_buffering off;\n        proxy_pass http://b;\n    }}\n}}\n"
        ),
    };
    on.conf(&(upstream + &server))
}

fn connect(request: &str) -> Connection {
    let mut connection = Connection::open(Over::Tcp, FRONT).expect("the proxy listens");
    connection.send(request.as_bytes()).expect("it can be sent");
    connection
}

/// Downloads the file, and calls `midway` in between.
fn download(midway: impl FnOnce()) {
    let mut connection = connect("GET /large HTTP/1.0\r\nHost: x\r\n\r\n");
    let head = read_head(&mut connection).expect("http answers");
    assert_eq!(content_length(&head).expect("it is known"), BLOCKS * BLOCK);
    let mut midway = Some(midway);
    let mut bytes = vec![0; BLOCK];
    for index in 0..BLOCKS {
        std::io::Read::read_exact(&mut connection, &mut bytes).expect("all of it comes");
        assert!(bytes == block(index), "block {index} differs");
        if index == BLOCKS / 3 {
            midway.take().expect("once")();
        }
    }
}

fn upload() {
    let length = BLOCKS * BLOCK;
    let mut connection = connect(&format!(
        "POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    ));
    for index in 0..BLOCKS {
        connection.send(&block(index)).expect("a block can be sent");
    }
    let (head, body) = response(&mut connection).expect("http answers");
    let expected = format!("{BLOCKS} blocks");
    assert_eq!(String::from_utf8_lossy(&body), expected, "{head}");
}

/// The share of the link that carried less, and how long it took.
fn shares(of: impl Fn() -> [u64; 2], transfer: impl FnOnce()) -> (f64, f64) {
    let (before, began) = (of(), Instant::now());
    transfer();
    let seconds = began.elapsed().as_secs_f64();
    let after = of();
    let carried = [0, 1].map(|link| (after[link] - before[link]) as f64);
    let least = carried[0].min(carried[1]);
    (least / (carried[0] + carried[1]), seconds)
}

/// Two links that each carry 0.45 of the data are together 1.8 times as fast as
/// one, if each of them is as fast as it can be.
fn a_tcp_client_uses_both_links(on: Subsystem) {
    let site = Site::new();
    let hosts = Hosts::with_speed("rate 20mbit burst 32kb");
    let _uploads = far_nginx(&site, &hosts);
    let mut seconds = Vec::new();
    for word in ["", "mptcp;"] {
        let nginx = site.start(&conf(on, word));
        for (name, direction) in [("download", 0), ("upload", 1)] {
            let (share, took) = match direction {
                0 => shares(|| hosts.received(), || download(|| ())),
                _ => shares(|| hosts.sent(), upload),
            };
            println!("{name} {word}: {took:.2} s, {share:.2} on the lesser link");
            seconds.push(took);
            let least = if word.is_empty() { 0.0 } else { 0.4 };
            assert!(share >= least, "{name}: {share}");
        }
        nginx.quit();
    }
    println!(
        "with both links {:.2} and {:.2} times as fast",
        seconds[0] / seconds[2],
        seconds[1] / seconds[3]
    );
    assert!(counter("MPJoinSynTx") >= 2 || counter("MPJoinSynAckRx") >= 2);
}

fn a_link_that_is_cut_loses_nothing(on: Subsystem) {
    let site = Site::new();
    let hosts = Hosts::with_speed("rate 20mbit burst 32kb");
    let _uploads = far_nginx(&site, &hosts);
    let _nginx = site.start(&conf(on, "mptcp;"));
    download(|| {
        wait_until("a second subflow", || counter("MPJoinSynAckRx") >= 1);
        hosts.client.run(|| Hosts::lose(1));
    });
}

/// The blocks of a language in the section of the manual.
fn manual(language: &str) -> [String; 2] {
    let manual = include_str!("../../docs/nginx.md");
    let (_, section) = manual
        .split_once("### A bonding proxy from two nginx\n")
        .expect("the manual has the section");
    let begin = format!("```{language}\n");
    let mut blocks = section.split(&begin).skip(1).map(|rest| {
        let (block, _) = rest.split_once("```").expect("it ends");
        block.to_owned()
    });
    let mut next = || blocks.next().expect("a block for each host");
    [next(), next()]
}

/// As the manual has it, but for the name of a link and the port of the server.
fn the_proxy_of_the_manual_uses_both_links(on: Subsystem) {
    let site = Site::new();
    let hosts = Hosts::with_speed("rate 20mbit burst 32kb");
    let [near, far] = manual("sh");
    let run = |lines: String| {
        ip("mptcp endpoint flush");
        ip("mptcp limits set subflow 0 add_addr_accepted 0");
        for line in lines.lines() {
            ip(line.strip_prefix("ip ").expect("a command of ip"));
        }
    };
    run(near);
    let server = hosts.client.run(move || {
        run(far.replace("eth1", "far1"));
        Backend::noise(BLOCKS * BLOCK)
    });
    let [near, far] = manual("nginx");
    let far = far.replace("127.0.0.1:8081", &server.address);
    start_far(&site, &hosts, on, &far);
    let near = near.strip_prefix("stream {").expect("a block of stream");
    let near = near.trim_end().strip_suffix('}').expect("it ends");
    let _nginx = site.start(&on.conf(near));
    let (share, _) = shares(
        || hosts.received(),
        || {
            let mut connection = connect("");
            let mut bytes = Vec::new();
            let all = std::io::Read::read_to_end(&mut connection, &mut bytes);
            assert_eq!(all.expect("all of it comes"), BLOCKS * BLOCK);
        },
    );
    assert!(share >= 0.4, "{share}");
}
