//! A number that a process shares with the processes it forks.

use std::io;
use std::mem::size_of;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

/// Shared memory with one number. fork(2) shares it, and each process unmaps its
/// own view.
#[derive(Debug)]
pub(crate) struct SharedCounter(NonNull<AtomicU32>);

// SAFETY: the memory is only accessed as an atomic.
unsafe impl Send for SharedCounter {}
// SAFETY: as above.
unsafe impl Sync for SharedCounter {}

impl SharedCounter {
    /// mmap(2): 0 at first.
    pub(crate) fn new() -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let size = size_of::<AtomicU32>();
        // SAFETY: the kernel chooses the place, and no file is involved.
        let place = unsafe { libc::mmap(ptr::null_mut(), size, protection, flags, -1, 0) };
        match NonNull::new(place.cast()) {
            Some(number) if place != libc::MAP_FAILED => Ok(Self(number)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn number(&self) -> &AtomicU32 {
        // SAFETY: mapped since new() and until drop(), aligned to a page, and
        // all zeros are an AtomicU32.
        unsafe { self.0.as_ref() }
    }

    pub(crate) fn get(&self) -> u32 {
        self.number().load(Ordering::Acquire)
    }

    /// Adds 1, and returns the result.
    pub(crate) fn advance(&self) -> u32 {
        self.number().fetch_add(1, Ordering::AcqRel).wrapping_add(1)
    }
}

impl Drop for SharedCounter {
    fn drop(&mut self) {
        // SAFETY: mapped in new(), and nothing borrows from it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<AtomicU32>()) };
    }
}
