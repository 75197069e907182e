//! No panic crosses the boundary, and every failure is reported in full.

use std::any::Any;
use std::ffi::c_char;
use std::mem::size_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::slice;

use super::types::{ngx_rs_error_t, ngx_rs_status_t};
use crate::error::Error;

/// Runs `body`; a failure or panic is written to `error`, and is the result.
///
/// # Safety
/// `error` is NULL or points to `error->size` writable bytes.
pub(super) unsafe fn guard(
    error: *mut ngx_rs_error_t,
    body: impl FnOnce() -> Result<(), Error>,
) -> ngx_rs_status_t {
    // Formatting may panic too, so the report is built inside the guard;
    // `store` is only a copy.
    let report = match catch_unwind(AssertUnwindSafe(|| body().map_err(Report::from))) {
        Ok(Ok(())) => return ngx_rs_status_t::NGX_RS_OK,
        Ok(Err(report)) => report,
        Err(payload) => Report::panicked(payload),
    };
    let status = report.status;
    // SAFETY: our caller upholds the contract above.
    unsafe { report.store(error) };
    status
}

/// A failure, ready to be copied into the caller's struct.
pub(super) struct Report {
    status: ngx_rs_status_t,
    os_errno: i32,
    arg_index: u32,
    message: String,
}

impl From<Error> for Report {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

impl From<&Error> for Report {
    fn from(error: &Error) -> Self {
        Self {
            status: ngx_rs_status_t::from(error),
            os_errno: error.os_errno(),
            arg_index: error.argument().map_or(0, |index| index as u32),
            message: error.to_string(),
        }
    }
}

impl Report {
    /// What is said where nothing failed.
    pub(super) fn notice(message: String) -> Self {
        Self {
            status: ngx_rs_status_t::NGX_RS_OK,
            os_errno: 0,
            arg_index: 0,
            message,
        }
    }

    fn panicked(payload: Box<dyn Any + Send>) -> Self {
        let said = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let message = format!("internal error: {}", said.unwrap_or("panic"));
        // Dropping a payload may panic as well.
        std::mem::forget(payload);
        Self {
            status: ngx_rs_status_t::NGX_RS_ERR_PANIC,
            ..Self::notice(message)
        }
    }

    /// As the C struct, with a message cut at a character boundary.
    pub(super) fn to_c(&self) -> ngx_rs_error_t {
        let mut error = ngx_rs_error_t {
            size: size_of::<ngx_rs_error_t>() as u32,
            status: self.status as i32,
            os_errno: self.os_errno,
            arg_index: self.arg_index,
            message: [0; 256],
        };
        let room = error.message.len() - 1;
        let mut length = self.message.len().min(room);
        while !self.message.is_char_boundary(length) {
            length -= 1;
        }
        let bytes = self.message.as_bytes().iter().take(length);
        for (to, &from) in error.message.iter_mut().zip(bytes) {
            *to = from as c_char;
        }
        error
    }

    /// # Safety
    /// `error` is NULL or points to `error->size` writable bytes.
    unsafe fn store(&self, error: *mut ngx_rs_error_t) {
        if error.is_null() {
            return;
        }
        // SAFETY: `size` is the first field, and our caller vouches for it.
        let size = unsafe { error.cast::<u32>().read_unaligned() };
        let from = ngx_rs_error_t {
            size,
            ..self.to_c()
        };
        let length = size_of::<ngx_rs_error_t>().min(size as usize);
        // SAFETY: both have `length` bytes, and `from` is ours alone.
        unsafe { ptr::copy_nonoverlapping((&raw const from).cast::<u8>(), error.cast(), length) };
    }
}

/// Writes a result.
///
/// # Safety
/// `to` is NULL or writable.
pub(super) unsafe fn out<T>(to: *mut T, value: T) -> Result<(), Error> {
    writable(to)?;
    // SAFETY: not NULL, and so writable as our caller says.
    unsafe { to.write_unaligned(value) };
    Ok(())
}

/// Whether a result could be written.
pub(super) fn writable<T>(to: *mut T) -> Result<(), Error> {
    match to.is_null() {
        true => Err(Error::Argument("the place for a result is NULL")),
        false => Ok(()),
    }
}

/// An array of the caller's; NULL if it is empty.
///
/// # Safety
/// `pointer` is NULL or points to `count` elements that live for `'a`.
pub(super) unsafe fn slice_of<'a, T>(pointer: *const T, count: usize) -> Result<&'a [T], Error> {
    let bytes = count.checked_mul(size_of::<T>());
    match (pointer.is_null(), count) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Error::Argument("an array is NULL")),
        _ if !pointer.is_aligned() => Err(Error::Argument("an array is not aligned")),
        _ if bytes.is_none_or(|bytes| bytes > isize::MAX as usize) => {
            Err(Error::Argument("an array is too long"))
        }
        // SAFETY: not NULL, aligned, not too long, and our caller's contract.
        _ => Ok(unsafe { slice::from_raw_parts(pointer, count) }),
    }
}

/// Reads a struct that begins with its size, of this version or another.
///
/// # Safety
/// `pointer` points to a `u32`, which is the number of readable bytes there.
/// For `T` all bytes may be 0.
pub(super) unsafe fn read_sized<T: Copy>(pointer: *const T, least: usize) -> Result<T, Error> {
    // SAFETY: our caller's contract.
    let size = unsafe { pointer.cast::<u32>().read_unaligned() } as usize;
    if size < least {
        return Err(Error::Argument("the size of a struct is not set"));
    }
    let known = size.min(size_of::<T>());
    for offset in known..size {
        // SAFETY: within the `size` bytes of our caller's.
        let byte = unsafe { pointer.cast::<u8>().wrapping_add(offset).read() };
        if byte != 0 {
            return Err(Error::Argument(
                "a struct has a field that this version does not know",
            ));
        }
    }
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: both have `known` bytes, and `value` is ours alone.
    unsafe { ptr::copy_nonoverlapping(pointer.cast::<u8>(), value.as_mut_ptr().cast(), known) };
    // SAFETY: all of it was written: by zeroed(), then by the copy.
    Ok(unsafe { value.assume_init() })
}
