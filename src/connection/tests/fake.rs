//! A kernel of any version, as far as a connection's state goes.
//!
//! Source: kernel net/mptcp/sockopt.c, mptcp_getsockopt() and what it calls.

use std::cell::RefCell;
use std::ffi::c_int;
use std::io;
use std::net::SocketAddr;

use super::super::answer::Kernel;
use crate::sys::FullInfo;
use crate::sys::linux::*;

/// One subflow.
#[derive(Clone)]
pub(super) struct Path {
    pub(super) id: u32,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) tcp_info: Vec<u8>,
}

/// Bytes, or an errno.
pub(super) type Reply = Result<Vec<u8>, i32>;

#[derive(Clone)]
pub(super) struct Fake {
    /// SO_PROTOCOL
    pub(super) protocol: Result<c_int, i32>,
    pub(super) mptcp_info: Reply,
    /// What MPTCP_FULL_INFO fails with.
    pub(super) full_info: Result<(), i32>,
    /// What MPTCP_SUBFLOW_ADDRS fails with.
    pub(super) subflow_addrs: Result<(), i32>,
    pub(super) tcp_info: Reply,
    /// TCP_MAXSEG
    pub(super) maxseg: Reply,
    pub(super) paths: Vec<Path>,
    /// The kernel's sizes of `struct mptcp_subflow_info` and `tcp_info`.
    pub(super) sizes: (usize, usize),
    /// getsockname() and getpeername()
    pub(super) addresses: Option<(SocketAddr, SocketAddr)>,
    /// What was asked.
    pub(super) queried: RefCell<Vec<&'static str>>,
}

fn error<T>(errno: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

/// As copy_to_user() of as much as there is room for.
fn reply(reply: &Reply, value: &mut [u8]) -> io::Result<usize> {
    match reply {
        Ok(bytes) => Ok(put(value, 0, bytes)),
        Err(errno) => error(*errno),
    }
}

/// As many of these bytes as there is room for.
pub(super) fn put(value: &mut [u8], at: usize, bytes: &[u8]) -> usize {
    let room = value.get_mut(at..).unwrap_or_default();
    let length = room.len().min(bytes.len());
    room[..length].copy_from_slice(&bytes[..length]);
    length
}

/// `struct sockaddr_in` or `sockaddr_in6`.
fn put_address(value: &mut [u8], at: usize, address: SocketAddr) {
    put(value, at + 2, &address.port().to_be_bytes());
    match address {
        SocketAddr::V4(address) => {
            put(value, at, &(libc::AF_INET as u16).to_ne_bytes());
            put(value, at + 4, &address.ip().octets());
        }
        SocketAddr::V6(address) => {
            put(value, at, &(libc::AF_INET6 as u16).to_ne_bytes());
            put(value, at + 8, &address.ip().octets());
        }
    }
}

impl Path {
    /// `struct mptcp_subflow_addrs`: mptcp_get_sub_addrs()
    fn addrs(&self) -> [u8; mptcp_subflow_addrs::SIZE] {
        let mut bytes = [0; mptcp_subflow_addrs::SIZE];
        put_address(&mut bytes, mptcp_subflow_addrs::LOCAL, self.local);
        put_address(&mut bytes, mptcp_subflow_addrs::REMOTE, self.remote);
        bytes
    }

    /// `struct mptcp_subflow_info`, and what a later version may add.
    fn info(&self, size: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; size.max(mptcp_subflow_info::SIZE)];
        put(&mut bytes, mptcp_subflow_info::ID, &self.id.to_ne_bytes());
        put(&mut bytes, mptcp_subflow_info::ADDRS, &self.addrs());
        bytes.truncate(size);
        bytes
    }
}

impl Fake {
    fn note(&self, name: &'static str) {
        self.queried.borrow_mut().push(name);
    }

    /// mptcp_getsockopt_subflow_addrs(), mptcp_getsockopt_tcpinfo(): the option is
    /// as long as what was copied, the count is that of all.
    fn per_subflow(
        &self,
        value: &mut [u8],
        own: usize,
        element: impl Fn(&Path) -> Vec<u8>,
    ) -> io::Result<usize> {
        let head = mptcp_subflow_data::SIZE;
        let word = |at| u32::from_ne_bytes(*value[at..].first_chunk().expect("long enough"));
        let [data, count, kernel, user] = [0, 4, 8, 12].map(word);
        if data as usize != head || count != 0 || kernel != 0 {
            return error(libc::EINVAL);
        }
        let size = own.min(user as usize);
        let room = (value.len() - head) / size;
        for (index, path) in self.paths.iter().take(room).enumerate() {
            put(value, head + index * size, &element(path)[..size]);
        }
        let words = [head, self.paths.len(), own, size];
        for (index, word) in words.into_iter().enumerate() {
            put(value, index * 4, &(word as u32).to_ne_bytes());
        }
        Ok(head + self.paths.len().min(room) * size)
    }
}

impl Kernel for Fake {
    fn option(&self, level: c_int, name: c_int, value: &mut [u8]) -> io::Result<usize> {
        match (level, name) {
            (libc::SOL_SOCKET, libc::SO_PROTOCOL) => {
                self.note("SO_PROTOCOL");
                let protocol = self.protocol.map(|number| number.to_ne_bytes().to_vec());
                reply(&protocol, value)
            }
            (SOL_MPTCP, MPTCP_INFO) => {
                self.note("MPTCP_INFO");
                reply(&self.mptcp_info, value)
            }
            (SOL_MPTCP, MPTCP_SUBFLOW_ADDRS) => {
                self.note("MPTCP_SUBFLOW_ADDRS");
                self.subflow_addrs.or_else(error)?;
                let size = mptcp_subflow_addrs::SIZE;
                self.per_subflow(value, size, |path| path.addrs().to_vec())
            }
            (SOL_MPTCP, MPTCP_TCPINFO) => {
                self.note("MPTCP_TCPINFO");
                self.subflow_addrs.or_else(error)?;
                self.per_subflow(value, self.sizes.1, |path| path.tcp_info.clone())
            }
            (libc::IPPROTO_TCP, libc::TCP_INFO) => {
                self.note("TCP_INFO");
                reply(&self.tcp_info, value)
            }
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => {
                self.note("TCP_MAXSEG");
                reply(&self.maxseg, value)
            }
            _ => panic!("nobody asks for option {name} of level {level}"),
        }
    }

    /// mptcp_getsockopt_full_info(): elements are as long as both sides know
    /// them, the count is that of all.
    fn full_info(
        &self,
        info: &mut FullInfo,
        subflows: &mut [u8],
        tcp: &mut [u8],
    ) -> io::Result<usize> {
        self.note("MPTCP_FULL_INFO");
        self.full_info.or_else(error)?;
        let own = self.mptcp_info.as_ref().expect("older than this option");
        let length = put(&mut info.mptcp_info, 0, own);
        let subflow = self.sizes.0.min(info.size_sfinfo_user as usize);
        let figures = self.sizes.1.min(info.size_tcpinfo_user as usize);
        let room = info.size_arrays_user as usize;
        for (index, path) in self.paths.iter().take(room).enumerate() {
            put(
                subflows,
                index * subflow,
                &path.info(self.sizes.0)[..subflow],
            );
            put(tcp, index * figures, &path.tcp_info[..figures]);
        }
        info.size_sfinfo_user = subflow as u32;
        info.size_tcpinfo_user = figures as u32;
        info.num_subflows = self.paths.len() as u32;
        Ok(FullInfo::HEAD + length)
    }

    fn addresses(&self) -> io::Result<Option<(SocketAddr, SocketAddr)>> {
        self.note("addresses");
        Ok(self.addresses)
    }
}
