//! Clients that connect continuously while a test changes the server.

use std::fmt::{self, Debug, Formatter};
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::Transport;
use crate::harness::wait_until;
use crate::subsystem::Subsystem;
use crate::without_mptcp;

/// Threads that connect repeatedly, half of them over MPTCP.
pub struct Steady {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Vec<Lost>>>,
}

struct Shared {
    stop: AtomicBool,
    served: AtomicU64,
    stalled: AtomicU64,
    longest_ms: AtomicU64,
}

/// The results of the clients.
pub struct Tally {
    /// How many were served.
    pub served: u64,
    /// MPTCP clients that received no answer. Linux 6.18 lets some MPTCP clients of a plain
    /// TCP listener wait forever, with any server, so they are counted separately.
    pub stalled: u64,
    /// The longest time of a served client. A client whose SYN was lost takes more than a
    /// second, because it sends the SYN again after a second.
    pub longest: Duration,
    /// The clients that were not served.
    pub lost: Vec<Lost>,
}

/// A client that was not served.
pub struct Lost {
    /// From its connect() to the failure.
    pub time: Range<Instant>,
    how: String,
}

impl Debug for Lost {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.how)
    }
}

impl Steady {
    /// Starts four clients, and waits until the first have been served. They pause between
    /// connections, so that nginx gets processor time.
    pub fn start(on: Subsystem, address: &str) -> Self {
        let clients = Self::many(on, &[address], 4, Duration::from_millis(2));
        clients.wait_for_more(20);
        clients
    }

    /// Starts `count` clients for each address. Each client pauses between two connections.
    pub fn many(on: Subsystem, addresses: &[&str], count: usize, pause: Duration) -> Self {
        // Half of them use MPTCP, each in a thread of its own.
        without_mptcp::end_if_expected();
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            served: AtomicU64::new(0),
            stalled: AtomicU64::new(0),
            longest_ms: AtomicU64::new(0),
        });
        let start = |(number, address): (usize, &&str)| {
            let transport = [Transport::Tcp, Transport::Mptcp][number / addresses.len() % 2];
            let (shared, address) = (Arc::clone(&shared), (*address).to_owned());
            std::thread::spawn(move || shared.connect_repeatedly(on, transport, &address, pause))
        };
        let all = addresses.iter().cycle().take(addresses.len() * count);
        let threads = all.enumerate().map(start).collect();
        Self { shared, threads }
    }

    /// Waits until `count` more clients have been served.
    pub fn wait_for_more(&self, count: u64) {
        let goal = self.served() + count;
        wait_until("clients to be served", || self.served() >= goal);
    }

    fn served(&self) -> u64 {
        self.shared.served.load(Ordering::Relaxed)
    }

    /// Stops the clients, and fails the test if one was not served.
    pub fn all_were_served(self) {
        let Tally {
            served,
            lost,
            stalled,
            ..
        } = self.stop();
        assert!(
            lost.is_empty() && stalled == 0,
            "{} of {} clients were not served, {stalled} stalled, the first: {:?}",
            lost.len(),
            served + lost.len() as u64,
            lost.first()
        );
    }

    /// Stops the clients, and returns their results.
    pub fn stop(mut self) -> Tally {
        self.shared.stop.store(true, Ordering::Relaxed);
        let join = |thread: JoinHandle<Vec<Lost>>| {
            thread.join().expect("a client's thread does not panic")
        };
        let lost = self.threads.drain(..).flat_map(join).collect();
        let stalled = self.shared.stalled.load(Ordering::Relaxed);
        let served = self.served();
        let longest = self.shared.longest_ms.load(Ordering::Relaxed);
        Tally {
            served,
            stalled,
            longest: Duration::from_millis(longest),
            lost,
        }
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of the thread is ignored: `stop` has reported it, or the test has
            // failed already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Connects repeatedly until the clients are stopped. Returns the failures.
    fn connect_repeatedly(
        &self,
        on: Subsystem,
        transport: Transport,
        address: &str,
        pause: Duration,
    ) -> Vec<Lost> {
        let begin = Instant::now();
        let mut failures = Vec::new();
        while !self.stop.load(Ordering::Relaxed) && failures.len() < 10_000 {
            let start = Instant::now();
            let answer = on.request_answer(transport, address);
            let time = start..Instant::now();
            let how = match answer {
                Ok((answer, _)) if answer == on.answer() => {
                    self.served.fetch_add(1, Ordering::Relaxed);
                    let took = (time.end - time.start).as_millis() as u64;
                    self.longest_ms.fetch_max(took, Ordering::Relaxed);
                    None
                }
                Ok((answer, _)) => Some(format!("answered {answer:?}")),
                Err(error)
                    if transport == Transport::Mptcp && error.kind() == ErrorKind::WouldBlock =>
                {
                    self.stalled.fetch_add(1, Ordering::Relaxed);
                    None
                }
                Err(error) => Some(error.to_string()),
            };
            failures.extend(how.map(|how| Lost {
                how: format!("{transport:?} at {:?}: {how}", start - begin),
                time,
            }));
            std::thread::sleep(pause);
        }
        failures
    }
}
