//! Protocols that not every kernel has.

use std::io::Write;
use std::thread;

use crate::client::Over;
use crate::harness::Site;
use crate::server::Conf;

/// Whether the kernel has the protocol of a listener at 127.0.0.1:8080. If not,
/// nginx refuses the configuration, and the rest of the test cannot be run. A
/// line on stderr says so, also without `--nocapture`.
pub fn is_there(site: &Site, conf: &Conf, over: Over) -> bool {
    if over.is_there() {
        return true;
    }
    let (name, needed) = match over {
        Over::Smc => ("smc", "Linux 6.11 and module smc are needed"),
        _ => ("sctp", "module sctp is needed"),
    };
    let text = site.check(conf).fails();
    let message =
        format!("socket() 127.0.0.1:8080 failed: {name} is not supported by this kernel, {needed}");
    assert!(text.contains(&message), "{text}");
    let test = thread::current();
    let test = test.name().unwrap_or_default();
    let line = format!("{test}: only the refusal was tested, this kernel lacks {name}\n");
    // The test harness does not capture this.
    let _ = std::io::stderr().write_all(line.as_bytes());
    false
}
