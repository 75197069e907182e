//! Lets the tests run on a kernel without MPTCP, if NGX_RS_WITHOUT_MPTCP names a file for
//! their results. A test then ends early, and passes, when nginx refuses its configuration
//! for the documented reason or when the test itself needs MPTCP.

use std::fs::OpenOptions;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::harness::Site;

/// The reason in nginx's error on a kernel without MPTCP.
pub const REASON: &str = "this kernel was built without MPTCP, CONFIG_MPTCP is needed";

/// Parameters of which nginx makes an MPTCP listener or an error.
const PARAMETERS: [&str; 5] = [
    "mptcp",
    "mptcp=on",
    "multipath",
    "protocol=mptcp",
    "protocol=262",
];

/// The panic payload of a test that ends early.
struct End;

/// Whether the tests run on a kernel without MPTCP.
pub fn is_expected() -> bool {
    std::env::var_os("NGX_RS_WITHOUT_MPTCP").is_some()
}

/// Runs a test, which may end early.
pub fn run(test: impl FnOnce()) {
    match catch_unwind(AssertUnwindSafe(test)) {
        Err(panic) if !panic.is::<End>() => resume_unwind(panic),
        _ => (),
    }
}

/// Ends the test if the kernel has no MPTCP, because the rest of the test needs it.
pub fn end_if_expected() {
    if is_expected() {
        end("not run");
    }
}

/// Ends the test if nginx has to refuse its configuration because the kernel has no MPTCP.
pub fn check_refusal(site: &Site) {
    let text = site.read("nginx.conf");
    let mut listens = text.lines().filter(|line| line.contains("listen "));
    let is_mptcp = |word| PARAMETERS.contains(&word);
    if !is_expected() || !listens.any(|line| line.split([' ', ';']).any(is_mptcp)) {
        return;
    }
    let said = site.run(&mut site.nginx(&["-t"])).fails();
    // nginx reports another reason in tests whose configuration has an earlier error and in
    // tests that forbid MPTCP.
    if said.contains(REASON) {
        end("refused");
    }
}

/// Records how a test ends, and ends it without a panic message.
fn end(how: &str) -> ! {
    let path = std::env::var_os("NGX_RS_WITHOUT_MPTCP").expect("it is expected");
    let file = OpenOptions::new().create(true).append(true).open(path);
    let test = std::thread::current();
    let test = test.name().unwrap_or("a thread of a test");
    let written = file.and_then(|mut file| writeln!(file, "{how}: {test}"));
    written.expect("the record can be written");
    resume_unwind(Box::new(End))
}
