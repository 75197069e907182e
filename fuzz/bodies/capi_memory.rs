//! Allocates the structs of a caller of the C ABI. Each allocation is exactly as long as the
//! `size` of its struct, so AddressSanitizer detects every access beyond the end.

use std::mem::size_of;
use std::ptr;

use ngx_rs_listen::capi::*;

use super::bytes::Bytes;
use super::simulated_kernel as kernel;

/// Owns all memory to which the structs point.
#[derive(Default)]
pub struct Memory(Vec<Box<[u8]>>);

impl Memory {
    pub fn keep(&mut self, block: Vec<u8>) -> *mut u8 {
        self.0.push(block.into());
        self.0.last_mut().expect("just pushed").as_mut_ptr()
    }

    /// An array of structs. All have the same `size`, which may be wrong.
    pub fn array<T: Copy>(&mut self, bytes: &mut Bytes<'_>, elements: &[T]) -> *mut T {
        let ours = size_of::<T>();
        let size = match bytes.u8() {
            0..220 => ours,
            220..235 => ours + 8,
            235..240 => bytes.below(ours),
            240..245 => bytes.one_of(&[4097, 65536, 0x7fff_ffff, 0xdead_beef, 0xffff_ffff]),
            245..250 => 4096 - bytes.below(64),
            _ => ours + bytes.below(64),
        };
        // The field `size` is always readable. If its value is not possible, the struct is as
        // long as that of a caller who did not set the field.
        let stride = match size {
            4097.. => ours,
            _ => size.max(4),
        };
        let mut block = vec![0; stride * elements.len()];
        for (element, place) in elements.iter().zip(block.chunks_mut(stride)) {
            // SAFETY: all of an element can be read, and it has no padding that
            // matters.
            let from = unsafe { std::slice::from_raw_parts(ptr::from_ref(element).cast(), ours) };
            let length = stride.min(ours);
            place[..length].copy_from_slice(&from[..length]);
            place[..4].copy_from_slice(&(size as u32).to_ne_bytes());
            // The fields that only a later version has may be set.
            if let Some(tail) = place.get_mut(ours..).and_then(<[u8]>::first_mut) {
                *tail = bytes.below(2) as u8;
            }
        }
        // Sometimes one element has another size.
        if let [_, _, ..] = elements {
            if bytes.u8() > 250 {
                block[stride] ^= 4;
            }
        }
        match elements.is_empty() || bytes.u8() == 255 {
            true => ptr::null_mut(),
            false => self.keep(block).cast(),
        }
    }

    /// The number of elements that the caller passes.
    pub fn count(bytes: &mut Bytes<'_>, real: usize, size: usize) -> usize {
        match bytes.u8() {
            255 => usize::MAX,
            254 => isize::MAX as usize / size + 1,
            253 => 0,
            _ => real,
        }
    }

    pub fn words(&mut self, bytes: &mut Bytes<'_>) -> Vec<ngx_rs_str_t> {
        let text = {
            let length = usize::from(bytes.u8());
            bytes.take(length)
        };
        let words = text.split(|&byte| byte == b'\n');
        let words = words.map(|word| {
            let odd = bytes.u8();
            ngx_rs_str_t {
                len: if odd == 255 { usize::MAX } else { word.len() },
                data: match odd {
                    254 => ptr::null(),
                    _ => self.keep(word.to_vec()),
                },
            }
        });
        words.collect()
    }

    pub fn rules(&mut self, bytes: &mut Bytes<'_>) -> *mut ngx_rs_rules_t {
        if bytes.bool() {
            return ptr::null_mut();
        }
        let rules = ngx_rs_rules_t {
            size: 0,
            subsystem: bytes.below(4) as u32,
            flags: bytes.below(3) as u32,
        };
        self.array(bytes, &[rules])
    }

    /// An address with its length, which may be too short.
    pub fn address(&mut self, bytes: &mut Bytes<'_>) -> (*const libc::sockaddr, u32) {
        let mut address = kernel::sockaddr(bytes);
        match bytes.u8() {
            255 => return (ptr::null(), bytes.int() as u32),
            254 => address[0] = bytes.u8(),
            253 => address.truncate(bytes.below(24)),
            _ => {}
        }
        let length = address.len() as u32;
        (self.keep(address).cast(), length)
    }

    pub fn listening(&mut self, bytes: &mut Bytes<'_>) -> ngx_rs_listening_t {
        let (sockaddr, socklen) = self.address(bytes);
        let mut int = |usual: i64| match bytes.u8() {
            0..200 => usual as i32,
            _ => bytes.int() as i32,
        };
        ngx_rs_listening_t {
            size: 0,
            flags: int(0) as u32,
            sockaddr,
            socklen,
            r#type: int(libc::SOCK_STREAM.into()),
            protocol: int(0),
            backlog: int(0),
            rcvbuf: int(0),
            sndbuf: int(0),
            fastopen: int(0),
            keepidle: int(0),
            keepintvl: int(0),
            keepcnt: int(0),
            fd: -1,
            outcome: int(0) as u32,
            inherited: int(0) as u32,
            opened_protocol: int(0),
        }
    }

    pub fn inherited(&mut self, bytes: &mut Bytes<'_>, fd: i32) -> ngx_rs_inherited_t {
        let (sockaddr, socklen) = match bytes.bool() {
            true => (ptr::null(), 0),
            false => self.address(bytes),
        };
        ngx_rs_inherited_t {
            size: 0,
            fd,
            sockaddr,
            socklen,
            r#type: bytes.one_of(&[0, libc::SOCK_STREAM, libc::SOCK_DGRAM, 3]),
            protocol: bytes.one_of(&[0, 6, 262, -1]),
            disposition: bytes.below(5) as u32,
            shared: (bytes.u8() > 250).into(),
            flags: bytes.one_of(&[0, 0, 0, 1, 2, 4, 8]),
        }
    }

    pub fn info(&mut self, bytes: &mut Bytes<'_>) -> *mut ngx_rs_connection_info_t {
        if bytes.u8() == 255 {
            return ptr::null_mut();
        }
        let (flags, kind, reserved) = (bytes.below(3), bytes.below(6), bytes.u8() == 255);
        let mut int = || bytes.int();
        let info = ngx_rs_connection_info_t {
            size: 0,
            flags: flags as u32,
            kind: kind as u32,
            reserved: reserved.into(),
            token: int(),
            subflows: int(),
            subflows_total: int(),
            bytes_sent: int(),
            bytes_received: int(),
            bytes_retransmitted: int(),
            retransmits: int(),
            last_data_sent_ms: int(),
            last_data_received_ms: int(),
            last_ack_received_ms: int(),
        };
        self.array(bytes, &[info])
    }
}

/// The caller's error struct, of any size.
pub struct Answer(Option<Vec<u8>>);

impl Answer {
    pub fn new(bytes: &mut Bytes<'_>) -> Self {
        let size = match bytes.u8() {
            255 => return Self(None),
            254 => bytes.u8().into(),
            _ => size_of::<ngx_rs_error_t>(),
        };
        let mut block = vec![0xee; size.max(4)];
        block[..4].copy_from_slice(&(size as u32).to_ne_bytes());
        Self(Some(block))
    }

    pub fn place(&mut self) -> *mut ngx_rs_error_t {
        let block = self.0.as_mut();
        block.map_or(ptr::null_mut(), |block| block.as_mut_ptr().cast())
    }

    /// Checks that the error agrees with the status of the call, and that the call did not panic.
    pub fn check(&mut self, status: ngx_rs_status_t) {
        assert_ne!(
            status,
            ngx_rs_status_t::NGX_RS_ERR_PANIC,
            "{:?}",
            self.text()
        );
        let Some(block) = &mut self.0 else { return };
        if status == ngx_rs_status_t::NGX_RS_OK {
            assert!(
                block[4..].iter().all(|&byte| byte == 0xee),
                "written on success"
            );
        } else if block.len() >= size_of::<ngx_rs_error_t>() {
            assert_eq!(block[4..8], (status as i32).to_ne_bytes());
            let text = self.text();
            assert!(!text.is_empty() && !text.contains('\n'), "{text}");
            // Restores the struct for the next call.
            let block = self.0.as_mut().expect("there is one");
            block[4..].fill(0xee);
        } else {
            block[4..].fill(0xee);
        }
    }

    fn text(&self) -> String {
        let message = self.0.as_ref().and_then(|block| block.get(16..));
        let message = message.and_then(|text| text.split(|&byte| byte == 0).next());
        let message = std::str::from_utf8(message.unwrap_or_default());
        message.expect("a message is UTF-8").to_owned()
    }
}
