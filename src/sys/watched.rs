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

    /// The socket; None if this process has closed the descriptor. An error means
    /// that the kernel could not be queried.
    pub(crate) fn get(&self) -> io::Result<Option<BorrowedFd<'_>>> {
        // SAFETY: not -1, because it was borrowed once. If the descriptor is
        // closed, getsockopt(2) only fails.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        match cookie(fd) {
            Ok(cookie) => Ok((cookie == self.cookie).then_some(fd)),
            Err(error) => match error.raw_os_error() {
                Some(libc::EBADF | libc::ENOTSOCK) => Ok(None),
                _ => Err(error),
            },
        }
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
