//! Forbids system calls, as the seccomp filter of a container or of a service manager
//! does.

use std::thread;

use crate::harness::Site;
use crate::seccomp::{Argument, refuse};
use crate::server::{Conf, Nginx};

/// The argument of setsockopt(2) that names the option.
pub const OPTION: Argument = (libc::SYS_setsockopt, 2);

/// Starts nginx so that a system call fails with EPERM if `argument` has this value.
pub fn start_without<'site>(
    site: &'site Site,
    conf: &Conf,
    argument: Argument,
    value: i32,
) -> Nginx<'site> {
    let start = || {
        refuse(argument, value, libc::EPERM);
        site.start(conf)
    };
    thread::scope(|scope| {
        let nginx = scope.spawn(start).join();
        nginx.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
