//! The memory of nginx with the modules: from its start to its end under Valgrind and under
//! AddressSanitizer, and over many reloads.
//!
//! `make test` runs short versions. `make memory` runs the long ones, and builds modules with
//! AddressSanitizer for them.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Site, wait_until};
use crate::mptcp_log::{LOG, log_format};
use crate::server::{Conf, Nginx};
use crate::sockets::listening_on;
use crate::steady::Steady;
use crate::subsystem::Subsystem::{self, Http, Mail, Stream};

const ADDRESSES: [(Subsystem, &str); 4] = [
    (Stream, "127.0.0.1:8080"),
    (Stream, "127.0.0.1:8081"),
    (Http, "127.0.0.1:8082"),
    (Mail, "127.0.0.1:8083"),
];

/// A configuration with all subsystems and all variables.
fn conf(mptcp: bool) -> Conf {
    let word = if mptcp { "mptcp" } else { "" };
    let stream = [
        log_format(),
        Stream.server(&format!("127.0.0.1:8080 {word}")),
        Stream.server_with(
            &format!("127.0.0.1:8081 reuseport {word}"),
            LOG,
            Stream.answer(),
        ),
    ];
    let http = Http.server_with(&format!("127.0.0.1:8082 {word}"), LOG, Http.answer());
    Stream
        .conf(&stream.concat())
        .with_blocks_of(Http.conf(&(log_format() + &http)))
        .with_blocks_of(Mail.listen(&format!("127.0.0.1:8083 {word}")))
        .workers(2)
}

/// Runs nginx from its start to its end under a tool that writes a report on each process to the
/// file `report.PID`. The tool may replace the titles of the processes.
struct Life<'a> {
    site: &'a Site,
    runner: &'a [&'a str],
    /// Text for the main context of nginx.conf.
    main: &'a str,
}

impl Life<'_> {
    /// Starts nginx, changes the protocol, makes reloads fail, upgrades the binary, and
    /// quits.
    fn live(&self, changes: usize) {
        let conf = |mptcp| self.conf(mptcp);
        self.site.write(&conf(false));
        let start = &mut self.site.nginx_under(self.runner, &[]);
        self.site.run(start).succeeds();
        let old = self.site.running();
        self.wait_for_workers(&old, &[]);
        for change in 1..=changes {
            let mptcp = change % 2 == 1;
            if change % 5 == 1 {
                let broken = conf(mptcp).with_text(&Stream.log_to("missing/access.log"));
                old.try_reload(&broken).expect_err("the folder is missing");
            }
            let workers = self.children(&old);
            old.begin_reload(&conf(mptcp));
            self.wait_for_workers(&old, &workers);
            serves(mptcp);
        }
        let mptcp = changes % 2 == 0;
        self.site.write(&conf(mptcp));
        let new = self.upgrade(&old);
        // The new binary keeps the protocol of its inherited sockets.
        serves(!mptcp);
        let workers = self.children(&new);
        new.begin_reload(&conf(mptcp));
        self.wait_for_workers(&new, &workers);
        serves(mptcp);
        new.signal(libc::SIGQUIT);
        wait_until("the end of all", || self.site.processes().is_empty());
    }

    fn conf(&self, mptcp: bool) -> Conf {
        conf(mptcp).main(self.main)
    }

    /// Replaces the running master by a binary upgrade.
    fn upgrade(&self, old: &Nginx) -> Nginx<'_> {
        let pid = old.pid.to_string();
        old.signal(libc::SIGUSR2);
        wait_until("a new master", || {
            let text = self.site.read("nginx.pid");
            !text.trim().is_empty() && text.trim() != pid
        });
        let new = self.site.running();
        self.wait_for_workers(&new, &[]);
        old.signal(libc::SIGWINCH);
        wait_until("the end of its workers", || self.children(old) == [new.pid]);
        old.quit();
        new
    }

    /// Waits for two workers that are not in `old`.
    fn wait_for_workers(&self, nginx: &Nginx, old: &[i32]) {
        wait_until("the new workers alone", || {
            let workers = self.children(nginx);
            workers.len() == 2 && !workers.iter().any(|pid| old.contains(pid))
        });
    }

    fn children(&self, nginx: &Nginx) -> Vec<i32> {
        let processes = self.site.processes().into_iter();
        let children = processes.filter(|process| process.parent == nginx.pid);
        children.map(|process| process.pid).collect()
    }
}

/// Waits until the old sockets have ended, and checks that the new ones serve.
fn serves(mptcp: bool) {
    let listening = || [8080, 8081, 8082, 8083].map(listening_on);
    wait_until("the end of the old sockets", || listening() == [1, 2, 1, 1]);
    let serves = |(on, address): (Subsystem, &str)| on.serves(address, mptcp);
    ADDRESSES.into_iter().for_each(serves);
}

/// The reports of the tool on all processes.
fn reports(site: &Site) -> String {
    let files = fs::read_dir(&site.folder).expect("the test's folder can be read");
    let names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
    let reports = names.filter(|name| name.starts_with("report."));
    reports.map(|name| site.read(&name)).collect()
}

/// Whether a part of a report names a function or file of this project.
fn is_ours(part: &&str) -> bool {
    ["ngx_rs_", "_rs_listen_module"]
        .iter()
        .any(|name| part.contains(name))
}

/// Checks that Valgrind finds no error, and no leak of this project. Leaks of nginx are ignored:
/// its workers do not free their environment and connections, also without the modules.
fn lives_under_valgrind(changes: usize) {
    let site = Site::new();
    let reports_to = format!("--log-file={}", site.path("report.%p").display());
    let runner = [
        "valgrind",
        "--quiet",
        "--trace-children=yes",
        "--leak-check=full",
        "--show-leak-kinds=definite,indirect",
        "--keep-debuginfo=yes",
        "--num-callers=40",
        &reports_to,
    ];
    let life = Life {
        site: &site,
        runner: &runner,
        main: "",
    };
    life.live(changes);
    let reports = reports(&site);
    // Parts of a report are separated by an empty line, which begins with `==PID== `.
    let parts = reports.split("== \n");
    let (leaks, errors): (Vec<_>, Vec<_>) = parts
        .filter(|part| part.contains(" at 0x"))
        .partition(|part| part.contains(" lost in loss record "));
    assert!(!leaks.is_empty(), "Valgrind has looked for leaks");
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    let ours: Vec<_> = leaks.into_iter().filter(is_ours).collect();
    assert!(ours.is_empty(), "{}", ours.join("\n"));
}

#[test]
fn valgrind_finds_nothing() {
    lives_under_valgrind(2);
}

#[test]
#[ignore = "takes a minute: make memory"]
fn valgrind_finds_nothing_in_a_long_life() {
    lives_under_valgrind(40);
}

/// AddressSanitizer instruments the C code of the modules. The code of nginx and of Rust is not
/// instrumented, but uses its allocator.
#[test]
#[ignore = "needs modules of its own: make memory"]
fn address_sanitizer_finds_nothing_in_a_long_life() {
    let site = Site::new();
    let name = Command::new("gcc")
        .arg("-print-file-name=libasan.so")
        .output();
    let name = name.expect("gcc is missing: install it").stdout;
    let preload = format!("LD_PRELOAD={}", String::from_utf8_lossy(&name).trim());
    let report = site.path("report");
    let options = [
        "detect_leaks=1",
        // Every module defines ngx_modules and ngx_module_order, as nginx requires.
        "detect_odr_violation=0",
        "exitcode=0",
        "fast_unwind_on_malloc=0",
        &format!("log_path={}", report.display()),
    ];
    let options = format!("ASAN_OPTIONS={}", options.join(":"));
    let life = Life {
        site: &site,
        runner: &["env", &preload, &options],
        main: "env LD_PRELOAD;\nenv ASAN_OPTIONS;",
    };
    life.live(40);
    let reports = reports(&site);
    assert!(!reports.contains("ERROR: AddressSanitizer"), "{reports}");
    let leaks = reports
        .split("\n\n")
        .filter(|part| part.contains("leak of"));
    let (ours, others): (Vec<_>, Vec<_>) = leaks.partition(is_ours);
    assert!(!others.is_empty(), "AddressSanitizer has looked for leaks");
    assert!(ours.is_empty(), "{}", ours.join("\n"));
}

/// Reloads while clients connect, and changes the protocol in every second reload. The memory and
/// descriptors after the first tenth of the reloads have to suffice for the others.
fn stays_flat(reloads: usize) {
    let site = Site::alone();
    let nginx = site.start(&conf(false));
    let listeners = nginx.listeners().len();
    let clients = Steady::many(Stream, &[ADDRESSES[0].1, ADDRESSES[1].1], 2, PAUSE);
    let begin = Instant::now();
    let mut marks = Vec::new();
    for reload in 0..reloads {
        if reload == reloads / 10 {
            marks.push(settled(&nginx, listeners));
        }
        nginx.begin_reload(&conf(reload / 2 % 2 == 1));
    }
    marks.push(settled(&nginx, listeners));
    let took = begin.elapsed().as_secs_f64();
    let tally = clients.stop();
    println!(
        "{reloads} reloads in {took:.0} s: {} connections, {} lost, {} stalled",
        tally.served,
        tally.lost.len(),
        tally.stalled
    );
    let [(few, early), (many, late)] = marks[..] else {
        panic!("two marks expected");
    };
    println!("the master has {few} descriptors, then {many}; {early} kB, then {late} kB");
    assert_eq!(few, many, "descriptors");
    assert!(late <= early + GROWTH_KB, "resident memory");
    assert!(tally.lost.is_empty(), "{:?}", tally.lost);
}

const PAUSE: Duration = Duration::from_millis(2);

/// How much the memory of the master may grow.
const GROWTH_KB: u64 = 512;

/// The number of descriptors of the master and its resident memory in kB, after all drains have
/// ended.
fn settled(nginx: &Nginx, listeners: usize) -> (usize, u64) {
    nginx.reload(&conf(false));
    wait_until("the end of the replaced sockets", || {
        nginx.listeners().len() == listeners
    });
    // This reload makes the master close the superseded sockets.
    nginx.reload(&conf(false));
    let status = format!("/proc/{}/status", nginx.pid);
    let status = fs::read_to_string(status).expect("the master runs");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = resident.and_then(|text| text.split_whitespace().next()?.parse().ok());
    (
        nginx.descriptors().len(),
        kb.expect("a process has resident memory"),
    )
}

#[test]
fn descriptors_and_memory_stay_flat() {
    stays_flat(60);
}

#[test]
#[ignore = "takes minutes: make memory"]
fn descriptors_and_memory_stay_flat_over_a_thousand_reloads() {
    stays_flat(1000);
}
