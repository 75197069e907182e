//! Functions that all benchmarks use to measure processes.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Whether `cargo bench` runs this program. `cargo test --all-targets` also runs benchmarks,
/// but with other arguments.
pub fn is_bench() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// Whether to compare the module with nginx's own `multipath`.
pub fn against_native() -> bool {
    std::env::args().any(|argument| argument == "--native")
}

/// The child processes of a process.
pub fn children(pid: u32) -> Result<Vec<u32>> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(text
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .collect())
}

/// Processor time in milliseconds of a running process.
pub fn processor_ms(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let ns: f64 = text.split_whitespace().next().unwrap_or("0").parse()?;
    Ok(ns / 1e6)
}

/// Waits until `done` returns true, for at most a minute.
pub fn wait_until(mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done()? {
        if Instant::now() > deadline {
            return Err("nginx does not get ready".into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The median of the values.
pub fn middle(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
