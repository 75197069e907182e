//! `protocol=smc`: clients of stream, http and mail over SMC and over TCP. Linux has IPPROTO_SMC
//! since 6.11. The machine has no network card for SMC, so the kernel carries the data over
//! TCP, as it does for a client without SMC. The sockets are SMC sockets all the same.

use std::fs;

use crate::backend::{Backend, block};
use crate::client::{Connection, Transport, each_way};
use crate::harness::{Site, wait_until};
use crate::http::response;
use crate::lacking;
use crate::server::{Conf, Nginx};
use crate::sockets::Listener;
use crate::subsystem::{Subsystem, test_on};
use crate::upgrade::{retire, upgrade};

const ADDRESS: &str = "127.0.0.1:8080";
const LISTEN: &str = "127.0.0.1:8080 protocol=smc";
const IPPROTO_SMC: i32 = 256;

fn is_available(site: &Site, conf: &Conf) -> bool {
    lacking::is_available(site, conf, Transport::Smc)
}

fn is_smc(listener: &Listener) -> bool {
    listener.protocol == IPPROTO_SMC
}

fn is_answered(on: Subsystem) {
    for transport in [Transport::Smc, Transport::Tcp] {
        let answer = on.request_answer(transport, ADDRESS);
        let (answer, _) = answer.unwrap_or_else(|error| panic!("{transport:?}: {error}"));
        assert_eq!(answer, on.answer(), "{transport:?}");
    }
}

#[test_on(stream, http, mail)]
fn smc_and_tcp_clients_are_served_over_smc(on: Subsystem) {
    let site = Site::new();
    if !is_available(&site, &on.listen(LISTEN)) {
        return;
    }
    for words in [LISTEN, "127.0.0.1:8080 protocol=256"] {
        let nginx = site.start(&on.listen(words).workers(2));
        assert!(is_smc(&nginx.listener()));
        (0..50).for_each(|_| is_answered(on));
        nginx.quit();
    }
    if on.knows("reuseport") {
        let nginx = site.start(&on.listen(&format!("{LISTEN} reuseport")).workers(2));
        assert_eq!(
            nginx.listeners().iter().filter(|one| is_smc(one)).count(),
            2
        );
        (0..20).for_each(|_| is_answered(on));
        nginx.quit();
    }
}

#[test_on(stream, http)]
fn workers_can_be_added_to_smc_listeners_that_share_an_address(on: Subsystem) {
    let site = Site::new();
    let alone = on.listen(LISTEN);
    if !is_available(&site, &alone) {
        return;
    }
    let shared = on.listen(&format!("{LISTEN} reuseport"));
    let smc_listeners = |nginx: &Nginx| {
        let listeners = nginx.listeners();
        listeners.iter().filter(|one| is_smc(one)).count()
    };
    let nginx = site.start(&shared.clone().workers(2));
    nginx.reload(&shared.clone().workers(3));
    assert_eq!(smc_listeners(&nginx), 3);
    (0..20).for_each(|_| is_answered(on));
    nginx.quit();

    let nginx = site.start(&alone);
    let log = nginx.try_reload(&shared.workers(2)).expect_err("refused");
    let reason = "the kernel binds no other socket beside the SMC socket";
    assert!(log.contains(reason) && !log.contains("bind()"), "{log}");
    is_answered(on);
}

#[test_on(stream, http, mail)]
fn a_reload_and_an_upgrade_keep_the_smc_listener(on: Subsystem) {
    let site = Site::new();
    let conf = on.listen(LISTEN);
    if !is_available(&site, &conf) {
        return;
    }
    let old = site.start(&conf);
    let listener = old.listener();
    old.reload(&conf);
    assert_eq!(old.listener(), listener);
    is_answered(on);
    let new = upgrade(&site, &old, 1);
    is_answered(on);
    retire(&old);
    is_answered(on);
    new.reload(&conf);
    assert_eq!(new.listener(), listener);
    is_answered(on);
}

#[test_on(stream, http, mail)]
fn a_change_from_smc_is_refused_at_once_and_possible_in_two_steps(on: Subsystem) {
    let site = Site::new();
    let smc = on.listen(LISTEN);
    if !is_available(&site, &smc) {
        return;
    }
    let nginx = site.start(&smc);
    let (listener, descriptors) = (nginx.listener(), nginx.descriptors());
    for words in [ADDRESS, "127.0.0.1:8080 mptcp", "127.0.0.1:8080 mptcp=off"] {
        let log = nginx.try_reload(&on.listen(words)).expect_err("no change");
        let reason = "the kernel binds no other socket beside the SMC socket on 127.0.0.1:8080: \
                      restart the server, or remove the listener and reload, then add it and reload";
        assert_eq!(log.matches(reason).count(), 1, "{log}");
        assert!(log.contains("[emerg]") && !log.contains("bind()"), "{log}");
        assert_eq!(
            (nginx.listener(), nginx.descriptors()),
            (listener.clone(), descriptors.clone())
        );
        is_answered(on);
    }
    nginx.reload(&on.listen("127.0.0.1:8081"));
    nginx.reload(&on.servers(&["127.0.0.1:8080 mptcp", "127.0.0.1:8081"]));
    on.serves(ADDRESS, true);
}

#[test_on(stream, http, mail)]
fn a_change_to_smc_warns_that_clients_may_be_lost(on: Subsystem) {
    let site = Site::new();
    let smc = on.listen(LISTEN);
    if !is_available(&site, &smc) {
        return;
    }
    for words in [ADDRESS, "127.0.0.1:8080 mptcp"] {
        let nginx = site.start(&on.listen(words));
        let log = nginx.begin_reload(&smc);
        let notice = "the kernel spreads new connections over the old socket on 127.0.0.1:8080 \
                      and its SMC successor: some may be lost until the old socket is closed";
        assert_eq!(log.matches(notice).count(), 1, "{log}");
        (0..20).for_each(|_| is_answered(on));
        wait_until("the SMC socket alone", || {
            let listeners = nginx.listeners();
            listeners.iter().all(is_smc) && !listeners.is_empty()
        });
        (0..20).for_each(|_| is_answered(on));
        nginx.quit();
    }
}

#[test_on(stream, http, mail)]
fn fastopen_alone_has_no_effect_on_smc(on: Subsystem) {
    let site = Site::new();
    if !is_available(&site, &on.listen(LISTEN)) {
        return;
    }
    let words = [
        "fastopen=5",
        "deferred",
        "so_keepalive=600:20:3",
        "backlog=77",
    ];
    let known = words.into_iter().filter(|word| on.knows(word));
    let words = known.collect::<Vec<_>>().join(" ");
    let nginx = site.start(&on.listen(&format!("{LISTEN} {words}")));
    let said = site.read("output");
    let warning = "smc sockets have no \"fastopen\", ignored for 127.0.0.1:8080";
    let expected = usize::from(on.knows("fastopen"));
    assert_eq!(said.matches(warning).count(), expected, "{said}");
    assert_eq!(said.matches("[warn]").count(), expected, "{said}");
    let listener = nginx.listener();
    assert!(is_smc(&listener));
    assert_eq!(listener.option("TCP_KEEPIDLE"), 600);
    assert_eq!(listener.option("SO_KEEPALIVE"), 1);
    if !on.request().is_empty() {
        is_answered(on);
    }
}

#[test_on(http)]
fn files_and_keep_alive_are_served_over_smc(on: Subsystem) {
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
    for transport in [Transport::Smc, Transport::Tcp] {
        let mut connection = Connection::open(transport, ADDRESS).expect("it is served");
        for _ in 0..10 {
            let request = b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n";
            connection.send(request).expect("it is kept");
            let (head, body) = response(&mut connection).expect("an answer");
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            assert!(body == file, "{} bytes", body.len());
        }
        let length = 8 * block(0).len();
        let head = format!("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        connection.send(head.as_bytes()).expect("it is kept");
        for index in 0..8 {
            connection.send(&block(index)).expect("it is read");
        }
        let (head, body) = response(&mut connection).expect("an answer");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(body, b"8 blocks");
    }
}

#[test_on(stream)]
fn data_go_each_way_over_smc(on: Subsystem) {
    const BLOCKS: usize = 64;
    let site = Site::new();
    let backend = Backend::echo();
    let conf = on.conf(&format!(
        "server {{ listen {LISTEN}; proxy_pass {}; }}\n",
        backend.address
    ));
    if !is_available(&site, &conf) {
        return;
    }
    let _nginx = site.start(&conf);
    for transport in [Transport::Smc, Transport::Tcp] {
        each_way(transport, ADDRESS, BLOCKS);
    }
}
