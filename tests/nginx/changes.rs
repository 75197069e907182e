//! Changes the protocol of a listener in each possible way while clients connect. No client
//! may be lost.

use std::time::Duration;

use crate::harness::{Site, wait_for_ok, wait_until};
use crate::server::{Conf, Nginx, WITHOUT_NETWORK_CAPABILITIES};
use crate::sockets::{Listener, listening_on};
use crate::steady::{Steady, Tally};
use crate::subsystem::Subsystem;
use crate::upgrade::{retire, upgrade};

/// How the protocol is changed.
#[derive(Clone, Copy)]
enum Way {
    /// By a reload.
    Reload,
    /// By three reloads in quick succession, of which the second changes the protocol back.
    Twice,
    /// By a reload that fails, and then by one that succeeds.
    RolledBack,
    /// By a reload, and a second later one that changes nothing.
    Again,
    /// By a binary upgrade, which keeps the protocol, and then by a reload.
    Upgrade,
    /// Like `Upgrade`, but the nginx before a change to MPTCP runs without the module.
    Module,
}

/// One case of the table.
pub struct Change {
    /// What distinguishes this case from the others.
    pub name: &'static str,
    on: Subsystem,
    /// The arguments of each `listen` directive, without the protocol.
    listen: &'static [&'static str],
    /// The addresses to which the clients connect.
    clients: &'static [&'static str],
    accept_mutex: bool,
    /// Whether the master runs without network capabilities.
    incapable: bool,
    /// The numbers of workers of successive configurations.
    workers: &'static [usize],
    way: Way,
}

const PLAIN: Change = Change {
    name: "1 worker",
    on: Subsystem::Stream,
    listen: &["127.0.0.1:8080"],
    clients: &["127.0.0.1:8080"],
    accept_mutex: false,
    incapable: false,
    workers: &[1],
    way: Way::Reload,
};

/// All cases.
pub const ROWS: [Change; 26] = [
    PLAIN,
    Change {
        name: "4 workers",
        workers: &[4],
        ..PLAIN
    },
    Change {
        name: "4 workers, http",
        on: Subsystem::Http,
        workers: &[4],
        ..PLAIN
    },
    Change {
        name: "2 workers, mail",
        on: Subsystem::Mail,
        workers: &[2],
        ..PLAIN
    },
    Change {
        name: "4 workers, accept_mutex",
        accept_mutex: true,
        workers: &[4],
        ..PLAIN
    },
    Change {
        name: "1 to 4 workers",
        workers: &[1, 3, 2, 4],
        ..PLAIN
    },
    Change {
        name: "reuseport, 4 workers",
        listen: &["127.0.0.1:8080 reuseport"],
        workers: &[4],
        ..PLAIN
    },
    Change {
        name: "reuseport, 1 to 4 workers",
        listen: &["127.0.0.1:8080 reuseport"],
        workers: &[1, 3, 2, 4],
        ..PLAIN
    },
    Change {
        name: "IPv6, 2 workers",
        listen: &["[::1]:8080"],
        clients: &["[::1]:8080"],
        workers: &[2],
        ..PLAIN
    },
    Change {
        name: "IPv6, reuseport, 1 to 4 workers",
        listen: &["[::]:8080 reuseport"],
        clients: &["[::1]:8080"],
        workers: &[4, 2, 3, 1],
        ..PLAIN
    },
    Change {
        name: "five addresses",
        listen: &[
            "*:8080",
            "[::]:8080",
            "127.0.0.2:8081",
            "127.0.0.1:8081-8082",
        ],
        clients: &[
            "127.0.0.1:8080",
            "[::1]:8080",
            "127.0.0.2:8081",
            "127.0.0.1:8081",
            "127.0.0.1:8082",
        ],
        workers: &[2],
        ..PLAIN
    },
    Change {
        name: "twice at once",
        workers: &[2],
        way: Way::Twice,
        ..PLAIN
    },
    Change {
        name: "rolled back first",
        workers: &[2],
        way: Way::RolledBack,
        ..PLAIN
    },
    Change {
        name: "binary upgrade",
        workers: &[2],
        way: Way::Upgrade,
        ..PLAIN
    },
    Change {
        name: "IPv6, reuseport, twice at once",
        listen: &["[::1]:8080 reuseport"],
        clients: &["[::1]:8080"],
        workers: &[2],
        way: Way::Twice,
        ..PLAIN
    },
    Change {
        name: "reuseport, rolled back, workers",
        listen: &["127.0.0.1:8080 reuseport"],
        workers: &[2, 4, 3],
        way: Way::RolledBack,
        ..PLAIN
    },
    Change {
        name: "IPv6, rolled back first",
        listen: &["[::1]:8080"],
        clients: &["[::1]:8080"],
        workers: &[2],
        way: Way::RolledBack,
        ..PLAIN
    },
    Change {
        name: "upgrade, reuseport, workers",
        listen: &["127.0.0.1:8080 reuseport"],
        // The number stays the same: an upgrade to fewer workers makes nginx close
        // sockets, and the kernel resets the connections in their queues.
        workers: &[3],
        way: Way::Upgrade,
        ..PLAIN
    },
    Change {
        name: "upgrade, IPv6",
        listen: &["[::1]:8080"],
        clients: &["[::1]:8080"],
        workers: &[2],
        way: Way::Upgrade,
        ..PLAIN
    },
    Change {
        name: "upgrade, IPv6, reuseport",
        listen: &["[::]:8080 reuseport"],
        clients: &["[::1]:8080"],
        workers: &[3],
        way: Way::Upgrade,
        ..PLAIN
    },
    Change {
        name: "upgrade brings the module",
        workers: &[2],
        way: Way::Module,
        ..PLAIN
    },
    Change {
        name: "reloaded again",
        workers: &[2],
        way: Way::Again,
        ..PLAIN
    },
    Change {
        name: "IPv6, reuseport, reloaded again",
        listen: &["[::1]:8080 reuseport"],
        clients: &["[::1]:8080"],
        workers: &[2],
        way: Way::Again,
        ..PLAIN
    },
    Change {
        name: "no capabilities",
        incapable: true,
        workers: &[2],
        ..PLAIN
    },
    Change {
        name: "no capabilities, IPv6",
        listen: &["[::1]:8080"],
        clients: &["[::1]:8080"],
        incapable: true,
        workers: &[3],
        ..PLAIN
    },
    Change {
        name: "no capabilities, IPv6, again",
        listen: &["[::1]:8080"],
        clients: &["[::1]:8080"],
        incapable: true,
        workers: &[2],
        way: Way::Again,
        ..PLAIN
    },
];

impl Change {
    fn conf(&self, mptcp: bool, workers: usize) -> Conf {
        // A socket that another process passed keeps its protocol if the directive
        // requests none, so TCP is requested explicitly.
        let off = match self.way {
            Way::Upgrade | Way::Module => " mptcp=off",
            _ => "",
        };
        self.conf_with(if mptcp { " mptcp" } else { off }, workers)
    }

    fn conf_with(&self, word: &str, workers: usize) -> Conf {
        let words: Vec<String> = self
            .listen
            .iter()
            .map(|one| format!("{one}{word}"))
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let conf = self.on.servers(&words).workers(workers);
        if self.accept_mutex {
            conf.accept_mutex()
        } else {
            conf
        }
    }

    fn change<'site>(
        &self,
        site: &'site Site,
        nginx: Nginx<'site>,
        mptcp: bool,
        workers: usize,
    ) -> Nginx<'site> {
        let [before, after] = [!mptcp, mptcp].map(|mptcp| self.conf(mptcp, workers));
        let (before, after) = (&before, &after);
        let reload = |conf| {
            nginx.begin_reload(conf);
        };
        match self.way {
            Way::Reload => reload(after),
            Way::Twice => {
                // An old worker may accept before it learns that it has to quit. Its
                // listener does not listen any more, so accept() fails.
                site.provoke(libc::EINVAL);
                [after, before, after].into_iter().for_each(reload);
            }
            Way::Again => {
                reload(after);
                std::thread::sleep(Duration::from_secs(1));
                reload(after);
            }
            Way::RolledBack => {
                let broken = after
                    .clone()
                    .with_text(&self.on.log_to("missing/access.log"));
                nginx
                    .try_reload(&broken)
                    .expect_err("the folder is missing");
                reload(after);
            }
            Way::Upgrade | Way::Module => {
                if matches!(self.way, Way::Module) && mptcp {
                    reload(&self.conf_with("", workers).without_module());
                }
                if self.shares() {
                    // An upgrade during the drain may reset connections, because nginx
                    // sets SO_REUSEPORT on the sockets that it inherits.
                    wait_until("the end of the drain", || listening_on(8080) == workers);
                }
                site.write(after);
                let new = upgrade(site, &nginx, workers);
                retire(&nginx);
                new.reload(after);
                return new;
            }
        }
        nginx.wait_for_workers(workers);
        nginx
    }

    /// Changes the protocol back and forth while clients connect, and returns their results.
    pub fn run(&self, site: &Site, changes: usize, clients: usize, pause: Duration) -> Tally {
        let workers = |round: usize| self.workers[round % self.workers.len()];
        let conf = self.conf(false, workers(0));
        let mut nginx = match self.incapable {
            true => site.start_under(&WITHOUT_NETWORK_CAPABILITIES, &conf),
            false => site.start(&conf),
        };
        let count = clients.div_ceil(self.clients.len()).next_multiple_of(2);
        let clients = Steady::many(self.on, self.clients, count, pause);
        clients.wait_for_more(100);
        for round in 1..=2 * changes {
            nginx = self.change(site, nginx, round % 2 == 1, workers(round));
            clients.wait_for_more(100);
        }
        let tally = clients.stop();
        self.nothing_is_left(&nginx, workers(2 * changes));
        tally
    }

    fn shares(&self) -> bool {
        self.listen[0].contains("reuseport")
    }

    /// Checks that the old sockets are closed, and the descriptors of their drain too.
    fn nothing_is_left(&self, nginx: &Nginx, workers: usize) {
        let shares = self.shares();
        let count = if shares { workers } else { self.clients.len() };
        wait_for_ok(|| {
            let listeners = nginx.listeners();
            let right =
                |one: &Listener| !one.is_mptcp() && one.option("SO_REUSEPORT") == i32::from(shares);
            match listeners.len() == count && listeners.iter().all(right) {
                true => Ok(()),
                false => Err(format!(
                    "{count} of the new sockets expected: {listeners:#?}"
                )),
            }
        });
    }
}

/// A test for each case.
macro_rules! changes {
    ($($test:ident: $row:expr;)+) => {$(
        #[test]
        fn $test() {
            let site = Site::new();
            let pause = Duration::from_millis(2);
            let tally = ROWS[$row].run(&site, 1, 4, pause);
            assert!(tally.lost.is_empty(), "{:?}", tally.lost);
            assert!(tally.served > 300);
        }
    )+};
}

changes! {
    with_one_worker: 0;
    with_four_workers: 1;
    of_http: 2;
    of_mail: 3;
    with_accept_mutex: 4;
    with_the_number_of_workers: 5;
    with_reuseport: 6;
    with_reuseport_and_the_number_of_workers: 7;
    on_ipv6: 8;
    on_ipv6_with_reuseport: 9;
    of_five_addresses: 10;
    twice_at_once: 11;
    after_a_failed_reload: 12;
    by_a_new_binary: 13;
    twice_at_once_on_ipv6_with_reuseport: 14;
    after_a_failed_reload_with_reuseport: 15;
    after_a_failed_reload_on_ipv6: 16;
    by_a_new_binary_with_reuseport: 17;
    by_a_new_binary_on_ipv6: 18;
    by_a_new_binary_on_ipv6_with_reuseport: 19;
    by_a_new_binary_that_brings_the_module: 20;
    before_a_reload_without_a_change: 21;
    before_a_reload_without_a_change_on_ipv6_with_reuseport: 22;
    without_capabilities: 23;
    without_capabilities_on_ipv6: 24;
    without_capabilities_on_ipv6_before_a_reload_without_a_change: 25;
}
