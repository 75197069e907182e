//! No panic crosses the boundary, and every failure is reported in full.

use std::any::Any;
use std::cell::Cell;
use std::ffi::c_char;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::{Once, OnceLock};
use std::thread;

use super::memory::{Versioned, store};
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
    silence_panics();
    // Formatting may panic too, so the report is built inside the guard;
    // `store` is only a copy.
    let inside = Depth::change(1);
    let result = catch_unwind(AssertUnwindSafe(|| body().map_err(Report::from)));
    drop(inside);
    let report = match result {
        Ok(Ok(())) => return ngx_rs_status_t::NGX_RS_OK,
        Ok(Err(report)) => report,
        Err(payload) => Report::panicked(payload),
    };
    let status = report.status;
    // SAFETY: our caller upholds the contract above.
    unsafe { report.store(error) };
    status
}

thread_local! {
    /// How deep this thread is inside of guards. Without a destructor, which
    /// could be called after dlclose().
    static DEPTH: Cell<i32> = const { Cell::new(0) };
}

/// A change of the depth, undone when it is dropped.
struct Depth(i32);

impl Depth {
    fn change(by: i32) -> Self {
        DEPTH.set(DEPTH.get() + by);
        Self(by)
    }
}

impl Drop for Depth {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - self.0);
    }
}

/// Runs a function of the caller's: what it does is not for us to silence.
pub(super) fn outside<T>(function: impl FnOnce() -> T) -> T {
    let _outside = Depth::change(-DEPTH.get());
    function()
}

/// Keeps the panics that we catch off stderr, where the panic hook of std would
/// announce them: stderr is the host program's.
///
/// The hook is global to one copy of std. Linked into a C program or an nginx
/// module, that copy is ours alone, and goes with our code at dlclose(). In a
/// Rust program we share the program's copy: there the hook that was set before
/// still gets every panic outside of the guards, and one that is set later
/// replaces this one, and sees all. Nothing is allocated for it, as dlclose()
/// would leave that behind.
fn silence_panics() {
    static ONCE: Once = Once::new();
    static EARLIER: OnceLock<PanicHook> = OnceLock::new();
    // A thread that is panicking must not change the hook.
    if ONCE.is_completed() || thread::panicking() {
        return;
    }
    ONCE.call_once(|| {
        EARLIER.get_or_init(panic::take_hook);
        panic::set_hook(Box::new(|info| {
            if let (0, Some(earlier)) = (DEPTH.get(), EARLIER.get()) {
                earlier(info);
            }
        }));
    });
}

type PanicHook = Box<dyn Fn(&PanicHookInfo<'_>) + Send + Sync>;

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
    /// A message although nothing failed.
    pub(super) fn notice(message: String) -> Self {
        Self {
            status: ngx_rs_status_t::NGX_RS_OK,
            os_errno: 0,
            arg_index: 0,
            message,
        }
    }

    /// With words before the message.
    pub(super) fn prefixed(self, prefix: &str) -> Self {
        let message = format!("{prefix}{}", self.message);
        Self { message, ..self }
    }

    fn panicked(payload: Box<dyn Any + Send>) -> Self {
        let said = text_of(&*payload).unwrap_or("panic");
        let message = format!("internal error: {said}");
        // Dropping a payload may panic as well.
        std::mem::forget(payload);
        Self {
            status: ngx_rs_status_t::NGX_RS_ERR_PANIC,
            ..Self::notice(message)
        }
    }

    /// As the C struct, with a message cut at a character boundary. A 0 in a
    /// word that it repeats would be its end.
    pub(super) fn to_c(&self) -> ngx_rs_error_t {
        let mut error = ngx_rs_error_t {
            status: self.status as i32,
            os_errno: self.os_errno,
            arg_index: self.arg_index,
            ..Versioned::new()
        };
        let room = error.message.len() - 1;
        let mut length = self.message.len().min(room);
        while !self.message.is_char_boundary(length) {
            length -= 1;
        }
        let bytes = self.message.as_bytes().iter().take(length);
        for (to, &from) in error.message.iter_mut().zip(bytes) {
            *to = if from == 0 { b'?' } else { from } as c_char;
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
        // SAFETY: our caller's contract.
        unsafe { store(&from, error.cast(), size as usize) };
    }
}

/// The message of a panic.
fn text_of(payload: &(dyn Any + Send)) -> Option<&str> {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied())
}

#[cfg(test)]
mod tests {
    use std::ptr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// How many panics were announced.
    static SAID: AtomicUsize = AtomicUsize::new(0);

    /// The hook of the host program; there before any guard.
    fn count_announcements() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let standard = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                match info.payload().downcast_ref::<&str>().copied() {
                    Some("expected" | "unexpected") => {
                        SAID.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => standard(info),
                }
            }));
        });
    }

    fn guarded(body: impl FnOnce() -> Result<(), Error>) -> (ngx_rs_status_t, String) {
        count_announcements();
        let mut error = ngx_rs_error_t::new();
        // SAFETY: `error` is a whole struct and says so.
        let status = unsafe { guard(&mut error, body) };
        assert_eq!(error.status, status as i32);
        let message = error.message.iter().take_while(|&&byte| byte != 0);
        let message = message.map(|&byte| byte as u8).collect();
        (status, String::from_utf8(message).expect("UTF-8"))
    }

    fn says(message: &str) -> (ngx_rs_status_t, String) {
        (ngx_rs_status_t::NGX_RS_ERR_PANIC, message.into())
    }

    struct Panics;

    impl std::fmt::Display for Panics {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("unexpected")
        }
    }

    #[test]
    fn panics_become_errors_and_say_nothing() {
        let text = "unexpected";
        let internal = says("internal error: unexpected");
        assert_eq!(guarded(|| panic!("unexpected")), internal);
        assert_eq!(guarded(|| panic!("{text}")), internal);
        let formatting = || Err(Error::syntax(0, Panics.to_string()));
        assert_eq!(guarded(formatting), internal);
        let odd = guarded(|| panic::panic_any(5));
        assert_eq!(odd, says("internal error: panic"));
        // SAFETY: NULL is allowed.
        let unheard = unsafe { guard(ptr::null_mut(), || panic!("unexpected")) };
        assert_eq!(unheard, ngx_rs_status_t::NGX_RS_ERR_PANIC);
        assert_eq!(SAID.load(Ordering::Relaxed), 0);

        // What is not ours is still announced, in a callback as well.
        assert!(catch_unwind(|| panic!("expected")).is_err());
        assert_eq!(SAID.load(Ordering::Relaxed), 1);
        let callback = guarded(|| outside(|| panic!("expected")));
        assert_eq!(callback, says("internal error: expected"));
        assert_eq!(SAID.load(Ordering::Relaxed), 2);
        assert_eq!(guarded(|| panic!("unexpected")), internal);
        assert_eq!(SAID.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn messages_are_cut_between_characters() {
        let long = "ä".repeat(500);
        let (status, message) = guarded(|| Err(Error::syntax(3, long.as_str())));
        assert_eq!(status, ngx_rs_status_t::NGX_RS_ERR_SYNTAX);
        assert_eq!(message, "ä".repeat(127));
    }

    #[test]
    fn errors_of_an_older_size_are_filled_as_far_as_they_go() {
        let mut error = ngx_rs_error_t::new();
        error.size = 8;
        error.arg_index = 77;
        count_announcements();
        let body = || Err(Error::syntax(3, "x"));
        // SAFETY: `error` has more than the 8 bytes that it owns to.
        let status = unsafe { guard(&mut error, body) };
        assert_eq!(error.status, status as i32);
        assert_eq!((error.size, error.arg_index, error.message[0]), (8, 77, 0));
    }
}
