//! `mptcp` in `upstream` with each protocol in which nginx proxies requests, and with distant
//! backends.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Child;
use std::time::{Duration, Instant};

use crate::backend::{BLOCK, Backend, block};
use crate::client::{Connection, Transport, counter, each_way};
use crate::harness::{Host, Site};
use crate::hosts::{FAR, Hosts};
use crate::http::response;
use crate::middlebox::{Middlebox, SERVER, Strips};
use crate::namespace::ip;
use crate::server::{Conf, Nginx};
use crate::strace;
use crate::subsystem::{Subsystem, subsystem_tests};
use crate::upstream::{BACK, FORMAT, FRONT, back, conf, front, logged, reply, try_reply, upstream};

subsystem_tests! {
    (stream, http):
        a_middlebox_on_the_way_to_the_backend_is_a_fallback,
        a_transparent_proxy_binds_an_address_of_a_client,
        other_event_methods_serve,
        the_directive_is_added_and_removed_by_reload;
    (http):
        fastcgi_scgi_uwsgi_and_grpc_go_over_mptcp,
        connections_that_the_backend_closes_are_replaced,
        an_upload_from_a_file_does_not_wait,
        a_backend_may_answer_before_the_request,
        an_error_response_is_retried_on_the_next_server,
        a_name_in_a_variable_is_an_upstream;
    (stream):
        no_event_is_lost_after_a_fallback,
        the_backend_receives_the_client_address_by_the_proxy_protocol;
}

/// Reads `count` bytes.
fn read_bytes(connection: &mut TcpStream, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    connection.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Answers one FastCGI request. The request is a series of records that ends with an empty
/// record of stdin.
fn fastcgi(mut connection: TcpStream) -> io::Result<()> {
    loop {
        let head = read_bytes(&mut connection, 8)?;
        let length = usize::from(head[4]) << 8 | usize::from(head[5]);
        read_bytes(&mut connection, length + usize::from(head[6]))?;
        if head[1] == 5 && length == 0 {
            break;
        }
    }
    let text = b"Status: 200\r\n\r\nover mptcp\n";
    let length = u8::try_from(text.len()).expect("it is short");
    connection.write_all(&[1, 6, 0, 1, 0, length, 0, 0])?;
    connection.write_all(text)?;
    connection.write_all(&[1, 3, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

/// Answers one SCGI request: a number, a colon, as many bytes as the number, and a comma.
fn scgi(mut connection: TcpStream) -> io::Result<()> {
    let mut length = 0;
    loop {
        match read_bytes(&mut connection, 1)?[0] {
            b':' => break,
            digit => length = length * 10 + usize::from(digit - b'0'),
        }
    }
    read_bytes(&mut connection, length + 1)?;
    connection.write_all(b"Status: 200\r\n\r\nover mptcp\n")
}

/// Answers one uwsgi request: four bytes, two of which are a length, and as many bytes as the
/// length.
fn uwsgi(mut connection: TcpStream) -> io::Result<()> {
    let head = read_bytes(&mut connection, 4)?;
    let length = usize::from(head[1]) | usize::from(head[2]) << 8;
    read_bytes(&mut connection, length)?;
    connection.write_all(b"HTTP/1.0 200 OK\r\n\r\nover mptcp\n")
}

fn fastcgi_scgi_uwsgi_and_grpc_go_over_mptcp(on: Subsystem) {
    let site = Site::new();
    let backends = [
        ("fastcgi_pass", Backend::at(Transport::Mptcp, BACK, fastcgi)),
        (
            "scgi_pass",
            Backend::at(Transport::Mptcp, "127.0.0.1:8082", scgi),
        ),
        (
            "uwsgi_pass",
            Backend::at(Transport::Mptcp, "127.0.0.1:8083", uwsgi),
        ),
    ];
    let passes = backends
        .iter()
        .map(|(pass, backend)| (*pass, backend.address.clone(), "over mptcp"));
    let grpc = ("grpc_pass", "127.0.0.1:8084".to_owned(), "on");
    let (word, directive) = match Host::get().version >= (1, 25, 1) {
        true => ("", "http2 on;"),
        false => ("http2", ""),
    };
    let http2 = back(on, &format!("127.0.0.1:8084 mptcp {word}"), directive);
    for (pass, address, expected) in passes.chain([grpc]) {
        let server = format!(
            "server {{\n    listen {FRONT};\n    access_log up.log up;\n    \
             location / {{\n        {pass} b;\n    }}\n}}\n"
        );
        let upstream = upstream(&format!("server {address};\n    mptcp;"));
        let nginx = site.start(&on.conf(&(FORMAT.to_owned() + &upstream + &server + &http2)));
        let before = counter("MPCapableSYNACKRX");
        assert_eq!(reply(on), expected, "{pass}");
        assert_eq!(counter("MPCapableSYNACKRX") - before, 1, "{pass}");
        assert_eq!(logged(&site, 1), format!("{address}|on"), "{pass}");
        nginx.quit();
        std::fs::remove_file(site.path("up.log")).expect("it is there");
    }
}

fn the_backend_receives_the_client_address_by_the_proxy_protocol(on: Subsystem) {
    let site = Site::new();
    let back = format!(
        "server {{\n    listen {BACK} mptcp proxy_protocol;\n    \
         return \"$mptcp $proxy_protocol_addr\\n\";\n}}\n"
    );
    let upstream = upstream(&format!("server {BACK};\n    mptcp;"));
    let front = front(on, "", "proxy_protocol on;");
    let _nginx = site.start(&on.conf(&(FORMAT.to_owned() + &upstream + &front + &back)));
    assert_eq!(reply(on), "on 127.0.0.1");
    assert_eq!(logged(&site, 1), format!("{BACK}|on"));
}

/// Answers with the address of the client.
fn client_address(mut connection: TcpStream) -> io::Result<()> {
    let peer = connection.peer_addr()?.ip();
    write!(connection, "HTTP/1.0 200 OK\r\n\r\n{peer}\n")?;
    connection.shutdown(Shutdown::Write)?;
    io::copy(&mut connection, &mut io::sink()).map(drop)
}

/// The backend sends its answers to the client's address. A routing rule delivers them to
/// nginx, as nginx's documentation of proxy_bind describes.
fn a_transparent_proxy_binds_an_address_of_a_client(on: Subsystem) {
    let site = Site::new();
    let hosts = Hosts::new();
    ip("rule add iif near0 lookup 100");
    ip("route add local 0.0.0.0/0 dev lo table 100");
    hosts
        .client
        .run(|| ip("route add 10.9.9.0/24 via 10.0.1.1"));
    let address = format!("{}:8081", FAR[0]);
    let backend = address.clone();
    let _backend = hosts
        .client
        .run(move || Backend::at(Transport::Mptcp, &backend, client_address));
    for (word, expected) in [("", "-"), ("mptcp;", "on")] {
        let lines = format!("server {address};\n    {word}");
        let front = front(on, "http", "proxy_bind 10.9.9.9 transparent;");
        let nginx = site.start(&on.conf(&(FORMAT.to_owned() + &upstream(&lines) + &front)));
        assert_eq!(reply(on), "10.9.9.9", "{word}");
        assert_eq!(logged(&site, 1), format!("{address}|{expected}"));
        nginx.quit();
        std::fs::remove_file(site.path("up.log")).expect("it is there");
    }
}

fn a_middlebox_on_the_way_to_the_backend_is_a_fallback(on: Subsystem) {
    for (strips, expected) in [
        (Strips::Nothing, "on"),
        (Strips::Syn, "fallback"),
        (Strips::AfterHandshake, "fallback"),
    ] {
        let site = Site::new();
        let network = Middlebox::of_backend(strips);
        let address = "10.0.2.1:8081";
        let backend = network.client.run(move || match on {
            Subsystem::Http => Backend::at(Transport::Mptcp, address, |connection| {
                upload_answered(connection)
            }),
            _ => Backend::at(Transport::Mptcp, address, echo),
        });
        let lines = format!("server {address};\n    mptcp;");
        let more = match on {
            Subsystem::Http => "client_max_body_size 0;",
            _ => "",
        };
        let text = FORMAT.to_owned() + &upstream(&lines) + &front(on, "http", more);
        let _nginx = site.start(&on.conf(&text));
        match on {
            Subsystem::Http => upload(64),
            _ => each_way(Transport::Tcp, FRONT, 64),
        }
        assert_eq!(
            logged(&site, 1),
            format!("{address}|{expected}"),
            "{strips:?}"
        );
        drop(backend);
    }
}

/// recv() can move data of a subflow to the queue of the connection, and no event reports this
/// data. This happens only if nginx reads more slowly than data arrives.
fn no_event_is_lost_after_a_fallback(on: Subsystem) {
    for strips in [Strips::Nothing, Strips::Syn, Strips::AfterHandshake] {
        let site = Site::new();
        let network = Middlebox::new(strips);
        let client = format!("{}:8080", SERVER[0]);
        let backend = Backend::echo();
        let server = format!(
            "server {{\n    listen {client} mptcp;\n    proxy_pass {};\n}}\n",
            backend.address
        );
        let (nginx, mut strace) = slow(&site, &on.conf(&server));
        network
            .client
            .run(move || each_way(Transport::Mptcp, &client, 64));
        nginx.quit();
        strace.wait().expect("strace ends with nginx");

        let site = Site::new();
        let network = Middlebox::of_backend(strips);
        let address = "10.0.2.1:8081";
        let _backend = network
            .client
            .run(move || Backend::at(Transport::Mptcp, address, echo));
        let lines = format!("server {address};\n    mptcp;");
        let text = FORMAT.to_owned() + &upstream(&lines) + &front(on, "", "");
        let (nginx, mut strace) = slow(&site, &on.conf(&text));
        each_way(Transport::Tcp, FRONT, 64);
        nginx.quit();
        strace.wait().expect("strace ends with nginx");
    }
}

/// Starts nginx under strace, which makes its recv() slower.
fn slow<'a>(site: &'a Site, conf: &Conf) -> (Nginx<'a>, Child) {
    strace::start(site, &["-qq", "-f", "-e", "trace=recvfrom"], conf, 1)
}

fn echo(mut connection: TcpStream) -> io::Result<()> {
    let mut sending = connection.try_clone()?;
    io::copy(&mut connection, &mut sending)?;
    sending.shutdown(Shutdown::Write)
}

/// Receives uploads like [`Backend::uploads`].
fn upload_answered(mut connection: TcpStream) -> io::Result<()> {
    let head = crate::backend::read_head(&mut connection)?;
    let blocks = crate::backend::content_length(&head)? / BLOCK;
    for index in 0..blocks {
        if read_bytes(&mut connection, BLOCK)? != block(index) {
            return Err(io::Error::other("a block differs"));
        }
    }
    let text = format!("{blocks} blocks");
    let length = text.len();
    write!(
        connection,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}"
    )
}

/// Uploads blocks through the proxy.
fn upload(blocks: usize) {
    let mut connection = Connection::open(Transport::Tcp, FRONT).expect("the proxy listens");
    let length = blocks * BLOCK;
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    connection.send(head.as_bytes()).expect("it can be sent");
    for index in 0..blocks {
        connection.send(&block(index)).expect("it can be sent");
    }
    let (head, body) = response(&mut connection).expect("http answers");
    let expected = format!("{blocks} blocks");
    assert_eq!(String::from_utf8_lossy(&body), expected, "{head}");
}

/// select and poll cannot add both events of a connection at once. Debian's nginx has only epoll;
/// `make static` builds an nginx that has all three.
fn other_event_methods_serve(on: Subsystem) {
    let site = Site::new();
    let has = |method: &&str| Host::get().has(&format!("--with-{method}_module"));
    for method in ["poll", "select"].into_iter().filter(has) {
        let conf = conf(on, &format!("server {BACK};\n    mptcp;"));
        let nginx = site.start(&conf.events(&format!("    use {method};\n")));
        for count in 1..4 {
            assert_eq!(reply(on), "on", "{method}");
            assert_eq!(logged(&site, count), format!("{BACK}|on"), "{method}");
        }
        nginx.quit();
        std::fs::remove_file(site.path("up.log")).expect("it is there");
    }
}

fn the_directive_is_added_and_removed_by_reload(on: Subsystem) {
    let site = Site::new();
    let conf = |word: &str| conf(on, &format!("zone z 64k;\n    server {BACK};\n    {word}"));
    let nginx = site.start(&conf(""));
    for (count, (word, expected)) in [("", "-"), ("mptcp;", "on"), ("", "-"), ("mptcp;", "on")]
        .into_iter()
        .enumerate()
    {
        nginx.reload(&conf(word));
        reply(on);
        assert_eq!(logged(&site, count + 1), format!("{BACK}|{expected}"));
    }
}

const KEPT: &str = "proxy_http_version 1.1;\n        proxy_set_header Connection \"\";";

/// The backend closes each connection after three requests, and nginx opens another one. nginx
/// also opens another one when the backend has closed an idle connection.
fn connections_that_the_backend_closes_are_replaced(on: Subsystem) {
    let site = Site::new();
    let answer = format!(
        "server {{\n    listen {BACK} mptcp;\n    keepalive_requests 3;\n    keepalive_timeout 1;\n    \
         location / {{\n        return 200 \"$mptcp $connection_requests\\n\";\n    }}\n}}\n"
    );
    let upstream = upstream(&format!("server {BACK};\n    keepalive 4;\n    mptcp;"));
    let text = FORMAT.to_owned() + &upstream + &front(on, "http", KEPT) + &answer;
    let nginx = site.start(&on.conf(&text));
    let before = counter("MPCapableSYNTX");
    for count in 0..30 {
        assert_eq!(reply(on), format!("on {}", count % 3 + 1));
    }
    assert_eq!(counter("MPCapableSYNTX") - before, 10);
    assert_eq!(reply(on), "on 1");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(reply(on), "on 1");
    assert_eq!(counter("MPCapableSYNTX") - before, 12);
    assert_eq!(logged(&site, 32), format!("{BACK}|on"));
    assert!(!nginx.log().contains("[error]"), "{}", nginx.log());
}

/// With `sendfile` and `tcp_nopush` nginx also corks the connection to the backend. A cork that
/// nginx does not remove delays each upload by 200 ms. The link has an MTU of 1500, because on the
/// loopback of Linux 6.1 every corked upload waits.
fn an_upload_from_a_file_does_not_wait(on: Subsystem) {
    const COUNT: u32 = 20;
    let site = Site::new();
    let hosts = Hosts::new();
    let address = format!("{}:8081", FAR[0]);
    let backend = address.clone();
    let _backend = hosts
        .client
        .run(move || Backend::at(Transport::Mptcp, &backend, upload_answered));
    let more = "client_body_in_file_only clean;\n        client_max_body_size 0;";
    let times = ["", "mptcp;"].map(|word| {
        let upstream = upstream(&format!("server {address};\n    {word}"));
        let text = "sendfile on;\ntcp_nopush on;\n".to_owned()
            + FORMAT
            + &upstream
            + &front(on, "http", more);
        let nginx = site.start(&on.conf(&text));
        upload(2);
        let began = Instant::now();
        for _ in 0..COUNT {
            upload(2);
        }
        let time = began.elapsed();
        nginx.quit();
        time
    });
    assert_eq!(logged(&site, 42), format!("{address}|on"));
    let wait = times[1].saturating_sub(times[0]);
    assert!(wait < COUNT * Duration::from_millis(100), "{times:?}");
}

/// nginx may read the answer before it has sent the request.
fn a_backend_may_answer_before_the_request(on: Subsystem) {
    let site = Site::new();
    let _backend = Backend::at(Transport::Mptcp, BACK, client_address);
    let upstream = upstream(&format!("server {BACK};\n    mptcp;"));
    let _nginx = site.start(&on.conf(&(FORMAT.to_owned() + &upstream + &front(on, "http", ""))));
    for count in 1..=30 {
        assert_eq!(reply(on), "127.0.0.1");
        assert_eq!(logged(&site, count), format!("{BACK}|on"));
    }
}

fn an_error_response_is_retried_on_the_next_server(on: Subsystem) {
    let site = Site::new();
    let failing = "server {\n    listen 127.0.0.1:8082 mptcp;\n    return 503;\n}\n\
                   server {\n    listen 127.0.0.1:8083;\n    return 444;\n}\n";
    let lines = format!(
        "server 127.0.0.1:8082 max_fails=0;\n    server 127.0.0.1:8083 max_fails=0;\n    \
         server {BACK} backup;\n    mptcp;"
    );
    let more = "proxy_next_upstream error http_503;";
    let servers = front(on, "http", more) + &back(on, &format!("{BACK} mptcp"), "") + failing;
    let _nginx = site.start(&on.conf(&(FORMAT.to_owned() + &upstream(&lines) + &servers)));
    for count in 1..=4 {
        assert_eq!(reply(on), "on");
        let line = logged(&site, count);
        let (addresses, values) = line.split_once('|').expect("two fields");
        let expected = match addresses.starts_with("127.0.0.1:8082") {
            true => "on, fallback, on",
            false => "fallback, on, on",
        };
        assert_eq!(values, expected, "{line}");
    }
}

fn a_name_in_a_variable_is_an_upstream(on: Subsystem) {
    let site = Site::new();
    let server = format!(
        "server {{\n    listen {FRONT};\n    access_log up.log up;\n    \
         location / {{\n        set $name b;\n        proxy_pass http://$name;\n    }}\n}}\n"
    );
    let back = back(on, &format!("{BACK} mptcp"), "");
    let upstream = upstream(&format!("server {BACK};\n    mptcp;"));
    let _nginx = site.start(&on.conf(&(FORMAT.to_owned() + &upstream + &server + &back)));
    assert_eq!(reply(on), "on");
    assert_eq!(logged(&site, 1), format!("{BACK}|on"));
    assert!(try_reply(on).is_ok());
}
