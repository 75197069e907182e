//! Clients that come and go all the time, while a test changes the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::Over;
use crate::harness::wait_until;
use crate::subsystem::Subsystem;

/// Threads that connect again and again, half of them over MPTCP.
pub struct Steady {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

struct Shared {
    stop: AtomicBool,
    served: AtomicU64,
}

impl Steady {
    /// Starts the clients and waits until the first have been served.
    pub fn start(on: Subsystem, address: &str) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            served: AtomicU64::new(0),
        });
        let start = |over| {
            let (shared, address) = (Arc::clone(&shared), address.to_owned());
            std::thread::spawn(move || shared.come_and_go(on, over, &address))
        };
        let threads = [Over::Tcp, Over::Mptcp, Over::Tcp, Over::Mptcp]
            .map(start)
            .into();
        let clients = Self { shared, threads };
        clients.wait_for_more(20);
        clients
    }

    /// Waits until `count` more clients have been served.
    pub fn wait_for_more(&self, count: u64) {
        let goal = self.shared.served.load(Ordering::Relaxed) + count;
        wait_until("clients to be served", || {
            self.shared.served.load(Ordering::Relaxed) >= goal
        });
    }

    /// Stops, and ends the test if one client was not served.
    pub fn all_were_served(mut self) {
        let failures = self.stop();
        let served = self.shared.served.load(Ordering::Relaxed);
        assert!(
            failures.is_empty(),
            "{} of {} clients were not served, the first: {}",
            failures.len(),
            served + failures.len() as u64,
            failures[0]
        );
    }

    fn stop(&mut self) -> Vec<String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let join = |thread: JoinHandle<Vec<String>>| {
            thread.join().expect("a client's thread does not panic")
        };
        self.threads.drain(..).flat_map(join).collect()
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A failure has been reported, or another one ends the test.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Connects until told to stop; returns what went wrong.
    fn come_and_go(&self, on: Subsystem, over: Over, address: &str) -> Vec<String> {
        let begin = Instant::now();
        let mut failures = Vec::new();
        while !self.stop.load(Ordering::Relaxed) && failures.len() < 100 {
            let at = begin.elapsed();
            match on.ask(over, address) {
                Ok((answer, _)) if answer == on.answer() => {
                    self.served.fetch_add(1, Ordering::Relaxed);
                }
                Ok((answer, _)) => {
                    failures.push(format!("{over:?} at {at:?}: answered {answer:?}"))
                }
                Err(error) => failures.push(format!("{over:?} at {at:?}: {error}")),
            }
            // Leaves the two processors some time for nginx.
            std::thread::sleep(Duration::from_millis(2));
        }
        failures
    }
}
