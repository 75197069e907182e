//! Large transfers over one http connection. Each byte is checked.

use std::fs::File;
use std::io::{BufWriter, Read, Write};

use crate::backend::{BLOCK, Backend, block, content_length, read_head};
use crate::client::{Connection, Transport};
use crate::harness::{Host, Site};
use crate::hosts::{Hosts, NEAR};
use crate::http::response;
use crate::strace;
use crate::subsystem::{Subsystem, test_on};
use crate::tls::{CERTIFICATE, make_certificate, mptcp_bridge, tls_client};

const ADDRESS: &str = "127.0.0.1:8080";

/// 1 GB and 100 MB.
const DOWNLOAD: usize = 16 * 1024;
const UPLOAD: usize = 100 * 16;

/// Connects from the client's host, at first over the first link.
fn connect() -> Connection {
    let address = format!("{}:8080", NEAR[0]);
    Connection::open(Transport::Mptcp, &address).expect("http takes connections")
}

/// Fails the test unless each of the links carried a fair part of the blocks. The links are too
/// slow for one of them to carry all blocks alone.
fn both_carried(bytes: [u64; 2], blocks: usize) {
    let all = (blocks * BLOCK) as u64;
    let fair = bytes.iter().all(|&part| part > all / 4);
    assert!(fair, "{bytes:?} of {all} bytes");
}

/// How many bytes the sendfile(2) calls of a trace sent.
fn sent_by_sendfile(trace: &str) -> usize {
    let sent = trace.lines().filter_map(|line| {
        let (_, result) = line.rsplit_once(" = ")?;
        result.split(' ').next()?.parse::<usize>().ok()
    });
    sent.sum()
}

#[test_on(http)]
fn a_gigabyte_is_sent_by_sendfile_over_two_links(_: Subsystem) {
    let site = Site::new();
    let hosts = Hosts::with_speed("rate 2gbit burst 2mb");
    let file = File::create(site.path("large")).expect("a file can be made");
    let mut file = BufWriter::new(file);
    for index in 0..DOWNLOAD {
        file.write_all(&block(index)).expect("there is room for it");
    }
    file.flush().expect("there is room for it");
    let conf =
        Subsystem::Http.conf("sendfile on;\nserver {\n    listen 8080 mptcp;\n    root .;\n}\n");
    let options = ["-qq", "-f", "--seccomp-bpf", "-e", "trace=sendfile"];
    let (nginx, mut strace) = strace::start(&site, &options, &conf, 1);

    hosts.client.run(|| {
        let mut connection = connect();
        connection
            .send(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .expect("a request can be sent");
        let head = read_head(&mut connection).expect("http answers");
        let length = content_length(&head).expect("the length is known");
        assert_eq!(length, DOWNLOAD * BLOCK);
        let mut bytes = vec![0; BLOCK];
        for index in 0..DOWNLOAD {
            connection.read_exact(&mut bytes).expect("all of it comes");
            assert!(bytes == block(index), "block {index} differs");
        }
        assert!(connection.is_mptcp());
    });
    both_carried(hosts.sent(), DOWNLOAD);

    nginx.quit();
    strace.wait().expect("strace ends with nginx");
    let trace = site.read("trace");
    assert_eq!(
        sent_by_sendfile(&trace),
        DOWNLOAD * BLOCK,
        "{} calls",
        trace.lines().count()
    );
}

#[test_on(http)]
fn a_large_upload_reaches_the_backend_over_two_links(_: Subsystem) {
    let site = Site::new();
    let hosts = Hosts::with_speed("rate 500mbit burst 512kb");
    let backend = Backend::uploads();
    // The large buffer makes the upload faster. nginx reads exactly as many bytes as FIONREAD
    // reports, and Linux 6.18 is then 200 ms late in announcing that a full window has opened,
    // with any MPTCP listener.
    // The upload is tested with a temporary file, and without one as it arrives.
    for buffering in ["on", "off"] {
        let nginx = site.start(&Subsystem::Http.conf(&format!(
            "client_max_body_size 0;\nproxy_request_buffering {buffering};\n\
             server {{\n    listen 8080 mptcp rcvbuf=4m;\n    location / {{\n        proxy_pass http://{};\n    }}\n}}\n",
            backend.address
        )));
        let before = hosts.received();
        hosts.client.run(|| {
            let mut connection = connect();
            let length = UPLOAD * BLOCK;
            let head =
                format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
            connection
                .send(head.as_bytes())
                .expect("a request can be sent");
            for index in 0..UPLOAD {
                let sent = connection.send(&block(index));
                sent.unwrap_or_else(|error| panic!("block {index}: {error}"));
            }
            let (head, body) = response(&mut connection).expect("http answers");
            let expected = format!("{UPLOAD} blocks");
            assert_eq!(String::from_utf8_lossy(&body), expected, "{head}");
            assert!(connection.is_mptcp());
        });
        let after = hosts.received();
        both_carried([0, 1].map(|link| after[link] - before[link]), UPLOAD);
        nginx.quit();
    }
}

#[test_on(http)]
fn tls_with_the_ktls_option_is_served_over_mptcp(_: Subsystem) {
    let site = Site::new();
    make_certificate(&site);
    let text = "0123456789abcde\n".repeat(16 * 1024);
    std::fs::write(site.path("file"), &text).expect("a file can be made");
    let conf = Subsystem::Http.conf(&format!(
        "sendfile on;\nserver {{\n    listen 127.0.0.1:8080 mptcp ssl;\n    ssl_conf_command Options KTLS;\n    root .;\n    {CERTIFICATE}\n}}\n",
    ));
    if Host::get().version < (1, 19, 4) {
        let text = site.check(&conf).fails();
        let unknown = "unknown directive \"ssl_conf_command\"";
        assert!(text.contains(unknown), "{text}");
        return;
    }
    let _nginx = site.start(&conf);
    let bridge = mptcp_bridge(ADDRESS);
    for address in [ADDRESS, &bridge] {
        let page = tls_client(&site, address, "-quiet", "GET /file HTTP/1.0\r\n\r\n");
        assert!(page.ends_with(&text), "{} bytes", page.len());
    }
}
