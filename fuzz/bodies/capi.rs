//! Calls the C ABI with arbitrary sizes, lengths and versions of its structs: all mistakes that a
//! caller can make without an invalid pointer.

use std::collections::BTreeSet;
use std::ffi::c_void;
use std::mem::size_of;
use std::ptr;

use ngx_rs_listen::capi::*;

use super::bytes::Bytes;
use super::capi_memory::{Answer, Memory};
use super::simulated_kernel::{self as kernel, Kernel, Socket};

const OK: ngx_rs_status_t = ngx_rs_status_t::NGX_RS_OK;

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let bytes = &mut bytes;
    let mut call = Call {
        answer: Answer::new(bytes),
        memory: Memory::default(),
        kernel: Kernel::default(),
        drain: ptr::null_mut(),
    };
    match bytes.u8() % 8 {
        0 | 1 => call.directive(bytes),
        2 => call.assign(bytes),
        3 | 4 => call.open(bytes),
        5 => call.opened_elsewhere(bytes),
        6 => call.connection(bytes),
        _ => call.protocol(bytes),
    }
    let Call { kernel, drain, .. } = &mut call;
    // SAFETY: NULL, or from ngx_rs_drain_begin.
    kernel.run(|| unsafe { ngx_rs_drain_free(*drain) });
}

struct Call {
    drain: *mut ngx_rs_drain_t,
    answer: Answer,
    memory: Memory,
    kernel: Kernel,
}

impl Call {
    /// Calls a function with the simulated kernel, which reads the rest of the input, and
    /// checks the returned error.
    fn call(
        &mut self,
        function: impl FnOnce(*mut ngx_rs_error_t) -> ngx_rs_status_t,
    ) -> ngx_rs_status_t {
        let place = self.answer.place();
        let status = self.kernel.run(|| function(place));
        self.answer.check(status);
        status
    }

    fn directive(&mut self, bytes: &mut Bytes<'_>) {
        let mut words = self.memory.words(bytes);
        let real = words.len();
        let count = Memory::count(bytes, real, size_of::<ngx_rs_str_t>());
        let rules = self.memory.rules(bytes);
        let mut owners = vec![99_u8; real];
        let (owned, missing) = (bytes.u8(), bytes.u8());
        let place = match owned {
            255 => ptr::null_mut(),
            _ => owners.as_mut_ptr(),
        };
        words.shrink_to_fit();
        let first = match owned {
            254 => ptr::null(),
            // A pointer that is not aligned.
            253 if count == real && real > 0 => words.as_ptr().wrapping_byte_add(1),
            _ => words.as_ptr(),
        };
        // SAFETY: each array and struct is as long as its length or size.
        let status =
            self.call(|error| unsafe { ngx_rs_listen_classify(first, count, rules, place, error) });
        match status {
            OK => assert!(owners[..count].iter().all(|&owner| owner <= 2)),
            _ => assert!(owners.iter().all(|&owner| owner == 99), "written"),
        }

        let mut listen = ptr::null_mut();
        let place = match missing {
            255 => ptr::null_mut(),
            _ => &raw mut listen,
        };
        // SAFETY: as above.
        let status =
            self.call(|error| unsafe { ngx_rs_listen_parse(first, count, rules, place, error) });
        assert_eq!(status == OK, !listen.is_null());
        if !is_wide(&words) {
            self.parsed(listen, missing);
        }
        // SAFETY: it came from ngx_rs_listen_parse, or is NULL.
        unsafe { ngx_rs_listen_free(listen) };
    }

    fn parsed(&mut self, listen: *mut ngx_rs_listen_t, missing: u8) {
        let (mut sockets, mut words) = (ptr::null_mut(), ptr::null());
        let ours = size_of::<ngx_rs_listening_t>();
        let size = match missing {
            253 => ours + 8,
            252 => ours - 1,
            251 => 4104,
            250 => usize::MAX,
            _ => ours,
        };
        let mut count = 77;
        let counted = match missing {
            254 => ptr::null_mut(),
            _ => &raw mut count,
        };
        // SAFETY: NULL, or what ngx_rs_listen_parse has made.
        let status = self.call(|error| unsafe {
            ngx_rs_listen_sockets(listen, size, &mut sockets, counted, error)
        });
        assert!(status != OK || !listen.is_null() && !counted.is_null());
        if status == OK {
            assert!((ours..=4096).contains(&size));
            for index in 0..count {
                let socket = sockets.wrapping_byte_add(index * size);
                // SAFETY: there are `count` elements, each of `size` bytes.
                let socket = unsafe { socket.read_unaligned() };
                assert!(socket.size as usize == size && socket.socklen > 2 && socket.fd == -1);
            }
        }
        // SAFETY: as above.
        let status = self
            .call(|error| unsafe { ngx_rs_listen_addresses(listen, &mut words, counted, error) });
        assert_eq!(status == OK, !listen.is_null() && !counted.is_null());
        if status == OK && count > 0 {
            // SAFETY: there are `count` words.
            for word in unsafe { std::slice::from_raw_parts(words, count) } {
                // SAFETY: each is followed by a 0.
                let text = unsafe { std::slice::from_raw_parts(word.data, word.len + 1) };
                assert_eq!(text.last(), Some(&0));
            }
        }
    }

    fn assign(&mut self, bytes: &mut Bytes<'_>) {
        let stride = size_of::<ngx_rs_listening_t>();
        let (sockets, count) = self.sockets(bytes, |_, _| {});
        let (asked, requested_count) = self.sockets(bytes, |_, _| {});
        let count = Memory::count(bytes, count, stride);
        let requested_count = Memory::count(bytes, requested_count, stride);
        // SAFETY: each array and struct is as long as its length or size.
        self.call(|error| unsafe {
            ngx_rs_listening_assign(sockets, count, asked, requested_count, error)
        });
    }

    /// An array of sockets with their number.
    fn sockets(
        &mut self,
        bytes: &mut Bytes<'_>,
        change: impl Fn(&mut Kernel, &mut ngx_rs_listening_t),
    ) -> (*mut ngx_rs_listening_t, usize) {
        let count = bytes.below(5);
        let mut elements = Vec::new();
        for _ in 0..count {
            let mut element = self.memory.listening(bytes);
            change(&mut self.kernel, &mut element);
            elements.push(element);
        }
        (self.memory.array(bytes, &elements), count)
    }

    fn how(&mut self, bytes: &mut Bytes<'_>) -> *const ngx_rs_open_t {
        if bytes.bool() {
            return ptr::null();
        }
        let count = bytes.below(4);
        let mut inherited = Vec::new();
        for _ in 0..count {
            let protocol = bytes.one_of(&[6, 262]);
            let fd = match bytes.u8() {
                255 => -1,
                254 => 1234,
                _ => self.kernel.add(bound(bytes, protocol)),
            };
            inherited.push(self.memory.inherited(bytes, fd));
        }
        let how = ngx_rs_open_t {
            size: 0,
            flags: bytes.below(9) as u32,
            tries: bytes.below(4) as u32,
            delay_ms: 0,
            inherited: self.memory.array(bytes, &inherited),
            inherited_count: Memory::count(bytes, count, size_of::<ngx_rs_inherited_t>()),
            report: bytes
                .bool()
                .then_some(told as unsafe extern "C" fn(_, _, _)),
            data: ptr::null_mut(),
            drain: self.drain,
        };
        self.memory.array(bytes, &[how])
    }

    /// Opens sockets, and commits them or rolls them back.
    fn open(&mut self, bytes: &mut Bytes<'_>) {
        if bytes.bool() {
            self.begin(ptr::null_mut(), 0, ptr::null());
        }
        let (sockets, real) = self.sockets(bytes, |_, _| {});
        let how = self.how(bytes);
        let count = Memory::count(bytes, real, size_of::<ngx_rs_listening_t>());
        let commits = bytes.bool();
        let before: BTreeSet<i32> = self.kernel.sockets.keys().copied().collect();
        self.kernel.plan(bytes.0);
        // SAFETY: each array and struct is as long as its length or size.
        let status =
            self.call(|error| unsafe { ngx_rs_open_listening(sockets, count, how, error) });
        if status != OK {
            self.has(&before);
            return;
        }
        if commits {
            // SAFETY: as above.
            self.call(|error| unsafe { ngx_rs_listening_commit(sockets, count, how, error) });
            self.drain(bytes, sockets, count, how);
        }
        // SAFETY: as above.
        let status =
            self.call(|error| unsafe { ngx_rs_listening_rollback(sockets, count, how, error) });
        assert_eq!(status, OK);
        self.has(&before);
    }

    fn begin(
        &mut self,
        sockets: *mut ngx_rs_listening_t,
        count: usize,
        how: *const ngx_rs_open_t,
    ) -> ngx_rs_status_t {
        let mut drain = self.drain;
        // SAFETY: each array and struct is as long as its length or size.
        let status = self.call(|error| unsafe {
            ngx_rs_drain_begin(&mut drain, sockets, count, how, 2, 0, error)
        });
        self.drain = drain;
        status
    }

    /// Drains the superseded sockets, if there are any.
    fn drain(
        &mut self,
        bytes: &mut Bytes<'_>,
        sockets: *mut ngx_rs_listening_t,
        count: usize,
        how: *const ngx_rs_open_t,
    ) {
        self.begin(sockets, count, how);
        let room = bytes.below(6);
        let element = ngx_rs_draining_t {
            size: 0,
            fd: -1,
            successor: 0,
            ended: 0,
            protocol: 0,
        };
        let places = match room {
            0 => ptr::null_mut(),
            _ => self.memory.array(bytes, &vec![element; room]),
        };
        let room = Memory::count(bytes, room, size_of::<ngx_rs_draining_t>());
        let (drain, mut found, mut delay) = (self.drain, 77, 0);
        // SAFETY: each array and struct is as long as its length or size.
        let status = self.call(|error| unsafe {
            ngx_rs_drain_poll(drain, places, room, &mut found, &mut delay, error)
        });
        match status {
            OK | ngx_rs_status_t::NGX_RS_ERR_SYSCALL => assert!(found <= room && delay <= 500),
            _ => assert_eq!(found, 77),
        }
    }

    /// Checks that exactly these descriptors are open.
    fn has(&self, before: &BTreeSet<i32>) {
        assert!(self.kernel.sockets.keys().eq(before), "a leak");
        assert!(!self.kernel.closed_twice);
    }

    /// Commits or rolls back sockets that the library has not opened.
    fn opened_elsewhere(&mut self, bytes: &mut Bytes<'_>) {
        let (sockets, real) = self.sockets(bytes, |kernel, element| {
            element.fd = match element.inherited {
                0 => -1,
                1 => i32::MIN,
                2 => 1234,
                _ => kernel.add(bound(&mut Bytes(&[]), 262)),
            };
        });
        let how = self.how(bytes);
        let count = Memory::count(bytes, real, size_of::<ngx_rs_listening_t>());
        let commits = bytes.bool();
        self.kernel.plan(bytes.0);
        let before: BTreeSet<i32> = self.kernel.sockets.keys().copied().collect();
        if commits {
            // SAFETY: each array and struct is as long as its length or size.
            self.call(|error| unsafe { ngx_rs_listening_commit(sockets, count, how, error) });
            self.drain(bytes, sockets, count, how);
            assert!(
                self.kernel.sockets.keys().eq(&before),
                "commit closes nothing"
            );
        }
        // SAFETY: as above.
        let status =
            self.call(|error| unsafe { ngx_rs_listening_rollback(sockets, count, how, error) });
        assert!(status == OK || self.kernel.sockets.keys().eq(&before));
    }

    fn connection(&mut self, bytes: &mut Bytes<'_>) {
        let protocol = bytes.one_of(&[262, 262, 6, 0]);
        let fd = match bytes.u8() {
            255 => -1,
            254 => 1234,
            _ => self.kernel.add(bound(bytes, protocol)),
        };
        let info = self.memory.info(bytes);
        let room = bytes.below(20);
        // SAFETY: all bytes of it may be 0.
        let path: ngx_rs_subflow_t = unsafe { std::mem::zeroed() };
        let paths = match room {
            0 => ptr::null_mut(),
            _ => self.memory.array(bytes, &vec![path; room]),
        };
        let room = Memory::count(bytes, room, size_of::<ngx_rs_subflow_t>());
        let mut count = 77;
        let counted = match bytes.u8() {
            255 => ptr::null_mut(),
            _ => &raw mut count,
        };
        let first = bytes.bool();
        self.kernel.plan(bytes.0);
        if first {
            // SAFETY: each array and struct is as long as its length or size.
            self.call(|error| unsafe { ngx_rs_connection_info(fd, info, error) });
        }
        // SAFETY: as above.
        let status = self.call(|error| unsafe {
            ngx_rs_connection_subflows(fd, paths, room, counted, info, error)
        });
        assert!(status == OK || count == 77);
        // The simulated kernel reads the input from its beginning, so this uses the end.
        let tail = bytes.0.len().saturating_sub(32);
        self.history(fd, &mut Bytes(&bytes.0[tail..]));
    }

    fn history(&mut self, fd: i32, bytes: &mut Bytes<'_>) {
        let values = bytes.one_of(&[0xfff, 0xfff, 1, 0x11, 0, 0x1000, u32::MAX]);
        let (peer, length) = self.memory.address(bytes);
        let (mut handle, mut kind) = (ptr::null_mut(), 77);
        for _ in 0..3 {
            let before = (handle, kind);
            let (place, number) = (&raw mut handle, &raw mut kind);
            // SAFETY: each array and struct is as long as its length or size.
            let status = self.call(|error| unsafe {
                ngx_rs_connection_query(place, fd, values, peer, length, number, error)
            });
            match status {
                OK => assert!(!handle.is_null() && (1..=4).contains(&kind)),
                _ => assert_eq!((handle, kind), before, "written"),
            }
        }
        for value in 0..14 {
            let mut text = vec![0xee; bytes.one_of(&[1024, 1024, 1, 9])];
            let (to, room) = (text.as_mut_ptr(), text.len());
            let mut length = 7777;
            // SAFETY: as above.
            let status = self.call(|error| unsafe {
                ngx_rs_connection_text(handle, value, to, room, &mut length, error)
            });
            assert_eq!(status == OK, !handle.is_null() && value < 12);
            assert_eq!(length <= 1024, status == OK, "{length}");
            let written = if length <= room { length } else { 0 };
            assert!(text[..written].is_ascii());
            assert!(text[written..].iter().all(|&byte| byte == 0xee));
        }
        // SAFETY: from ngx_rs_connection_query, or NULL.
        unsafe { ngx_rs_connection_free(handle) };
    }

    fn connect_socket(&mut self, number: i32, bytes: &mut Bytes<'_>) {
        let flags = bytes.u8().into();
        let address = kernel::sockaddr(bytes);
        let (place, length) = (address.as_ptr().cast(), address.len() as u32);
        let (mut fd, mut opened) = (-1, -1);
        let (to_fd, to_opened) = (&raw mut fd, &raw mut opened);
        // SAFETY: the address has so many bytes, and the results have a place.
        let status = self.call(|error| unsafe {
            ngx_rs_connect_socket(place, length, number, flags, to_fd, to_opened, error)
        });
        if status != OK {
            assert_eq!((fd, opened), (-1, -1));
            return self.has(&BTreeSet::new());
        }
        self.has(&BTreeSet::from([fd]));
        let falls_back = flags == NGX_RS_CONNECT_FALLBACK && opened == libc::IPPROTO_TCP;
        assert!(opened == number || falls_back);
        self.kernel.sockets.clear();
    }

    fn protocol(&mut self, bytes: &mut Bytes<'_>) {
        let number = bytes.int() as i32;
        self.kernel.plan(bytes.0);
        // SAFETY: there are no pointers but that of the error.
        self.call(|error| unsafe { ngx_rs_protocol_check(number, error) });
        // SAFETY: as above.
        self.call(|error| unsafe { ngx_rs_option_check(number, number as u32 & 3, error) });
        self.has(&BTreeSet::new());
        self.connect_socket(number, bytes);
        assert_ne!(ngx_rs_abi_version(), 0);
    }
}

/// Whether the directive may have many sockets, which would take too long.
fn is_wide(words: &[ngx_rs_str_t]) -> bool {
    let real = |word: &&ngx_rs_str_t| word.len < 1000 && !word.data.is_null();
    words.first().filter(real).is_some_and(|first| {
        // SAFETY: a word has as many bytes as its length.
        unsafe { std::slice::from_raw_parts(first.data, first.len) }.contains(&b'-')
    })
}

/// A socket that is bound to an arbitrary address.
fn bound(bytes: &mut Bytes<'_>, protocol: i32) -> Socket {
    let address = kernel::sockaddr(bytes);
    Socket {
        domain: address[0].into(),
        kind: bytes.one_of(&[libc::SOCK_STREAM, libc::SOCK_STREAM, libc::SOCK_DGRAM]),
        protocol,
        address,
        listens: true,
        shared: bytes.bool(),
        cookie: 0,
    }
}

unsafe extern "C" fn told(_: *mut c_void, event: u32, error: *const ngx_rs_error_t) {
    assert!(event <= NGX_RS_REPORT_DRAIN_ENDED && !error.is_null());
}
