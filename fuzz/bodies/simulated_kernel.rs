//! Simulates the kernel for one thread. The input selects the calls that fail, and the simulation
//! records which descriptors are open.
//!
//! The functions at the end of this file replace those of libc in every program that contains
//! it. In a thread that is not inside of [`Kernel::run`] they make the real system calls.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::raw::{c_char, c_int, c_void};
use std::sync::OnceLock;
use std::{ptr, slice};

use libc::{sockaddr, socklen_t};

use super::bytes::Bytes;

/// A socket of the simulated kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Socket {
    pub domain: c_int,
    pub kind: c_int,
    pub protocol: c_int,
    pub address: Vec<u8>,
    pub listens: bool,
    pub shared: bool,
    /// The same for all descriptors that refer to this socket; set by
    /// [`Kernel::add`].
    pub cookie: u64,
}

#[derive(Default)]
pub struct Kernel {
    /// The open descriptors.
    pub sockets: BTreeMap<c_int, Socket>,
    /// Whether a call that clears SO_REUSEPORT has failed.
    pub stuck: bool,
    /// Whether a descriptor was closed that was not open.
    pub closed_twice: bool,
    last: c_int,
    plan: Vec<u8>,
}

thread_local! {
    static KERNEL: RefCell<Option<Kernel>> = const { RefCell::new(None) };
}

/// The first number of simulated descriptors. It is larger than any real descriptor.
const FIRST: c_int = 1_000_000;

impl Kernel {
    pub fn add(&mut self, socket: Socket) -> c_int {
        let cookie = self.last as u64 + 1;
        self.insert(Socket { cookie, ..socket })
    }

    fn insert(&mut self, socket: Socket) -> c_int {
        self.last += 1;
        let fd = FIRST + self.last;
        self.sockets.insert(fd, socket);
        fd
    }

    /// Changes a socket, which several descriptors may refer to.
    fn change(&mut self, fd: c_int, change: impl Fn(&mut Socket)) -> Result<c_int, c_int> {
        let cookie = self.socket(fd)?.cookie;
        let same = |socket: &&mut Socket| socket.cookie == cookie;
        self.sockets.values_mut().filter(same).for_each(change);
        Ok(0)
    }

    /// Sets the input that controls the following calls.
    pub fn plan(&mut self, bytes: &[u8]) {
        self.plan = bytes.iter().rev().copied().collect();
    }

    /// Runs a function whose system calls go to this kernel.
    pub fn run<T>(&mut self, inside: impl FnOnce() -> T) -> T {
        KERNEL.set(Some(std::mem::take(self)));
        let result = inside();
        *self = KERNEL.take().unwrap_or_default();
        result
    }

    fn byte(&mut self) -> u8 {
        self.plan.pop().unwrap_or(0)
    }

    /// Whether the next call fails.
    fn fails(&mut self, errnos: &[c_int]) -> Result<(), c_int> {
        match self.byte() {
            byte @ 200.. => Err(errnos[usize::from(byte) % errnos.len()]),
            _ => Ok(()),
        }
    }

    fn socket(&mut self, fd: c_int) -> Result<&mut Socket, c_int> {
        self.sockets.get_mut(&fd).ok_or(libc::EBADF)
    }

    fn close(&mut self, fd: c_int) -> Result<c_int, c_int> {
        let was = self.sockets.remove(&fd);
        self.closed_twice |= was.is_none();
        was.map(|_| 0).ok_or(libc::EBADF)
    }

    fn set_option(&mut self, fd: c_int, name: c_int, value: c_int) -> Result<c_int, c_int> {
        let failed = self.fails(&[libc::EINVAL, libc::ENOBUFS, libc::EOPNOTSUPP]);
        let reuse = name == libc::SO_REUSEPORT;
        self.stuck |= reuse && value == 0 && failed.is_err();
        failed?;
        self.change(fd, |socket| {
            if reuse {
                socket.shared = value != 0;
            }
        })
    }

    fn option(
        &mut self,
        fd: c_int,
        level: c_int,
        name: c_int,
        to: &mut [u8],
    ) -> Result<usize, c_int> {
        // Every kernel has this option, so the library relies on it.
        if (level, name) == (libc::SOL_SOCKET, libc::SO_COOKIE) {
            let cookie = self.socket(fd)?.cookie;
            to.copy_from_slice(&cookie.to_ne_bytes());
            return Ok(to.len());
        }
        self.fails(&[libc::ENOTSOCK, libc::EINVAL])?;
        let lacks = match (level, name) {
            // A connection that has fallen back has no MPTCP options.
            (SOL_MPTCP, MPTCP_FULL_INFO) => era() != Era::Linux6_5 || self.byte() >= 200,
            (SOL_MPTCP, MPTCP_INFO) => era() != Era::Linux5_16 || self.byte() >= 200,
            (SOL_MPTCP, _) => self.byte() >= 200,
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => era() == Era::Linux5_6,
            _ => false,
        };
        if lacks {
            return Err(libc::EOPNOTSUPP);
        }
        let socket = self.socket(fd)?;
        let number = match (level, name) {
            (libc::SOL_SOCKET, libc::SO_TYPE) => socket.kind,
            (libc::SOL_SOCKET, libc::SO_PROTOCOL) => socket.protocol,
            (libc::SOL_SOCKET, libc::SO_REUSEPORT) => socket.shared.into(),
            (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => socket.listens.into(),
            (SOL_MPTCP, MPTCP_FULL_INFO) => return Ok(self.full_info(to)),
            _ => return Ok(self.answer(to)),
        };
        let number = number.to_ne_bytes();
        let length = to.len().min(number.len());
        to[..length].copy_from_slice(&number[..length]);
        Ok(length)
    }

    /// Fills the result of a query with an arbitrary value of arbitrary length.
    fn answer(&mut self, to: &mut [u8]) -> usize {
        let length = match self.byte() {
            byte @ 0..100 => to.len().min(byte.into()),
            _ => to.len(),
        };
        for byte in &mut to[..length] {
            *byte = self.byte();
        }
        if let Some(count) = to[..length].get_mut(5..8) {
            // The upper bytes of the number of subflows in the result of MPTCP_SUBFLOW_ADDRS.
            // Clearing them limits the number to 255, so the library can allocate as many.
            count.fill(0);
        }
        length
    }

    /// Fills `struct mptcp_full_info`, which points to two arrays and contains their lengths.
    fn full_info(&mut self, to: &mut [u8]) -> usize {
        let header = |to: &[u8], at: usize| {
            u32::from_ne_bytes(std::array::from_fn(|index| to[at + index])) as usize
        };
        let pointer = |to: &[u8], at: usize| {
            u64::from_ne_bytes(std::array::from_fn(|index| to[at + index])) as usize
        };
        let (tcp, subflow, room) = (header(to, 4), header(to, 12), header(to, 20));
        let count = u32::from(self.byte());
        // The input may be shorter than the arrays, so a pattern of 24 bytes is repeated.
        let pattern: [u8; 24] = std::array::from_fn(|_| self.byte());
        for (array, size) in [(pointer(to, 24), subflow), (pointer(to, 32), tcp)] {
            let array: *mut u8 = ptr::with_exposed_provenance_mut(array);
            for (at, byte) in pattern.iter().cycle().take(room * size).enumerate() {
                // SAFETY: the caller says that there are `room` elements.
                unsafe { array.wrapping_add(at).write(*byte) };
            }
        }
        to[16..20].copy_from_slice(&count.to_ne_bytes());
        for byte in &mut to[40..] {
            *byte = self.byte();
        }
        match self.byte() {
            byte @ 0..100 => to.len().min(byte.into()),
            _ => to.len(),
        }
    }
}

const SOL_MPTCP: c_int = 284;
const MPTCP_INFO: c_int = 1;
const MPTCP_FULL_INFO: c_int = 4;

/// The MPTCP queries that the kernel supports. This is fixed for a process, because the library
/// checks it only once.
#[derive(Clone, Copy, PartialEq)]
enum Era {
    Linux5_6,
    Linux5_16,
    Linux6_5,
}

fn era() -> Era {
    static ERA: OnceLock<Era> = OnceLock::new();
    *ERA.get_or_init(|| match std::env::var("FUZZ_KERNEL").as_deref() {
        Ok("5.6") => Era::Linux5_6,
        Ok("5.16") => Era::Linux5_16,
        _ => Era::Linux6_5,
    })
}

/// Makes a call to the simulated kernel of this thread, or returns None if it has none.
pub fn call_simulated(call: impl FnOnce(&mut Kernel) -> Result<c_int, c_int>) -> Option<c_int> {
    let answer = KERNEL.try_with(|kernel| {
        let mut kernel = kernel.try_borrow_mut().ok()?;
        kernel.as_mut().map(call)
    });
    match answer.ok()?? {
        Ok(value) => Some(value),
        Err(errno) => {
            // SAFETY: it has no preconditions.
            let place = unsafe { libc::__errno_location() };
            // SAFETY: it is the thread's own.
            unsafe { *place = errno };
            Some(-1)
        }
    }
}

/// Makes a call to the simulated kernel, or to the real one if the thread has none.
macro_rules! call {
    ($simulated:expr, $number:ident $(, $argument:expr)*) => {
        call_simulated($simulated).unwrap_or_else(|| {
            // SAFETY: the arguments are as our caller gave them.
            unsafe { libc::syscall(libc::$number $(, $argument)*) as c_int }
        })
    };
}

#[unsafe(no_mangle)]
extern "C" fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    let simulated = |kernel: &mut Kernel| {
        kernel.fails(&[
            libc::EMFILE,
            libc::EINVAL,
            libc::EPROTONOSUPPORT,
            libc::ENOPROTOOPT,
            libc::EAFNOSUPPORT,
        ])?;
        Ok(kernel.add(Socket {
            domain,
            kind: kind & 0xf,
            protocol,
            address: Vec::new(),
            listens: false,
            shared: false,
            cookie: 0,
        }))
    };
    call!(simulated, SYS_socket, domain, kind, protocol)
}

#[unsafe(no_mangle)]
extern "C" fn bind(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int {
    let simulated = |kernel: &mut Kernel| {
        kernel.fails(&[
            libc::EADDRINUSE,
            libc::EADDRINUSE,
            libc::EACCES,
            libc::EADDRNOTAVAIL,
        ])?;
        let socket = kernel.socket(fd)?;
        // SAFETY: bind(2) has so many bytes to read.
        let bytes = unsafe { slice::from_raw_parts(address.cast::<u8>(), length as usize) };
        assert!(socket.address.is_empty(), "bound twice");
        socket.address = bytes.to_vec();
        Ok(0)
    };
    call!(simulated, SYS_bind, fd, address, length)
}

#[unsafe(no_mangle)]
extern "C" fn listen(fd: c_int, backlog: c_int) -> c_int {
    let simulated = |kernel: &mut Kernel| {
        kernel.fails(&[libc::EADDRINUSE, libc::EOPNOTSUPP])?;
        kernel.change(fd, |socket| socket.listens = true)
    };
    call!(simulated, SYS_listen, fd, backlog)
}

#[unsafe(no_mangle)]
extern "C" fn shutdown(fd: c_int, how: c_int) -> c_int {
    let simulated = |kernel: &mut Kernel| {
        kernel.fails(&[libc::ENOTCONN, libc::EPERM])?;
        kernel.change(fd, |socket| socket.listens = false)
    };
    call!(simulated, SYS_shutdown, fd, how)
}

#[unsafe(no_mangle)]
extern "C" fn dup2(from: c_int, to: c_int) -> c_int {
    let simulated = |kernel: &mut Kernel| {
        kernel.fails(&[libc::EBUSY, libc::EINTR])?;
        let socket = kernel.socket(from)?.clone();
        kernel.sockets.insert(to, socket);
        Ok(to)
    };
    call!(simulated, SYS_dup3, from, to, 0)
}

#[unsafe(no_mangle)]
extern "C" fn close(fd: c_int) -> c_int {
    call!(|kernel| kernel.close(fd), SYS_close, fd)
}

/// With debug assertions, std checks by fcntl() that a descriptor is open before it closes it,
/// and aborts if not. [`Kernel::close`] detects this too.
#[unsafe(no_mangle)]
extern "C" fn fcntl(fd: c_int, command: c_int, argument: usize) -> c_int {
    let simulated = |kernel: &mut Kernel| match command {
        libc::F_DUPFD_CLOEXEC => {
            kernel.fails(&[libc::EMFILE])?;
            let socket = kernel.socket(fd)?.clone();
            Ok(kernel.insert(socket))
        }
        libc::F_SETFD => kernel.fails(&[libc::EINVAL]).map(|()| 0),
        _ => Ok(0),
    };
    call!(simulated, SYS_fcntl, fd, command, argument)
}

#[unsafe(no_mangle)]
extern "C" fn setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    length: socklen_t,
) -> c_int {
    let simulated = |kernel: &mut Kernel| {
        assert_eq!(length, 4, "an int");
        // SAFETY: setsockopt(2) has so many bytes to read.
        let value = unsafe { value.cast::<c_int>().read_unaligned() };
        let name = if level == libc::SOL_SOCKET { name } else { -1 };
        kernel.set_option(fd, name, value)
    };
    call!(simulated, SYS_setsockopt, fd, level, name, value, length)
}

#[unsafe(no_mangle)]
extern "C" fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    length: *mut socklen_t,
) -> c_int {
    let simulated = |kernel: &mut Kernel| {
        // SAFETY: getsockopt(2) has a length to read,
        let room = unsafe { *length } as usize;
        // SAFETY: and so many bytes to write.
        let to = unsafe { slice::from_raw_parts_mut(value.cast::<u8>(), room) };
        let written = kernel.option(fd, level, name, to)?;
        // SAFETY: as above.
        unsafe { *length = written as socklen_t };
        Ok(0)
    };
    call!(simulated, SYS_getsockopt, fd, level, name, value, length)
}

/// getsockname(2) and getpeername(2).
fn address(
    fd: c_int,
    to: *mut sockaddr,
    length: *mut socklen_t,
) -> impl FnOnce(&mut Kernel) -> Result<c_int, c_int> {
    move |kernel| {
        kernel.fails(&[libc::ENOTSOCK, libc::ENOTCONN])?;
        let address = &kernel.socket(fd)?.address;
        // SAFETY: there is a length to read,
        let room = unsafe { *length } as usize;
        // SAFETY: and so many bytes to write.
        let to = unsafe { slice::from_raw_parts_mut(to.cast::<u8>(), room) };
        let copied = room.min(address.len());
        to[..copied].copy_from_slice(&address[..copied]);
        // SAFETY: as above.
        unsafe { *length = address.len() as socklen_t };
        Ok(0)
    }
}

#[unsafe(no_mangle)]
extern "C" fn getsockname(fd: c_int, to: *mut sockaddr, length: *mut socklen_t) -> c_int {
    call!(address(fd, to, length), SYS_getsockname, fd, to, length)
}

#[unsafe(no_mangle)]
extern "C" fn getpeername(fd: c_int, to: *mut sockaddr, length: *mut socklen_t) -> c_int {
    call!(address(fd, to, length), SYS_getpeername, fd, to, length)
}

#[unsafe(no_mangle)]
extern "C" fn chmod(path: *const c_char, mode: libc::mode_t) -> c_int {
    let simulated = |kernel: &mut Kernel| kernel.fails(&[libc::EPERM]).map(|()| 0);
    call!(simulated, SYS_fchmodat, libc::AT_FDCWD, path, mode)
}

#[unsafe(no_mangle)]
extern "C" fn unlink(path: *const c_char) -> c_int {
    let simulated = |kernel: &mut Kernel| kernel.fails(&[libc::ENOENT]).map(|()| 0);
    call!(simulated, SYS_unlinkat, libc::AT_FDCWD, path, 0)
}

/// The bytes of a `struct sockaddr_in`, `sockaddr_in6` or another address.
pub fn sockaddr(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let port = bytes.one_of(&[80_u16, 81]).to_be_bytes();
    let family = bytes.one_of(&[libc::AF_INET, libc::AF_INET6, libc::AF_UNIX]);
    let mut address = (family as u16).to_ne_bytes().to_vec();
    match family {
        libc::AF_INET => {
            address.extend(port);
            address.extend(bytes.one_of(&[[127, 0, 0, 1], [0; 4]]));
            address.resize(size_of::<libc::sockaddr_in>(), 0);
        }
        libc::AF_INET6 => {
            address.extend(port);
            address.resize(size_of::<libc::sockaddr_in6>(), 0);
            address[23] = bytes.u8() & 1;
        }
        _ => {
            let length = bytes.one_of(&[2, 0, 1, 107, 108]);
            address.resize(2 + length, b'x');
            address.push(0);
        }
    }
    address
}
