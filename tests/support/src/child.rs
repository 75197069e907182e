//! Child processes of a test that are forked without exec, like the workers of nginx.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A child that waits until [`Child::finish`] before it runs.
pub struct Child {
    pid: libc::pid_t,
    start: UnixStream,
}

/// Forks. The child runs `inside` with copies of the memory and the descriptors of its
/// parent.
pub fn fork(inside: impl FnOnce()) -> Child {
    let (start, mut started) = UnixStream::pair().expect("a pair of sockets");
    // SAFETY: the child has this thread only, and ends in _exit().
    match unsafe { libc::fork() } {
        0 => {
            drop(start);
            let result = catch_unwind(AssertUnwindSafe(|| {
                started.read_exact(&mut [0]).expect("the parent lives");
                inside();
            }));
            // SAFETY: takes a number, and does not return.
            unsafe { libc::_exit(result.is_err().into()) }
        }
        pid => {
            assert!(pid > 0, "fork: {}", std::io::Error::last_os_error());
            Child { pid, start }
        }
    }
}

impl Child {
    /// Lets the child run and waits until it ends. The test fails if the child panicked.
    pub fn finish(mut self) {
        self.start.write_all(&[0]).expect("the child lives");
        let mut status = 0;
        // SAFETY: `status` lives through the call.
        let pid = unsafe { libc::waitpid(self.pid, &mut status, 0) };
        assert_eq!((pid, status), (self.pid, 0), "the child panicked");
    }
}
