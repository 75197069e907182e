//! Two hosts that two links connect: the host of nginx, which is the calling thread's
//! namespace, and the host of the client.

use std::fs;

use crate::namespace::{Peer, ip, join, set_up_end, tc};

/// The address of nginx's host on each link. A wildcard listener accepts at both.
pub const NEAR: [&str; 2] = ["10.0.1.1", "10.0.2.1"];

/// The address of the client's host on each link.
pub const FAR: [&str; 2] = ["10.0.1.2", "10.0.2.2"];

/// The length of the headers of a data packet: Ethernet, IPv4, TCP, and the TCP options
/// for timestamps and for the data sequence of MPTCP.
const HEADERS: u64 = 14 + 20 + 20 + 12 + 20;

/// The client's host, which two links connect to the calling thread's namespace.
///
/// An MPTCP connection to the first address of [`NEAR`] begins on the first link. nginx's
/// host announces its address on the second link, and the client opens a second subflow
/// from the second address of [`FAR`].
pub struct Hosts {
    /// Runs the client in its namespace.
    pub client: Peer,
}

impl Hosts {
    /// Connects both hosts by links without a speed limit.
    pub fn new() -> Self {
        let client = Peer::new();
        for (link, (near, far)) in NEAR.into_iter().zip(FAR).enumerate() {
            let (near_end, far_end) = (near_end(link), far_end(link));
            join(&near_end, &far_end, client.thread_id);
            set_up_end(&near_end, &[&format!("{near}/24")]);
            client.run(move || set_up_end(&far_end, &[&format!("{far}/24")]));
        }
        for limits in ["subflow 4", "add_addr_accepted 4"] {
            ip(&format!("mptcp limits set {limits}"));
            client.run(move || ip(&format!("mptcp limits set {limits}")));
        }
        announce_second_address();
        Self { client }
    }

    /// Connects both hosts by links with a limited speed. `speed` is in the syntax of
    /// `tc`, as in `rate 50mbit burst 64kb`.
    pub fn with_speed(speed: &str) -> Self {
        let words = format!("{speed} latency 100ms");
        Self::with_queues([&words, &words])
    }

    /// Connects both hosts by links with a speed and a queue each. `words` are in the
    /// syntax of `tc`, as in `rate 8mbit burst 16kb latency 2s`.
    pub fn with_queues(words: [&str; 2]) -> Self {
        let hosts = Self::new();
        for (link, words) in words.into_iter().enumerate() {
            let near = format!("qdisc add dev {} root tbf {words}", near_end(link));
            let far = format!("qdisc add dev {} root tbf {words}", far_end(link));
            tc(&near);
            hosts.client.run(move || tc(&far));
        }
        hosts
    }

    /// Takes a link of the client's host down; 0 is the first link. The client's thread
    /// may call this while it has a connection.
    pub fn cut_link(link: usize) {
        ip(&format!("link set {} down", far_end(link)));
    }

    /// How many bytes nginx's host has received over each link.
    pub fn received(&self) -> [u64; 2] {
        [0, 1].map(|link| link_counters(&near_end(link))[0])
    }

    /// How many bytes nginx's host has sent over each link.
    pub fn sent(&self) -> [u64; 2] {
        [0, 1].map(|link| link_counters(&near_end(link))[8])
    }

    /// How many bytes of payload nginx's host has received and sent over each link. The
    /// headers are subtracted, whose length is the same for each packet. The kernel
    /// counts a large segment as one packet with one header, because the device cuts it
    /// into packets later.
    pub fn payload(&self) -> [[u64; 2]; 2] {
        let payload = |link, at: usize| {
            let counters = link_counters(&near_end(link));
            counters[at].saturating_sub(counters[at + 1] * HEADERS)
        };
        [0, 8].map(|at| [0, 1].map(|link| payload(link, at)))
    }
}

/// Makes nginx's host announce its address on the second link to its clients.
pub fn announce_second_address() {
    let (address, end) = (NEAR[1], near_end(1));
    ip(&format!("mptcp endpoint add {address} dev {end} signal"));
}

fn near_end(link: usize) -> String {
    format!("near{link}")
}

fn far_end(link: usize) -> String {
    format!("far{link}")
}

/// The kernel's counters of a link in the calling thread's namespace: 8 for receiving,
/// then 8 for sending. The first of each 8 counts bytes.
fn link_counters(end: &str) -> Vec<u64> {
    let table =
        fs::read_to_string("/proc/thread-self/net/dev").expect("the kernel shows its links");
    let line = table
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(end)?.strip_prefix(':'));
    let counters = line.expect("the link is there").split_whitespace();
    counters
        .map(|counter| counter.parse().expect("a counter is a number"))
        .collect()
}
