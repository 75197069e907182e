//! Descriptors that this library does not own.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use super::option::get_option;

/// A socket whose owner may close its descriptor at any time. The number may
/// then refer to another socket, so each use compares the cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    fd: RawFd,
    cookie: u64,
}

impl Watched {
    /// Remembers a socket.
    pub(crate) fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let (cookie, fd) = (cookie(fd)?, fd.as_raw_fd());
        Ok(Self { fd, cookie })
    }

    /// The socket, unless this process has closed it.
    pub(crate) fn get(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: not -1, as it was borrowed. If the number is not open any
        // more, only getsockopt(2) gets it, and fails.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        let same = cookie(fd).is_ok_and(|cookie| cookie == self.cookie);
        same.then_some(fd)
    }

    /// The number of the descriptor.
    pub(crate) fn number(&self) -> RawFd {
        self.fd
    }
}

/// SO_COOKIE: unique among all sockets since the kernel started; Linux 4.12.
fn cookie(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = [0; size_of::<u64>()];
    get_option(fd, libc::SOL_SOCKET, libc::SO_COOKIE, &mut cookie)?;
    Ok(u64::from_ne_bytes(cookie))
}
