//! Where a test lets a panic happen: see src/capi/tests.rs.

/// Begins every function that makes a system call.
#[cfg(not(test))]
#[inline]
pub(super) fn checkpoint() {}

#[cfg(test)]
pub(super) use counted::checkpoint;
#[cfg(test)]
pub(crate) use counted::panic_at;

#[cfg(test)]
mod counted {
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<u32> = const { Cell::new(0) };
    }

    /// The checkpoint of this number, counted from 1, panics in this thread;
    /// none does after 0. Returns what is left of the number before: 0 if
    /// there was a panic.
    pub(crate) fn panic_at(number: u32) -> u32 {
        LEFT.replace(number)
    }

    pub(crate) fn checkpoint() {
        match LEFT.get() {
            0 => {}
            1 => {
                LEFT.set(0);
                panic!("injected");
            }
            left => LEFT.set(left - 1),
        }
    }
}
