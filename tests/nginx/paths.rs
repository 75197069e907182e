//! Downloads between two hosts with two links: they are faster than over one link, and they
//! continue if a link fails.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Noise, read_head};
use crate::client::{Connection, Transport};
use crate::harness::Site;
use crate::hosts::{Hosts, NEAR};
use crate::server::Nginx;
use crate::subsystem::{Subsystem, test_on};

/// The size of a download, which takes some seconds over one link of 50 Mbit/s.
const SIZE: usize = 24 * 1024 * 1024;

/// nginx on the near host, a client on the far host, and two links of 50 Mbit/s between them.
struct Download<'site> {
    hosts: Hosts,
    _backend: Backend,
    _nginx: Nginx<'site>,
    on: Subsystem,
}

impl<'site> Download<'site> {
    fn new(site: &'site Site, on: Subsystem) -> Self {
        let hosts = Hosts::with_speed("rate 50mbit burst 64kb");
        let backend = Backend::noise(SIZE);
        let server = match on {
            Subsystem::Http => {
                let mut bytes = vec![0; SIZE];
                Noise::new().fill(&mut bytes);
                std::fs::write(site.path("large"), bytes).expect("there is room for a file");
                "sendfile on;\nserver {\n    listen 8080 mptcp;\n    root .;\n}\n".into()
            }
            _ => format!(
                "server {{\n    listen 8080 mptcp;\n    proxy_pass {};\n}}\n",
                backend.address
            ),
        };
        let nginx = site.start(&on.conf(&server));
        Self {
            hosts,
            _backend: backend,
            _nginx: nginx,
            on,
        }
    }

    /// Downloads from the client's host. Returns the time of the download and whether the
    /// connection was MPTCP.
    fn run(
        &self,
        transport: Transport,
        half_way: impl FnOnce() + Send + 'static,
    ) -> (Duration, bool) {
        let on = self.on;
        self.hosts
            .client
            .run(move || download(on, transport, half_way))
    }
}

/// Downloads from nginx's address on the first link, and checks each byte. Calls `half_way`
/// after a third of the bytes.
fn download(on: Subsystem, transport: Transport, half_way: impl FnOnce()) -> (Duration, bool) {
    let begin = Instant::now();
    let mut connection = Connection::open(transport, &format!("{}:8080", NEAR[0]))
        .expect("the server is reached over the first link");
    if on == Subsystem::Http {
        let request = connection.send(b"GET /large HTTP/1.0\r\n\r\n");
        request.expect("a request can be sent");
        read_head(&mut connection).expect("http answers");
    }
    let mut noise = Noise::new();
    let (mut bytes, mut expected) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let (mut received, mut half_way) = (0, Some(half_way));
    loop {
        let count = connection.read(&mut bytes).expect("the transfer goes on");
        if count == 0 {
            break;
        }
        noise.fill(&mut expected[..count]);
        assert!(
            bytes[..count] == expected[..count],
            "a byte differs within {count} after {received}"
        );
        received += count;
        if let Some(half_way) = half_way.take_if(|_| received > SIZE / 3) {
            half_way();
        }
    }
    assert_eq!(received, SIZE, "all bytes arrive");
    (begin.elapsed(), connection.is_mptcp())
}

#[test_on(stream)]
fn two_links_carry_a_download_faster_than_one(on: Subsystem) {
    let site = Site::alone();
    let download = Download::new(&site, on);
    let (one_link, mptcp) = download.run(Transport::Tcp, || ());
    assert!(!mptcp);
    let (two_links, mptcp) = download.run(Transport::Mptcp, || ());
    assert!(mptcp);
    let ratio = one_link.as_secs_f64() / two_links.as_secs_f64();
    println!("TCP {one_link:?}, MPTCP {two_links:?}, ratio {ratio:.2}");
    assert!(
        ratio >= 1.7,
        "TCP took {one_link:?}, MPTCP {two_links:?}: only {ratio:.2} times as fast"
    );
}

#[test_on(stream, http)]
fn a_download_outlives_the_loss_of_its_first_link(on: Subsystem) {
    let site = Site::alone();
    let download = Download::new(&site, on);
    let (time, mptcp) = download.run(Transport::Mptcp, || Hosts::cut_link(0));
    println!("{time:?}");
    assert!(mptcp);
}
