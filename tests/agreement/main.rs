//! Compares the library with the installed nginx: both accept the same directives, and open the
//! same sockets for them, as the kernel reports.

mod generate;
mod opened;
mod real_nginx;

use std::collections::HashSet;
use std::ops::RangeTo;
use std::thread;

use generate::Case;
use ngx_rs_listen::parse::{self, Rules, Subsystem};
use ngx_rs_listen::{Error, Listening, SocketAddress, resolve};
use real_nginx::Place;
use test_support::namespace;

/// How many directives are compared.
const CASES: usize = 6000;

/// What the library does and nginx does not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// Accepts a directive that nginx refuses.
    Accept,
    /// Refuses a directive that nginx accepts.
    Refuse,
    /// Accepts a directive, and fails to open the sockets that nginx opens.
    Fail,
}

/// An accepted difference. Most differences exist because the library accepts the parameters of
/// all versions of nginx.
struct Difference {
    why: &'static str,
    versions: RangeTo<[u32; 3]>,
    /// An nginx without this configure option differs in every version.
    option: Option<&'static str>,
    how: How,
    concerns: fn(&Case) -> bool,
}

const ALWAYS: RangeTo<[u32; 3]> = ..[u32::MAX; 3];

/// All accepted differences from nginx 1.22 and later.
const DIFFERENCES: [Difference; 6] = [
    Difference {
        why: "\"deferred\" and \"accept_filter\" are known to stream from nginx 1.25.5 on",
        versions: ..[1, 25, 5],
        option: None,
        how: How::Accept,
        concerns: |case| {
            case.subsystem == Subsystem::Stream
                && (has(case, "deferred") || has(case, "accept_filter="))
        },
    },
    Difference {
        why: "\"default_server\" is known to stream from nginx 1.25.5 on",
        versions: ..[1, 25, 5],
        option: None,
        how: How::Accept,
        concerns: |case| case.subsystem == Subsystem::Stream && has(case, "default_server"),
    },
    Difference {
        why: "\"quic\" is known to http from nginx 1.25.0 on, if it was built with HTTP/3",
        versions: ..[1, 25, 0],
        option: Some("--with-http_v3_module"),
        how: How::Accept,
        concerns: |case| case.subsystem == Subsystem::Http && has(case, "quic"),
    },
    Difference {
        why: "\"spdy\" was known to http before",
        versions: ALWAYS,
        option: None,
        how: How::Accept,
        concerns: |case| case.subsystem == Subsystem::Http && has(case, "spdy"),
    },
    Difference {
        why: "what does not fit an int is refused by us, and cut off by nginx",
        versions: ALWAYS,
        option: None,
        how: How::Refuse,
        concerns: |case| case.words[1..].iter().any(|word| is_long(word)),
    },
    Difference {
        why: "an option that the kernel refuses: nginx says so and goes on without it, we open \
              no socket, as with any other system call that fails",
        versions: ALWAYS,
        option: None,
        how: How::Fail,
        concerns: |case| {
            let options = ["so_keepalive=", "fastopen=", "deferred"];
            options.iter().any(|name| has(case, name))
        },
    },
];

fn has(case: &Case, name: &str) -> bool {
    case.words[1..]
        .iter()
        .any(|word| word.starts_with(name.as_bytes()))
}

/// Whether a number in the word overflows when it is multiplied by its unit, that of a size or
/// of a time.
fn is_long(word: &[u8]) -> bool {
    const SIZES: [(u8, u64); 4] = [
        (b'k', 1 << 10),
        (b'K', 1 << 10),
        (b'm', 1 << 20),
        (b'M', 1 << 20),
    ];
    const TIMES: [(u8, u64); 4] = [(b'm', 60), (b'h', 3600), (b'd', 86400), (b'M', 30 * 86400)];
    let units = match word.starts_with(b"so_keepalive=") {
        true => TIMES,
        false => SIZES,
    };
    let mut value = 0_u64;
    word.iter().any(|&byte| {
        let unit = units
            .iter()
            .find(|unit| unit.0 == byte)
            .map_or(1, |unit| unit.1);
        let long = value.saturating_mul(unit) > i32::MAX as u64;
        value = match byte {
            b'0'..=b'9' => value
                .saturating_mul(10)
                .saturating_add(u64::from(byte - b'0')),
            _ => 0,
        };
        long || value > i32::MAX as u64
    })
}

/// A directive and the result of the library.
struct Ours {
    case: Case,
    sockets: Result<Vec<Listening>, Error>,
}

impl Ours {
    fn new(case: Case) -> Self {
        let rules = Rules {
            subsystem: case.subsystem,
            ..Rules::default()
        };
        let parsed = parse::listen(&case.words(), &rules);
        let sockets = parsed.and_then(|listen| resolve::sockets(&listen));
        Self { case, sockets }
    }

    fn sockets(&self) -> &[Listening] {
        self.sockets.as_deref().unwrap_or_default()
    }

    /// The ports and paths of the directive. No two directives of one configuration may share
    /// one.
    fn keys(&self) -> HashSet<String> {
        let addresses = self.sockets().iter().map(|socket| &socket.address);
        addresses.map(key).collect()
    }
}

/// The port or the path of an address.
fn key(address: &SocketAddress) -> String {
    match address.as_socket() {
        Some(address) => address.port().to_string(),
        None => address.to_string(),
    }
}

/// Groups the directives into configurations in which no port or path occurs twice.
fn batches<'a>(cases: impl Iterator<Item = &'a Ours>) -> Vec<Vec<&'a Ours>> {
    let mut batches: Vec<(Subsystem, HashSet<String>, Vec<&Ours>)> = Vec::new();
    for ours in cases {
        let keys = ours.keys();
        let subsystem = ours.case.subsystem;
        let batch = batches.iter_mut().find(|(other, taken, batch)| {
            *other == subsystem && batch.len() < 1000 && taken.is_disjoint(&keys)
        });
        match batch {
            Some((_, taken, batch)) => {
                taken.extend(keys);
                batch.push(ours);
            }
            None => batches.push((subsystem, keys, vec![ours])),
        }
    }
    batches.into_iter().map(|(_, _, batch)| batch).collect()
}

/// The results for some of the directives.
#[derive(Default)]
struct Found {
    compared: usize,
    accepted: usize,
    opened: usize,
    /// How many of them were Unix domain sockets.
    unix: usize,
    /// How often each of [`DIFFERENCES`] occurred.
    explained: [usize; DIFFERENCES.len()],
    wrong: Vec<String>,
}

impl Found {
    /// Records that nginx and the library differ. An unexpected difference is a failure.
    fn differs(&mut self, ours: &Ours, how: How, said: &str) {
        let row = DIFFERENCES
            .iter()
            .position(|row| row.how == how && (row.concerns)(&ours.case));
        match row {
            Some(row) => self.explained[row] += 1,
            None => {
                let we = ours.sockets.as_ref().map(Vec::len);
                self.wrong
                    .push(format!("{}: we say {we:?}, nginx {said:?}", shown(ours)));
            }
        }
    }

    fn compare(&mut self, place: &Place, cases: &[Ours]) {
        self.compared = cases.len();
        for ours in cases.iter().filter(|ours| ours.sockets.is_err()) {
            if place.check(&[&ours.case]).is_none() {
                self.differs(ours, How::Refuse, "accepted");
            }
        }
        let mut agreed = Vec::new();
        for mut batch in batches(cases.iter().filter(|ours| ours.sockets.is_ok())) {
            loop {
                let text: Vec<_> = batch.iter().map(|ours| &ours.case).collect();
                let Some(refused) = place.check(&text) else {
                    break;
                };
                self.differs(batch.remove(refused.index), How::Accept, &refused.why);
                if batch.is_empty() {
                    break;
                }
            }
            agreed.extend(batch);
        }
        self.accepted = agreed.len();
        let all = agreed.iter().copied();
        opened::compare(self, place, all);
    }

    fn add(&mut self, other: Self) {
        self.compared += other.compared;
        self.accepted += other.accepted;
        self.opened += other.opened;
        self.unix += other.unix;
        self.wrong.extend(other.wrong);
        for (sum, count) in self.explained.iter_mut().zip(other.explained) {
            *sum += count;
        }
    }
}

fn shown(ours: &Ours) -> String {
    let text = ours.case.text();
    let name = real_nginx::of_the_tests(ours.case.subsystem).name();
    format!("{name}: {}", String::from_utf8_lossy(&text))
}

/// Whether the directive has few ports. A large range would need more sockets than a process can
/// open.
fn is_narrow(ours: &Ours) -> bool {
    ours.sockets().len() <= 64
}

#[test]
fn we_accept_what_nginx_accepts_and_open_the_same_sockets() {
    let version = real_nginx::version();
    let cases = generate::cases(CASES);
    let (one, two) = cases.split_at(CASES / 2);
    let compare = |name: &str, cases: &[Case]| {
        namespace::run(|| {
            let place = Place::new(name);
            let ours = cases.iter().cloned().map(Ours::new).filter(is_narrow);
            let mut found = Found::default();
            found.compare(&place, &ours.collect::<Vec<_>>());
            found
        })
    };
    let found = thread::scope(|scope| {
        let other = scope.spawn(|| compare("two", two));
        let mut found = compare("one", one);
        found.add(other.join().expect("it has said why"));
        found
    });
    println!(
        "{} compared, {} accepted by both, {} opened by both, {} of them of the unix domain",
        found.compared, found.accepted, found.opened, found.unix
    );
    for (row, count) in DIFFERENCES.iter().zip(found.explained) {
        println!("{count} times: {}", row.why);
        let lacks = |option| !real_nginx::has(option);
        let here = row.versions.contains(&version) || row.option.is_some_and(lacks);
        assert_eq!(count > 0, here, "in nginx {version:?}: {}", row.why);
    }
    assert!(found.wrong.is_empty(), "{:#?}", found.wrong);
    assert!(found.compared >= 5000 && found.accepted * 4 > found.compared);
    assert!(found.opened * 2 > found.accepted && found.unix >= 100);
}
