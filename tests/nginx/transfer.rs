//! Much data over one http connection, each byte checked.

use std::fs::File;
use std::io::{BufWriter, Read, Write};

use crate::backend::{BLOCK, Backend, block, content_length, read_head};
use crate::client::{Connection, Over};
use crate::harness::{Host, Site};
use crate::http::response;
use crate::subsystem::Subsystem;
use crate::tls::{CERTIFICATE, make_certificate, mptcp_bridge, tls_client};

const ADDRESS: &str = "127.0.0.1:8080";

/// 200 MB and 50 MB.
const DOWNLOAD_BLOCKS: usize = 200 * 16;
const UPLOAD_BLOCKS: usize = 50 * 16;

#[test]
fn a_large_file_is_sent_over_mptcp() {
    let site = Site::new();
    let file = File::create(site.path("large")).expect("a file can be made");
    let mut file = BufWriter::new(file);
    for index in 0..DOWNLOAD_BLOCKS {
        file.write_all(&block(index)).expect("there is room for it");
    }
    file.flush().expect("there is room for it");
    let _nginx = site.start(
        &Subsystem::Http
            .conf("sendfile on;\nserver {\n    listen 127.0.0.1:8080 mptcp;\n    root .;\n}\n"),
    );
    for over in [Over::Mptcp, Over::Tcp] {
        let mut connection = Connection::open(over, ADDRESS).expect("http takes connections");
        connection
            .send(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .expect("a request can be sent");
        let head = read_head(&mut connection).expect("http answers");
        let length = content_length(&head).expect("the length is known");
        assert_eq!(length, DOWNLOAD_BLOCKS * BLOCK);
        let mut bytes = vec![0; BLOCK];
        for index in 0..DOWNLOAD_BLOCKS {
            connection.read_exact(&mut bytes).expect("all of it comes");
            assert!(bytes == block(index), "block {index} differs over {over:?}");
        }
        assert_eq!(connection.is_mptcp(), over == Over::Mptcp);
    }
}

#[test]
fn a_large_upload_reaches_the_backend_over_mptcp() {
    let site = Site::new();
    let backend = Backend::uploads();
    // The large buffer is for speed: nginx reads exactly what FIONREAD says is
    // there, and to such a reader Linux 6.18 announces a window that had been
    // full only 200 ms later, with any MPTCP listener.
    // With the upload in a file first, and passed on as it comes.
    for buffering in ["on", "off"] {
        let nginx = site.start(&Subsystem::Http.conf(&format!(
            "client_max_body_size 0;\nproxy_request_buffering {buffering};\n\
             server {{\n    listen 127.0.0.1:8080 mptcp rcvbuf=4m;\n    location / {{\n        proxy_pass http://{};\n    }}\n}}\n",
            backend.address
        )));
        let mut connection =
            Connection::open(Over::Mptcp, ADDRESS).expect("http takes connections");
        let length = UPLOAD_BLOCKS * BLOCK;
        let head =
            format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        connection
            .send(head.as_bytes())
            .expect("a request can be sent");
        for index in 0..UPLOAD_BLOCKS {
            let sent = connection.send(&block(index));
            sent.unwrap_or_else(|error| panic!("block {index}: {error}"));
        }
        let (head, body) = response(&mut connection).expect("http answers");
        let expected = format!("{UPLOAD_BLOCKS} blocks");
        assert_eq!(String::from_utf8_lossy(&body), expected, "{head}");
        assert!(connection.is_mptcp());
        nginx.quit();
    }
}

#[test]
fn tls_that_may_use_the_kernel_serves_over_mptcp() {
    let site = Site::new();
    if Host::get().version < (1, 19, 4) {
        return; // It has no ssl_conf_command.
    }
    make_certificate(&site);
    let text = "0123456789abcde\n".repeat(16 * 1024);
    std::fs::write(site.path("file"), &text).expect("a file can be made");
    let _nginx = site.start(&Subsystem::Http.conf(&format!(
        "sendfile on;\nserver {{\n    listen 127.0.0.1:8080 mptcp ssl;\n    ssl_conf_command Options KTLS;\n    root .;\n    {CERTIFICATE}\n}}\n",
    )));
    let bridge = mptcp_bridge(ADDRESS);
    for address in [ADDRESS, &bridge] {
        let page = tls_client(&site, address, "-quiet", "GET /file HTTP/1.0\r\n\r\n");
        assert!(page.ends_with(&text), "{} bytes", page.len());
    }
}
