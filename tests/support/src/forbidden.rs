//! System calls that are forbidden, as by a container's or a service manager's
//! filter.

use std::thread;

use crate::harness::Site;
use crate::seccomp::{Argument, refuse};
use crate::server::{Conf, Nginx};

/// An option of a socket, as an argument of setsockopt(2).
pub const OPTION: Argument = (libc::SYS_setsockopt, 2);

/// Starts nginx where a system call with this argument fails.
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
