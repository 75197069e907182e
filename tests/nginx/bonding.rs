//! A bonding proxy: a TCP client connects to a near nginx, which connects over two links to a
//! far nginx.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use crate::backend::{BLOCK, Backend, block, content_length, read_head};
use crate::client::{Connection, Transport, counter};
use crate::harness::{Host, Site, reap, send_signal, wait_for, wait_until};
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

/// The sizes of a transfer over one link and of one over two links: 5 MB and 20 MB. Each lasts
/// much longer than the second path takes to begin and the buffers of the links to drain.
const BLOCKS: [usize; 2] = [80, 320];

/// An nginx on the far host. Dropping this value ends it.
struct FarNginx {
    pid: i32,
}

impl FarNginx {
    /// Starts it with the modules of a subsystem.
    fn start(site: &Site, hosts: &Hosts, on: Subsystem, blocks: &str) -> Self {
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
        let pid = wait_for("far.pid", || site.read("far.pid").trim().parse().ok());
        Self { pid }
    }
}

impl Drop for FarNginx {
    fn drop(&mut self) {
        send_signal(self.pid, libc::SIGTERM);
        wait_until("the end of the far nginx", || reap(self.pid));
    }
}

/// Makes the far host announce its second address, and starts an nginx there that sends a file
/// and receives uploads.
fn far_nginx(site: &Site, hosts: &Hosts) -> (FarNginx, Backend) {
    hosts.client.run(|| {
        ip(&format!("mptcp endpoint add {} dev far1 signal", FAR[1]));
    });
    let uploads = hosts.client.run(Backend::uploads);
    for blocks in BLOCKS {
        let bytes: Vec<u8> = (0..blocks).flat_map(block).collect();
        let file = site.path(&blocks.to_string());
        std::fs::write(file, bytes).expect("there is room for it");
    }
    let preamble = Subsystem::Http.preamble();
    let blocks = format!(
        "http {{\n{preamble}client_max_body_size 0;\nsendfile on;\nserver {{\n    listen 8080 mptcp;\n    \
         location / {{\n        root {};\n    }}\n    location /upload {{\n        \
         proxy_request_buffering off;\n        proxy_pass http://{};\n    }}\n}}\n}}\n",
        site.folder.display(),
        uploads.address
    );
    (
        FarNginx::start(site, hosts, Subsystem::Http, &blocks),
        uploads,
    )
}

/// The configuration of the near nginx.
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
    let mut connection = Connection::open(Transport::Tcp, FRONT).expect("the proxy listens");
    connection.send(request.as_bytes()).expect("it can be sent");
    connection
}

/// Downloads a file of `blocks` blocks, and calls `midway` during the download.
fn download(blocks: usize, midway: &mut dyn FnMut()) {
    let mut connection = connect(&format!("GET /{blocks} HTTP/1.0\r\nHost: x\r\n\r\n"));
    let head = read_head(&mut connection).expect("http answers");
    assert_eq!(content_length(&head).expect("it is known"), blocks * BLOCK);
    let mut bytes = vec![0; BLOCK];
    for index in 0..blocks {
        std::io::Read::read_exact(&mut connection, &mut bytes).expect("all of it comes");
        assert!(bytes == block(index), "block {index} differs");
        if index == blocks / 3 {
            midway();
        }
    }
}

/// Uploads `blocks` blocks, and calls `midway` during the upload.
fn upload(blocks: usize, midway: &mut dyn FnMut()) {
    let length = blocks * BLOCK;
    let mut connection = connect(&format!(
        "POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    ));
    for index in 0..blocks {
        connection.send(&block(index)).expect("a block can be sent");
        if index == blocks / 3 {
            midway();
        }
    }
    let (head, body) = response(&mut connection).expect("http answers");
    let expected = format!("{blocks} blocks");
    assert_eq!(String::from_utf8_lossy(&body), expected, "{head}");
}

/// The time of a transfer in seconds, and the share of its bytes on the link that carried less.
fn measure(of: impl Fn() -> [u64; 2], transfer: impl FnOnce()) -> (f64, f64) {
    let (before, began) = (of(), Instant::now());
    transfer();
    let seconds = began.elapsed().as_secs_f64();
    let after = of();
    let carried = [0, 1].map(|link| (after[link] - before[link]) as f64);
    let least = carried[0].min(carried[1]);
    (seconds, least / (carried[0] + carried[1]))
}

/// Compares bytes per second with those of a TCP connection over one link. Other work of the
/// machine only makes a transfer slower, so the best of three is compared, and the required
/// ratio is below the 1.8 of an idle machine.
fn a_tcp_client_uses_both_links(on: Subsystem) {
    let site = Site::alone();
    let hosts = Hosts::with_speed("rate 8mbit burst 32kb");
    let _far = far_nginx(&site, &hosts);
    for name in ["download", "upload"] {
        let rate = |word: &str, blocks: usize| {
            let nginx = site.start(&conf(on, word));
            let (seconds, least) = match name {
                "upload" => measure(|| hosts.sent(), || upload(blocks, &mut || ())),
                _ => measure(|| hosts.received(), || download(blocks, &mut || ())),
            };
            nginx.quit();
            (blocks as f64 / seconds, least)
        };
        let (one, least) = rate("", BLOCKS[0]);
        assert!(least < 0.05, "{name}: {least:.2} of TCP on another link");
        let is_fast = |_| {
            let (two, least) = rate("mptcp;", BLOCKS[1]);
            let ratio = two / one;
            println!("{name}: {ratio:.2} times as fast, {least:.2} on the lesser link");
            ratio >= 1.6
        };
        assert!((0..3).any(is_fast), "{name}: not 1.6 times as fast");
    }
}

/// Cuts each of the two links during a download and during an upload.
fn a_link_that_is_cut_loses_nothing(on: Subsystem) {
    let site = Site::alone();
    for link in [0, 1] {
        for transfer in [download as fn(usize, &mut dyn FnMut()), upload] {
            let hosts = Hosts::with_speed("rate 50mbit burst 64kb");
            let far = far_nginx(&site, &hosts);
            let nginx = site.start(&conf(on, "mptcp;"));
            let before = counter("MPJoinSynAckRx");
            transfer(BLOCKS[1], &mut || {
                wait_until("a second subflow", || counter("MPJoinSynAckRx") > before);
                hosts.client.run(move || Hosts::cut_link(link));
            });
            nginx.quit();
            drop(far);
            for end in ["near0", "near1"] {
                ip(&format!("link delete {end}"));
            }
            ip("mptcp endpoint flush");
        }
    }
}

/// The fenced blocks of a language in the manual's section on bonding.
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

/// Runs the configuration of the manual, with another link name and another server port.
fn the_proxy_of_the_manual_uses_both_links(on: Subsystem) {
    let site = Site::new();
    let size = BLOCKS[1] * BLOCK;
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
        Backend::noise(size)
    });
    let [near, far] = manual("nginx");
    let far = far.replace("127.0.0.1:8081", &server.address);
    let _far = FarNginx::start(&site, &hosts, on, &far);
    let near = near.strip_prefix("stream {").expect("a block of stream");
    let near = near.trim_end().strip_suffix('}').expect("it ends");
    let _nginx = site.start(&on.conf(near));
    let (_, share) = measure(
        || hosts.received(),
        || {
            let mut connection = connect("");
            let mut bytes = Vec::new();
            let all = std::io::Read::read_to_end(&mut connection, &mut bytes);
            assert_eq!(all.expect("all of it comes"), size);
        },
    );
    assert!(share >= 0.35, "{share}");
}
