//! Simulates name resolution, by functions that replace those of libc.

use std::os::raw::{c_char, c_int};
use std::ptr;

use super::simulated_kernel as kernel;

/// The length of a name determines whether it has addresses, and how many. A thread without a
/// simulated kernel finds no name.
#[unsafe(no_mangle)]
extern "C" fn getaddrinfo(
    node: *const c_char,
    _service: *const c_char,
    _hints: *const libc::addrinfo,
    result: *mut *mut libc::addrinfo,
) -> c_int {
    // SAFETY: a name ends in 0.
    let name = unsafe { std::ffi::CStr::from_ptr(node) };
    let count = name.count_bytes() % 4;
    if count == 0 || kernel::call_simulated(|_| Ok(0)).is_none() {
        return libc::EAI_NONAME;
    }
    let mut next = ptr::null_mut();
    for index in 0..count {
        let mut storage = Box::new(Resolved::new(index));
        storage.info.ai_next = next;
        storage.info.ai_addr = (&raw mut storage.address).cast();
        next = Box::into_raw(storage).cast();
    }
    // SAFETY: getaddrinfo(3) has a place to write to.
    unsafe { *result = next };
    0
}

#[unsafe(no_mangle)]
extern "C" fn freeaddrinfo(mut list: *mut libc::addrinfo) {
    while !list.is_null() {
        // SAFETY: getaddrinfo() above made it.
        let node = unsafe { Box::from_raw(list.cast::<Resolved>()) };
        list = node.info.ai_next;
    }
}

#[repr(C)]
struct Resolved {
    info: libc::addrinfo,
    address: libc::sockaddr_storage,
}

impl Resolved {
    /// An IPv4 address, an IPv6 address, or neither of them.
    fn new(index: usize) -> Self {
        // SAFETY: all bytes of it may be 0.
        let mut zero: Self = unsafe { std::mem::zeroed() };
        zero.info.ai_family = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX][index];
        zero
    }
}
