//! The tests on a kernel without MPTCP, if NGX_RS_WITHOUT_MPTCP names a file
//! for the record: a test ends, and has passed, where nginx refuses its
//! configuration for the documented reason, or where it needs MPTCP itself.

use std::fs::OpenOptions;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::harness::Site;

/// What nginx says of such a kernel.
pub const REASON: &str = "this kernel was built without MPTCP, CONFIG_MPTCP is needed";

/// Parameters that make a listener MPTCP, or have nginx refuse it.
const PARAMETERS: [&str; 5] = [
    "mptcp",
    "mptcp=on",
    "multipath",
    "protocol=mptcp",
    "protocol=262",
];

/// What a test ends with that cannot go on.
struct End;

/// Whether the tests are to expect a kernel without MPTCP.
pub fn is_expected() -> bool {
    std::env::var_os("NGX_RS_WITHOUT_MPTCP").is_some()
}

/// Runs a test to its end, which may be an early one.
pub fn run(test: impl FnOnce()) {
    match catch_unwind(AssertUnwindSafe(test)) {
        Err(panic) if !panic.is::<End>() => resume_unwind(panic),
        _ => (),
    }
}

/// Ends a test of which the rest needs MPTCP.
pub fn end_if_expected() {
    if is_expected() {
        end("not run");
    }
}

/// Ends a test whose configuration nginx has to refuse.
pub fn check_refusal(site: &Site) {
    let text = site.read("nginx.conf");
    let mut listens = text.lines().filter(|line| line.contains("listen "));
    let is_mptcp = |word| PARAMETERS.contains(&word);
    if !is_expected() || !listens.any(|line| line.split([' ', ';']).any(is_mptcp)) {
        return;
    }
    let said = site.run(&mut site.nginx(&["-t"])).fails();
    // Some tests have an error in the configuration that nginx finds earlier, or
    // forbid MPTCP.
    if said.contains(REASON) {
        end("refused");
    }
}

/// Records the end of a test, and ends it without a panic message.
fn end(how: &str) -> ! {
    let path = std::env::var_os("NGX_RS_WITHOUT_MPTCP").expect("it is expected");
    let file = OpenOptions::new().create(true).append(true).open(path);
    let test = std::thread::current();
    let test = test.name().unwrap_or("a thread of a test");
    let written = file.and_then(|mut file| writeln!(file, "{how}: {test}"));
    written.expect("the record can be written");
    resume_unwind(Box::new(End))
}
