//! Protocols and devices that not every kernel has.
//!
//! tests/kernels-inside.sh names those that its kernel has, by its version, in
//! `NGX_RS_KERNEL_HAS`: there, a test that cannot use one of them fails.

use std::io::Write;
use std::thread;

use crate::client::Transport;
use crate::harness::Site;
use crate::server::Conf;

/// Whether the kernel has the protocol of a listener at 127.0.0.1:8080. If not,
/// nginx refuses the configuration, and the rest of the test cannot be run. A
/// line on stderr says so, also without `--nocapture`.
pub fn is_available(site: &Site, conf: &Conf, transport: Transport) -> bool {
    if transport.is_available() {
        return true;
    }
    let (name, needed) = match transport {
        Transport::Smc => ("smc", "Linux 6.11 and module smc are needed"),
        _ => ("sctp", "module sctp is needed"),
    };
    let text = site.check(conf).fails();
    let message =
        format!("socket() 127.0.0.1:8080 failed: {name} is not supported by this kernel, {needed}");
    assert!(text.contains(&message), "{text}");
    left_out(name, "only the refusal was tested");
    false
}

/// Says what was left out of the calling test, because the kernel lacks `name`,
/// on stderr, also without `--nocapture`. Ends the test if the kernel must not
/// lack it.
pub fn left_out(name: &str, what: &str) {
    let has = std::env::var("NGX_RS_KERNEL_HAS").unwrap_or_default();
    let must_be_there = has.split_whitespace().any(|there| there == name);
    assert!(!must_be_there, "this kernel has to have {name}");
    let test = thread::current();
    let test = test.name().unwrap_or("a thread of a test");
    let line = format!("{test}: {what}, this kernel lacks {name}\n");
    // The test harness does not capture this.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
