//! MPTCP_FULL_INFO, which fills three structs in one call.

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::checkpoint::checkpoint;
use super::linux::{MPTCP_FULL_INFO, SOL_MPTCP, mptcp_info};

/// `struct mptcp_full_info` of linux/mptcp.h. Its names are the kernel's.
#[repr(C)]
pub(crate) struct FullInfo {
    size_tcpinfo_kernel: u32,
    pub(crate) size_tcpinfo_user: u32,
    size_sfinfo_kernel: u32,
    pub(crate) size_sfinfo_user: u32,
    pub(crate) num_subflows: u32,
    pub(crate) size_arrays_user: u32,
    subflow_info: u64,
    tcp_info: u64,
    pub(crate) mptcp_info: [u8; mptcp_info::SIZE],
}

impl FullInfo {
    /// Bytes before `mptcp_info`.
    pub(crate) const HEAD: usize = offset_of!(Self, mptcp_info);

    /// A query for `room` subflows, with room for so many bytes of each subflow
    /// in both arrays.
    pub(crate) fn new(room: usize, subflow: usize, tcp: usize) -> Self {
        Self {
            size_tcpinfo_kernel: 0,
            size_tcpinfo_user: tcp as u32,
            size_sfinfo_kernel: 0,
            size_sfinfo_user: subflow as u32,
            num_subflows: 0,
            size_arrays_user: room as u32,
            subflow_info: 0,
            tcp_info: 0,
            mptcp_info: [0; mptcp_info::SIZE],
        }
    }
}

/// getsockopt(2) with MPTCP_FULL_INFO: returns the length of the answer. Both
/// arrays have the length that `info` gives.
pub(crate) fn full_info(
    fd: BorrowedFd<'_>,
    info: &mut FullInfo,
    subflows: &mut [u8],
    tcp: &mut [u8],
) -> io::Result<usize> {
    checkpoint();
    let room = info.size_arrays_user as usize;
    let fits = |array: &[u8], size: u32| room.checked_mul(size as usize) == Some(array.len());
    assert!(fits(subflows, info.size_sfinfo_user) && fits(tcp, info.size_tcpinfo_user));
    info.subflow_info = subflows.as_mut_ptr().expose_provenance() as u64;
    info.tcp_info = tcp.as_mut_ptr().expose_provenance() as u64;
    let mut length = size_of::<FullInfo>() as libc::socklen_t;
    let (level, name) = (SOL_MPTCP, MPTCP_FULL_INFO);
    let place = ptr::from_mut(info).cast();
    // SAFETY: `info` has room for `length` bytes, and its arrays for as many
    // elements as it gives; all of them live through the call.
    let failed = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, place, &mut length) };
    match failed {
        0 => Ok(size_of::<FullInfo>().min(length as usize)),
        _ => Err(io::Error::last_os_error()),
    }
}
