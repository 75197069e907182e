//! Protocols and devices that some kernels do not support.
//!
//! tests/kernels-inside.sh lists in `NGX_RS_KERNEL_HAS` what the version of its kernel
//! must support. A test that cannot use something on the list fails.

use std::io::Write;
use std::thread;

use crate::client::Transport;
use crate::harness::Site;
use crate::server::Conf;

/// Whether the kernel supports the protocol of a listener at 127.0.0.1:8080. If not, this
/// checks that nginx refuses the configuration, and the caller leaves out the rest of the
/// test. A line on stderr reports this, also without `--nocapture`.
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

/// Reports on stderr, also without `--nocapture`, what the calling test leaves out because
/// the kernel lacks `name`. The test fails if this kernel must have `name`.
pub fn left_out(name: &str, what: &str) {
    let has = std::env::var("NGX_RS_KERNEL_HAS").unwrap_or_default();
    let must_be_there = has.split_whitespace().any(|there| there == name);
    assert!(!must_be_there, "this kernel has to have {name}");
    let test = thread::current();
    let test = test.name().unwrap_or("a thread of a test");
    let line = format!("{test}: {what}, this kernel lacks {name}\n");
    // The test harness captures eprintln!(), but not this.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
