//! Simulates kernels and policies by a seccomp filter that makes system calls fail.

use std::io;

use libc::{sock_filter, sock_fprog};

/// An argument of a system call: the number of the call, and which argument.
pub type Argument = (libc::c_long, u32);

pub const SOCKET_DOMAIN: Argument = (libc::SYS_socket, 0);
pub const SOCKET_PROTOCOL: Argument = (libc::SYS_socket, 2);
pub const LISTEN_BACKLOG: Argument = (libc::SYS_listen, 1);

/// Makes a system call of this thread fail with `errno` from now on, if the argument has
/// this value.
pub fn refuse((call, argument): Argument, value: i32, errno: i32) {
    // Offsets in `struct seccomp_data` of the number of the call and of the lower half of
    // each argument.
    const NUMBER: u32 = 0;
    let argument = 16 + 8 * argument + if cfg!(target_endian = "big") { 4 } else { 0 };
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jf, k| sock_filter { code, jt: 0, jf, k };
    let mut steps = [
        step(load, 0, NUMBER),
        step(equal, 3, call as u32),
        step(load, 0, argument),
        step(equal, 1, value as u32),
        step(answer, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(answer, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: this option takes no pointer.
    let failed = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(failed, 0, "{}", io::Error::last_os_error());
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the program and its steps live through the call.
    let failed = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &program) };
    let error = io::Error::last_os_error();
    assert_eq!(failed, 0, "the tests need a kernel with seccomp: {error}");
}
