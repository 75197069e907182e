//! `protocol=sctp`: SCTP clients of stream, http and mail. On a kernel without SCTP each test only
//! checks that nginx refuses the configuration.

use std::fs;
use std::io;
use std::net::{Shutdown, TcpListener};
use std::process::Command;
use std::thread;

use crate::backend::{BLOCK, Backend, block};
use crate::client::{Connection, Transport, each_way};
use crate::harness::{Site, wait_until};
use crate::http::response;
use crate::lacking;
use crate::server::Conf;
use crate::sockets::listening_on;
use crate::subsystem::{Subsystem, test_on};
use crate::tls::{CERTIFICATE, make_certificate, tls_client};
use crate::upgrade::{retire, upgrade};

const ADDRESS: &str = "127.0.0.1:8080";
const LISTEN: &str = "127.0.0.1:8080 protocol=sctp";

fn is_available(site: &Site, conf: &Conf) -> bool {
    // A client may close its connection while nginx still sends, so sending fails.
    site.provoke(libc::ESHUTDOWN);
    lacking::is_available(site, conf, Transport::Sctp)
}

/// Whether an SCTP socket listens in the calling thread's namespace.
fn sctp_listens() -> bool {
    const LISTENING: &str = "10";
    let text = fs::read_to_string("/proc/thread-self/net/sctp/eps");
    let text = text.expect("the kernel shows its SCTP sockets");
    // ENDPT SOCK STY SST ...
    text.lines()
        .any(|line| line.split_whitespace().nth(3) == Some(LISTENING))
}

fn is_answered(on: Subsystem) {
    let (answer, _) = on
        .request_answer(Transport::Sctp, ADDRESS)
        .expect("SCTP is served");
    assert_eq!(answer, on.answer());
}

#[test_on(stream, http, mail)]
fn a_thousand_sctp_clients_are_served(on: Subsystem) {
    let site = Site::new();
    let conf = on.listen(LISTEN).workers(2);
    if is_available(&site, &conf) {
        let _nginx = site.start(&conf);
        (0..1000).for_each(|_| is_answered(on));
    }
}

#[test_on(stream, http, mail)]
fn a_reload_and_an_upgrade_keep_the_sctp_listener(on: Subsystem) {
    let site = Site::new();
    let conf = on.listen(LISTEN);
    if !is_available(&site, &conf) {
        return;
    }
    let old = site.start(&conf);
    old.reload(&conf);
    is_answered(on);
    let new = upgrade(&site, &old, 1);
    is_answered(on);
    retire(&old);
    is_answered(on);
    new.reload(&conf);
    is_answered(on);
}

#[test_on(stream, http, mail)]
fn the_protocol_changes_to_sctp_and_back(on: Subsystem) {
    let site = Site::new();
    let conf = on.listen(LISTEN);
    if !is_available(&site, &conf) {
        return;
    }
    let nginx = site.start(&on.listen(ADDRESS));
    for _ in 0..2 {
        nginx.reload(&conf);
        is_answered(on);
        wait_until("the end of the TCP socket", || listening_on(8080) == 0);
        is_answered(on);
        nginx.reload(&on.listen(ADDRESS));
        on.request_answer(Transport::Tcp, ADDRESS)
            .expect("TCP is served");
        wait_until("the end of the SCTP socket", || !sctp_listens());
        on.request_answer(Transport::Tcp, ADDRESS)
            .expect("TCP is served");
    }
}

#[test_on(stream, http, mail)]
fn options_of_tcp_have_no_effect_with_a_warning(on: Subsystem) {
    let site = Site::new();
    let words = ["deferred", "fastopen=5", "so_keepalive=10:10:3"];
    let known = words.into_iter().filter(|word| on.knows(word));
    let known: Vec<_> = known.collect();
    let others = ["backlog=64", "rcvbuf=64k", "sndbuf=64k", "so_keepalive=on"];
    let conf = on.listen(&format!("{LISTEN} {}", known.join(" ")));
    if !is_available(&site, &conf) {
        return;
    }
    let nginx = site.start(&conf);
    let said = site.read("output") + &nginx.log();
    for (word, text) in [
        ("deferred", "\"deferred\""),
        ("fastopen", "\"fastopen\""),
        ("so_keepalive", "times of \"so_keepalive\""),
    ] {
        let warning = format!("sctp sockets have no {text}, ignored for 127.0.0.1:8080");
        let expected = usize::from(on.knows(word));
        assert_eq!(said.matches(&warning).count(), expected, "{said}");
    }
    assert!(!said.contains("[alert]"), "{said}");
    is_answered(on);
    nginx.quit();

    let nginx = site.start(&on.listen(&format!("{LISTEN} {}", others.join(" "))));
    assert!(
        !site.read("output").contains("[warn]"),
        "{}",
        site.read("output")
    );
    is_answered(on);
    nginx.quit();
    if on.knows("reuseport") {
        let nginx = site.start(&on.listen(&format!("{LISTEN} reuseport")).workers(2));
        (0..20).for_each(|_| is_answered(on));
        nginx.quit();
    }
}

#[test_on(http)]
fn files_and_keep_alive_are_served_over_sctp(on: Subsystem) {
    let site = Site::new();
    let backend = Backend::uploads();
    let conf = on.conf(&format!(
        "sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_timeout 65;\n\
         server {{ listen {LISTEN}; root files;\n\
         location /up {{ client_max_body_size 0; proxy_request_buffering off; \
         proxy_pass http://{}; }} }}\n",
        backend.address
    ));
    if !is_available(&site, &conf) {
        return;
    }
    fs::create_dir(site.path("files")).expect("a folder can be made");
    let file: Vec<u8> = (0..4).flat_map(block).collect();
    fs::write(site.path("files/file"), &file).expect("a file can be made");
    let _nginx = site.start(&conf);
    let mut connection = Connection::open(Transport::Sctp, ADDRESS).expect("SCTP is served");
    for _ in 0..10 {
        let request = b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n";
        connection.send(request).expect("it is kept");
        let (head, body) = response(&mut connection).expect("an answer");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(body == file, "{} bytes", body.len());
    }
    let length = 8 * BLOCK;
    let head = format!("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    connection.send(head.as_bytes()).expect("it is kept");
    for index in 0..8 {
        connection.send(&block(index)).expect("it is read");
    }
    let (head, body) = response(&mut connection).expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(body, b"8 blocks");
}

/// Accepts TCP connections and forwards them over SCTP. Returns the address of its listener.
fn sctp_bridge() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a bridge can listen");
    let address = listener.local_addr().expect("it listens").to_string();
    thread::spawn(move || -> io::Result<()> {
        loop {
            let (mut near, _) = listener.accept()?;
            let mut far = Connection::open(Transport::Sctp, ADDRESS)?;
            let (mut near_in, mut far_out) = (near.try_clone()?, far.try_clone()?);
            thread::spawn(move || io::copy(&mut near_in, &mut far_out));
            thread::spawn(move || {
                io::copy(&mut far, &mut near).and_then(|_| near.shutdown(Shutdown::Both))
            });
        }
    });
    address
}

#[test_on(http)]
fn tls_and_http2_are_served_over_sctp(on: Subsystem) {
    let site = Site::new();
    make_certificate(&site);
    let conf = on.conf(&on.server_with(&format!("{LISTEN} ssl http2"), CERTIFICATE, on.answer()));
    if !is_available(&site, &conf) {
        return;
    }
    let _nginx = site.start(&conf);
    let text = tls_client(&site, &sctp_bridge(), "-quiet", on.request());
    assert!(
        text.lines()
            .any(|line| on.answer_in(line) == Some(on.answer())),
        "{text}"
    );
    let mut curl = Command::new("curl");
    curl.args(["--http2", "-s", "-i", "--cacert", "cert.pem", "--resolve"]);
    let bridge = sctp_bridge();
    let (_, port) = bridge.split_once(':').expect("an address");
    curl.arg(format!("localhost:{port}:127.0.0.1"));
    curl.arg(format!("https://localhost:{port}/"));
    let text = site.run(&mut curl).succeeds();
    assert!(text.starts_with("HTTP/2 200"), "{text}");
}

#[test_on(stream)]
fn tls_is_read_ahead_over_sctp(on: Subsystem) {
    let site = Site::new();
    make_certificate(&site);
    let tls = on.server_with("127.0.0.1:8443 ssl", CERTIFICATE, on.answer());
    let conf = on.conf(&format!(
        "{tls}server {{ listen {LISTEN}; ssl_preread on; proxy_pass $to; }}\n\
         map $ssl_preread_server_name $to {{ localhost 127.0.0.1:8443; }}\n"
    ));
    if !is_available(&site, &conf) {
        return;
    }
    let _nginx = site.start(&conf);
    let options = "-quiet -servername localhost";
    let text = tls_client(&site, &sctp_bridge(), options, on.request());
    assert!(
        text.lines()
            .any(|line| on.answer_in(line) == Some(on.answer())),
        "{text}"
    );
}

#[test_on(stream)]
fn a_hundred_megabytes_go_each_way_over_sctp(on: Subsystem) {
    const BLOCKS: usize = 1600;
    let site = Site::new();
    let backend = Backend::echo();
    let conf = on.conf(&format!(
        "server {{ listen {LISTEN} rcvbuf=4m sndbuf=4m; proxy_buffer_size 64k; proxy_pass {}; }}\n",
        backend.address
    ));
    if !is_available(&site, &conf) {
        return;
    }
    let _nginx = site.start(&conf);
    each_way(Transport::Sctp, ADDRESS, BLOCKS);
}
