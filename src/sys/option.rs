//! Socket options.

use std::ffi::c_int;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::checkpoint::checkpoint;

/// setsockopt(2) with an integer.
pub(crate) fn set_option(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: c_int,
) -> io::Result<()> {
    checkpoint();
    let size = size_of::<c_int>() as libc::socklen_t;
    let place = ptr::from_ref(&value).cast();
    // SAFETY: `value` lives through the call, and `size` is its size.
    let failed = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, place, size) };
    match failed {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// getsockopt(2): returns the length of the answer, at most that of `value`.
pub(crate) fn get_option(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: &mut [u8],
) -> io::Result<usize> {
    checkpoint();
    let mut length = value.len() as libc::socklen_t;
    let place = value.as_mut_ptr().cast();
    // SAFETY: `value` has room for `length` bytes, and both live through the call.
    let failed = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, place, &mut length) };
    match failed {
        0 => Ok(value.len().min(length as usize)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// getsockopt(2) of an integer.
pub(crate) fn option(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value = [0; size_of::<c_int>()];
    get_option(fd, level, name, &mut value).map(|_| c_int::from_ne_bytes(value))
}
