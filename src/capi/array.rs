//! Arrays of C structs that begin with their size.

use std::mem::size_of;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::ptr;

use super::convert;
use super::guard::{read_sized, size_at};
use super::types::*;
use crate::connection::Subflow;
use crate::drain::Draining;
use crate::error::Error;
use crate::listen::{Disposition, Inherited, Listening, Outcome};
use crate::protocol::Protocol;

/// An array of structs that begin with their size.
#[derive(Clone, Copy)]
struct Sized<T> {
    first: *mut T,
    stride: usize,
    count: usize,
}

impl<T: Copy> Sized<T> {
    /// # Safety
    /// `first` is NULL or points to `count` elements of the size that the
    /// first one says, and all bytes of `T` may be 0.
    unsafe fn new(first: *mut T, count: usize) -> Result<Self, Error> {
        let stride = match (first.is_null(), count) {
            (_, 0) => 0,
            (true, _) => return Err(Error::Argument("an array is NULL")),
            // SAFETY: not NULL, and our caller's contract.
            _ => unsafe { size_at(first, size_of::<T>()) }?,
        };
        if count
            .checked_mul(stride)
            .is_none_or(|bytes| bytes > isize::MAX as usize)
        {
            return Err(Error::Argument("an array is too long"));
        }
        Ok(Self {
            first,
            stride,
            count,
        })
    }

    fn at(&self, index: usize) -> *mut T {
        self.first.wrapping_byte_add(index * self.stride)
    }

    fn read(&self) -> impl Iterator<Item = Result<T, Error>> {
        (0..self.count).map(|index| {
            // SAFETY: index < count, and the contract of new(); `size` is the
            // first field.
            let size = unsafe { self.at(index).cast::<u32>().read_unaligned() };
            if size as usize != self.stride {
                return Err(Error::Argument("the elements of an array differ in size"));
            }
            // SAFETY: as above.
            unsafe { read_sized(self.at(index), size_of::<T>()) }
        })
    }

    /// Sets the fields that only a newer version of the struct has to -1,
    /// unknown.
    fn fill_tail(&self, index: usize) {
        let tail = self.stride - size_of::<T>();
        let place = self.at(index).wrapping_add(1).cast::<u8>();
        // SAFETY: index < count; the rest of its `stride` bytes, which new() has
        // found to be enough for a `T`.
        unsafe { ptr::write_bytes(place, 0xff, tail) };
    }

    fn update(&self, index: usize, change: impl FnOnce(&mut T)) {
        let place = self.at(index);
        // SAFETY: index < count, and the contract of new().
        let mut element = unsafe { place.read_unaligned() };
        change(&mut element);
        // SAFETY: as above.
        unsafe { place.write_unaligned(element) };
    }
}

/// An empty vector with room for as many elements as the caller passes.
pub(super) fn room<T>(count: usize) -> Result<Vec<T>, Error> {
    let mut room = Vec::new();
    let reserved = room.try_reserve_exact(count);
    reserved.map_err(|_| Error::Argument("an array is too long"))?;
    Ok(room)
}

/// The caller's sockets.
pub(super) struct Array(Sized<ngx_rs_listening_t>);

impl Array {
    /// # Safety
    /// `first` is NULL or points to `count` elements.
    pub(super) unsafe fn new(first: *mut ngx_rs_listening_t, count: usize) -> Result<Self, Error> {
        // SAFETY: our caller's contract; all bytes of an element may be 0.
        unsafe { Sized::new(first, count) }.map(Self)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Result<Listening, Error>> {
        let elements = self.0.read();
        elements.map(|element| convert::listening(&element?))
    }

    pub(super) fn read(&self) -> Result<Vec<Listening>, Error> {
        let mut sockets = room(self.0.count)?;
        for socket in self.iter() {
            sockets.push(socket?);
        }
        Ok(sockets)
    }

    pub(super) fn write_wishes(&self, sockets: &[Listening]) {
        for (index, socket) in sockets.iter().enumerate() {
            self.0.update(index, |element| {
                element.protocol = convert::wish_number(socket.wish);
                element.flags &= !NGX_RS_LISTENING_FALLBACK;
                element.flags |= convert::wish_flag(socket.wish);
            });
        }
    }

    /// Writes the results of opening. The caller owns the descriptors from here.
    pub(super) fn write_opened(&self, sockets: Vec<Listening>, inherited: &[Inherited<'_>]) {
        for (index, socket) in sockets.into_iter().enumerate() {
            let chosen = socket.is_inet_stream().then_some(socket.protocol);
            let (outcome, source) = match socket.outcome {
                Outcome::Untouched => (NGX_RS_UNTOUCHED, None),
                Outcome::Opened => (NGX_RS_OPENED, None),
                Outcome::Inherited(source) => (NGX_RS_INHERITED, Some(source)),
                Outcome::Successor => (NGX_RS_SUCCESSOR, None),
                Outcome::Left => (NGX_RS_LEFT, None),
                Outcome::Joined => (NGX_RS_JOINED, None),
                Outcome::Failed(source) => (NGX_RS_FAILED, Some(source)),
            };
            let kept = source.and_then(|source| inherited.get(source));
            let kept = kept.map_or(-1, |kept| kept.fd.as_raw_fd());
            self.0.update(index, |element| {
                element.fd = socket.fd.map_or(kept, IntoRawFd::into_raw_fd);
                element.outcome = outcome;
                element.inherited = source.unwrap_or(0) as u32;
                element.opened_protocol = chosen.map_or(0, Protocol::number);
            });
        }
    }

    /// Writes which sockets could not listen.
    pub(super) fn write_committed(&self, sockets: &[Listening]) {
        for (index, socket) in sockets.iter().enumerate() {
            if let Outcome::Failed(kept) = socket.outcome {
                self.0.update(index, |element| {
                    element.outcome = NGX_RS_FAILED;
                    element.inherited = kept as u32;
                    element.opened_protocol = socket.protocol.number();
                });
            }
        }
    }

    /// After a rollback.
    pub(super) fn write_closed(&self) {
        for index in 0..self.0.count {
            self.0.update(index, |element| {
                element.fd = -1;
                element.outcome = NGX_RS_UNTOUCHED;
            });
        }
    }

    /// The sockets with the descriptors of those whose outcome is wanted.
    ///
    /// # Safety
    /// These descriptors are open.
    pub(super) unsafe fn borrow(&self, wanted: fn(u32) -> bool) -> Result<Borrowed, Error> {
        let mut sockets = Borrowed(self.read()?);
        for (element, socket) in self.0.read().zip(&mut sockets.0) {
            let element = element?;
            socket.outcome = match element.outcome {
                NGX_RS_OPENED => Outcome::Opened,
                NGX_RS_SUCCESSOR => Outcome::Successor,
                NGX_RS_JOINED => Outcome::Joined,
                NGX_RS_FAILED => Outcome::Failed(element.inherited as usize),
                _ => Outcome::Untouched,
            };
            if element.fd >= 0 && wanted(element.outcome) {
                // SAFETY: our caller's contract; `Borrowed` never closes it.
                socket.fd = Some(unsafe { OwnedFd::from_raw_fd(element.fd) });
            }
        }
        Ok(sockets)
    }
}

/// Whether an earlier call gave the caller a descriptor with this outcome.
pub(super) fn is_new(outcome: u32) -> bool {
    matches!(
        outcome,
        NGX_RS_OPENED | NGX_RS_SUCCESSOR | NGX_RS_JOINED | NGX_RS_FAILED
    )
}

/// Sockets whose descriptors the caller owns: dropping this never closes them,
/// not even after a panic.
pub(super) struct Borrowed(Vec<Listening>);

impl Drop for Borrowed {
    fn drop(&mut self) {
        for socket in &mut self.0 {
            let _ = socket.fd.take().map(IntoRawFd::into_raw_fd);
        }
    }
}

impl Deref for Borrowed {
    type Target = [Listening];

    fn deref(&self) -> &[Listening] {
        &self.0
    }
}

impl DerefMut for Borrowed {
    fn deref_mut(&mut self) -> &mut [Listening] {
        &mut self.0
    }
}

/// The caller's inherited sockets.
pub(super) struct InheritedArray(Sized<ngx_rs_inherited_t>);

impl InheritedArray {
    /// # Safety
    /// `inherited` is NULL or points to `inherited_count` elements.
    pub(super) unsafe fn new(how: &ngx_rs_open_t) -> Result<Self, Error> {
        // SAFETY: our caller's contract; all bytes of an element may be 0.
        unsafe { Sized::new(how.inherited, how.inherited_count) }.map(Self)
    }

    pub(super) fn read<'a>(&self) -> Result<Vec<Inherited<'a>>, Error> {
        self.0
            .read()
            .map(|element| convert::inherited(&element?))
            .collect()
    }

    pub(super) fn write(&self, sockets: &[Inherited<'_>]) {
        for (index, socket) in sockets.iter().enumerate() {
            self.0.update(index, |element| {
                element.shared = socket.shared.into();
                element.disposition = match socket.disposition {
                    Disposition::Unused => NGX_RS_UNUSED,
                    Disposition::Kept => NGX_RS_KEPT,
                    Disposition::Superseded => NGX_RS_SUPERSEDED,
                    Disposition::Draining => NGX_RS_DRAINING,
                };
            });
        }
    }
}

/// The caller's room for subflows.
pub(super) struct SubflowArray(Sized<ngx_rs_subflow_t>);

impl SubflowArray {
    /// # Safety
    /// `first` is NULL or points to `room` elements.
    pub(super) unsafe fn new(first: *mut ngx_rs_subflow_t, room: usize) -> Result<Self, Error> {
        // SAFETY: our caller's contract; all bytes of an element may be 0.
        unsafe { Sized::new(first, room) }.map(Self)
    }

    /// Writes as many as there is room for.
    pub(super) fn write(&self, subflows: &[Subflow]) {
        for (index, subflow) in subflows.iter().take(self.0.count).enumerate() {
            self.0.update(index, |element| {
                element.size = self.0.stride as u32;
                element.id = subflow.id.map_or(NGX_RS_UNKNOWN, i64::from);
                element.local = convert::storage(subflow.local);
                element.remote = convert::storage(subflow.remote);
            });
            self.0.fill_tail(index);
        }
    }
}

/// The caller's room for superseded sockets.
pub(super) struct DrainingArray(Sized<ngx_rs_draining_t>);

impl DrainingArray {
    /// # Safety
    /// `first` is NULL or points to `room` elements.
    pub(super) unsafe fn new(first: *mut ngx_rs_draining_t, room: usize) -> Result<Self, Error> {
        // SAFETY: our caller's contract; all bytes of an element may be 0.
        unsafe { Sized::new(first, room) }.map(Self)
    }

    /// Writes as many as there is room for, and returns how many there are.
    pub(super) fn write(&self, sockets: impl Iterator<Item = Draining>) -> usize {
        let mut count = 0;
        for (index, socket) in sockets.enumerate() {
            count += 1;
            if index < self.0.count {
                self.0.update(index, |element| {
                    element.size = self.0.stride as u32;
                    element.fd = socket.fd;
                    element.successor = socket.successor as u32;
                    element.ended = socket.ended.into();
                    element.protocol = socket.protocol.number();
                });
            }
        }
        count
    }
}
